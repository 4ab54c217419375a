// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdmad`: software links, settings of devices, the mode of network namespaces.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::bed::{self, Bed, devices, sh, unplug, wait_active, wait_for};
use super::hca::{live, plug};
use super::names::CONFIG;
use super::{Test, better};

const NONE: &str = "rdma-core has no settings";

pub(crate) const TESTS: &[Test] = &[
    better("manager_makes_links_as_interfaces_come", NONE, links),
    better("manager_killed_at_any_moment_changes_nothing", NONE, killed),
    better("manager_sets_what_an_entry_says", NONE, settings),
    better("manager_reports_or_repairs_drift", NONE, drift),
    better("manager_gives_a_roce_mode", NONE, roce),
    better("manager_chooses_optional_counters", NONE, counters),
    better("manager_moves_devices_to_a_namespace", NONE, netns),
    better("device_wants_units_of_its_entry", NONE, wants),
    better("manager_counts_a_storm", NONE, storm),
    better("manager_looks_again_when_events_are_lost", NONE, lost),
    better("daemons_sleep_when_nothing_happens", NONE, idle),
];

const UNIT: &str = "rdmad.service";
const LINK: &str = "[[link]]\nname = 'lab0'\ntype = 'rxe'\nnetdev = 'labnic'\n";

/// Has rdmad read a configuration. Without devices and links there is nothing for it to do, and it does not run.
fn configure(bed: &mut Bed, text: &str) -> Result<()> {
    bed.file(CONFIG, text)?;
    reload()?;
    bed.stop_later(UNIT);
    Ok(())
}

fn reload() -> Result<()> {
    sh(&format!("systemctl reload-or-restart {UNIT}; ! systemctl is-failed -q {UNIT}"))?;
    Ok(())
}

/// Runs, as it does when the first device comes. It was stopped after the test before, and beside other devices nothing
/// starts it again.
pub(crate) fn started() -> Result<()> {
    sh(&format!("systemctl start {UNIT}"))?;
    wait_active(UNIT)
}

fn nic(name: &str) -> Result<()> {
    sh(&format!("ip link add {name} type dummy; ip link set {name} up"))?;
    Ok(())
}

fn wait_devices(expected: &str) -> Result<()> {
    wait_for(&format!("the devices are '{expected}'"), || Ok(devices()? == expected))?;
    sh("udevadm settle")?;
    Ok(())
}

fn links(bed: &mut Bed) -> Result<()> {
    configure(bed, LINK)?;
    ensure!(devices()?.is_empty(), "there is a device without its interface");
    for _ in 0..2 {
        nic("labnic")?;
        wait_devices("lab0")?;
        sh("ip link delete labnic")?;
        wait_devices("")?;
    }
    // What somebody else has made is taken for it, and left alone for good.
    bed.file(CONFIG, "")?;
    reload()?;
    nic("labnic")?;
    bed::plug("rxe", "byhand", "labnic")?;
    configure(bed, LINK)?;
    wait_devices("byhand")?;
    bed.file(CONFIG, "")?;
    reload()?;
    wait_devices("byhand")?;
    unplug("byhand")?;
    // What is not asked for any more goes, under whatever name.
    configure(bed, LINK)?;
    wait_devices("lab0")?;
    sh("rdma dev set lab0 name other; udevadm settle")?;
    bed.file(CONFIG, "")?;
    reload()?;
    wait_devices("")
}

fn killed(bed: &mut Bed) -> Result<()> {
    bed.provokes("rdmad.service");
    // The kernel starts no thread for a process that is being killed. It says so of the port, and 6.12 of the thread.
    bed.provokes("Couldn't open port");
    bed.provokes("workqueue");
    configure(bed, LINK)?;
    // The device is whole, whenever the one that began it was killed.
    let wait_made = || {
        wait_for("the device is made", || {
            let made = sh("cat /run/rdma/links/lab0 2>/dev/null || true")?;
            let index = made.rsplit(' ').next().unwrap_or_default().to_owned();
            Ok(made.split(' ').count() == 3
                && sh("rdma dev show lab0 || true")?.starts_with(&format!("{index}:")))
        })?;
        wait_devices("lab0")
    };
    let kill = || sh(&format!("systemctl kill -s KILL {UNIT}; systemctl reset-failed {UNIT}"));
    for round in 0..4 {
        nic("labnic")?;
        // At once, and some time into it.
        sh(&format!("sleep 0.{}", round * 7 % 10))?;
        kill()?;
        wait_made()?;
        let index =
            sh("cat /sys/class/infiniband/lab0/node_guid; rdma dev show lab0 | cut -d: -f1")?;
        kill()?;
        wait_active(UNIT)?;
        let after =
            sh("cat /sys/class/infiniband/lab0/node_guid; rdma dev show lab0 | cut -d: -f1")?;
        ensure!(index == after, "it was made again: {index}, then {after}");
        sh("ip link delete labnic")?;
        kill()?;
        wait_devices("")?;
    }
    nic("labnic")?;
    wait_made()?;
    kill()?;
    bed.file(CONFIG, "")?;
    wait_active(UNIT)?;
    reload()?;
    wait_devices("")
}

