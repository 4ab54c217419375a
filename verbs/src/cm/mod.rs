// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/infiniband/rdma_cm`: connections by IP address, over InfiniBand, RoCE and iWARP alike. Addresses, routes and connections
//! come about in the kernel, and what becomes of them is told by events.
//!
//! A client [resolves](Id::resolve_address) an address, then a [route](Id::resolve_route), [connects](Id::connect), and says that
//! it is [ready](Id::ready) where it is told to. A server [binds](Id::bind), [listens](Id::listen), and
//! [accepts](Id::accept) the [`Id`] that comes with a request. Both make queue pairs on the device that [`Id::route`] names, and
//! bring them from state to state with what the connection manager knows:
//! [`QueuePair::init_for`](crate::uverbs::QueuePair::init_for) and its companions.
//!
//! What has [datagrams](Channel::datagram_id) instead finds out where somebody's queue pair is, and becomes a member of
//! [multicast groups](Id::join).
//!
//! Commands are given by write(2), which the kernel refuses (`EACCES`) to a process that was forked after [`Channel::open`].

mod datagram;

use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

pub use datagram::{Datagrams, Membership};

use crate::netlink::Socket;
use crate::sockaddr::{sockaddr, socket_address};
use crate::umad::wait_readable;
use crate::uverbs::{Error, PathAttributes};
use crate::{DevIndex, PortNum};
use datagram::DatagramParameters;

/// `enum rdma_ucm_cmd`
mod command {
    pub(super) const CREATE_ID: u32 = 0;
    pub(super) const DESTROY_ID: u32 = 1;
    pub(super) const RESOLVE_ROUTE: u32 = 4;
    pub(super) const CONNECT: u32 = 6;
    pub(super) const LISTEN: u32 = 7;
    pub(super) const ACCEPT: u32 = 8;
    pub(super) const REJECT: u32 = 9;
    pub(super) const DISCONNECT: u32 = 10;
    pub(super) const INIT_QP_ATTR: u32 = 11;
    pub(super) const GET_EVENT: u32 = 12;
    pub(super) const LEAVE_MCAST: u32 = 17;
    pub(super) const QUERY: u32 = 19;
    pub(super) const BIND: u32 = 20;
    pub(super) const RESOLVE_ADDR: u32 = 21;
    pub(super) const JOIN_MCAST: u32 = 22;
}

/// `RDMA_PS_TCP`: connections.
const PORT_SPACE: u16 = 0x0106;
/// `IBV_QPT_RC`
const RELIABLE: u8 = 2;
/// Bytes of private data that a structure has room for.
const PRIVATE: usize = 256;

/// Where events come from. Readable when there is one.
#[derive(Clone, Debug)]
pub struct Channel(Arc<File>);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connection, or what listens for such, or what is to become one. Dropping it ends it.
#[derive(Debug)]
pub struct Id {
    file: Arc<File>,
    number: u32,
    /// What its events say.
    cookie: u64,
}

/// What was told.
#[derive(Debug)]
pub struct Event {
    /// [`Id::cookie`] of what it is of.
    pub of: u64,
    /// What has happened.
    pub kind: EventKind,
    /// 0, a negative errno, or of a rejection its reason: 28 is the other program's.
    pub status: i32,
    /// What the other side has sent along, with zeros after it.
    pub private: Vec<u8>,
    /// Where datagrams are to be sent to, of an id for such.
    pub datagrams: Option<Datagrams>,
    /// What has come: to be accepted, or rejected by dropping it.
    pub request: Option<Id>,
}

/// `enum rdma_cm_event_type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKind(pub u32);

