// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`DeviceEvents`] for C: see `include/rdma-sysevent.h`.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use errno::Errno;
use rdma_verbs::netlink::{self, Reason};
use rdma_verbs::{DeviceEvent, DeviceEvents};

const NAME: usize = 64;

/// `struct rdma_sysevent`
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Event {
    kind: u32,
    device: u32,
    name: [u8; NAME],
    old_name: [u8; NAME],
    port: u32,
    state: u32,
}

const _: () = assert!(size_of::<Event>() == 144);

/// As much of a name as fits before the NUL; the kernel's always do.
fn name(text: &str) -> [u8; NAME] {
    let mut name = [0; NAME];
    let length = text.len().min(NAME - 1);
    name[..length].copy_from_slice(&text.as_bytes()[..length]);
    name
}

impl From<DeviceEvent> for Event {
    fn from(event: DeviceEvent) -> Self {
        let none =
            Self { kind: 0, device: 0, name: [0; NAME], old_name: [0; NAME], port: 0, state: 0 };
        match event {
            DeviceEvent::Added(device) => {
                Self { kind: 1, device: device.index.0, name: name(&device.name), ..none }
            }
            DeviceEvent::Removed { index, name: of } => {
                Self { kind: 2, device: index.0, name: name(&of), ..none }
            }
            DeviceEvent::Renamed { index, from, to } => {
                let (name, old_name) = (name(&to), name(&from));
                Self { kind: 3, device: index.0, name, old_name, ..none }
            }
            DeviceEvent::Port { index, port, state } => {
                let state = state.map_or(0, |state| state.0.into());
                Self { kind: 4, device: index.0, port: port.0, state, ..none }
            }
        }
    }
}

/// Leaves the number of an error where C looks for it.
fn leave(error: &io::Error) {
    const EIO: i32 = 5;
    const EACCES: i32 = 13;
    const EPROTONOSUPPORT: i32 = 93;
    let of_netlink = error.get_ref().and_then(|inner| inner.downcast_ref::<netlink::Error>());
    let number = match of_netlink.map(|error| &error.reason) {
        Some(Reason::NoRdma) => EPROTONOSUPPORT,
        Some(Reason::Permission(_)) => EACCES,
        Some(Reason::Errno(error, _)) => error.raw_os_error().unwrap_or(EIO),
        Some(_) => EIO,
        None => error.raw_os_error().unwrap_or(EIO),
    };
    errno::set_errno(Errno(number));
}

/// `rdma_sysevent_open`
#[expect(unsafe_code, reason = "the name that C calls it by")]
#[unsafe(no_mangle)]
pub extern "C" fn rdma_sysevent_open() -> *mut DeviceEvents {
    match DeviceEvents::open() {
        Ok(channel) => Box::into_raw(Box::new(channel)),
        Err(error) => {
            leave(&error);
            std::ptr::null_mut()
        }
    }
}

/// `rdma_sysevent_fd`
///
/// # Safety
/// `channel` is what [`rdma_sysevent_open`] has returned, and not closed.
#[expect(unsafe_code, reason = "the name that C calls it by, and its pointer")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rdma_sysevent_fd(channel: *const DeviceEvents) -> i32 {
    // SAFETY: as the caller has promised.
    unsafe { &*channel }.as_fd().as_raw_fd()
}

/// `rdma_sysevent_get`
///
/// # Safety
/// `channel` is what [`rdma_sysevent_open`] has returned, not closed, and used by no other thread meanwhile; `event` is room for
/// one.
#[expect(unsafe_code, reason = "the name that C calls it by, and its pointers")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rdma_sysevent_get(channel: *mut DeviceEvents, event: *mut Event) -> i32 {
    // SAFETY: as the caller has promised.
    let channel = unsafe { &mut *channel };
    match channel.take() {
        Ok(Some(taken)) => {
            // SAFETY: as the caller has promised; what was there is not looked at.
            unsafe { event.write(taken.into()) };
            1
        }
        Ok(None) => 0,
        Err(error) => {
            leave(&error);
            -1
        }
    }
}

/// `rdma_sysevent_close`
///
/// # Safety
/// `channel` is what [`rdma_sysevent_open`] has returned, or null, and is not used again.
#[expect(unsafe_code, reason = "the name that C calls it by, and its pointer")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rdma_sysevent_close(channel: *mut DeviceEvents) {
    if !channel.is_null() {
        // SAFETY: as the caller has promised, it is a box that was given away, and nobody else's.
        drop(unsafe { Box::from_raw(channel) });
    }
}

#[cfg(test)]
mod tests {
    use rdma_verbs::netlink::PortState;
    use rdma_verbs::{DevIndex, PortNum};

    use super::*;

    #[test]
    fn events() {
        let (index, port, long) = (DevIndex(3), PortNum(2), "x".repeat(100));
        let event = Event::from(DeviceEvent::Renamed { index, from: "a".into(), to: long });
        assert_eq!((event.kind, event.device, event.name[62], event.name[63]), (3, 3, b'x', 0));
        assert_eq!(event.old_name[..2], *b"a\0");
        let state = Some(PortState::ACTIVE);
        let event = Event::from(DeviceEvent::Port { index, port, state });
        assert_eq!((event.kind, event.device, event.port, event.state), (4, 3, 2, 4));
        assert_eq!(event.name, [0; NAME]);
        let event = Event::from(DeviceEvent::Removed { index, name: "b".into() });
        assert_eq!((event.kind, event.name[0]), (2, b'b'));
    }

    #[test]
    fn errors() {
        for (error, number) in [
            (io::Error::from_raw_os_error(24), 24),
            (io::Error::other("?"), 5),
            (io::Error::other(netlink::Error { what: String::new(), reason: Reason::NoRdma }), 93),
        ] {
            leave(&error);
            assert_eq!(errno::errno().0, number);
        }
    }
}
