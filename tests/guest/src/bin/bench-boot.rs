// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device costs, with this suite and with rdma-core in turn, in one guest.
//!
//! The guest is one with rdma-core; this suite lies beside it in `/usr/lib/lab/ours`.
#![forbid(unsafe_code)]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Rounds for each suite; they take turns, so that both have the same of the machine's moods.
const ROUNDS: usize = 5;
/// Devices added in one round.
const DEVICES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suite {
    Ours,
    RdmaCore,
}

/// One round's figures.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// From `rdma link add` to `rdma-hw.target` active, nothing being loaded before.
    to_target: f64,
    /// CPU time of udev, its workers and their programs, for each further device with a uverbs node.
    udev: f64,
    /// The uevents of it.
    uevents: f64,
    /// The same with a umad node, too.
    udev_umad: f64,
    uevents_umad: f64,
    /// The same for an InfiniBand HCA: uverbs, umad and issm.
    udev_hca: f64,
    uevents_hca: f64,
}

/// Where this suite lies, and where rdma-core's part is kept meanwhile.
const OURS: &str = "/usr/lib/lab/ours";
const THEIRS: &str = "/run/lab/theirs";

fn main() -> Result<()> {
    sh(&format!(
        "mkdir -p {THEIRS}; cd / && for f in $(cat /usr/lib/lab/replaced); do
             [ ! -e $f -a ! -L $f ] || cp -a --parents $f {THEIRS}/; done"
    ))?;
    for n in 0..=DEVICES {
        sh(&format!("ip link add lab{n} type dummy && ip link set lab{n} up"))?;
    }
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        for suite in [Suite::RdmaCore, Suite::Ours] {
            install(suite)?;
            let figures = measure()?;
            println!(
                "round {round} {suite:?}: target after {:.0} ms, udev {:.1} ms of CPU a device ({:.1} uevents), {:.1} ms with umad ({:.1})",
                figures.to_target,
                figures.udev,
                figures.uevents,
                figures.udev_umad,
                figures.uevents_umad
            );
            rounds.push((suite, figures));
        }
    }
    let median = |suite: Suite, figure: fn(&Round) -> f64| {
        let mut all: Vec<f64> =
            rounds.iter().filter(|(s, _)| *s == suite).map(|(_, r)| figure(r)).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    for (what, figure) in [
        ("from add to rdma-hw.target active", (|r| r.to_target) as fn(&Round) -> f64),
        ("CPU time of udev for a device with uverbs", |r| r.udev),
        ("  of it, for each uevent", |r| r.udev / r.uevents),
        ("CPU time of udev for a device with uverbs and umad", |r| r.udev_umad),
        ("  of it, for each uevent", |r| r.udev_umad / r.uevents_umad),
        ("CPU time of udev for an InfiniBand HCA", |r| r.udev_hca),
        ("  of it, for each uevent", |r| r.udev_hca / r.uevents_hca),
    ] {
        let (ours, theirs) = (median(Suite::Ours, figure), median(Suite::RdmaCore, figure));
        println!(
            "{what}: ours {ours:.1} ms, rdma-core {theirs:.1} ms, ratio {:.2} (medians of {ROUNDS})",
            ours / theirs
        );
    }
    Ok(())
}

fn measure() -> Result<Round> {
    unload()?;
    let start = Instant::now();
    sh("rdma link add rxe0 type rxe netdev lab0")?;
    until("rdma-hw.target is active", || {
        Command::new("systemctl")
            .args(["-q", "is-active", "rdma-hw.target"])
            .status()
            .is_ok_and(|s| s.success())
    })?;
    let to_target = start.elapsed().as_secs_f64() * 1000.0;
    sh("udevadm settle")?;
    let (udev, uevents) = cost_of(add_devices)?;
    sh(&format!("for n in $(seq {DEVICES}); do rdma link delete rxe$n; done; udevadm settle"))?;
    sh("modprobe ib_umad; udevadm settle")?;
    let (udev_umad, uevents_umad) = cost_of(add_devices)?;
    sh("for d in $(ls /sys/class/infiniband); do rdma link delete $d; done; udevadm settle")?;
    // Only one of the suites loads it for a device that has no PCI driver.
    sh("modprobe ib_ipoib; udevadm settle")?;
    let (udev_hca, uevents_hca) = cost_of(add_hcas)?;
    sh("rmdir /sys/kernel/config/vhca/hcas/*; udevadm settle")?;
    Ok(Round { to_target, udev, uevents, udev_umad, uevents_umad, udev_hca, uevents_hca })
}

