// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `rdma-load-modules` does with a module, and why: decided here, done in the program.
//!
//! - [`plan()`]: what each list asks for, against what the kernel has.
//! - [`explain`]: who asks for a module, and what modprobe makes of it.
//! - [`kernel`]: what the kernel has: loaded, built in.
//! - [`servers`]: lists that are loaded only when a server's configuration asks for RDMA.
#![forbid(unsafe_code)]

pub mod explain;
pub mod kernel;
mod plan;
pub mod servers;

pub use plan::{Step, Verdict, plan};
