// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is remembered of a device between its events: `/run/rdma/devices/<index>`.
//!
//! It may be removed at any time; a device without it is taken as new.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rdma_config::Root;
use rdma_verbs::{DevIndex, Guid};
use rustix::fs::{FlockOperation, flock};

/// `ID_RDMA_NAME_STATUS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has the name it came with, or one that somebody gave it by hand.
    Kept,
    /// It has the name that a policy gave it.
    Renamed,
    /// It is about to be renamed; the rest of the rules wait for that.
    Pending,
    /// It should have another name and cannot: why.
    Refused(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("kept"),
            Self::Renamed => f.write_str("renamed"),
            Self::Pending => f.write_str("pending"),
            Self::Refused(why) => write!(f, "refused:{why}"),
        }
    }
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "kept" => Some(Self::Kept),
            "renamed" => Some(Self::Renamed),
            "pending" => Some(Self::Pending),
            _ => text.strip_prefix("refused:").map(|why| Self::Refused(why.to_owned())),
        }
    }
}

/// What is remembered of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What it was called when it was first seen.
    pub kernel_name: String,
    /// To tell it from another device, should the kernel ever give a number out again.
    pub node_guid: Option<Guid>,
    /// What it was called when we last left it; another name now was given by somebody else.
    pub name: String,
    /// Who gave that name: a policy's word, `fixed`, `user`.
    pub policy: String,
    /// How that went.
    pub status: Status,
}

impl State {
    /// Reads the text of a file; None when something is missing or not understood.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
        };
        Some(Self {
            kernel_name: value("KERNEL_NAME")?,
            node_guid: value("NODE_GUID").and_then(|guid| guid.parse().ok()),
            name: value("NAME")?,
            policy: value("POLICY")?,
            status: Status::parse(&value("STATUS")?)?,
        })
    }

    /// The text of a file. Names are the kernel's or checked ones, and reasons ours: one line each.
    #[must_use]
    pub fn text(&self) -> String {
        let guid = self.node_guid.map(|g| format!("NODE_GUID={g}\n")).unwrap_or_default();
        format!(
            "KERNEL_NAME={}\n{guid}NAME={}\nPOLICY={}\nSTATUS={}\n",
            self.kernel_name, self.name, self.policy, self.status
        )
    }
}

/// `/run/rdma`.
#[derive(Clone, Debug)]
pub struct Run {
    dir: PathBuf,
}

impl Run {
    /// That of this root.
    #[must_use]
    pub fn of(root: &Root) -> Self {
        Self { dir: root.path("/run/rdma") }
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Takes the lock over names: alone to change them, or with others to read them.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn lock(&self, alone: bool) -> io::Result<File> {
        fs::create_dir_all(&self.dir)?;
        self.lock_file("lock", alone)
    }

    /// Takes a lock of another name. A lock that this process has already under the same name is waited for like any
    /// other's.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn lock_file(&self, name: &str, alone: bool) -> io::Result<File> {
        // Not even to be read by others: whoever can open it can lock it, and stop all renames.
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(self.path(name))?;
        let how = if alone { FlockOperation::LockExclusive } else { FlockOperation::LockShared };
        flock(&file, how)?;
        Ok(file)
    }

    /// What is remembered of a device; nothing of another that had its number.
    #[must_use]
    pub fn state(&self, index: DevIndex, node_guid: Option<Guid>) -> Option<State> {
        self.read(index).filter(|state| state.node_guid == node_guid)
    }

    /// Remembers a device.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn save(&self, index: DevIndex, state: &State) -> io::Result<()> {
        replace(&self.device(index), state.text().as_bytes())
    }

    /// Leaves a link under a device's name: its nodes that come later can tell that it has been seen.
    /// Returns whether that is news.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn known_as(&self, index: DevIndex, name: &str) -> io::Result<bool> {
        if self.is_known_as(index, name) {
            return Ok(false);
        }
        fs::create_dir_all(self.path("names"))?;
        let new = self.path(&format!("names/.{}", std::process::id()));
        symlink(format!("../devices/{index}"), &new)?;
        fs::rename(&new, self.path(&format!("names/{name}")))?;
        Ok(true)
    }

    /// The device has another name now.
    pub fn no_longer_known_as(&self, index: DevIndex, name: &str) {
        if self.is_known_as(index, name) {
            fs::remove_file(self.path(&format!("names/{name}"))).ok();
        }
    }

    fn is_known_as(&self, index: DevIndex, name: &str) -> bool {
        let target = fs::read_link(self.path(&format!("names/{name}")));
        target.is_ok_and(|t| t == Path::new(&format!("../devices/{index}")))
    }

    /// Forgets a device.
    pub fn forget(&self, index: DevIndex) {
        if let Some(state) = self.read(index) {
            self.no_longer_known_as(index, &state.name);
        }
        fs::remove_file(self.device(index)).ok();
    }

    fn read(&self, index: DevIndex) -> Option<State> {
        State::parse(&fs::read_to_string(self.device(index)).ok()?)
    }

    fn device(&self, index: DevIndex) -> PathBuf {
        self.path(&format!("devices/{index}"))
    }
}

/// Writes a file so that a reader sees all of it or what was there before; not at all when it is equal.
///
/// # Errors
/// What the file system reports.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let new = path.with_extension(format!("{}", std::process::id()));
    File::create(&new)?.write_all(bytes)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            kernel_name: "mlx5_0".into(),
            node_guid: Some(Guid(1)),
            name: "rail0".into(),
            policy: "fixed".into(),
            status: Status::Refused("taken".into()),
        }
    }

    #[test]
    fn nobody_else_can_hold_the_lock() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let run = Run::of(&Root::at(dir.path()));
        let lock = run.lock(true).unwrap();
        assert_eq!(lock.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn survives_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::of(&Root::at(dir.path()));
        run.save(DevIndex(3), &state()).unwrap();
        assert_eq!(run.state(DevIndex(3), Some(Guid(1))), Some(state()));
        assert_eq!(run.state(DevIndex(3), Some(Guid(2))), None);
        assert_eq!(run.state(DevIndex(4), None), None);
        assert!(run.known_as(DevIndex(3), "rail0").unwrap());
        assert!(!run.known_as(DevIndex(3), "rail0").unwrap());
        run.no_longer_known_as(DevIndex(4), "rail0");
        assert!(run.path("names/rail0").exists(), "it is another device's name");
        run.forget(DevIndex(3));
        assert!(!run.path("names/rail0").is_symlink());
        assert_eq!(run.state(DevIndex(3), Some(Guid(1))), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text(text: String) {
            if let Some(state) = State::parse(&text) {
                proptest::prop_assert_eq!(State::parse(&state.text()), Some(state));
            }
        }
    }
}
