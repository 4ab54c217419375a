// SPDX-License-Identifier: MIT OR Apache-2.0
//! Announcements of the kernel, and of udev when its rules are done with them (`NETLINK_KOBJECT_UEVENT`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_KOBJECT_UEVENT;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};

/// The multicast groups: of the kernel, of udev.
pub(crate) const KERNEL: u32 = 1;
pub(crate) const UDEV: u32 = 2;
/// The kernel's longest is 2 KiB; udev adds its properties.
const DATAGRAM: usize = 1 << 16;
/// For what is announced while nobody reads, in bytes; the kernel takes it only as it is needed.
const ROOM: usize = 16 << 20;
/// udev's header: `libudev\0`, a magic number in network byte order, then sizes in the host's.
const UDEV_MAGIC: &[u8] = b"libudev\0\xfe\xed\xca\xfe";
/// Where in it stands the place at which the properties begin.
const PROPERTIES_AT: usize = 16;

/// One announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent {
    /// Whether udev says it, after its rules, and not the kernel.
    pub from_udev: bool,
    /// `KEY=value`
    properties: Vec<(String, String)>,
}

impl Uevent {
    /// Reads a datagram; None when it is no announcement.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let from_udev = datagram.starts_with(UDEV_MAGIC);
        let words = if from_udev {
            let at = datagram.get(PROPERTIES_AT..)?.first_chunk::<4>()?;
            datagram.get(usize::try_from(u32::from_ne_bytes(*at)).ok()?..)?
        } else {
            // The kernel begins with `action@path`, which its properties repeat.
            let end = datagram.iter().position(|byte| *byte == 0)?;
            datagram.get(end + 1..)?
        };
        let words =
            words.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
        let properties: Vec<(String, String)> = words
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let event = Self { from_udev, properties };
        (!event.action().is_empty()).then_some(event)
    }

    /// `add`, `change`, `move`, `remove`, ...
    #[must_use]
    pub fn action(&self) -> &str {
        self.property("ACTION")
    }

    /// `infiniband`, `infiniband_verbs`, `net`, ...
    #[must_use]
    pub fn subsystem(&self) -> &str {
        self.property("SUBSYSTEM")
    }

    /// The device's name: the end of its path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.property("DEVPATH").rsplit('/').next().unwrap_or_default()
    }

    /// Empty when there is none.
    #[must_use]
    pub fn property(&self, key: &str) -> &str {
        self.properties.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
    }
}

/// Listens to them.
#[derive(Debug)]
pub(crate) struct Uevents(netlink_sys::Socket);

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Uevents {
    pub(crate) fn open(groups: &[u32]) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_KOBJECT_UEVENT)?;
        socket.set_non_blocking(true)?;
        // A storm of devices must not lose any. Without CAP_NET_ADMIN there is less room, and `Lost` says so.
        let room = set_socket_recv_buffer_size_force(&socket, ROOM);
        room.or_else(|_| set_socket_recv_buffer_size(&socket, ROOM))?;
        socket.bind_auto()?;
        groups.iter().try_for_each(|group| socket.add_membership(*group))?;
        Ok(Self(socket))
    }

    /// The next one; None when there is none at the moment.
    ///
    /// # Errors
    /// `ENOBUFS`: some were lost.
    pub(crate) fn next(&self) -> io::Result<Option<Uevent>> {
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            match self.0.recv_from(&mut datagram, 0) {
                Ok(_) => {
                    if let Some(event) = Uevent::decode(&datagram) {
                        return Ok(Some(event));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &[u8] = b"ACTION=add\0DEVPATH=/devices/virtual/infiniband_verbs/uverbs0\0\
        SUBSYSTEM=infiniband_verbs\0MAJOR=231\0DEVNAME=infiniband/uverbs0\0";

    #[test]
    fn of_the_kernel() {
        let mut datagram = b"add@/devices/virtual/infiniband_verbs/uverbs0\0".to_vec();
        datagram.extend(WORDS);
        let event = Uevent::decode(&datagram).unwrap();
        assert!(!event.from_udev);
        let said = (event.action(), event.subsystem(), event.name(), event.property("MAJOR"));
        assert_eq!(said, ("add", "infiniband_verbs", "uverbs0", "231"));
        assert_eq!(event.property("nothing"), "");
    }

    #[test]
    fn of_udev() {
        let mut datagram = UDEV_MAGIC.to_vec();
        for number in [40_u32, 40, u32::try_from(WORDS.len()).unwrap(), 0, 0, 0, 0] {
            datagram.extend(number.to_ne_bytes());
        }
        datagram.extend(WORDS);
        let event = Uevent::decode(&datagram).unwrap();
        assert!(event.from_udev && event.name() == "uverbs0");
        for cut in 0..datagram.len() {
            let _ = Uevent::decode(&datagram[..cut]);
        }
        assert_eq!(Uevent::decode(&datagram[..20]), None);
    }

    #[test]
    fn no_announcement() {
        for datagram in [&b""[..], b"\0", b"add@/x", b"add@/x\0SEQNUM=1\0", b"\0ACTION=\0"] {
            assert_eq!(Uevent::decode(datagram), None, "{datagram:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = Uevent::decode(&bytes);
            let udev: Vec<u8> = UDEV_MAGIC.iter().copied().chain(bytes).collect();
            let _ = Uevent::decode(&udev);
        }
    }
}
