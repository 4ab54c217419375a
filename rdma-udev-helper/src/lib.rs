// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the udev helper knows and decides; the program around it asks the kernel and prints.
//!
//! - [`naming`]: the name that each policy gives.
//! - [`ipoib`]: the name of an IPoIB interface.
//! - [`decide`]: which name a device should have, and who says so.
//! - [`renames`]: the order in which names can be given, swaps included.
//! - [`state`]: what is remembered in `/run/rdma`.
//! - [`claims`]: which device has the links of a port GUID.
//! - [`properties`]: what udev is told.
#![forbid(unsafe_code)]

pub mod claims;
pub mod decide;
pub mod ipoib;
pub mod naming;
pub mod properties;
pub mod renames;
pub mod state;
