// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configuration of the suite: where it is read from, and what it means.
//!
//! - [`Root`]: the directory that all paths are below; `/`, or a test's own tree.
//! - [`dropin`]: the files of `/usr/lib`, `/run` and `/etc`, merged as systemd merges its own.
//! - [`Config`]: `rdma.toml`, with [`DeviceEntry`] and [`Facts`] to match devices.
//! - [`modules`]: lists of kernel modules.
//! - [`cmdline`]: switches on the kernel command line.
//!
//! Nothing here fails: what cannot be used is told as a [`Warning`] and the rest stays in force,
//! because a broken file must not keep a machine from booting.
#![forbid(unsafe_code)]

pub mod cmdline;
mod description;
pub mod dropin;
mod links;
mod matching;
pub mod modules;
mod name;
mod online;
mod reader;
mod schema;
mod settings;

use std::fmt;
use std::path::{Path, PathBuf};

pub use description::{DESCRIPTION_WORDS, expand_description, unknown_description_words};
pub use links::Link;
pub use matching::{Facts, Function, Match, NUMBER_KEYS, PATTERN_KEYS};
pub use name::{BadName, check_device_name};
pub use online::{Count, GidWanted, Online, Ports};
pub use schema::{Config, DeviceEntry, IpoibNames, NAME_TEMPLATES, Policy, allowed};
pub use settings::{SETTING_KEYS, Settings};

/// The directory that every path is below.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// The machine's own.
    #[must_use]
    pub fn system() -> Self {
        Self::at("/")
    }

    /// Another, for tests.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// A path of the machine, below this root.
    #[must_use]
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }
}

/// Something in a file that cannot be used; the rest of it, and of the configuration, is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Which file.
    pub file: PathBuf,
    /// Which line, from 1, where it is one line.
    pub line: Option<usize>,
    /// Which column of it, in characters from 1, where it is one place.
    pub column: Option<usize>,
    /// What is wrong and what is done about it.
    pub what: String,
}

impl Warning {
    fn new(file: &Path, line: Option<usize>, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, column: None, what: what.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        write!(f, ": {}", self.what)
    }
}
