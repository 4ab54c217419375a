// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device tells of itself and its ports: `struct ib_uverbs_async_event_desc`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::PortNum;

/// `IB_USER_VERBS_CMD_GET_CONTEXT`
const GET_CONTEXT: u32 = 0;
/// Header (command, words in, words out) and the address of the answer.
const REQUEST: usize = 16;
/// Room for the answer: two words of the core's, and what the driver adds. Some drivers write all they have to say
/// without asking how much room there is; the longest of them has less than half of this.
const ANSWER: usize = 512;
/// `struct ib_uverbs_async_event_desc`
const EVENT: usize = 16;

/// `enum ib_event_type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventType(pub u32);

impl EventType {
    /// A completion queue was full, and is of no use any more.
    pub const CQ_ERR: Self = Self(0);
    /// A queue pair has failed.
    pub const QP_FATAL: Self = Self(1);
    /// The other side has asked a queue pair for what cannot be done.
    pub const QP_REQ_ERR: Self = Self(2);
    /// The other side has asked a queue pair for what it may not do.
    pub const QP_ACCESS_ERR: Self = Self(3);
    /// Something has come for a queue pair before it was told that the connection is there.
    pub const COMM_EST: Self = Self(4);
    /// The device does not work any more, or is going away.
    pub const DEVICE_FATAL: Self = Self(8);
    /// A port has become ACTIVE.
    pub const PORT_ACTIVE: Self = Self(9);
    /// A port is not ACTIVE any more.
    pub const PORT_ERR: Self = Self(10);
    /// A port's LID has changed.
    pub const LID_CHANGE: Self = Self(11);
    /// A port's P_Key table has changed.
    pub const PKEY_CHANGE: Self = Self(12);
    /// A port's subnet manager has changed.
    pub const SM_CHANGE: Self = Self(13);
    /// A shared receive queue has failed.
    pub const SRQ_ERR: Self = Self(14);
    /// A shared receive queue has fewer requests than its limit.
    pub const SRQ_LIMIT_REACHED: Self = Self(15);
    /// A queue pair takes nothing more from its shared receive queue.
    pub const QP_LAST_WQE_REACHED: Self = Self(16);
    /// The subnet manager asks that all subscriptions be made again.
    pub const CLIENT_REREGISTER: Self = Self(17);
    /// A port's GID table has changed.
    pub const GID_CHANGE: Self = Self(18);
}

/// To what something has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The device.
    Device,
    /// One of its ports.
    Port(PortNum),
    /// A completion queue, by the number that it was made with.
    CompletionQueue(u64),
    /// A queue pair: see [`QueuePair::id`](crate::uverbs::QueuePair::id).
    QueuePair(u64),
    /// A shared receive queue: see [`SharedReceiveQueue::id`](crate::uverbs::SharedReceiveQueue::id).
    SharedReceiveQueue(u64),
}

/// One event of a device, of a port, or of what was made of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent {
    /// What has happened.
    pub kind: EventType,
    /// To what.
    pub of: Source,
}

impl AsyncEvent {
    /// Reads one descriptor; None when it is too short.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (element, rest) = bytes.split_first_chunk::<8>()?;
        let (kind, _) = rest.split_first_chunk::<4>()?;
        let element = u64::from_ne_bytes(*element);
        let kind = EventType(u32::from_ne_bytes(*kind));
        let of = match kind.0 {
            0 => Source::CompletionQueue(element),
            1..=7 | 16 => Source::QueuePair(element),
            14 | 15 => Source::SharedReceiveQueue(element),
            _ => match u32::try_from(element) {
                Ok(port @ 1..) => Source::Port(PortNum(port)),
                _ => Source::Device,
            },
        };
        Some(Self { kind, of })
    }

    /// To which port; None where it is not of one.
    #[must_use]
    pub fn port(&self) -> Option<PortNum> {
        if let Source::Port(port) = self.of { Some(port) } else { None }
    }
}

/// A user context on a device that is there for its events alone.
///
/// A device whose driver cannot take a context back (rxe, siw) stays until every one is closed: drop this at the
/// `remove` of the node.
#[derive(Debug)]
pub struct AsyncEvents {
    events: File,
    _context: File,
}

