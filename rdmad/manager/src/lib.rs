// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rdmad knows and decides, for it and for `rdmactl`, which says the same without it.
//!
//! - [`model`]: the devices and ports as others are told of them, and what has changed.
//! - [`settings`]: what is to be done about a setting; [`apply`]: how each is read and set.
//! - [`links`]: which software devices are to be made.
//! - [`mod@env`]: the ports that applications should use, as variables.
#![forbid(unsafe_code)]

pub mod apply;
pub mod env;
pub mod links;
pub mod model;
pub mod settings;
