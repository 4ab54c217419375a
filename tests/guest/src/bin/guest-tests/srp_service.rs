// SPDX-License-Identifier: MIT OR Apache-2.0
//! `srp_daemon` as a service: it stays, and logs in to targets as they come.

use std::fs;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::bed::{Bed, Boot, sh, unit_state, wait_active, wait_for, wait_inactive};
use super::hca::{VHCA, guid, live, plug, subnet_manager};
use super::rdmactl::{json, status};
use super::srp::{LUN, target};
use super::{Test, better};

pub(crate) const TESTS: &[Test] = &[
    better(
        "srp_targets_are_logged_in_to_as_they_come",
        "a target that is not ready yet when it comes is tried again after a minute",
        come_and_go,
    ),
    better("srp_daemon_outlives_subnet_managers", "it says nothing of what it does", managers),
    better("srp_daemon_is_pulled_while_it_asks", "36256b81b: it asks on", pulled),
    better("srp_daemon_sleeps_when_nothing_happens", "S4: it wakes up all the time", idle),
    better("srp_daemon_follows_a_name_with_a_dash", "%I is '/' where the name has '-'", dash),
];

const LEADER: &str = "srp_daemon.service";

/// What the kernel says of a target that goes, and of logins that it refuses.
fn provokes(bed: &mut Bed) {
    for part in [
        "Unable to load target_core",
        "ib_srp",
        "srpt",
        "scsi host",
        "REJ",
        "MODE SENSE",
        "sd ",
        "I/O error",
        "cannot log in",
        "rejecting I/O",
        "failed fast_io_fail",
        "timed out",
    ] {
        bed.provokes(part);
    }
    bed.stop_later(LEADER);
}

fn unit(device: &str) -> Result<String> {
    sh(&format!("systemd-escape --template=srp_daemon_port@.service '{device}:1'"))
}

/// The CPU time of a service so far, in milliseconds.
fn cpu(unit: &str) -> Result<u64> {
    Ok(sh(&format!("systemctl show -P CPUUsageNSec '{unit}'"))?.parse::<u64>().unwrap_or(0)
        / 1_000_000)
}

/// The HCA of the initiator is pulled and put back, and that of the target; all without a person.
fn come_and_go(bed: &mut Bed) -> Result<()> {
    provokes(bed);
    let (a, _) = (plug("a", 1, &[])?, plug("b", 1, &[])?);
    plug("c", 1, &[])?;
    subnet_manager(bed, "c")?;
    let outcome = logins(bed, &a);
    let cleaned = sh(&format!("systemctl stop {LEADER}; {LUN} no_lun"));
    outcome.and(cleaned.map(drop))
}

fn logins(bed: &mut Bed, a: &str) -> Result<()> {
    let (initiator, target) = (guid("a", 1)?, guid("b", 1)?);
    // With -n an initiator has the target's port in its name.
    sh(&format!("set -e; {LUN} lun {target} {target}{initiator}"))?;
    bed.file("/etc/srp_daemon.conf", &format!("a dgid=fe80000000000000{target}\nd\n"))?;
    // rdma-core's list is loaded once in a boot, and a test before this may have taken the module out.
    sh(&format!("modprobe ib_srp; systemctl start {LEADER}"))?;
    wait_active(&unit(a)?)?;
    let disks = || sh("ls /dev/sd? 2>/dev/null || true");
    let comes = |what: &str| -> Result<()> {
        let start = Instant::now();
        wait_for(&format!("there is a disk after {what}"), || Ok(!disks()?.is_empty()))?;
        println!("{what}: logged in after {} ms", start.elapsed().as_millis());
        sh(&format!("set -e; {LUN} same {}", disks()?))?;
        Ok(())
    };
    comes("the start")?;
    live("a", false)?;
    wait_for("the disk goes with its HCA", || Ok(disks()?.is_empty()))?;
    live("a", true)?;
    comes("the initiator has come back")?;
    live("b", false)?;
    // What ib_srp does by itself after dev_loss_tmo.
    sh("for r in /sys/class/srp_remote_ports/*/delete; do echo 1 >$r; done")?;
    wait_for("the disk goes with its target", || Ok(disks()?.is_empty()))?;
    live("b", true)?;
    // ib_srpt has forgotten it; on a target it is restored by LIO's own service, which takes its time: whoever watches the fabric
    // has been there by then, in vain.
    sh(&format!("sleep 4; {LUN} no_port; set -e; lun {target} {target}{initiator}"))?;
    comes("the target has come back")?;
    if bed.boot == Boot::Ours {
        let ports = json("rdmactl srp --json")?;
        let port = super::hca::device("a")?;
        let ours = ports.iter().find(|p| p["device"] == port.as_str());
        let has = |state: &str| {
            let targets = ours.and_then(|port| port["targets"].as_array());
            targets.is_some_and(|targets| targets.iter().any(|t| t["state"] == state))
        };
        ensure!(has("connected") && has("not allowed"), "{ports:?}");
    }
    println!("CPU time: {} ms", cpu(&unit(a)?)?);
    sh(&format!("systemctl stop {LEADER}"))?;
    wait_inactive(&unit(a)?)
}

