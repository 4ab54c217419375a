// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong with verbs.

use std::io;

use crate::netlink;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel says so.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// What was to be done.
        what: &'static str,
        /// What it says.
        source: io::Error,
    },
    /// The device has gone, and everything that was made of it.
    #[error("cannot {0}: the device has gone")]
    Gone(&'static str),
    /// RDMA netlink does not say which node it has.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// ib_uverbs is not loaded, or the device does not have it.
    #[error("RDMA device '{0}' has no uverbs node")]
    NoNode(String),
    /// Nothing here knows how this driver's queues are laid out.
    #[error("there is no user-space provider for {0}")]
    NoProvider(String),
    /// The C library cannot be loaded.
    #[error("cannot load libibverbs: {0}")]
    NoLibrary(&'static str),
    /// The queue is full; what stands before in the list was posted.
    #[error("the queue has room for {0} more only")]
    Full(usize),
    /// A request is longer than the queue's elements: scatter/gather elements, or bytes that stand in the request.
    #[error("a request of {0} is longer than the {1} that this queue takes")]
    TooLong(usize, usize),
    /// This driver does not do that.
    #[error("this device does not do {0}")]
    Unsupported(&'static str),
    /// The queue pair has no receive queue of its own.
    #[error("receive requests of this queue pair go to the shared queue")]
    Shared,
    /// What the kernel has mapped does not look like a queue.
    #[error("the queue that the kernel has made makes no sense")]
    Garbage,
}

impl Error {
    pub(crate) fn of(what: &'static str, source: io::Error) -> Self {
        Self::Kernel { what, source }
    }
}
