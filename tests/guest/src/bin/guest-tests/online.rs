// SPDX-License-Identifier: MIT OR Apache-2.0
//! "RDMA is ready": what waits for it starts then, and not before.

use std::fs;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::bed::{self, Bed, sh, unit_state, wait_active, wait_for};
use super::hca::{VHCA, live, netdev, plug, subnet_manager};
use super::names::CONFIG;
use super::rdmactl::status;
use super::{Test, better};

const NONE: &str = "rdma-core has nothing to wait for but modules";

pub(crate) const TESTS: &[Test] = &[
    better("online_when_the_subnet_manager_is_done", NONE, fabric),
    better("online_fails_at_its_deadline_and_says_why", NONE, deadline),
    better("online_with_an_address", NONE, address),
    better("online_with_ipoib", NONE, ipoib),
    better("online_with_so_many_devices", NONE, count),
    better("online_after_the_rename", NONE, renamed),
    better("online_delays_no_removal", NONE, removal),
    better("online_with_nothing_but_the_kernel", NONE, alone),
    better("online_needs_a_condition_that_it_understands", NONE, bad_condition),
];

const WAIT: &str = "rdma-wait-online";

/// A unit that needs `what`, and whose start is asked for.
fn start_dependent(bed: &mut Bed, what: &str) -> Result<()> {
    bed.file(
        "/run/systemd/system/lab-dependent.service",
        &format!(
            "[Unit]\nRequires={what}\nAfter={what}\n\
             [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
        ),
    )?;
    bed.stop_later("lab-dependent.service");
    sh("systemctl start --no-block lab-dependent.service")?;
    Ok(())
}

/// Waits until a wait says that it lacks something.
fn wait_lacks(unit: &str, what: &str) -> Result<()> {
    wait_for(&format!("{unit} waits for '{what}'"), || {
        Ok(sh(&format!("systemctl show -P StatusText {unit}"))?.contains(what))
    })?;
    ensure!(unit_state("lab-dependent.service") != "active", "it has started before its time");
    Ok(())
}

fn fabric(bed: &mut Bed) -> Result<()> {
    let device = plug("a", 1, &[])?;
    let unit = format!("{WAIT}@{device}:1.service");
    start_dependent(bed, &unit)?;
    wait_lacks(&unit, "is INIT, not ACTIVE: no subnet manager has brought it up")?;
    // Nothing happens, and so it does nothing.
    let switches = || -> Result<String> {
        let pid = sh(&format!("systemctl show -P MainPID {unit}"))?;
        sh(&format!("grep ctxt_switches /proc/{pid}/status"))
    };
    sh("udevadm settle; sleep 1")?;
    let before = switches()?;
    sh("sleep 5")?;
    ensure!(switches()? == before, "it wakes up for nothing: {before}, then {}", switches()?);
    subnet_manager(bed, "a")?;
    wait_active("lab-dependent.service")?;
    let file = format!("/run/rdma/metrics/rdma-wait-online-{device}:1.prom");
    let ready = format!("rdma_wait_online_ready{{condition=\"{device}:1\"}} 1\n");
    ensure!(fs::read_to_string(&file)?.contains(&ready), "{}", fs::read_to_string(&file)?);
    // A link that goes stops nothing, and what is started then is told the truth.
    fs::write(format!("{VHCA}/hcas/a/port1/link"), "down")?;
    wait_for("the port is down", || Ok(status(&format!("rdmactl online {device}:1"))?.0 == 1))?;
    ensure!(unit_state("lab-dependent.service") == "active", "it was stopped with the link");
    sh("systemctl stop lab-dependent.service; systemctl start --no-block lab-dependent.service")?;
    wait_lacks(&unit, "is DOWN, not ACTIVE")?;
    fs::write(format!("{VHCA}/hcas/a/port1/link"), "up")?;
    wait_active("lab-dependent.service")
}

fn deadline(bed: &mut Bed) -> Result<()> {
    for part in ["rdma-wait-online", "Failed to start rdma-wait-online", "Dependency failed"] {
        bed.provokes(part);
    }
    let device = plug("a", 2, &[])?;
    bed.file(
        CONFIG,
        &format!("[online.lab]\nname = ['{device}', 'absent']\nports = 'all'\ntimeout = 2\n"),
    )?;
    start_dependent(bed, &format!("{WAIT}@lab.service"))?;
    wait_for("the wait fails", || Ok(unit_state(&format!("{WAIT}@lab.service")) == "failed"))?;
    ensure!(unit_state("lab-dependent.service") == "inactive", "what needs it has started");
    let said = bed.journal(&format!("-u {WAIT}@lab.service"))?;
    for what in [
        "there is no RDMA device 'absent'".to_owned(),
        format!("port 1 of RDMA device '{device}' is INIT, not ACTIVE: no subnet manager"),
        format!("port 2 of RDMA device '{device}' is INIT"),
    ] {
        ensure!(said.contains(&what), "no '{what}' in {said}");
    }
    ensure!(!said.contains("cannot tell"), "{said}");
    sh("systemctl reset-failed")?;
    Ok(())
}

