// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-ndd`: what the fabric calls the nodes.

use anyhow::{Result, ensure};

use super::bed::{Bed, Boot, sh, unplug, wait_active, wait_for, wait_inactive};
use super::hca::{device, guid, live, plug, subnet_manager};
use super::names::CONFIG;
use super::rdmactl::{json, status};
use super::{Test, better, both};

pub(crate) const TESTS: &[Test] = &[
    both("descriptions_follow_host_and_device", follow),
    both("descriptions_are_seen_by_the_fabric", seen),
    better("descriptions_as_configured", "it has one format for all devices", configured),
    better("descriptions_that_cannot_be_written", "D25: it does not notice", refused),
    better("descriptions_shown_and_written_on_demand", "it cannot be asked", control),
];

const UNIT: &str = "rdma-ndd.service";

fn host() -> Result<String> {
    sh("sed 's/[.].*//' /proc/sys/kernel/hostname")
}

pub(crate) fn description(device: &str) -> Result<String> {
    sh(&format!("cat /sys/class/infiniband/{device}/node_desc"))
}

fn is(device: &str, wanted: &str) -> Result<()> {
    wait_for(&format!("{device} is described as '{wanted}'"), || {
        Ok(description(device).is_ok_and(|is| is == wanted))
    })
}

/// Gives the host its name back, whatever becomes of the test.
fn with_host(test: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let host = host()?;
    let outcome = test(&host);
    sh(&format!("hostname {host}"))?;
    outcome
}

fn follow(bed: &mut Bed) -> Result<()> {
    with_host(|host| {
        let nic = bed.nics[0].clone();
        super::bed::plug("rxe", "rxe0", &nic)?;
        wait_active(UNIT)?;
        is("rxe0", &format!("{host} rxe0"))?;
        // As DHCP gives it, late.
        sh("hostname lab-late.example.org")?;
        is("rxe0", "lab-late rxe0")?;
        sh("rdma dev set rxe0 name lab0; udevadm settle")?;
        is("lab0", "lab-late lab0")?;
        sh("for i in 1 2 3 4 5 6 7 8 9 10; do hostname lab-$i; done")?;
        is("lab0", "lab-10 lab0")?;
        unplug("lab0")?;
        wait_inactive(UNIT)?;
        sh("hostname lab-11")?;
        super::bed::plug("rxe", "rxe0", &nic)?;
        is("rxe0", "lab-11 rxe0")?;
        if bed.boot == Boot::Ours {
            // It is killed, and something happens before it is back.
            bed.provokes("rdma-ndd.service: Main process exited");
            bed.provokes("rdma-ndd.service: Failed with result");
            sh(&format!("systemctl kill -s KILL {UNIT}; hostname lab-12"))?;
            is("rxe0", "lab-12 rxe0")?;
        }
        Ok(())
    })
}

fn seen(bed: &mut Bed) -> Result<()> {
    with_host(|host| {
        let (a, b) = (plug("a", 1, &[])?, plug("b", 1, &[])?);
        subnet_manager(bed, "a")?;
        let lid = sh(&format!("printf %d $(cat /sys/class/infiniband/{a}/ports/1/lid)"))?;
        let seen = |by: &str, command: &str, wanted: String| {
            wait_for(&format!("{by} sees '{wanted}'"), || Ok(sh(command)?.contains(&wanted)))
        };
        let from_b = format!("smpquery -C {b} nodedesc {lid}");
        let from_sa = format!("saquery -C {b} NR {lid}");
        seen("another HCA", &from_b, format!("{host} {a}"))?;
        seen("the subnet manager", &from_sa, format!("{host} {a}"))?;
        sh("hostname lab-late")?;
        seen("another HCA", &from_b, format!("lab-late {a}"))?;
        // By trap 144.
        seen("the subnet manager", &from_sa, format!("lab-late {a}"))?;
        live("a", false)?;
        live("a", true)?;
        is(&device("a")?, &format!("lab-late {}", device("a")?))?;
        Ok(())
    })
}

/// Started beside so many devices, it has described all when it is ready (rdma-core D24: it is ready before).
pub(crate) fn ready_when_described(pattern: &str, count: usize) -> Result<()> {
    wait_active(UNIT)?;
    sh(&format!(
        "systemctl stop {UNIT}; for d in /sys/class/infiniband/{pattern}; do echo none >$d/node_desc; done"
    ))?;
    // One look, at once.
    let host = host()?;
    let described = sh(&format!(
        "systemctl start {UNIT}; cat /sys/class/infiniband/{pattern}/node_desc | grep -c '^{host} '"
    ))?;
    ensure!(
        described == count.to_string(),
        "{described} of {count} were described when it was ready"
    );
    Ok(())
}