/// What vhca counts unless it is told otherwise.
const BOTH: &str = "mcast_rx,mcast_tx";

/// Set at the plug, after a rename, after the driver was away.
fn settings(bed: &mut Bed) -> Result<()> {
    configure(
        bed,
        "[[device]]\nmatch = { board-id = 'LAB*' }\noptional-counters = 'mcast_tx'\nadaptive-moderation = true\n",
    )?;
    let device = plug("a", 1, &[("board_id", "LAB-1")])?;
    let is = |device: &str| {
        wait_for(&format!("{device} is set"), || {
            Ok(counters_of(device, 1)? == "mcast_tx" && moderates(device)?)
        })
    };
    is(&device)?;
    sh(&format!("rdma dev set {device} name other"))?;
    is("other")?;
    live("a", false)?;
    live("a", true)?;
    is(&super::hca::device("a")?)?;
    let other = plug("b", 1, &[("board_id", "OTHER")])?;
    ensure!(
        counters_of(&other, 1)? == BOTH && !moderates(&other)?,
        "a device that no entry is about was set"
    );
    // Of another boot than this one's, and then of this one's.
    sh(&format!("systemctl stop {UNIT}"))?;
    live("a", false)?;
    live("a", true)?;
    let device = super::hca::device("a")?;
    ensure!(counters_of(&device, 1)? == BOTH && !moderates(&device)?, "it was set without us");
    sh(&format!("systemctl start {UNIT}"))?;
    is(&device)?;
    // rxe's driver has no moderation: said once, and the rest is done.
    configure(bed, "[[device]]\nmatch = { driver = 'rxe' }\nadaptive-moderation = true\n")?;
    bed.provokes("RDMA device 'byhand' adaptive-moderation");
    let nic = bed.nics[0].clone();
    bed::plug("rxe", "byhand", &nic)?;
    wait_for("the refusal is told", || {
        Ok(bed.journal(&format!("-u {UNIT}"))?.contains("'byhand' adaptive-moderation"))
    })
}

/// Whether completion queues made from now on adapt their interrupts.
fn moderates(device: &str) -> Result<bool> {
    Ok(sh(&format!("rdma -d dev show {device}"))?.contains("adaptive-moderation on"))
}

/// The optional counters of a port that count.
fn counters_of(device: &str, port: u8) -> Result<String> {
    // How it breaks lines is its business.
    let modes: String = sh("rdma statistic mode")?.split_whitespace().collect();
    let of = modes.split("link").find_map(|link| {
        link.strip_prefix(&format!("{device}/{port}"))?.strip_prefix("optional-counters")
    });
    Ok(of.unwrap_or_default().to_owned())
}

fn drift(bed: &mut Bed) -> Result<()> {
    let entry = "[[device]]\nmatch = { board-id = 'LAB*' }\noptional-counters = 'mcast_tx'\n";
    configure(bed, entry)?;
    bed.provokes("somebody has changed it from 'mcast_tx' to 'mcast_rx'");
    let device = plug("a", 1, &[("board_id", "LAB-1")])?;
    let wait = |counter: &str| {
        wait_for(&format!("{counter} counts"), || Ok(counters_of(&device, 1)? == counter))
    };
    let change = || {
        sh(&format!(
            "rdma statistic set link {device}/1 optional-counters mcast_rx
             udevadm trigger -w /sys/class/infiniband/{device}"
        ))
    };
    wait("mcast_tx")?;
    change()?;
    wait_for("it is reported", || {
        Ok(bed.journal(&format!("-u {UNIT}"))?.contains("somebody has changed it"))
    })?;
    // Also by one that starts anew.
    sh(&format!("systemctl restart {UNIT}"))?;
    wait("mcast_rx")?;
    configure(bed, &format!("{entry}drift = 'repair'\n"))?;
    wait("mcast_tx")?;
    change()?;
    wait("mcast_tx")
}