impl AsFd for AsyncEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// What a driver must be told before it makes a context, by its word in [`crate::driver_name`].
pub(crate) fn driver_request(driver: Option<&str>) -> Vec<u8> {
    match driver {
        // struct mlx5_ib_alloc_ucontext_req: as few doorbells as there may be, none of them for low latency.
        Some("mlx5") => [2_u32, 0].iter().flat_map(|word| word.to_ne_bytes()).collect(),
        // struct irdma_alloc_ucontext_req: a reserved word, the version of the interface, reserved.
        Some("irdma") => vec![0, 0, 0, 0, 5, 0, 0, 0],
        _ => Vec::new(),
    }
}

impl AsyncEvents {
    /// Opens a node (`/dev/infiniband/uverbs0`) and makes a context.
    ///
    /// # Errors
    /// What open(2) says; what the driver says to a context that is made like this.
    pub fn open(node: &Path, driver: Option<&str>) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mut context = File::from(rustix::fs::open(node, flags, Mode::empty())?);
        // Descriptor -1, until the kernel has written another.
        let mut answer = [u32::MAX; ANSWER / 4];
        let address = (&raw mut answer).expose_provenance() as u64;
        let for_driver = driver_request(driver);
        let words = |bytes: usize| u16::try_from(bytes / 4).unwrap_or(u16::MAX).to_ne_bytes();
        let mut request = Vec::new();
        request.extend(GET_CONTEXT.to_ne_bytes());
        request.extend(words(REQUEST + for_driver.len()));
        request.extend(words(ANSWER));
        request.extend(address.to_ne_bytes());
        request.extend(for_driver);
        // The kernel writes to the address meanwhile, and no further than `words out` says.
        context.write_all(&request)?;
        let [fd, ..] = *std::hint::black_box(&answer);
        let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        #[expect(unsafe_code, reason = "the kernel hands the file out as a number")]
        // SAFETY: the kernel has made it in this call, so it is open and nobody else's.
        let events = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        rustix::fs::fcntl_setfl(&events, OFlags::NONBLOCK)?;
        Ok(Self { events, _context: context })
    }

    /// The next event; None when there is none at the moment.
    ///
    /// # Errors
    /// What read(2) says.
    pub fn read(&mut self) -> io::Result<Option<AsyncEvent>> {
        let mut bytes = [0; EVENT];
        loop {
            return match self.events.read(&mut bytes) {
                Ok(length) => Ok(bytes.get(..length).and_then(AsyncEvent::decode)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let bytes = |element: u64, kind: u32| {
            let mut bytes = element.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 4]);
            AsyncEvent::decode(&bytes)
        };
        let of = |kind, of| Some(AsyncEvent { kind, of });
        let active = AsyncEvent { kind: EventType::PORT_ACTIVE, of: Source::Port(PortNum(2)) };
        assert_eq!(bytes(2, 9), Some(active));
        assert_eq!(active.port(), Some(PortNum(2)));
        let fatal = AsyncEvent { kind: EventType::DEVICE_FATAL, of: Source::Device };
        assert_eq!(bytes(0, 8), Some(fatal));
        assert_eq!(bytes(u64::MAX, 8), Some(fatal));
        let most = u64::MAX;
        assert_eq!(bytes(most, 0), of(EventType::CQ_ERR, Source::CompletionQueue(most)));
        for kind in [EventType::QP_FATAL, EventType::QP_LAST_WQE_REACHED] {
            assert_eq!(bytes(7, kind.0), of(kind, Source::QueuePair(7)));
        }
        let limit = EventType::SRQ_LIMIT_REACHED;
        assert_eq!(bytes(7, limit.0), of(limit, Source::SharedReceiveQueue(7)));
        assert_eq!(AsyncEvent::decode(&[0; 11]), None);
    }

    #[test]
    fn a_file_that_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for driver in [None, Some("mlx5"), Some("irdma"), Some("rxe")] {
            let error = AsyncEvents::open(file.path(), driver).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let error = AsyncEvents::open(Path::new("/nonexistent"), None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