fn configured(bed: &mut Bed) -> Result<()> {
    let host = host()?;
    bed.file(
        CONFIG,
        "[[device]]\nmatch = { board-id = 'LAB-1' }\nname = 'lab{index}'\n\
         node-description = '%{role} %{port-guid} 100%%[%{serial}]'\n",
    )?;
    let (a, b) = (plug("a", 1, &[("board_id", "LAB-1")])?, plug("b", 1, &[])?);
    is(&a, &format!("lab0 {} 100%[]", guid("a", 1)?))?;
    is(&b, &format!("{host} {b}"))?;
    bed.file(
        &format!("/run/systemd/system/{UNIT}.d/lab.conf"),
        "[Service]\nEnvironment=\"RDMA_NDD_ND_FORMAT=by %%d%%x at %%h\"\n",
    )?;
    bed.provokes("RDMA_NDD_ND_FORMAT has '%x', which is not known");
    sh(&format!("systemctl restart {UNIT}"))?;
    ensure!(description(&b)? == format!("by {b} at {host}"), "{}", description(&b)?);
    // With a reload of the whole.
    bed.stop_later("rdmad.service");
    wait_active("rdmad.service")?;
    bed.file(CONFIG, "[[device]]\nmatch = { board-id = 'LAB-1' }\nnode-description = 'mine'\n")?;
    sh("systemctl reload rdmad.service")?;
    is(&a, "mine")?;
    bed.file(CONFIG, "")?;
    sh(&format!("systemctl reload {UNIT}"))?;
    is(&a, &format!("by {a} at {host}"))
}

/// siw has none to set. It is told once, and others are described.
fn refused(bed: &mut Bed) -> Result<()> {
    super::bed::plug("siw", "siw0", &bed.nics[0])?;
    super::bed::plug("rxe", "rxe0", &bed.nics[1])?;
    is("rxe0", &format!("{} rxe0", host()?))?;
    wait_for("it is told", || Ok(bed.journal(&format!("-u {UNIT}"))?.contains("'siw0'")))?;
    let problem = || -> Result<String> {
        let devices = json("rdmactl ndd --json")?;
        let siw = devices.iter().find(|d| d["name"] == "siw0");
        Ok(siw.and_then(|siw| siw["problem"].as_str()).unwrap_or_default().to_owned())
    };
    ensure!(problem()?.contains("its driver lets nobody set one"), "{}", problem()?);
    sh("udevadm trigger -w -c change /sys/class/infiniband/siw0")?;
    sh("rdmactl ndd --write siw0")?;
    let told = bed.journal(&format!("-u {UNIT}"))?;
    ensure!(told.matches("'siw0'").count() == 1, "{told}");
    Ok(())
}

fn control(bed: &mut Bed) -> Result<()> {
    super::bed::plug("rxe", "rxe0", &bed.nics[0])?;
    super::bed::plug("rxe", "rxe1", &bed.nics[1])?;
    let wanted = |device: &str| anyhow::Ok(format!("{} {device}", host()?));
    for device in ["rxe0", "rxe1"] {
        is(device, &wanted(device)?)?;
        sh(&format!("echo theirs >/sys/class/infiniband/{device}/node_desc"))?;
    }
    let text = sh("rdmactl ndd")?;
    ensure!(text.contains(&format!("should be '{}'", wanted("rxe0")?)), "{text}");
    sh("rdmactl ndd --write rxe0")?;
    ensure!(description("rxe0")? == wanted("rxe0")? && description("rxe1")? == "theirs", "not one");
    let devices = json("rdmactl ndd --write --json")?;
    ensure!(description("rxe1")? == wanted("rxe1")?, "not all: {}", description("rxe1")?);
    ensure!(devices.len() == 2 && devices[1]["description"] == wanted("rxe1")?, "{devices:?}");
    let (code, text) = status("rdmactl ndd --write none")?;
    ensure!(code == 1 && text.contains("NoSuchDevice device=\"none\""), "{code} {text}");
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let (code, text) = status(&format!("{nobody} rdmactl ndd"))?;
    ensure!(code == 77, "{code} {text}");
    // A call that comes while it is away waits.
    bed.provokes("rdma-ndd.service: Main process exited");
    bed.provokes("rdma-ndd.service: Failed with result");
    sh(&format!("systemctl kill -s KILL {UNIT}"))?;
    ensure!(json("rdmactl ndd --json")?.len() == 2, "not after it was killed");
    if sh("command -v varlinkctl || true")?.is_empty() {
        println!("descriptions_shown_and_written_on_demand: this systemd has no varlinkctl");
    } else {
        let socket = "/run/rdma/org.rdmad.ndd";
        let said = sh(&format!("varlinkctl introspect {socket} org.rdmad.ndd"))?;
        ensure!(said.contains("method List()"), "{said}");
        let said = sh(&format!(
            "varlinkctl info {socket}; varlinkctl call -j {socket} org.rdmad.ndd.List '{{}}'"
        ))?;
        ensure!(said.contains("rdma-ndd") && said.contains(&wanted("rxe1")?), "{said}");
    }
    unplug("rxe0")?;
    unplug("rxe1")?;
    wait_inactive(UNIT)?;
    wait_inactive("rdma-ndd.socket")?;
    let (code, text) = status("rdmactl ndd")?;
    ensure!(code == 1 && text.contains("runs while there is an RDMA device"), "{code} {text}");
    Ok(())
}