/// The subscriptions that subnet administration has of a port.
fn subscriptions(device: &str) -> Result<String> {
    // Written as saquery does.
    let guid = sh(&format!(
        "cut -c21- /sys/class/infiniband/{device}/ports/1/gids/0 | sed 's/\\b0\\{{1,3\\}}//g'"
    ))?;
    sh(&format!(
        "timeout 10 saquery -C {device} IIR | grep -A10 'SubscriberGID.*{guid}$' | sed -n 's/.*trap_num[.]*//p' | sort -n | xargs"
    ))
}

/// No subnet manager at the start; one, which is killed and started again, moves to another port; the port goes down and
/// comes back. After each of these it is subscribed, and finds a target.
fn managers(bed: &mut Bed) -> Result<()> {
    provokes(bed);
    bed.provokes("lab-opensm.service");
    sh("modprobe ib_umad; udevadm settle")?;
    let (a, _) = (plug("a", 1, &[])?, plug("b", 1, &[])?);
    sh(&format!("systemctl start {LEADER}"))?;
    let unit = unit(&a)?;
    wait_active(&unit)?;
    let pid = || sh(&format!("systemctl show -P MainPID '{unit}'"));
    let first = pid()?;
    let subscribed = |after: &str| {
        wait_for(&format!("it is subscribed after {after}"), || Ok(subscriptions(&a)? == "64 144"))
    };
    let stop = || sh("systemctl stop lab-opensm.service");
    let (code, text) = status("rdmactl srp --rescan")?;
    ensure!(code == 1 && text.contains("has no subnet manager yet"), "{code} {text}");
    ensure!(sh("rdmactl srp")?.contains("was not asked yet"), "{}", sh("rdmactl srp")?);
    subnet_manager(bed, "a")?;
    subscribed("a first subnet manager")?;
    stop()?;
    subnet_manager(bed, "a")?;
    subscribed("another start of it")?;
    stop()?;
    subnet_manager(bed, "b")?;
    subscribed("one elsewhere")?;
    for link in ["down", "up"] {
        fs::write(format!("{VHCA}/hcas/a/port1/link"), link)?;
        let state = if link == "up" { "ACTIVE" } else { "DOWN" };
        wait_for(&format!("the port is {state}"), || {
            Ok(sh(&format!("cat /sys/class/infiniband/{a}/ports/1/state"))?.contains(state))
        })?;
    }
    subscribed("its port was down")?;
    sh("rdmactl srp --rescan")?;
    // Without a subnet manager, and beside traps from who is none, it does not spin.
    stop()?;
    let before = cpu(&unit)?;
    let seconds = std::env::var("LAB_IDLE").unwrap_or_else(|_| "5".to_owned());
    sh(&format!("sleep {seconds}"))?;
    println!("CPU time in {seconds} s without a subnet manager: {} ms", cpu(&unit)? - before);
    subnet_manager(bed, "b")?;
    subscribed("it was away for long")?;
    // A target that comes now is told of.
    let outcome = sh("modprobe ib_srpt").and_then(|_| {
        let start = Instant::now();
        wait_for("the target is found", || Ok(sh("rdmactl srp")?.contains("id_ext=")))?;
        println!("found {} ms after it came", start.elapsed().as_millis());
        Ok(())
    });
    sh(&format!(
        "systemctl stop {LEADER}; rmmod ib_srp; rmmod ib_srpt target_core_mod; udevadm settle; true"
    ))?;
    outcome?;
    ensure!(unit_state(&unit) != "failed", "{unit} has failed");
    // Both subscriptions were taken back.
    wait_for("no subscription is left", || Ok(subscriptions(&a)?.is_empty()))?;
    let restarted = sh(&format!("systemctl show -P NRestarts '{unit}'"))?;
    ensure!(restarted == "0", "it was started again {restarted} times, first as {first}");
    Ok(())
}