fn address(bed: &mut Bed) -> Result<()> {
    let nic = bed.nics[0].clone();
    bed.file(CONFIG, "[online.lab]\nname = 'rxe0'\ngid = 'roce-v2-ipv4'\n")?;
    let unit = format!("{WAIT}@lab.service");
    start_dependent(bed, &unit)?;
    wait_lacks(&unit, "there is no RDMA device 'rxe0'")?;
    sh(&format!("ip addr flush dev {nic}; ip link set {nic} down"))?;
    bed::plug("rxe", "rxe0", &nic)?;
    wait_lacks(&unit, &format!("is DOWN, not ACTIVE: is '{nic}' up, with a link?"))?;
    sh(&format!("ip link set {nic} up"))?;
    wait_lacks(&unit, &format!("has no GID of kind roce-v2-ipv4; has '{nic}' an address?"))?;
    sh(&format!("ip addr add 10.1.1.1/24 dev {nic}"))?;
    wait_active("lab-dependent.service")?;
    sh(&format!("ip addr flush dev {nic}"))?;
    wait_for("the GID is gone", || Ok(status("rdmactl online lab")?.0 == 1))
}

fn ipoib(bed: &mut Bed) -> Result<()> {
    let device = plug("a", 1, &[])?;
    subnet_manager(bed, "a")?;
    let unit = format!("{WAIT}@lab.service");
    bed.file(CONFIG, &format!("[online.lab]\nname = '{device}'\nipoib = true\n"))?;
    start_dependent(bed, &unit)?;
    wait_for("ib_ipoib is loaded", || Ok(netdev(&device, 1).is_ok()))?;
    let ipoib = netdev(&device, 1)?;
    wait_lacks(&unit, &format!("({ipoib} is not)"))?;
    sh(&format!("ip link set {ipoib} up"))?;
    wait_active("lab-dependent.service")
}

/// The target, whose condition is that of the machine.
fn count(bed: &mut Bed) -> Result<()> {
    bed.file(CONFIG, "[online]\nname = 'lab?'\ndevices = 2\n")?;
    start_dependent(bed, "rdma-online.target")?;
    bed.stop_later("rdma-online.target");
    let unit = &format!("{WAIT}.service");
    wait_lacks(unit, "0 of 2 RDMA devices are ready")?;
    bed::plug("rxe", "lab0", &bed.nics[0])?;
    wait_lacks(unit, "1 of 2 RDMA devices are ready")?;
    bed::plug("siw", "lab1", &bed.nics[1])?;
    wait_active("rdma-online.target")?;
    wait_active("lab-dependent.service")
}

/// What a unit finds when the wait is over is the name, not the one before.
fn renamed(bed: &mut Bed) -> Result<()> {
    let nic = bed.nics[0].clone();
    bed.file(
        CONFIG,
        &format!(
            "[online.lab]\nmatch = {{ netdev = '{nic}' }}\n\
             [[device]]\nmatch = {{ netdev = '{nic}' }}\nname = 'rail0'\n"
        ),
    )?;
    let (asked, waits) = (format!("{WAIT}@lab.service"), format!("{WAIT}@rail0.service"));
    bed.file(
        "/run/systemd/system/lab-sees.service",
        &format!(
            "[Unit]\nRequires={asked}\nAfter={asked}\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
             ExecStart=sh -c 'ls /sys/class/infiniband >/run/lab/seen'\n"
        ),
    )?;
    bed.remove_later("/run/lab/seen");
    bed.stop_later("lab-sees.service");
    start_dependent(bed, &waits)?;
    sh("systemctl start --no-block lab-sees.service")?;
    wait_lacks(&waits, "there is no RDMA device 'rail0'")?;
    wait_lacks(&asked, "there is no such RDMA device")?;
    bed::plug("rxe", "rxe0", &nic)?;
    wait_active("lab-dependent.service")?;
    wait_active("lab-sees.service")?;
    let seen = fs::read_to_string("/run/lab/seen")?;
    ensure!(seen.contains("rail0") && !seen.contains("rxe0"), "the unit sees {seen}");
    Ok(())
}

