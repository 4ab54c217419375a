// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings of a device: what is to be set, and what somebody else has changed.

use std::collections::BTreeMap;
use std::{fs, io};

use rdma_config::Root;
use rdma_udev_helper::state::{Run, replace};
use rdma_verbs::{DevIndex, Guid};

/// What is to be done about one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    Good,
    /// It is to be set.
    Set,
    /// We set it, and somebody else has changed it since.
    Drifted,
}

/// Compares what a setting should be with what it is, and with what we set it to last.
#[must_use]
pub fn verdict(wanted: &str, is: &str, set_before: Option<&str>, repair: bool) -> Verdict {
    match () {
        () if is == wanted => Verdict::Good,
        () if set_before == Some(wanted) && !repair => Verdict::Drifted,
        () => Verdict::Set,
    }
}

/// What we set on a device: `/run/rdma/settings/<index>`, a `key=value` line each. It outlives us, so that a change by
/// somebody else is still known as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before(pub BTreeMap<String, String>);

/// To tell a device from another that has its number now.
const GUID: &str = "node-guid";

impl Before {
    /// What is written down; nothing of another device that had its number.
    #[must_use]
    pub fn read(root: &Root, index: DevIndex, guid: Option<Guid>) -> Self {
        let text = fs::read_to_string(path(root, index)).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let before = Self(lines.map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
        let same = before.0.get(GUID).map(String::as_str) == Some(guid_text(guid).as_str());
        if same { before } else { Self([(GUID.to_owned(), guid_text(guid))].into()) }
    }

    /// Writes it down.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn write(&self, root: &Root, index: DevIndex) -> io::Result<()> {
        let lines = self.0.iter().map(|(key, value)| format!("{key}={value}\n"));
        replace(&path(root, index), lines.collect::<String>().as_bytes())
    }

    /// The device has gone.
    pub fn forget(root: &Root, index: DevIndex) {
        fs::remove_file(path(root, index)).ok();
    }
}

fn guid_text(guid: Option<Guid>) -> String {
    guid.map(|guid| guid.to_string()).unwrap_or_default()
}

fn path(root: &Root, index: DevIndex) -> std::path::PathBuf {
    Run::of(root).path(&format!("settings/{index}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        for (is, before, repair, expected) in [
            ("new", None, false, Verdict::Good),
            ("old", None, false, Verdict::Set),
            ("old", Some("new"), false, Verdict::Drifted),
            ("old", Some("new"), true, Verdict::Set),
            ("other", Some("old"), false, Verdict::Set),
        ] {
            assert_eq!(verdict("new", is, before, repair), expected, "{is} {before:?}");
        }
    }

    #[test]
    fn outlives_us() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let guid = Some(Guid(1));
        let mut before = Before::read(&root, DevIndex(3), guid);
        before.0.insert("tos".into(), "106".into());
        before.write(&root, DevIndex(3)).unwrap();
        assert_eq!(Before::read(&root, DevIndex(3), guid), before);
        assert!(!Before::read(&root, DevIndex(3), Some(Guid(2))).0.contains_key("tos"));
        Before::forget(&root, DevIndex(3));
        assert!(!Before::read(&root, DevIndex(3), guid).0.contains_key("tos"));
    }
}
