// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control sockets of the daemons: [Varlink](https://varlink.org), JSON objects with a zero byte after each, over a
//! socket that systemd opens. `varlinkctl` of systemd speaks it, too.
//!
//! - [`serve`]: a daemon's end; each call is given to the daemon's own loop.
//! - [`call`]: the other end.
#![forbid(unsafe_code)]

mod client;
mod server;

pub use client::call;
pub use listenfd::ListenFd;
pub use server::{Call, Interface, Reply, listener, listener_of, serve};

use serde_json::{Map, Value};

/// The longest message that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// What is wrong with a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// `org.rdmad.ndd.NoSuchDevice`
    pub name: String,
    /// More of it.
    pub parameters: Map<String, Value>,
}

impl Error {
    /// An error with one word to it.
    #[must_use]
    pub fn new(name: &str, key: &str, value: &str) -> Self {
        Self { name: name.to_owned(), parameters: Map::from_iter([(key.to_owned(), value.into())]) }
    }

    /// `org.varlink.service.InvalidParameter`
    #[must_use]
    pub fn invalid(parameter: &str) -> Self {
        Self::new("org.varlink.service.InvalidParameter", "parameter", parameter)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        for (key, value) in &self.parameters {
            write!(f, " {key}={value}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