impl EventKind {
    /// The address leads to a device.
    pub const ADDRESS_RESOLVED: Self = Self(0);
    /// It does not.
    pub const ADDRESS_ERROR: Self = Self(1);
    /// There is a way.
    pub const ROUTE_RESOLVED: Self = Self(2);
    /// There is none.
    pub const ROUTE_ERROR: Self = Self(3);
    /// Somebody wants to connect.
    pub const CONNECT_REQUEST: Self = Self(4);
    /// The other side has accepted, and waits for [`Id::ready`]. Not on iWARP.
    pub const CONNECT_RESPONSE: Self = Self(5);
    /// It could not be connected.
    pub const CONNECT_ERROR: Self = Self(6);
    /// Nobody answers.
    pub const UNREACHABLE: Self = Self(7);
    /// The other side has refused.
    pub const REJECTED: Self = Self(8);
    /// Connected.
    pub const ESTABLISHED: Self = Self(9);
    /// The other side has ended it.
    pub const DISCONNECTED: Self = Self(10);
    /// The device goes, and the connection with it.
    pub const DEVICE_REMOVAL: Self = Self(11);
    /// The port is a member of a multicast group.
    pub const MULTICAST_JOIN: Self = Self(12);
    /// It could not become one, or is none any more.
    pub const MULTICAST_ERROR: Self = Self(13);
    /// The address is on another device by now.
    pub const ADDRESS_CHANGE: Self = Self(14);
    /// The queue pair may be used anew.
    pub const TIMEWAIT_EXIT: Self = Self(15);
}

impl std::fmt::Display for EventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [
            "the address is resolved",
            "the address cannot be resolved",
            "the route is resolved",
            "there is no route",
            "a request to connect",
            "the other side has accepted",
            "it could not be connected",
            "nobody answers",
            "the other side has refused",
            "connected",
            "disconnected",
            "the device goes",
            "joined a multicast group",
            "could not join a multicast group",
            "the address is on another device",
            "the queue pair may be used anew",
        ];
        let word = usize::try_from(self.0).ok().and_then(|kind| words.get(kind));
        f.write_str(word.unwrap_or(&"something unknown"))
    }
}

/// What a side of a connection asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parameters<'a> {
    /// Number of the own queue pair.
    pub qpn: u32,
    /// What the other side is told beside; 56 bytes are taken everywhere.
    pub private: &'a [u8],
    /// How many RDMA reads and atomics of the other side are answered at a time.
    pub answers: u8,
    /// How many are asked for at a time.
    pub reads: u8,
    /// How often it is sent again, at most 7.
    pub retries: u8,
    /// How often while the other side has no receive request; 7 for ever.
    pub rnr_retries: u8,
}

/// Over what a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The device.
    pub device: DevIndex,
    /// Its port.
    pub port: PortNum,
    /// The own address.
    pub source: Option<SocketAddr>,
    /// The other side's.
    pub destination: Option<SocketAddr>,
}

/// `struct rdma_ucm_conn_param`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct ConnectionParameters {
    qpn: u32,
    qkey: u32,
    private: [u8; PRIVATE],
    private_length: u8,
    has_srq: u8,
    answers: u8,
    reads: u8,
    flow_control: u8,
    retries: u8,
    rnr_retries: u8,
    is_valid: u8,
}

/// `struct rdma_ucm_event_resp`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct EventAnswer {
    cookie: u64,
    id: u32,
    kind: u32,
    status: i32,
    /// [`ConnectionParameters`], or [`DatagramParameters`], which are longer.
    parameters: [u8; 304],
    reserved: u32,
    ece: [u32; 2],
}

/// `struct rdma_ucm_query_addr_resp`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct AddressAnswer {
    node_guid: [u8; 8],
    port: u8,
    reserved: u8,
    pkey: u16,
    source_length: u16,
    destination_length: u16,
    source: [u8; 128],
    destination: [u8; 128],
    device: u32,
    reserved_2: u32,
}

/// `struct ib_uverbs_qp_attr`: how a queue pair is to be modified.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
pub(crate) struct QueuePairAttributes {
    pub(crate) mask: u32,
    pub(crate) state: u32,
    pub(crate) current_state: u32,
    pub(crate) mtu: u32,
    pub(crate) migration: u32,
    pub(crate) qkey: u32,
    pub(crate) receive_psn: u32,
    pub(crate) send_psn: u32,
    pub(crate) destination_qpn: u32,
    pub(crate) access: u32,
    pub(crate) path: PathAttributes,
    pub(crate) alternate: PathAttributes,
    pub(crate) capacity: [u32; 5],
    pub(crate) pkey_index: u16,
    pub(crate) alternate_pkey_index: u16,
    pub(crate) notify_drained: u8,
    pub(crate) is_draining: u8,
    pub(crate) reads: u8,
    pub(crate) destination_reads: u8,
    pub(crate) rnr_timer: u8,
    pub(crate) port: u8,
    pub(crate) timeout: u8,
    pub(crate) retries: u8,
    pub(crate) rnr_retries: u8,
    pub(crate) alternate_port: u8,
    pub(crate) alternate_timeout: u8,
    pub(crate) reserved: [u8; 5],
}