/// rxe and siw cannot take back a context that is open: whoever has one must let go of it at once. With `LAB_ROUNDS=9` in
/// the environment, the medians of so many rounds.
fn removal(bed: &mut Bed) -> Result<()> {
    // A wait that is ended.
    bed.provokes("rdma-wait-online@lab.service");
    bed.file(CONFIG, "[online.lab]\nname = 'lab0'\nrate = 4000000\n")?;
    let unit = format!("{WAIT}@lab.service");
    let rounds = std::env::var("LAB_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let outcome: Result<()> = ["rxe", "siw"].into_iter().try_for_each(|kind| {
        let mut lines = Vec::new();
        for (watcher, service) in
            [("nobody", None), ("a waiter", Some(&*unit)), ("rdmad", Some("rdmad.service"))]
        {
            // It comes with the first device.
            sh(match watcher {
                "rdmad" => "systemctl unmask --runtime rdmad.service",
                _ => "systemctl stop rdmad.service; systemctl mask --runtime rdmad.service 2>/dev/null",
            })?;
            let mut took = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (n, command) in
                    ["rdma link delete lab0", "ip link delete labnic"].into_iter().enumerate()
                {
                    took[n].push(removal_once(kind, command, service)?);
                }
            }
            let median = |mut took: Vec<u128>| {
                took.sort_unstable();
                took[took.len() / 2]
            };
            let [link, interface] = took.map(median);
            lines.push(format!("{watcher} {link} and {interface} ms"));
            if watcher == "a waiter" {
                stop(&unit)?;
            }
        }
        println!("{kind}: rdma link delete and ip link delete, watched by {}", lines.join(", by "));
        Ok(())
    });
    sh("systemctl unmask --runtime rdmad.service")?;
    outcome?;
    // InfiniBand drivers take their contexts back.
    let device = plug("a", 1, &[])?;
    bed.file(CONFIG, &format!("[online.lab]\nname = '{device}'\n"))?;
    sh(&format!("systemctl start --no-block {unit}"))?;
    wait_lacks(&unit, "is INIT")?;
    live("a", false)?;
    wait_lacks(&unit, "there is no RDMA device")?;
    stop(&unit)
}

/// How many milliseconds a removal takes, with a service that has the device open.
fn removal_once(kind: &str, command: &str, service: Option<&str>) -> Result<u128> {
    sh("ip link add labnic type dummy; ip link set labnic up")?;
    bed::plug(kind, "lab0", "labnic")?;
    if let Some(service) = service {
        sh(&format!("systemctl start --no-block {service}"))?;
        wait_for("it has the device open", || {
            let pid = sh(&format!("systemctl show -P MainPID {service}"))?;
            Ok(sh(&format!("ls -l /proc/{pid}/fd || true"))?.contains("/dev/infiniband/uverbs"))
        })?;
    }
    let start = Instant::now();
    sh(&format!("timeout 60 {command}"))?;
    let took = start.elapsed().as_millis();
    sh("ip link delete labnic 2>/dev/null; udevadm settle")?;
    wait_for("the device is gone", || {
        Ok(sh("ls /sys/class/infiniband")?.lines().all(|name| name != "lab0"))
    })?;
    Ok(took)
}

/// A wait that is ended before its time counts as failed.
fn stop(unit: &str) -> Result<()> {
    sh(&format!("systemctl stop {unit}; systemctl reset-failed {unit}"))?;
    Ok(())
}

/// As in an initrd without udev, systemd and D-Bus: a root with the program and the kernel's file systems.
fn alone(bed: &mut Bed) -> Result<()> {
    let wait = "unshare -m sh -c '
        cd $(mktemp -d /run/lab/root.XXXXXX); mkdir sys proc dev
        cp /usr/libexec/rdma/rdma-wait-online .
        for dir in sys proc dev; do mount --rbind /$dir $dir; done
        exec chroot . /rdma-wait-online --timeout ";
    bed.remove_later("/run/lab/root.*");
    let (code, text) = status(&format!("{wait} 1 rxe0'"))?;
    ensure!(code == 1 && text.contains("there is no RDMA device 'rxe0'"), "{code}: {text}");
    sh(&format!("systemd-run -q --collect --unit=lab-alone -p Type=exec {wait} 60 rxe0'"))?;
    bed.stop_later("lab-alone.service");
    sh("sleep 1")?;
    ensure!(unit_state("lab-alone.service") == "active", "it does not wait");
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    wait_for("it ends", || Ok(unit_state("lab-alone.service") != "active"))?;
    ensure!(bed.journal("-u lab-alone")?.contains("Deactivated successfully"), "it has failed");
    Ok(())
}

fn bad_condition(bed: &mut Bed) -> Result<()> {
    bed.file(CONFIG, "[online.lab]\nname = 'rxe0'\nstate = 'up'\n")?;
    for command in ["/usr/libexec/rdma/rdma-wait-online lab", "rdmactl online lab"] {
        let (code, text) = status(command)?;
        ensure!(
            code == 78
                && text.contains("90-lab.toml:3:9: online.lab.state must be one of")
                && text.contains("[online.lab] was not understood"),
            "{command}: {code}: {text}"
        );
    }
    let (code, text) = status("rdmactl online 'no/device'")?;
    ensure!(code == 78 && text.contains("neither [online.no/device] nor"), "{code}: {text}");
    let (code, text) = status("rdmactl online absent --json")?;
    ensure!(code == 1 && text.contains("there is no RDMA device 'absent'"), "{code}: {text}");
    Ok(())
}
