// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the kernel asks, and is told.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use netlink_sys::SocketAddr;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::sockopt;

use super::kernel::{VERSION, VERSION_BEFORE};
use super::{Malformed, Message, Request, decode};
use crate::netlink::{
    self, Error, Frame, NETLINK_RDMA, Reason, adopt, cannot, error_of, port, receive,
};

/// `RDMA_NL_GROUP_IWPM`
const GROUP: u32 = 2;
/// The kernel answers before send(2) returns.
const DEADLINE: Duration = Duration::from_secs(10);
/// Room for what the kernel tells without waiting: 20 datagrams of a page and more each. What it asks it waits for.
const ROOM: usize = 1 << 20;

/// What [`Socket::receive`] has found.
#[derive(Debug)]
pub enum Received {
    /// A datagram of requests.
    Requests(Vec<Result<Request, Malformed>>),
    /// `ENOBUFS`: something is lost. [`Message::TellMappings`] has what there is told again.
    Lost,
    /// Nothing.
    Nothing,
}

/// The kernel's `iw_cm`, as a port mapper has it. Of the initial network namespace: it answers in no other.
///
/// A message is answered in the queue of the socket that it is sent from, and the kernel puts off, and then refuses, what
/// comes from one whose queue is full of its own requests: so messages have a socket of their own.
#[derive(Debug)]
pub struct Socket {
    /// That of requests, and where it is not of the group, one that is.
    asked: Vec<netlink_sys::Socket>,
    /// Readable when one of those is.
    any: OwnedFd,
    messages: netlink_sys::Socket,
    /// Of the first.
    port: u32,
    sequence: u32,
    version: u16,
}

impl AsFd for Socket {
    /// Readable when [`Socket::receive`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.any.as_raw_fd()
    }
}

impl Socket {
    /// Tells the kernel that there is a port mapper; it loads `iw_cm` for it. It has been told nothing of what there is
    /// already: [`Message::TellMappings`] asks for that.
    ///
    /// `bound` is a socket of the group 2 (`RDMA_NL_GROUP_IWPM`), as systemd makes one for `ListenNetlink=rdma 2`: older
    /// kernels (6.1) let nobody join without `CAP_NET_ADMIN`. What the kernel asks while nobody is there waits in it.
    ///
    /// # Errors
    /// [`Reason::NoRdma`] on a kernel without RDMA, others.
    pub fn open(bound: Option<OwnedFd>) -> Result<Self, Error> {
        let open = || {
            let own = || {
                let mut own = netlink_sys::Socket::new(NETLINK_RDMA)?;
                own.bind_auto()?;
                own.set_rx_buf_sz(ROOM)?;
                io::Result::Ok(own)
            };
            let asked = match bound.map(adopt) {
                None => {
                    let own = own()?;
                    own.add_membership(GROUP)?;
                    vec![own]
                }
                // The second socket of a process has a number that iw_cm takes for none: it is negative.
                Some(bound) if port(&bound)? > i32::MAX as u32 => vec![own()?, bound],
                Some(bound) => vec![bound],
            };
            let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            for (number, socket) in (0..).zip(&asked) {
                socket.set_non_blocking(true)?;
                epoll::add(&any, socket, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
            }
            let mut messages = netlink_sys::Socket::new(NETLINK_RDMA)?;
            messages.bind_auto()?;
            messages.connect(&SocketAddr::new(0, 0))?;
            sockopt::set_socket_timeout(&messages, sockopt::Timeout::Recv, Some(DEADLINE))?;
            let port = port(&asked[0])?;
            Ok(Self { asked, any, messages, port, sequence: 0, version: VERSION })
        };
        let mut socket = open()
            .map_err(|error: io::Error| error_of("open a netlink socket for iw_cm", error))?;
        match socket.tell(&Message::Hello) {
            // An older kernel knows no such message; one without iw_cm knows none at all, and says so next.
            Err(error) if error.reason.errno() == Some(Errno::INVAL.raw_os_error()) => {
                socket.version = VERSION_BEFORE;
            }
            other => other?,
        }
        Ok(socket)
    }

    /// Asks for a receive buffer of so many bytes; the kernel gives what `net.core.rmem_max` allows.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        self.asked[0].set_rx_buf_sz(bytes)
    }

    /// The next of what the kernel has said; never waits.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn receive(&self) -> Result<Received, Error> {
        let what = "hear what iw_cm asks";
        for socket in &self.asked {
            let datagram = match receive(socket, None) {
                Ok(datagram) => datagram,
                Err(Reason::Errno(error, _)) if error.kind() == io::ErrorKind::WouldBlock => {
                    continue;
                }
                Err(reason) if reason.errno() == Some(Errno::NOBUFS.raw_os_error()) => {
                    return Ok(Received::Lost);
                }
                Err(reason) => return Err(cannot(what, reason)),
            };
            let requests = decode(&datagram);
            return requests
                .map(Received::Requests)
                .map_err(|error| cannot(what, Reason::Garbage(error.to_string())));
        }
        Ok(Received::Nothing)
    }

    /// Tells the kernel something. When it is [`Message::TellMappings`], all that there is can be received now.
    ///
    /// # Errors
    /// What the kernel answers: `EINVAL` also where it no longer waits for this.
    pub fn tell(&mut self, message: &Message) -> Result<(), Error> {
        let what = "tell iw_cm something";
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.encode(self.sequence, self.port, self.version);
        self.messages.send(&bytes, 0).map_err(|error| error_of(what, error))?;
        loop {
            let datagram = receive(&self.messages, None).map_err(|why| cannot(what, why))?;
            let frames = netlink::decode(&datagram)
                .map_err(|e| cannot(what, Reason::Garbage(e.to_string())))?;
            let code = frames.into_iter().find_map(|(sequence, _, frame)| match frame {
                Frame::Done { code, .. } if sequence == self.sequence => Some(code),
                _ => None,
            });
            match (code, message) {
                (None, _) => {}
                // The kernel says EINVAL to this always.
                (Some(0), _) | (Some(_), Message::Remote(_)) => return Ok(()),
                (Some(code), _) => {
                    return Err(cannot(what, Reason::from_errno(code.saturating_neg(), None)));
                }
            }
        }
    }
}
