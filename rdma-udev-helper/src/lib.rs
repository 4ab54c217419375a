// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the udev helper knows and decides, for it and for whoever must decide the same.
//!
//! - [`naming`]: the name that each policy gives.
//! - [`ipoib`]: the name of an IPoIB interface.
//! - [`decide`]: which name a device should have, and who says so.
//! - [`renames`]: the order in which names can be given, swaps included.
//! - [`state`]: what is remembered in `/run/rdma`.
//! - [`claims`]: which device has the links of a port GUID.
//! - [`properties`]: what udev is told.
//! - [`udev_db`]: whether udev is done with a device.
//! - [`world`]: the devices as they are, asked of netlink and sysfs.
//! - [`local_port`]: the InfiniBand ports, for those who ask others through them.
//! - [`log`]: messages for the journal.
#![forbid(unsafe_code)]

pub mod claims;
pub mod decide;
pub mod ipoib;
pub mod local_port;
pub mod log;
pub mod naming;
pub mod properties;
pub mod renames;
pub mod state;
pub mod udev_db;
pub mod world;