fn roce(bed: &mut Bed) -> Result<()> {
    configure(bed, "[[device]]\nmatch = { sysname = 'lab0' }\nroce-mode = 'v2'\ntos = 106\n")?;
    nic("labnic")?;
    bed::plug("rxe", "lab0", "labnic")?;
    let read = || {
        sh("d=/sys/kernel/config/rdma_cm/lab0; mkdir $d 2>/dev/null || exit 0
            cat $d/ports/1/default_roce_mode $d/ports/1/default_roce_tos | xargs; rmdir $d")
    };
    wait_for("mode and type of service are set", || Ok(read()? == "RoCE v2 106"))?;
    unplug("lab0")?;
    bed::plug("rxe", "lab0", "labnic")?;
    wait_for("and again", || Ok(read()? == "RoCE v2 106"))?;
    sh("rdma dev set lab0 name lab1; udevadm settle; rdma dev set lab1 name lab0; udevadm settle")?;
    ensure!(read()? == "RoCE v2 106", "not after a rename: {}", read()?);
    ensure!(
        sh("ls /sys/kernel/config/rdma_cm")?.is_empty(),
        "rdmad leaves a directory in configfs"
    );
    Ok(())
}

fn netns(bed: &mut Bed) -> Result<()> {
    let outcome = netns_modes(bed);
    // Nothing else here expects it to be exclusive.
    sh("ip netns delete lab-blue 2>/dev/null; true")?;
    wait_for("devices are shared again", || {
        Ok(sh("rdma system set netns shared 2>/dev/null; rdma system")?.contains("netns shared"))
    })?;
    outcome
}

/// Debian's `rdma` sees them; a name that is not known is said once, with those that are.
fn counters(bed: &mut Bed) -> Result<()> {
    let entry = |counters: &str| {
        format!("[[device]]\nmatch = {{ board-id = 'LAB*' }}\noptional-counters = {counters}\n")
    };
    configure(bed, &entry("'mcast_tx'"))?;
    bed.provokes("has no optional counter 'none'; it has: mcast_rx, mcast_tx");
    let device = plug("a", 2, &[("board_id", "LAB-1")])?;
    let are = |expected: &str| {
        wait_for(&format!("the counters of both ports are '{expected}'"), || {
            Ok(counters_of(&device, 1)? == expected && counters_of(&device, 2)? == expected)
        })
    };
    are("mcast_tx")?;
    ensure!(
        sh(&format!("rdma statistic show link {device}/1"))?.contains("mcast_tx"),
        "it is not shown"
    );
    configure(bed, &entry("['mcast_tx', 'mcast_rx']"))?;
    are("mcast_rx,mcast_tx")?;
    configure(bed, &entry("'none'"))?;
    wait_for("it is said", || {
        Ok(bed.journal(&format!("-u {UNIT}"))?.contains("has no optional counter 'none'"))
    })?;
    are("mcast_rx,mcast_tx")?;
    configure(bed, &entry("[]"))?;
    wait_for("none counts", || Ok(!sh("rdma statistic mode")?.contains("mcast")))
}

fn netns_modes(bed: &mut Bed) -> Result<()> {
    bed.provokes("[system] netns = \"shared\"");
    bed.provokes("there is no network namespace");
    wait_for("no network namespace is left", || {
        Ok(sh("rdma system set netns exclusive 2>/dev/null && echo yes || echo no")? == "yes")
    })?;
    sh("rdma system set netns shared")?;
    let entry = "[[device]]\nmatch = { board-id = 'LAB*' }\nnetns = 'lab-blue'\n";
    configure(bed, &format!("[system]\nnetns = 'exclusive'\n{entry}"))?;
    ensure!(sh("rdma system")?.contains("netns exclusive"), "{}", sh("rdma system")?);
    let device = plug("a", 1, &[("board_id", "LAB-1")])?;
    wait_for("it says that the namespace is missing", || {
        let said = bed.journal(&format!("-u {UNIT}"))?;
        Ok(said.contains("there is no network namespace /run/netns/lab-blue"))
    })?;
    sh("ip netns add lab-blue")?;
    reload()?;
    wait_for("the device is in its namespace", || {
        Ok(sh("ip netns exec lab-blue rdma dev")?.contains(&device))
    })?;
    // It comes back with the end of the namespace, or goes with its HCA.
    live("a", false)?;
    // The kernel refuses while there is one.
    configure(bed, "[system]\nnetns = 'shared'\n")?;
    let said = bed.journal(&format!("-u {UNIT}"))?;
    ensure!(said.contains("it needs a reboot"), "{said}");
    Ok(())
}

fn wants(bed: &mut Bed) -> Result<()> {
    bed.file(
        "/run/systemd/system/lab-agent@.service",
        "[Service]\nExecStart=sleep infinity\n[Unit]\nStopWhenUnneeded=yes\n",
    )?;
    bed.file(
        CONFIG,
        "[[device]]\nmatch = { board-id = 'LAB*' }\nname = 'rail7'\nwants = 'lab-agent@{name}.service'\n",
    )?;
    plug("a", 1, &[("board_id", "LAB-1")])?;
    wait_active("lab-agent@rail7.service")?;
    ensure!(
        sh("systemctl list-units --plain --no-legend 'lab-agent@*'")?.lines().count() == 1,
        "an agent of another name"
    );
    live("a", false)?;
    bed::wait_inactive("lab-agent@rail7.service")
}

/// A figure of the metrics, the sum where there are several.
fn metric(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/run/rdma/metrics/rdma.prom")?;
    let of = |line: &str| line.split(['{', ' ']).next() == Some(name);
    let values = text.lines().filter(|line| of(line)).filter_map(|line| line.rsplit(' ').next());
    Ok(values.filter_map(|value| value.parse::<u64>().ok()).sum())
}

/// That rdmad knows all devices there are, and what that has cost it.
pub(crate) fn knows(count: usize) -> Result<()> {
    wait_for(&format!("rdmad knows {count} devices"), || {
        Ok(metric("rdma_device_info")? == count as u64)
    })?;
    let value = |property: &str| sh(&format!("systemctl show -P {property} {UNIT}"));
    let pid = value("MainPID")?;
    let rss = sh(&format!("awk '/^VmRSS:/ {{ print $2 }}' /proc/{pid}/status"))?;
    let cpu = value("CPUUsageNSec")?.parse::<u64>()? / 1_000_000;
    println!("rdmad with {count} devices: RSS {rss} KiB, CPU time {cpu} ms since it started");
    Ok(())
}

/// Devices that come and go faster than anybody can look at them: each is counted, as `rdma monitor` does. With
/// `LAB_STORM=1000` in the environment, so many.
fn storm(bed: &mut Bed) -> Result<()> {
    let rounds = std::env::var("LAB_STORM").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    bed.stop_later(UNIT);
    // udev's own, where one device goes and the next one comes with the same port GUID: the directory of their links goes
    // while the link is made.
    bed.provokes("Failed to create/update device symlink");
    for n in 0..8 {
        nic(&format!("lab{n}"))?;
    }
    bed::plug("rxe", "stays", &bed.nics[0])?;
    // Its own announcement is over: what rdmad counts from here on is the storm's.
    started()?;
    sh(&format!("systemctl restart {UNIT}"))?;
    wait_for("the device is counted", || Ok(metric("rdma_device_info")? == 1))?;
    let counted = || {
        Ok::<_, anyhow::Error>((
            metric("rdma_devices_added_total")?,
            metric("rdma_devices_removed_total")?,
        ))
    };
    let before = counted()?;
    // Kernels before 6.12 have nothing to monitor.
    let monitors = sh("rdma system")?.contains("monitor on");
    bed.stop_later("lab-monitor.service");
    bed.remove_later("/run/lab/monitor");
    if monitors {
        // Protocol 20 is NETLINK_RDMA.
        let listeners = || {
            sh("awk '$2 == 20 && $4 != \"00000000\"' /proc/net/netlink | wc -l")?
                .parse::<u32>()
                .context("no number")
        };
        let listening = listeners()?;
        sh(
            "systemd-run -q --unit=lab-monitor --collect sh -c 'exec stdbuf -oL rdma monitor >/run/lab/monitor'",
        )?;
        wait_for("rdma monitor listens", || Ok(listeners()? > listening))?;
    }
    sh(&format!(
        "for n in 0 1 2 3 4 5 6 7; do
             for i in $(seq {}); do
                 rdma link add storm$n type rxe netdev lab$n || exit 1
                 # It reads a list that may change under its hands, and then finds nothing.
                 until rdma link delete storm$n 2>/dev/null; do
                     [ -e /sys/class/infiniband/storm$n ] || exit 1
                 done
             done & all=\"$all $!\"
         done; for job in $all; do wait $job || exit 1; done; udevadm settle --timeout=300",
        rounds / 8
    ))?;
    let rounds = rounds / 8 * 8;
    let expected = (before.0 + rounds, before.1 + rounds);
    wait_for("all are counted", || Ok(counted()? == expected))
        .with_context(|| format!("{:?} and not {expected:?}", counted()))?;
    if monitors {
        for (what, event) in [("added", "REGISTER"), ("removed", "UNREGISTER")] {
            wait_for(&format!("rdma monitor has {rounds} {what}"), || {
                let lines = fs::read_to_string("/run/lab/monitor")?;
                let seen = lines.lines().filter(|line| line.contains(&format!("[{event}]")));
                Ok(seen.count() as u64 == rounds)
            })?;
        }
    }
    ensure!(metric("rdma_events_lost_total")? == 0, "announcements were lost");
    println!(
        "{rounds} devices came and went; rdma monitor: {}",
        if monitors { "the same" } else { "not here" }
    );
    knows(1)
}

/// It stands still while more happens than there is room for.
fn lost(bed: &mut Bed) -> Result<()> {
    bed.stop_later(UNIT);
    nic("labnic")?;
    bed::plug("rxe", "lab0", "labnic")?;
    started()?;
    wait_for("it is known", || Ok(metric("rdma_device_info")? == 1))?;
    sh(&format!("systemctl kill -s STOP {UNIT}"))?;
    let happens = sh(
        "for n in $(seq 400); do echo link set dev labnic mtu $((1400 + n % 100)); done | ip -b -
         rdma dev set lab0 name lab7; udevadm settle",
    );
    // None goes: rxe would wait for rdmad, which has it open.
    let happens = happens.and_then(|_| bed::plug("siw", "new", &bed.nics[0]));
    sh(&format!("systemctl kill -s CONT {UNIT}"))?;
    happens?;
    wait_for("what has happened is known", || {
        let figures = fs::read_to_string("/run/rdma/metrics/rdma.prom")?;
        let info: Vec<&str> =
            figures.lines().filter(|line| line.starts_with("rdma_device_info{")).collect();
        Ok(info.len() == 2 && info[0].contains("device=\"lab7\""))
    })?;
    ensure!(metric("rdma_events_lost_total")? > 0, "nothing was lost");
    Ok(())
}

/// Eight devices, and nothing that happens.
/// `rdma-ndd` sleeps, too; Debian's is beside it. With `LAB_IDLE=60` for so many seconds.
fn idle(bed: &mut Bed) -> Result<()> {
    let links: String = (0..8)
        .map(|n| format!("[[link]]\nname = 'rail{n}'\ntype = 'rxe'\nnetdev = 'lab{n}'\n"))
        .collect();
    for n in 0..8 {
        nic(&format!("lab{n}"))?;
    }
    configure(bed, &links)?;
    wait_for("all are there", || Ok(devices()?.split(' ').count() == 8))?;
    bed.stop_later("lab-ndd.service");
    sh("systemd-run -q --unit=lab-ndd --collect /usr/lib/lab/peers/rdma-ndd --foreground
        udevadm settle; sleep 3")?;
    let mut watched = Vec::new();
    for unit in [UNIT, "rdma-ndd.service", "lab-ndd.service"] {
        let pid = sh(&format!("systemctl show -P MainPID {unit}"))?;
        watched.push((unit, format!("/proc/{pid}/status")));
    }
    let switches = |status: &str| sh(&format!("grep ctxt_switches {status}"));
    let all = || watched.iter().map(|(_, status)| switches(status)).collect::<Result<Vec<_>>>();
    let seconds = std::env::var("LAB_IDLE").unwrap_or_else(|_| "10".to_owned());
    // Something may have happened in the guest; who wakes up for nothing does so each time.
    let mut quiet = [false; 3];
    for _ in 0..3 {
        let before = all()?;
        sh(&format!("sleep {seconds}"))?;
        for (quiet, (before, after)) in quiet.iter_mut().zip(before.iter().zip(all()?)) {
            *quiet |= *before == after;
        }
        if quiet[..2] == [true, true] {
            break;
        }
    }
    for ((unit, status), quiet) in watched.iter().zip(quiet) {
        let rss: u64 = sh(&format!("awk '/^VmRSS:/ {{ print $2 }}' {status}"))?.parse()?;
        let woke = if quiet { "no wakeup" } else { "woke up" };
        println!("{unit} with 8 devices: RSS {rss} KiB, {woke} in {seconds} s");
        ensure!(quiet || *unit == "lab-ndd.service", "{unit} wakes up for nothing");
        ensure!(rss < 8 * 1024, "its RSS is {rss} KiB");
    }
    Ok(())
}