const _: () = assert!(
    size_of::<ConnectionParameters>() == 272
        && size_of::<EventAnswer>() == 336
        && size_of::<AddressAnswer>() == 280
        && size_of::<QueuePairAttributes>() == 144
);

/// What follows the head of a structure that ends with an id: `{id, reserved, ECE}`.
fn end_of(number: u32) -> [u32; 4] {
    [number, 0, 0, 0]
}

/// Gives a command, in whose request the address of the answer stands already.
fn give(
    file: &File,
    what: &'static str,
    number: u32,
    request: &[&[u8]],
    answer: &mut [u8],
) -> Result<(), Error> {
    let request = request.concat();
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_ne_bytes();
    let header = [&number.to_ne_bytes()[..], &length(&request), &length(answer)].concat();
    let outcome = (&*file).write(&[header, request].concat());
    // The kernel has written to the address meanwhile, and no further than it was told.
    std::hint::black_box(answer);
    outcome.map(drop).map_err(|error| Error::of(what, error))
}

fn address(answer: &mut [u8]) -> [u8; 8] {
    (answer.as_mut_ptr().expose_provenance() as u64).to_ne_bytes()
}

/// A number that no other [`Id`] of this process has.
fn next_cookie() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

fn milliseconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)
}

impl Parameters<'_> {
    fn of_kernel(&self) -> ConnectionParameters {
        let mut private = [0; PRIVATE];
        let length = self.private.len().min(PRIVATE - 1);
        private[..length].copy_from_slice(&self.private[..length]);
        ConnectionParameters {
            qpn: self.qpn,
            private,
            private_length: u8::try_from(length).unwrap_or(0),
            answers: self.answers,
            reads: self.reads,
            flow_control: 1,
            retries: self.retries,
            rnr_retries: self.rnr_retries,
            is_valid: 1,
            ..ConnectionParameters::new_zeroed()
        }
    }
}

impl Channel {
    const TAKE: &str = "take an event of connections";

    /// Opens one, loading rdma_ucm if need be. No device has to be there.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::NoNode`] where the kernel has no rdma_ucm.
    pub fn open() -> Result<Self, Error> {
        let node = Socket::open()?.chardev("rdma_cm", None, None)?;
        let node = node.ok_or_else(|| Error::NoNode("rdma_cm".to_owned()))?;
        let path = Path::new("/dev/infiniband").join(node.name);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(&path, flags, Mode::empty());
        let file = file.map_err(|errno| Error::of("open the connection manager", errno.into()))?;
        Ok(Self(Arc::new(File::from(file))))
    }

    /// Makes what is to become a connection, or is to listen for such.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn id(&self) -> Result<Id, Error> {
        self.make(PORT_SPACE, RELIABLE, next_cookie())
    }

    fn make(&self, port_space: u16, kind: u8, cookie: u64) -> Result<Id, Error> {
        let mut number = 0_u32;
        let answer = number.as_mut_bytes();
        let kind = [kind, 0, 0, 0, 0, 0];
        let request =
            [&cookie.to_ne_bytes()[..], &address(answer), &port_space.to_ne_bytes(), &kind];
        give(&self.0, "make an id of connections", command::CREATE_ID, &request, answer)?;
        Ok(Id { file: Arc::clone(&self.0), number, cookie })
    }

    /// Takes an event; None when there is none at the moment.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn take(&self) -> Result<Option<Event>, Error> {
        let mut event = EventAnswer::new_zeroed();
        let answer = event.as_mut_bytes();
        match give(&self.0, Self::TAKE, command::GET_EVENT, &[&address(answer)], answer) {
            Ok(()) => Ok(Some(self.event(&event))),
            Err(Error::Kernel { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn event(&self, event: &EventAnswer) -> Event {
        let kind = EventKind(event.kind);
        let of_datagrams = DatagramParameters::of(event.cookie, &event.parameters);
        let request = (kind == EventKind::CONNECT_REQUEST).then(|| {
            // It is of the same kind as what listens.
            let cookie = next_cookie() | event.cookie & datagram::COOKIE;
            Id { file: Arc::clone(&self.0), number: event.id, cookie }
        });
        let (private, length) = match &of_datagrams {
            Some(parameters) => (parameters.private, parameters.private_length),
            None => {
                let (head, _) = event.parameters.split_at(size_of::<ConnectionParameters>());
                let parameters = ConnectionParameters::read_from_bytes(head);
                parameters.map_or(([0; PRIVATE], 0), |it| (it.private, it.private_length))
            }
        };
        let private = private.iter().take(length.into()).copied().collect();
        let datagrams = of_datagrams.and_then(|parameters| parameters.to());
        let (of, status) = (event.cookie, event.status);
        Event { of, kind, status, private, datagrams, request }
    }

    /// Waits for an event, at most until then: see [`Channel::take`].
    ///
    /// # Errors
    /// The same.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.take()? {
                return Ok(Some(event));
            }
            let is_there = wait_readable(self.as_fd(), deadline);
            if !is_there.map_err(|error| Error::of(Self::TAKE, error))? {
                return Ok(None);
            }
        }
    }
}