/// How many targets port 1 of a device has found.
fn found(device: &str) -> Result<usize> {
    let ports = json("rdmactl srp --json")?;
    let port = ports.iter().find(|port| port["device"] == device);
    Ok(port.and_then(|port| port["targets"].as_array()).map_or(0, Vec::len))
}

/// Its HCA goes while targets are asked, and comes back: nothing fails, and all of them are found.
fn pulled(bed: &mut Bed) -> Result<()> {
    provokes(bed);
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "b")?;
    // Seven answers, 200 ms each, to each of the two daemons.
    target(bed, "b", "3 1 0 late")?;
    sh(&format!("modprobe ib_srp; systemctl start {LEADER}"))?;
    let unit = unit(&a)?;
    wait_active(&unit)?;
    sh("sleep 1")?;
    ensure!(found(&a)? == 0, "it was done already");
    live("a", false)?;
    wait_inactive(&unit)?;
    ensure!(bed.journal(&format!("-u '{unit}'"))?.contains("has gone"), "it does not say why");
    live("a", true)?;
    let a = super::hca::device("a")?;
    wait_for("all targets are found", || Ok(found(&a)? == 3))?;
    sh(&format!("systemctl stop {LEADER}; rmmod ib_srp; true"))?;
    Ok(())
}

/// 16 targets are found, and then nothing happens; Debian's beside it.
fn idle(bed: &mut Bed) -> Result<()> {
    provokes(bed);
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "b")?;
    target(bed, "b", "4 4")?;
    // A port has one.
    sh("systemctl stop 'srp_daemon*'")?;
    // What Debian's says meanwhile, and when it ends, is its own.
    let theirs = ("lab-theirs", "-p LogLevelMax=emerg /usr/lib/lab/peers");
    for (unit, program) in [("lab-ours", "/usr/sbin"), theirs] {
        bed.stop_later(if unit == "lab-ours" { "lab-ours" } else { "lab-theirs" });
        sh(&format!("systemd-run -q --collect --unit={unit} {program}/srp_daemon -c -j {a}:1"))?;
        // Theirs keeps its lines in a buffer.
        if unit == "lab-ours" && bed.boot == Boot::Ours {
            wait_for("it has found all", || {
                let lines = sh("journalctl -q -o cat -b _SYSTEMD_UNIT=lab-ours.service")?;
                Ok(lines.matches("id_ext=").count() == 16)
            })?;
        }
        sh("sleep 4")?;
        let status = format!("/proc/$(systemctl show -P MainPID {unit})/task/*/status");
        let switches = || sh(&format!("grep -h ctxt_switches {status}"));
        let count = |text: &str| -> u64 {
            text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum()
        };
        let mut woke = u64::MAX;
        for _ in 0..3 {
            let before = count(&switches()?);
            sh("sleep 10")?;
            woke = woke.min(count(&switches()?) - before);
            if woke == 0 || unit == "lab-theirs" {
                break;
            }
        }
        let rss = sh(&format!("awk '/^VmRSS:/ {{ print $2; exit }}' {status}"))?;
        println!("{unit}, srp_daemon with 16 targets: RSS {rss} KiB, {woke} wakeups in 10 s");
        ensure!(woke == 0 || unit == "lab-theirs", "it wakes up for nothing");
        sh(&format!("systemctl stop {unit}"))?;
    }
    Ok(())
}

/// Longer than the 16 bytes that rdma-core has room for.
const NAME: &str = "lab-of-some-length-more";

fn dash(bed: &mut Bed) -> Result<()> {
    provokes(bed);
    let a = plug("a", 1, &[])?;
    subnet_manager(bed, "a")?;
    sh(&format!("systemctl start {LEADER}"))?;
    // Of the daemon of the old name, for a moment.
    bed.provokes("ib_core: Method 6 already in use");
    let before = unit(&a)?;
    wait_active(&before)?;
    sh(&format!("rdma dev set {a} name {NAME}; udevadm settle"))?;
    ensure!(unit(NAME)?.starts_with("srp_daemon_port@lab\\x2dof"), "{}", unit(NAME)?);
    wait_active(&unit(NAME)?)?;
    wait_inactive(&before)?;
    wait_for("it asks under the new name", || {
        Ok(sh("rdmactl srp")?.contains(&format!("{NAME}:1")))
    })?;
    // One port is left out, as masked by a person.
    live("a", false)?;
    wait_inactive(&unit(NAME)?)?;
    sh(&format!("systemctl stop {LEADER}; rmmod ib_srp; true"))?;
    Ok(())
}
