// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many devices at once: nothing is lost, and a device does not cost more because others are there.

use anyhow::{Context, Result, ensure};

use super::bed::{Bed, Boot, leads_to, node, port_guid, sh, wait_active};
use super::{Test, better};
use super::{manager, ndd};

pub(crate) const TESTS: &[Test] =
    &[better("sixty_four_at_once", "rdma-core has no by-port-guid links", sixty_four)];

/// CPU time, in microseconds, that udev with its workers and programs has used.
fn udev_cpu() -> Result<u64> {
    std::fs::read_to_string("/sys/fs/cgroup/system.slice/systemd-udevd.service/cpu.stat")?
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .context("udev has no CPU accounting")?
        .parse()
        .context("udev's CPU time is not a number")
}

/// Adds `count` devices at once; CPU time of udev per device in microseconds.
fn add(first: usize, count: usize) -> Result<u64> {
    let range = format!("{first} {}", first + count - 1);
    sh(&format!(
        "for i in $(seq {range}); do ip link add lab$i type dummy && ip link set lab$i up; done; udevadm settle"
    ))?;
    let before = udev_cpu()?;
    sh(&format!(
        "for i in $(seq {range}); do rdma link add many$i type rxe netdev lab$i & done; wait"
    ))?;
    sh("udevadm settle --timeout=120")?;
    Ok((udev_cpu()? - before) / count as u64)
}

/// With `LAB_MANY=256` in the environment, so many.
fn sixty_four(bed: &mut Bed) -> Result<()> {
    let many = std::env::var("LAB_MANY").ok().and_then(|n| n.parse().ok()).unwrap_or(64);
    let few = add(0, 8)?;
    links(8)?;
    let more = add(8, many - 8)?;
    links(many)?;
    wait_active("rdma-hw.target")?;
    println!(
        "udev CPU time per device: {few} us for the first 8, {more} us for the next {} (ratio {:.2})",
        many - 8,
        more as f64 / few as f64
    );
    if bed.boot == Boot::Ours {
        manager::knows(many)?;
        ndd::ready_when_described("many*", many)?;
    }
    Ok(())
}

/// Every device has its link, and it leads to the device's own node.
fn links(count: usize) -> Result<()> {
    let mut wrong = Vec::new();
    for i in 0..count {
        let device = format!("many{i}");
        let link = format!("/dev/infiniband/by-port-guid/{}/uverbs", port_guid(&device)?);
        match leads_to(&link) {
            Ok(target) if target == node("infiniband_verbs", &device)? => {}
            Ok(target) => wrong.push(format!("{device}: {link} leads to {target}")),
            Err(error) => wrong.push(format!("{device}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{} of {count} are wrong: {wrong:?}", wrong.len());
    Ok(())
}
