// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a request failed.

use std::io;

/// A request that failed: what was asked, and why it was not done.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct Error {
    /// What was asked, and of which device.
    pub what: String,
    /// Why it failed.
    pub reason: Reason,
}

/// The reasons that a caller may want to tell apart.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// `EPROTONOSUPPORT`: this kernel has no RDMA, or its module ib_core cannot be loaded.
    #[error("the kernel has no RDMA (module ib_core is not there)")]
    NoRdma,
    /// `EPERM`, `EACCES`
    #[error("permission denied{}", explained(.0))]
    Permission(Option<String>),
    /// `EEXIST`
    #[error("the name is taken{}", explained(.0))]
    Exists(Option<String>),
    /// `ENODEV`, and what the kernel says for an index it does not know.
    #[error("the device is gone{}", explained(.0))]
    Gone(Option<String>),
    /// Another errno.
    #[error("{}{}", .0, explained(.1))]
    Errno(io::Error, Option<String>),
    /// No answer in time.
    #[error("the kernel did not answer in time")]
    Timeout,
    /// The dump was changed under the reader's hands, again and again.
    #[error("the devices keep changing")]
    Unstable,
    /// An answer that is no netlink message, or lacks what it must have.
    #[error("the kernel's answer makes no sense: {0}")]
    Garbage(String),
}

fn explained(text: &Option<String>) -> String {
    text.as_ref().map(|t| format!(" ({t})")).unwrap_or_default()
}

impl Reason {
    /// Sorts an errno (positive) that the kernel answered with.
    pub(crate) fn from_errno(errno: i32, explanation: Option<String>) -> Self {
        use rustix::io::Errno;
        match Errno::from_raw_os_error(errno) {
            Errno::PERM | Errno::ACCESS => Self::Permission(explanation),
            Errno::EXIST => Self::Exists(explanation),
            Errno::NODEV => Self::Gone(explanation),
            other => Self::Errno(other.into(), explanation),
        }
    }

    /// The errno, where there was one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Errno(error, _) => error.raw_os_error(),
            _ => None,
        }
    }
}
