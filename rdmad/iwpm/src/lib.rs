// SPDX-License-Identifier: MIT OR Apache-2.0
//! The iWARP port mapper: what the kernel and other mappers ask, and what they are answered.
//!
//! - [`config`]: what `/etc/iwpmd.conf` says.
//! - [`kept`]: what is left for a port mapper that is started anew.
//! - [`mapper`]: who says what to whom.
//! - [`mappings`]: what is mapped to what.
//! - [`questions`]: what other mappers are asked, and how often.
#![forbid(unsafe_code)]

pub mod config;
pub mod kept;
pub mod mapper;
pub mod mappings;
pub mod questions;

/// Where iwpmd can be asked (Varlink, `org.rdmad.iwpm`).
pub const SOCKET: &str = "/run/rdma/org.rdmad.iwpm";
