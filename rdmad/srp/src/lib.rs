// SPDX-License-Identifier: MIT OR Apache-2.0
//! SRP targets on an InfiniBand fabric.
//!
//! - [`port`]: the local port that asks.
//! - [`scan`]: who can do device management, and what they offer.
//! - [`mod@unit`]: an I/O unit as it was found, and the words for it.
#![forbid(unsafe_code)]

pub mod port;
pub mod scan;
pub mod unit;
