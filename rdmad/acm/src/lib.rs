// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths of InfiniBand, for programs (librdmacm, `ib_acme`) and for the kernel: asked of subnet administration once, and
//! kept.
//!
//! - [`wire`]: what programs ask and are answered.
//! - [`address`]: what they may call a port.
//! - [`endpoints`]: what the ports of this host are called.
//! - [`paths`]: what is known of paths through one port, and what is being asked.
//! - [`resolver`]: who is answered what.
//! - [`options`], [`names`]: the files in `/etc/rdma`.
#![forbid(unsafe_code)]

pub mod address;
pub mod endpoints;
pub mod names;
pub mod options;
pub mod paths;
pub mod resolver;
pub mod wire;

/// Where ibacm can be asked about itself (Varlink, `org.rdmad.acm`).
pub const SOCKET: &str = "/run/rdma/org.rdmad.acm";
