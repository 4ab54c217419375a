// SPDX-License-Identifier: MIT OR Apache-2.0
//! RDMA local services (`RDMA_NL_LS`): before the kernel asks subnet administration for a path, it asks whoever listens
//! in user space, and it asks there for the GID behind an IP address where a router is on the way.
//!
//! [`Socket`]: where the kernel asks, in [`Request`]s, and is told [`Reply`]s.

mod socket;
mod wire;

pub use socket::{Received, Socket};
pub use wire::{PathUse, Reply, Request, Ticket, decode, path_flags};