/// What it costs to add that many devices; for each the CPU time of udev, in milliseconds, and the uevents.
fn cost_of(add: fn() -> Result<()>) -> Result<(f64, f64)> {
    sh(
        "modprobe vhca; mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config; udevadm settle",
    )?;
    let (before, events_before) = (udev_cpu()?, uevents()?);
    add()?;
    sh("udevadm settle")?;
    let devices = DEVICES as f64;
    Ok(((udev_cpu()? - before) / 1000.0 / devices, (uevents()? - events_before) / devices))
}

/// All software devices but the first, under names that rdma-core, too, knows for RoCE.
fn add_devices() -> Result<()> {
    (1..=DEVICES).try_for_each(|n| sh(&format!("rdma link add rxe{n} type rxe netdev lab{n}")))
}

/// As many HCAs, without a PCI function and so without a name by path.
fn add_hcas() -> Result<()> {
    (1..=DEVICES).try_for_each(|n| {
        sh(&format!("h=/sys/kernel/config/vhca/hcas/{n}; mkdir $h && echo 1 >$h/live"))
    })
}

fn uevents() -> Result<f64> {
    Ok(fs::read_to_string("/sys/kernel/uevent_seqnum")?.trim().parse()?)
}

/// Nothing of RDMA is loaded or active, as after a boot.
fn unload() -> Result<()> {
    sh("systemctl stop 'rdma-load-modules@*' rdma-hw.target rdma-ndd ibacm.service ibacm.socket iwpmd srp_daemon 2>/dev/null
        for i in 1 2 3 4 5 6; do
            for m in vhca rdma_rxe ib_isert ib_iser ib_srp ib_srpt rpcrdma nvme_rdma nvmet_rdma rds_rdma ib_ipoib rdma_ucm ib_umad ib_uverbs rdma_cm iw_cm ib_cm ib_core; do
                rmmod $m 2>/dev/null
            done
        done
        [ ! -e /sys/module/ib_core ] || { lsmod | grep ib_core; exit 1; }")?;
    Ok(())
}

/// Puts one suite in the place of the other.
fn install(suite: Suite) -> Result<()> {
    let script = match suite {
        Suite::Ours => format!("cd / && rm -rf $(cat /usr/lib/lab/replaced); cp -a {OURS}/. /"),
        Suite::RdmaCore => format!(
            "cd {OURS} && find . -type f -o -type l | while read f; do rm -f \"/$f\"; done
             cp -a {THEIRS}/. /"
        ),
    };
    sh(&script)?;
    sh("systemctl daemon-reload; udevadm control --reload")?;
    Ok(())
}

fn udev_cpu() -> Result<f64> {
    let text = fs::read_to_string("/sys/fs/cgroup/system.slice/systemd-udevd.service/cpu.stat")?;
    let line = text.lines().find_map(|l| l.strip_prefix("usage_usec "));
    line.context("udev has no CPU accounting")?.parse().context("no number")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_so() {
        ensure!(start.elapsed() < Duration::from_secs(30), "still not so after 30 s: {what}");
    }
    Ok(())
}

fn sh(command: &str) -> Result<()> {
    let output = Command::new("bash").args(["-c", command]).output()?;
    ensure!(
        output.status.success(),
        "`{command}`: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
