// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether udev is done with a device: its database, `/run/udev/data`.

use std::fs;

use rdma_config::Root;

/// Whether udev has run all rules for a device, by its entry (`+infiniband:rxe0`, `n5` for a network interface), and
/// it waits for no rename. Without udev there is nothing to wait for.
#[must_use]
pub fn is_settled(root: &Root, entry: &str) -> bool {
    if !root.path("/run/udev/control").exists() {
        return true;
    }
    fs::read_to_string(root.path("/run/udev/data").join(entry))
        .is_ok_and(|text| !text.lines().any(|line| line == "E:SYSTEMD_READY=0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let settled = || is_settled(&root, "+infiniband:rxe0");
        assert!(settled(), "no udev");
        fs::create_dir_all(root.path("/run/udev/data")).unwrap();
        fs::write(root.path("/run/udev/control"), "").unwrap();
        assert!(!settled(), "nothing yet");
        let entry = root.path("/run/udev/data/+infiniband:rxe0");
        fs::write(&entry, "I:1\nE:SYSTEMD_READY=0\n").unwrap();
        assert!(!settled(), "a rename is due");
        fs::write(&entry, "I:1\nE:ID_RDMA_NAME=rxe0\n").unwrap();
        assert!(settled());
    }
}