impl Id {
    /// What its events say that they are of.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    fn give(&self, what: &'static str, number: u32, request: &[&[u8]]) -> Result<(), Error> {
        give(&self.file, what, number, request, &mut [])
    }

    /// Gives it an own address; with an unspecified one it is on all devices, also those that come later.
    ///
    /// # Errors
    /// See [`Error`]; `EADDRINUSE`, `ENODEV` where no device has the address.
    pub fn bind(&self, address: SocketAddr) -> Result<(), Error> {
        let (storage, length) = sockaddr(Some(address));
        let length = [length, 0];
        let request = [self.number.as_bytes(), length.as_bytes(), &storage];
        self.give("bind to an address", command::BIND, &request)
    }

    /// Waits for others, at most so many of which wait to be accepted.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn listen(&self, backlog: u32) -> Result<(), Error> {
        self.give("listen", command::LISTEN, &[[self.number, backlog].as_bytes()])
    }

    /// Looks for the device that leads to an address, from the own one if there is one: [`EventKind::ADDRESS_RESOLVED`], or
    /// [`EventKind::ADDRESS_ERROR`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn resolve_address(
        &self,
        from: Option<SocketAddr>,
        to: SocketAddr,
        timeout: Duration,
    ) -> Result<(), Error> {
        let ((from, from_length), (to, to_length)) = (sockaddr(from), sockaddr(Some(to)));
        let head = [self.number, milliseconds(timeout)];
        let lengths = [from_length, to_length, 0, 0];
        let request = [head.as_bytes(), lengths.as_bytes(), &from, &to];
        self.give("resolve an address", command::RESOLVE_ADDR, &request)
    }

    /// Looks for the way there: [`EventKind::ROUTE_RESOLVED`], or [`EventKind::ROUTE_ERROR`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn resolve_route(&self, timeout: Duration) -> Result<(), Error> {
        let request = [self.number, milliseconds(timeout)];
        self.give("resolve a route", command::RESOLVE_ROUTE, &[request.as_bytes()])
    }

    /// Over which device and between which addresses it goes, when that is resolved, or with a request.
    ///
    /// # Errors
    /// See [`Error`]; `ENODEV` when it goes over none.
    pub fn route(&self) -> Result<Route, Error> {
        let what = "ask for a route";
        let mut route = AddressAnswer::new_zeroed();
        let answer = route.as_mut_bytes();
        let of = [self.number, 0];
        let request = [&address(answer)[..], of.as_bytes()];
        give(&self.file, what, command::QUERY, &request, answer)?;
        if route.port == 0 {
            return Err(Error::of(what, rustix::io::Errno::NODEV.into()));
        }
        Ok(Route {
            device: DevIndex(route.device),
            port: PortNum(route.port.into()),
            source: socket_address(&route.source),
            destination: socket_address(&route.destination),
        })
    }

    /// Asks the other side to connect. What comes of it: [`EventKind::CONNECT_RESPONSE`] (InfiniBand and RoCE; to be answered by
    /// [`Id::ready`]), [`EventKind::ESTABLISHED`], or that it was refused.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn connect(&self, parameters: &Parameters<'_>) -> Result<(), Error> {
        let (parameters, end) = (parameters.of_kernel(), end_of(self.number));
        self.give("connect", command::CONNECT, &[parameters.as_bytes(), end.as_bytes()])
    }

    /// Accepts a request: [`EventKind::ESTABLISHED`] when the other side is ready, too.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn accept(&self, parameters: &Parameters<'_>) -> Result<(), Error> {
        self.accept_with(&parameters.of_kernel())
    }

    /// Tells a side that has accepted that its messages are taken; receive requests are posted by then.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ready(&self) -> Result<(), Error> {
        self.accept_with(&ConnectionParameters::new_zeroed())
    }

    fn accept_with(&self, parameters: &ConnectionParameters) -> Result<(), Error> {
        let end = end_of(self.number);
        let request = [&self.cookie.to_ne_bytes()[..], parameters.as_bytes(), end.as_bytes()];
        self.give("accept", command::ACCEPT, &request)
    }

    /// Refuses a request, and says why in at most 148 bytes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn reject(&self, private: &[u8]) -> Result<(), Error> {
        let mut room = [0; PRIVATE];
        let length = private.len().min(PRIVATE - 1);
        room[..length].copy_from_slice(&private[..length]);
        let length = [u8::try_from(length).unwrap_or(0), 0, 0, 0];
        self.give("reject", command::REJECT, &[&self.number.to_ne_bytes(), &length, &room])
    }

    /// Ends a connection: [`EventKind::DISCONNECTED`] on both sides.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn disconnect(&self) -> Result<(), Error> {
        self.give("disconnect", command::DISCONNECT, &[&self.number.to_ne_bytes()])
    }

    /// How a queue pair of it is brought to a state.
    pub(crate) fn attributes(&self, state: u32) -> Result<QueuePairAttributes, Error> {
        let mut attributes = QueuePairAttributes::new_zeroed();
        let answer = attributes.as_mut_bytes();
        let of = [self.number, state];
        let request = [&address(answer)[..], of.as_bytes()];
        let what = "ask how a queue pair is connected";
        give(&self.file, what, command::INIT_QP_ATTR, &request, answer)?;
        Ok(attributes)
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // How many of its events were told; those carry a cookie that is nobody else's.
        let mut told = 0_u32;
        let answer = told.as_mut_bytes();
        let of = [self.number, 0];
        let request = [&address(answer)[..], of.as_bytes()];
        // There is nothing to be done when it is gone.
        give(&self.file, "end a connection", command::DESTROY_ID, &request, answer).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let channel = Channel(Arc::new(File::open("/dev/null").unwrap()));
        let mut event = EventAnswer::new_zeroed();
        (event.cookie, event.kind, event.id, event.status) = (7, 4, 9, -110);
        let private = [0, 8, 0];
        let parameters = Parameters { private: &private, ..Parameters::default() };
        event.parameters[..272].copy_from_slice(parameters.of_kernel().as_bytes());
        let told = channel.event(&event);
        assert_eq!((told.of, told.kind, told.status), (7, EventKind::CONNECT_REQUEST, -110));
        assert!(told.private == private && told.datagrams.is_none());
        let request = told.request.unwrap();
        assert!(request.number == 9 && request.cookie != 7);
        event.kind = 8;
        assert!(channel.event(&event).request.is_none());
        assert_eq!(EventKind(8).to_string(), "the other side has refused");
        assert_eq!(EventKind(99).to_string(), "something unknown");
    }

    #[test]
    fn parameters() {
        let private = [5; 300];
        let parameters =
            Parameters { qpn: 17, private: &private, retries: 7, ..Parameters::default() };
        let bytes = parameters.of_kernel();
        let bytes = bytes.as_bytes();
        assert_eq!(bytes[..4], 17_u32.to_ne_bytes());
        assert_eq!((bytes[8], bytes[8 + 254], bytes[8 + 255], bytes[264]), (5, 5, 0, 255));
        assert_eq!(bytes[265..], [0, 0, 0, 1, 7, 0, 1]);
    }
}
