// SPDX-License-Identifier: MIT OR Apache-2.0
//! Node descriptions (IBTA NodeDescription): what they should be, and keeping them so.
#![forbid(unsafe_code)]

mod keeper;
mod wanted;

pub use keeper::{Description, Keeper, NoSuchDevice};
pub use wanted::{DEFAULT_FORMAT, fill, host};

/// Where rdma-ndd can be asked (Varlink, `org.rdmad.ndd`).
pub const SOCKET: &str = "/run/rdma/org.rdmad.ndd";
