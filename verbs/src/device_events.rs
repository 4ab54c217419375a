// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which devices there are, and what becomes of them and their ports.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use crate::netlink::{self, Device, Port, PortState, Reason, Socket};
use crate::{Change, DevIndex, PortNum, Watch, driver_name};

/// One event. A device is its index: no later one has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A device is there. What is there at the beginning comes first.
    Added(Device),
    /// It has another name.
    Renamed {
        /// Which it is.
        index: DevIndex,
        /// What it was called.
        from: String,
        /// What it is called.
        to: String,
    },
    /// One of its ports is in another state; after [`DeviceEvent::Added`] the one it is in.
    Port {
        /// Which device it is.
        index: DevIndex,
        /// Which port.
        port: PortNum,
        /// None where the kernel does not say.
        state: Option<PortState>,
    },
    /// It goes, or has gone. The kernel says so before it waits for those who have it open.
    Removed {
        /// Which it was.
        index: DevIndex,
        /// What it was called.
        name: String,
    },
}

/// A channel of them, for programs that have no device open: devices as they are, and what changes from then on.
///
/// Readable when there may be some: [`DeviceEvents::take`] them then until there is none. To be told of ports at once it has the
/// devices open itself, as far as it may (`/dev/infiniband/uverbsN`), and lets each go when it goes; of others it sees at the next
/// change of anything how they are. It loads no module.
#[derive(Debug)]
pub struct DeviceEvents {
    watch: Watch,
    socket: Socket,
    known: BTreeMap<DevIndex, (Device, BTreeMap<PortNum, Option<PortState>>)>,
    events: VecDeque<DeviceEvent>,
}

impl AsFd for DeviceEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl DeviceEvents {
    /// Listens from now on.
    ///
    /// # Errors
    /// The kernel has no RDMA, or no netlink.
    pub fn open() -> io::Result<Self> {
        let (watch, socket) = (Watch::open()?, Socket::open().map_err(io::Error::other)?);
        let (known, events) = (BTreeMap::new(), VecDeque::new());
        let mut channel = Self { watch, socket, known, events };
        channel.look().map_err(io::Error::other)?;
        Ok(channel)
    }

    /// The next event; None when there is none at the moment.
    ///
    /// # Errors
    /// What the kernel says to being asked.
    pub fn take(&mut self) -> io::Result<Option<DeviceEvent>> {
        self.wait(Some(Instant::now()))
    }

    /// Waits for the next event, at most until then.
    ///
    /// # Errors
    /// What the kernel says to being asked.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Option<DeviceEvent>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let changes = self.watch.wait(deadline)?;
            if changes.is_empty() {
                return Ok(None);
            }
            if changes.iter().any(matters) {
                self.look().map_err(io::Error::other)?;
            }
        }
    }

    /// Looks at everything, and notes what is not as it was.
    fn look(&mut self) -> Result<(), netlink::Error> {
        let devices: BTreeMap<DevIndex, Device> =
            self.socket.devices()?.into_iter().map(|device| (device.index, device)).collect();
        self.known.retain(|index, (device, _)| {
            let is_there = devices.contains_key(index);
            if !is_there {
                let name = std::mem::take(&mut device.name);
                self.events.push_back(DeviceEvent::Removed { index: *index, name });
            }
            is_there
        });
        for (index, device) in devices {
            // Before it is looked at, so that nothing is missed in between.
            self.follow(index);
            let ports = match self.socket.ports(index) {
                Ok(ports) => states(&ports),
                // The next look says so.
                Err(netlink::Error { reason: Reason::Gone(_), .. }) => continue,
                Err(error) => return Err(error),
            };
            let before = self.known.insert(index, (device.clone(), ports.clone()));
            let (was, ports_were) = before.unzip();
            match was {
                None => self.events.push_back(DeviceEvent::Added(device)),
                Some(was) if was.name != device.name => {
                    let (from, to) = (was.name, device.name);
                    self.events.push_back(DeviceEvent::Renamed { index, from, to });
                }
                Some(_) => {}
            }
            let is_as_it_was = |port: &PortNum, state: &Option<PortState>| {
                ports_were.as_ref().and_then(|ports| ports.get(port)) == Some(state)
            };
            let changed = ports.into_iter().filter(|(port, state)| !is_as_it_was(port, state));
            let events = changed.map(|(port, state)| DeviceEvent::Port { index, port, state });
            self.events.extend(events);
        }
        Ok(())
    }

    /// Has the device's own events told, where that loads nothing; without them its ports are seen later.
    fn follow(&mut self, index: DevIndex) {
        if !Path::new("/sys/class/infiniband_verbs").exists() {
            return;
        }
        if let Ok(Some(node)) = self.socket.chardev("uverbs", Some(index), None) {
            let driver = driver_name(node.driver.unwrap_or(0));
            self.watch.follow(Path::new("/dev/infiniband"), &node.name, driver).ok();
        }
    }
}

fn states(ports: &[Port]) -> BTreeMap<PortNum, Option<PortState>> {
    ports.iter().map(|port| (port.port, port.state)).collect()
}

/// Whether a device or port may be another after this.
fn matters(change: &Change) -> bool {
    match change {
        Change::Uevent(event) => {
            !event.from_udev && matches!(event.subsystem(), "infiniband" | "infiniband_verbs")
        }
        Change::Async(..) | Change::Link | Change::Lost => true,
    }
}
