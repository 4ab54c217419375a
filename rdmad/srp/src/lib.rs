// SPDX-License-Identifier: MIT OR Apache-2.0
//! SRP targets on an InfiniBand fabric.
//!
//! - [`connected`]: those that the kernel's `ib_srp` has a connection to, and how it is given one.
//! - [`plan`]: when whom is asked.
//! - [`rules`]: which of them are allowed.
//! - [`scan`]: who can do device management, and what they offer.
//! - [`mod@unit`]: an I/O unit as it was found, and the words for it.
#![forbid(unsafe_code)]

pub mod connected;
pub mod plan;
pub mod rules;
pub mod scan;
pub mod unit;
