// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux kernel's RDMA interfaces in pure Rust.
//!
//! - [`netlink`]: RDMA netlink (`NETLINK_RDMA`, client `RDMA_NL_NLDEV`): devices, ports, links,
//!   renames, character devices, system settings, events.
//! - [`sysfs`]: the facts that netlink does not have: GIDs, board id, the place on the PCI bus.
//! - [`CmDefaults`]: RoCE mode and type of service, in configfs.
//! - [`umad`]: management datagrams through a port; [`mad`]: what is in them; [`requests`]: many at once.
//! - [`sa`]: subnet administration: records, a client, subscriptions; [`dm`]: device management.
//! - [`uverbs`]: a device as user space has it open: what it and its ports can do, queues and memory; [`cm`]: connections.
//! - [`iwpm`]: the iWARP port mapper, as the kernel and other hosts' speak to it.
//! - [`local_service`]: what the kernel asks before it asks subnet administration.
//! - [`ibsim`]: the same on a fabric that is simulated, without any RDMA.
//! - [`Watch`]: waits for whatever may change any of that: [`Uevent`]s, [`AsyncEvent`]s, network interfaces.
//! - [`DeviceEvents`]: which devices there are, and what becomes of them and their ports.
//! - [`Guid`], [`Gid`], [`DevIndex`], [`PortNum`], [`Protocol`]: the values both speak of.
//!
//! No policy and no configuration: what a device is, never what to do about it. A device is its
//! [`DevIndex`]; its name is a label that can change at any time.
#![deny(unsafe_code)]

mod async_events;
pub mod backoff;
pub mod cm;
mod cm_defaults;
mod device_events;
pub mod dm;
mod driver;
pub mod ibsim;
mod id;
pub mod iwpm;
pub mod local_service;
pub mod mad;
pub mod netlink;
mod protocol;
pub mod requests;
pub mod sa;
mod sockaddr;
pub mod sysfs;
mod uevent;
pub mod umad;
pub mod uverbs;
mod watch;

pub use async_events::{AsyncEvent, AsyncEvents, EventType, Source};
pub use cm_defaults::{CmDefault, CmDefaults};
pub use device_events::{DeviceEvent, DeviceEvents};
pub use driver::driver_name;
pub use id::{DevIndex, Gid, Guid, ParseIdError, PortNum};
pub use protocol::{LinkLayer, Protocol, port_protocol};
pub use uevent::Uevent;
pub use watch::{Change, Watch};
