// SPDX-License-Identifier: MIT OR Apache-2.0
//! `remove`: forgets a device that is gone.

use std::fs;

use anyhow::Result;
use rdma_config::Root;
use rdma_udev_helper::claims;
use rdma_udev_helper::state::Run;
use rdma_verbs::DevIndex;
use rdma_verbs::sysfs::announce_change;

pub(crate) fn run(root: &Root, index: DevIndex) -> Result<()> {
    let run = Run::of(root);
    run.forget(index);
    let line = format!("ID_RDMA_INDEX={index}");
    for entry in
        ["net", "nodes"].iter().flat_map(|dir| fs::read_dir(run.path(dir))).flatten().flatten()
    {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if text.lines().any(|l| l == line) {
            fs::remove_file(entry.path())?;
            announce_netdev(root, &entry.file_name().to_string_lossy());
        }
    }
    if claims::release(&run, index) {
        // Who waits is found out by asking all: it happens to VFs and multi-plane devices only.
        for device in
            fs::read_dir(root.path("/sys/class/infiniband")).into_iter().flatten().flatten()
        {
            announce_change(&device.path()).ok();
        }
    }
    Ok(())
}

/// The netdev of an ifindex, where it has not gone with the device, is no longer one of RDMA's.
fn announce_netdev(root: &Root, ifindex: &str) {
    for netdev in fs::read_dir(root.path("/sys/class/net")).into_iter().flatten().flatten() {
        let number = fs::read_to_string(netdev.path().join("ifindex"));
        if number.is_ok_and(|n| n.trim() == ifindex) {
            announce_change(&netdev.path()).ok();
        }
    }
}
