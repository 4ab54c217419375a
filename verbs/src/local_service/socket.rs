// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the kernel asks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use netlink_sys::SocketAddr;
use rustix::io::Errno;

use super::{Reply, Request, Ticket, decode};
use crate::netlink::{Error, NETLINK_RDMA, Reason, adopt, error_of, port, receive};

/// `RDMA_NL_GROUP_LS`
const GROUP: u32 = 3;

/// What [`Socket::receive`] has found.
#[derive(Debug)]
pub enum Received {
    /// A datagram of requests.
    Requests(Vec<Request>),
    /// `ENOBUFS`: some have been lost. The kernel helps itself after its two seconds.
    Lost,
    /// Nothing.
    Nothing,
}

/// The kernel's client of subnet administration, as a local service has it. Of the initial network namespace: it asks in
/// no other.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    port: u32,
}

impl AsFd for Socket {
    /// Readable when [`Socket::receive`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Socket {
    /// From now on the kernel asks here. `bound` is a socket of the group 3 (`RDMA_NL_GROUP_LS`), as systemd makes one for
    /// `ListenNetlink=rdma 4`.
    ///
    /// # Errors
    /// [`Reason::NoRdma`] on a kernel without RDMA; `EPERM` without `CAP_NET_ADMIN`, which older kernels (6.1) ask for.
    pub fn open(bound: Option<OwnedFd>) -> Result<Self, Error> {
        let open = || {
            let socket = match bound.map(adopt) {
                Some(bound) => bound,
                None => {
                    let mut own = netlink_sys::Socket::new(NETLINK_RDMA)?;
                    own.bind_auto()?;
                    own.add_membership(GROUP)?;
                    own
                }
            };
            socket.set_non_blocking(true)?;
            let port = port(&socket)?;
            io::Result::Ok(Self { socket, port })
        };
        open().map_err(|error| error_of("open a netlink socket for the kernel's questions", error))
    }

    /// What the kernel has asked, without waiting; one datagram at a time.
    ///
    /// # Errors
    /// What recv(2) says.
    pub fn receive(&self) -> Result<Received, Error> {
        loop {
            match receive(&self.socket, None) {
                // The kernel's own are whole.
                Ok(datagram) => match decode(&datagram) {
                    Ok(requests) if !requests.is_empty() => {
                        return Ok(Received::Requests(requests));
                    }
                    Ok(_) | Err(_) => {}
                },
                Err(Reason::Errno(error, _)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Received::Nothing);
                }
                Err(reason) if reason.errno() == Some(Errno::NOBUFS.raw_os_error()) => {
                    return Ok(Received::Lost);
                }
                Err(reason) => {
                    return Err(Error { what: "cannot hear what the kernel asks".into(), reason });
                }
            }
        }
    }

    /// Answers a request. One that the kernel does not wait for any more is none.
    ///
    /// # Errors
    /// What send(2) says. Without `CAP_NET_ADMIN` the kernel takes none, and does not say so.
    pub fn answer(&self, ticket: Ticket, reply: &Reply) -> Result<(), Error> {
        let bytes = reply.encode(ticket, self.port);
        let sent = self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0);
        sent.map(|_| ()).map_err(|error| error_of("answer the kernel", error))
    }
}
