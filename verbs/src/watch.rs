// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for whatever may change what is known of devices and ports.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Instant;

use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::event::{Timespec, epoll};

use crate::uevent::{KERNEL, UDEV, Uevent, Uevents};
use crate::{AsyncEvent, AsyncEvents, EventType};

/// `RTNLGRP_LINK`
const LINK: u32 = 1;
const UEVENTS: u64 = u64::MAX;
const LINKS: u64 = u64::MAX - 1;
/// How many sources are looked at in one go; the others are next.
const SOURCES: usize = 64;

/// Something that may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The kernel, or udev, announces a device of any kind.
    Uevent(Uevent),
    /// A device tells of itself or of a port, by the name of its node: `uverbs0`.
    Async(String, AsyncEvent),
    /// Some network interface is not as it was.
    Link,
    /// So much has happened that some of it was lost: everything must be looked at.
    Lost,
}

/// Announcements, network interfaces, and the events of devices that are [followed](Watch::follow).
#[derive(Debug)]
pub struct Watch {
    epoll: OwnedFd,
    uevents: Uevents,
    links: netlink_sys::Socket,
    /// By the number of the node.
    contexts: BTreeMap<u64, AsyncEvents>,
}

impl AsFd for Watch {
    /// Readable when something has changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Watch {
    /// Listens from now on; look at things after this, not before.
    ///
    /// # Errors
    /// No netlink.
    pub fn open() -> io::Result<Self> {
        let uevents = Uevents::open(&[KERNEL, UDEV])?;
        let mut links = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        links.set_non_blocking(true)?;
        links.bind_auto()?;
        links.add_membership(LINK)?;
        let watch = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            uevents,
            links,
            contexts: BTreeMap::new(),
        };
        watch.add(&watch.uevents, UEVENTS)?;
        watch.add(&watch.links, LINKS)?;
        Ok(watch)
    }

    fn add(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        let token = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, source, token, epoll::EventFlags::IN)?)
    }

    /// Has the events of a device told, too, until its node goes. Whether that is news: what was seen before must be
    /// looked at again then.
    ///
    /// # Errors
    /// See [`AsyncEvents::open`]; the device's events are not told then.
    pub fn follow(&mut self, dev: &Path, node: &str, driver: Option<&str>) -> io::Result<bool> {
        let number = number(node).ok_or(io::ErrorKind::InvalidInput)?;
        if self.contexts.contains_key(&number) {
            return Ok(false);
        }
        let context = AsyncEvents::open(&dev.join(node), driver)?;
        self.add(&context, number)?;
        self.contexts.insert(number, context);
        Ok(true)
    }

    /// Has the events of a device told no more. Who removes a device must do this first: rxe and siw wait for it.
    pub fn let_go(&mut self, node: &str) {
        number(node).map(|number| self.contexts.remove(&number));
    }

    /// What has changed, at least one thing; nothing when the deadline has passed.
    ///
    /// # Errors
    /// What the kernel says to waiting and reading.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Vec<Change>> {
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut ready = Vec::with_capacity(SOURCES);
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut ready),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut changes = Vec::new();
            for event in &ready {
                match event.data.u64() {
                    UEVENTS => self.read_uevents(&mut changes)?,
                    LINKS => self.read_links(&mut changes)?,
                    number => self.read_context(number, &mut changes),
                }
            }
            if !changes.is_empty() || left.is_some_and(|left| left.is_zero()) {
                return Ok(changes);
            }
        }
    }

    fn read_uevents(&mut self, changes: &mut Vec<Change>) -> io::Result<()> {
        loop {
            match self.uevents.next() {
                Ok(Some(event)) => {
                    if event.subsystem() == "infiniband_verbs" && event.action() == "remove" {
                        // At once: a driver that cannot take its contexts back waits for this.
                        number(event.name()).map(|number| self.contexts.remove(&number));
                    }
                    changes.push(Change::Uevent(event));
                }
                Ok(None) => return Ok(()),
                Err(error) => self.lost(error, changes)?,
            }
        }
    }

    fn read_links(&mut self, changes: &mut Vec<Change>) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(1);
        loop {
            datagram.clear();
            // What it is does not matter; the rest of it is thrown away.
            match self.links.recv_from(&mut datagram, 0) {
                Ok(_) if changes.last() != Some(&Change::Link) => changes.push(Change::Link),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.lost(error, changes)?,
            }
        }
    }

    /// After `ENOBUFS` nobody knows which nodes have gone: what is not there is let go.
    fn lost(&mut self, error: io::Error, changes: &mut Vec<Change>) -> io::Result<()> {
        if error.raw_os_error() != Some(rustix::io::Errno::NOBUFS.raw_os_error()) {
            return Err(error);
        }
        self.contexts.clear();
        changes.push(Change::Lost);
        Ok(())
    }

    fn read_context(&mut self, number: u64, changes: &mut Vec<Change>) {
        let Some(context) = self.contexts.get_mut(&number) else { return };
        loop {
            match context.read() {
                Ok(Some(event)) => {
                    changes.push(Change::Async(format!("uverbs{number}"), event));
                    if event.kind == EventType::DEVICE_FATAL {
                        break;
                    }
                }
                Ok(None) => return,
                Err(_) => break,
            }
        }
        // The device has gone or is going; it says nothing more.
        self.contexts.remove(&number);
    }
}

/// `uverbs0`: 0
fn number(node: &str) -> Option<u64> {
    node.strip_prefix("uverbs")?.parse().ok().filter(|number| *number < LINKS)
}
