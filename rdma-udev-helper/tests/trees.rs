// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names of devices in the sysfs trees of `tests/trees`: which files and links there are, what
//! netlink says the device speaks, and the name that each policy gives, if it gives one.

#![expect(clippy::unwrap_used, reason = "a test says where it fails")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rdma_config::Policy;
use rdma_udev_helper::naming::{Identity, name};
use rdma_verbs::Protocol;
use rdma_verbs::sysfs::Sysfs;
use toml::Table;

const POLICIES: [Policy; 4] = [Policy::Onboard, Policy::Path, Policy::Slot, Policy::Guid];

#[test]
fn every_tree_gives_its_names() {
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/trees");
    let mut seen = 0;
    for file in fs::read_dir(trees).unwrap() {
        let path = file.unwrap().path();
        let tree: Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        let sysfs = tempfile::tempdir().unwrap();
        grow(&tree, sysfs.path());
        let sysfs = Sysfs::at(sysfs.path());
        let place = sysfs.place("x").unwrap();
        let identity = Identity {
            protocol: tree
                .get("protocol")
                .map(|word| Protocol::from_kernel(word.as_str().unwrap()).unwrap()),
            slot: place.as_ref().and_then(|p| sysfs.slot(p.own_address).unwrap()),
            place,
            node_guid: sysfs.node_guid("x").unwrap(),
            netdev: None,
        };
        for policy in POLICIES {
            let expected = tree["names"].get(policy.as_str()).map(|n| n.as_str().unwrap());
            assert_eq!(name(policy, &identity).as_deref(), expected, "{path:?}: {policy:?}");
        }
        seen += 1;
    }
    assert!(seen > 10, "only {seen} trees");
}

/// Makes the files, each character a byte, and the links.
fn grow(tree: &Table, root: &Path) {
    let entries = |kind: &str| tree[kind].as_table().unwrap().clone().into_iter();
    let place = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (path, text) in entries("files") {
        let bytes: Vec<u8> =
            text.as_str().unwrap().chars().map(|c| u8::try_from(c).unwrap()).collect();
        fs::write(place(&path), bytes).unwrap();
    }
    for (path, to) in entries("links") {
        // Those below devices lead into the tree, a subsystem's only has a name.
        symlink(root.join(to.as_str().unwrap()), place(&path)).unwrap();
    }
}
