// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events from the kernel: `RDMA_NL_GROUP_NOTIFY`.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::socket::{NETLINK_RDMA, receive};
use super::{Device, Error, Event, Frame, Reason, Socket, message};

/// `RDMA_NL_GROUP_NOTIFY`
const NOTIFY: u32 = 4;

/// What a [`Monitor`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The devices as they are now: the first notice, and again whenever events were lost.
    Snapshot(Vec<Device>),
    /// A change since then.
    Event(Event),
}

/// Tells what happens to devices, beginning with those that are there.
///
/// The group is joined before the devices are listed, so that nothing falls between; an event may
/// therefore tell what the snapshot has already shown.
#[derive(Debug)]
pub struct Monitor {
    events: netlink_sys::Socket,
    requests: Socket,
    pending: VecDeque<Notice>,
}

impl AsFd for Monitor {
    /// Readable when [`Monitor::next`] has something to read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Monitor {
    /// Joins the group and lists the devices. None on a kernel that does not announce events.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn open() -> Result<Option<Self>, Error> {
        let mut requests = Socket::open()?;
        if requests.system()?.monitor != Some(true) {
            return Ok(None);
        }
        let open = || {
            let mut events = netlink_sys::Socket::new(NETLINK_RDMA)?;
            events.bind_auto()?;
            events.add_membership(NOTIFY)?;
            Ok(events)
        };
        let events = open().map_err(|error: std::io::Error| Error {
            what: "cannot listen to RDMA netlink".into(),
            reason: Reason::Errno(error, None),
        })?;
        let snapshot = Notice::Snapshot(requests.devices()?);
        Ok(Some(Self { events, requests, pending: VecDeque::from([snapshot]) }))
    }

    /// The next notice; None when none came before the deadline.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Notice>, Error> {
        loop {
            if let Some(notice) = self.pending.pop_front() {
                return Ok(Some(notice));
            }
            match receive(&self.events, deadline) {
                Ok(datagram) => self.read(&datagram)?,
                Err(Reason::Timeout) => return Ok(None),
                Err(reason) if reason.errno() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    self.resync()?;
                }
                Err(reason) => {
                    return Err(Error { what: "cannot read RDMA events".into(), reason });
                }
            }
        }
    }

    fn read(&mut self, datagram: &[u8]) -> Result<(), Error> {
        let frames = message::decode(datagram).map_err(|error| Error {
            what: "cannot read RDMA events".into(),
            reason: Reason::Garbage(error.to_string()),
        })?;
        self.pending.extend(frames.into_iter().filter_map(|(_, _, frame)| match frame {
            Frame::Message(message) => Event::read(message).map(Notice::Event),
            _ => None,
        }));
        Ok(())
    }

    /// `ENOBUFS`: events were lost, so what is there is told anew.
    fn resync(&mut self) -> Result<(), Error> {
        self.pending.push_back(Notice::Snapshot(self.requests.devices()?));
        Ok(())
    }
}
