// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `rdmactl` tells of a machine: what happens, what is wrong, what is not as configured, what was when.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bed::{Bed, sh, wait_for};
use super::hca::{self, subnet_manager};
use super::manager;
use super::names::CONFIG;
use super::rdmactl::{json, status};
use super::{Test, better};

const NONE: &str = "rdma-core has no rdmactl";

pub(crate) const TESTS: &[Test] = &[
    better("rdmactl_tells_what_happens", NONE, monitor),
    better("rdmactl_names_the_ports_to_use", NONE, env),
    better("rdmactl_fingerprint_is_of_names_and_places", NONE, fingerprint),
    better("rdmactl_finds_what_is_wrong", NONE, doctor),
    better("rdmactl_tells_what_is_not_as_configured", NONE, diff),
    better("rdmactl_draws_what_happened", NONE, boot),
    better("rdmactl_lets_a_service_use_rdma", NONE, service),
];

/// A RoCE device on a NIC with an address.
fn roce(bed: &Bed) -> Result<String> {
    let nic = bed.nics[0].clone();
    sh(&format!("ip addr replace 10.1.7.1/24 dev {nic}"))?;
    super::bed::plug("rxe", "rxe0", &nic)?;
    wait_for("there is a GID for RoCE v2", || {
        Ok(sh("rdmactl gid rxe0 --all")?.contains("::ffff:10.1.7.1"))
    })?;
    Ok(nic)
}

fn monitor(bed: &mut Bed) -> Result<()> {
    bed.stop_later("lab-monitor.service");
    bed.remove_later("/run/lab/monitor");
    let a = hca::plug("a", 1, &[])?;
    sh(
        "systemd-run -q --unit=lab-monitor --collect sh -c 'exec rdmactl monitor --json >/run/lab/monitor'",
    )?;
    let events = || -> Result<Vec<Value>> {
        let text = fs::read_to_string("/run/lab/monitor")?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let told = |device: &str, event: &str, to: &str| {
        wait_for(&format!("{device} {event} {to} is told"), || {
            let is = |e: &Value| e["device"] == device && e["event"] == event && e["to"] == to;
            Ok(events().unwrap_or_default().iter().any(is))
        })
    };
    told(&a, "added", "")?;
    // What is told last of a device that was there before.
    wait_for("its GID is told", || {
        Ok(events().unwrap_or_default().iter().any(|e| e["device"] == a && e["event"] == "gid"))
    })?;
    let before = events()?.len();
    sh("sleep 1")?;
    ensure!(events()?.len() == before, "it tells what has not happened: {:?}", events()?);
    subnet_manager(bed, "a")?;
    told(&a, "state", "ACTIVE")?;
    sh(&format!("rdmactl rename {a} other"))?;
    told("other", "name", "other")?;
    // The kernel says so before udev does.
    wait_for("udev knows it as renamed", || {
        Ok(super::bed::device_property("other", "ID_RDMA_NAME_STATUS")? == "renamed")
    })?;
    let (code, text) = status("rdmactl rename other a/b")?;
    ensure!(code == 1 && text.contains("'a/b' cannot be a name"), "{code}: {text}");
    let nic = roce(bed)?;
    told("rxe0", "state", "ACTIVE")?;
    sh(&format!("ip link set {nic} down"))?;
    told("rxe0", "state", "DOWN")?;
    sh(&format!("ip link set {nic} up"))?;
    super::bed::unplug("rxe0")?;
    told("rxe0", "removed", "")?;
    hca::live("a", false)?;
    told("other", "removed", "")
}

/// As the shell and systemd read them.
fn env(bed: &mut Bed) -> Result<()> {
    bed.stop_later("rdmad.service");
    roce(bed)?;
    manager::started()?;
    let file = || Ok::<_, anyhow::Error>(fs::read_to_string("/run/rdma/env")?);
    wait_for("rdmad has written what rdmactl says", || {
        Ok(file()? == format!("{}\n", sh("rdmactl env")?) && file()?.contains("NCCL_IB_GID_INDEX"))
    })?;
    let index = sh("rdmactl gid rxe0")?;
    let expected = format!("=rxe0:1 rxe0:1 {index} {index}");
    let print = "echo $NCCL_IB_HCA $UCX_NET_DEVICES $NCCL_IB_GID_INDEX $UCX_IB_GID_INDEX";
    for (who, said) in [
        ("a shell", sh(&format!(". /run/rdma/env; {print}"))?),
        (
            "systemd",
            sh(&format!("systemd-run -qP -p EnvironmentFile=/run/rdma/env sh -c '{print}'"))?,
        ),
    ] {
        ensure!(said == expected, "{who} reads {said} and not {expected}");
    }
    let json: Value = serde_json::from_str(&sh("rdmactl env --json")?)?;
    ensure!(json["UCX_NET_DEVICES"] == "rxe0:1", "{json}");
    super::bed::unplug("rxe0")?;
    wait_for("the port is named no more", || Ok(!file()?.contains("rxe0")))
}

fn fingerprint(bed: &mut Bed) -> Result<()> {
    let print = || sh("rdmactl fingerprint");
    let empty = print()?;
    roce(bed)?;
    let first = print()?;
    ensure!(first.len() == 64 && first != empty, "{first}");
    ensure!(
        first == sh("rdmactl fingerprint --lines | sha256sum | cut -d' ' -f1")?,
        "not its lines'"
    );
    super::bed::unplug("rxe0")?;
    roce(bed)?;
    ensure!(print()? == first, "another one after a replug");
    sh("rdmactl rename rxe0 rxe7")?;
    ensure!(print()? != first, "the same one with another name");
    Ok(())
}

fn doctor(bed: &mut Bed) -> Result<()> {
    roce(bed)?;
    sh("rmmod ib_ipoib 2>/dev/null || true")?;
    let finds = |about: &str, what: &str| -> Result<()> {
        let (code, text) = status("rdmactl doctor")?;
        let found = text.lines().any(|line| line.starts_with(about) && line.contains(what));
        ensure!(code == 1 && found, "no {about}: {what} ({code}): {text}");
        Ok(())
    };
    let good = || -> Result<()> {
        let (code, text) = status("rdmactl doctor")?;
        ensure!(code == 0, "{text}");
        Ok(())
    };
    super::bed::wait_active("rdma-hw.target")?;
    wait_for("the modules of the lists are there", || Ok(status("rdmactl doctor")?.0 == 0))?;
    bed.file(CONFIG, "[online]\ngid = 'roce-v2-ipv6'\nrate = 4000\n[naming]\npolcy = 'path'\n")?;
    finds("configuration", ".toml:5:1: naming.polcy is not known")?;
    finds("readiness", "rxe0")?;
    bed.file(CONFIG, "[[device]]\nmatch = { driver = 'rxe' }\nname = 'rail0'\n")?;
    finds("devices", "name of 'rxe0' is 'rxe0' and should be 'rail0'")?;
    bed.file(CONFIG, "")?;
    bed.file(
        "/etc/udev/rules.d/61-lab.rules",
        "ACTION==\"never\", RUN+=\"/usr/bin/rdma dev set x name y\"\n",
    )?;
    finds("renamers", "/etc/udev/rules.d/61-lab.rules also renames")?;
    sh("rm /etc/udev/rules.d/61-lab.rules")?;
    let a = hca::plug("a", 1, &[])?;
    subnet_manager(bed, "a")?;
    sh("modprobe ib_ipoib; udevadm settle")?;
    finds("addresses", &format!("port 1 of '{a}' is ACTIVE, but its IPoIB interface"))?;
    hca::live("a", false)?;
    good()?;
    // A service that could not register memory.
    bed.stop_later("lab-app.service");
    let app = "systemd-run -q --collect --unit=lab-app -p DynamicUser=yes -p LimitMEMLOCK";
    sh(&format!("{app}=64K ibv_asyncwatch -d rxe0"))?;
    wait_for("it has opened the device", || Ok(status("rdmactl doctor")?.0 == 1))?;
    finds("memlock", "ibv_asyncwatch[")?;
    let text = status("rdmactl doctor")?.1;
    ensure!(text.contains("rdmactl enable-service lab-app.service"), "{text}");
    sh(&format!("systemctl stop lab-app; {app}=infinity ibv_asyncwatch -d rxe0; sleep 1"))?;
    good()?;
    let problems = json("rdmactl doctor --json")?;
    ensure!(problems.is_empty(), "{problems:?}");
    // It is allowed a capability of a card's firmware that there is none of.
    let node = "/dev/infiniband/mlx5_perm_ctrl_local";
    // As systemd 252 says itself.
    bed.provokes("Couldn't stat device");
    sh(&format!(
        "systemctl stop lab-app; {app}=infinity -p 'DeviceAllow={node} rw' sleep infinity"
    ))?;
    finds("nodes", &format!("lab-app.service may use {node}, which is not there"))?;
    Ok(())
}

fn diff(bed: &mut Bed) -> Result<()> {
    let (code, text) = status("rdmactl config diff")?;
    ensure!(code == 0, "{text}");
    bed.stop_later("rdmad.service");
    bed.file(
        CONFIG,
        "[[device]]\nmatch = { board-id = 'LAB*' }\nnode-description = 'mine'\n\
         [[link]]\nname = 'lab0'\ntype = 'rxe'\nnetdev = 'labnic'\n",
    )?;
    sh("systemctl reload-or-restart rdmad")?;
    let a = hca::plug("a", 1, &[("board_id", "LAB-1")])?;
    wait_for("all is as configured", || Ok(status("rdmactl config diff")?.0 == 0))?;
    ensure!(sh("rdmactl links")?.contains("waits for its interface"), "{}", sh("rdmactl links")?);
    sh("systemctl stop rdmad; ip link add labnic type dummy; ip link set labnic up")?;
    sh(&format!("echo theirs >/sys/class/infiniband/{a}/node_desc; udevadm settle"))?;
    let off = json("rdmactl config diff --json || true")?;
    let has = |about: &str, key: &str, is: &str, should_be: &str| {
        off.iter().any(|o| {
            o["about"] == about && o["key"] == key && o["is"] == is && o["should_be"] == should_be
        })
    };
    ensure!(off.len() == 2, "{off:?}");
    ensure!(
        has(&a, "node-description", "theirs", "mine") && has("lab0", "link", "", "rxe"),
        "{off:?}"
    );
    sh("systemctl start rdmad; udevadm settle")?;
    wait_for("the link is made", || Ok(sh("rdmactl links")?.contains("made by rdmad")))?;
    let links = json("rdmactl links --json")?;
    ensure!(links.len() == 1 && links[0]["device"] == "lab0", "{links:?}");
    let modules = json("rdmactl modules --json")?;
    let umad =
        modules.iter().find(|m| m["module"] == "ib_umad").context("no ib_umad in the lists")?;
    ensure!(umad["state"] == "loaded", "{umad}");
    ensure!(sh("rdmactl modules why ib_umad")?.contains("it is loaded"), "why");
    bed.file(CONFIG, "")?;
    sh("systemctl reload rdmad")?;
    wait_for("the link is gone", || Ok(!super::bed::devices()?.contains("lab0")))
}

fn boot(bed: &mut Bed) -> Result<()> {
    bed.file(CONFIG, "[[device]]\nmatch = { board-id = 'LAB*' }\nname = 'rail0'\n")?;
    bed.stop_later("rdmad.service");
    hca::plug("a", 1, &[("board_id", "LAB-1")])?;
    manager::started()?;
    subnet_manager(bed, "a")?;
    let when = |of: &str, what: &str| -> Result<Option<u64>> {
        let moments = json("rdmactl boot --json")?;
        let is = |m: &&Value| {
            m["of"] == of && m["what"].as_str().is_some_and(|text| text.starts_with(what))
        };
        Ok(moments.iter().find(is).and_then(|m| m["at_usec"].as_u64()))
    };
    wait_for("the port is told to be ACTIVE", || {
        Ok(when("rail0", "rdmad: port 1: state ACTIVE")?.is_some())
    })?;
    let mut before = 0;
    for what in [
        "kernel: node uverbs",
        "has its name (fixed, was ",
        "rdmad: added",
        "rdmad: port 1: state ACTIVE",
    ] {
        let at = when("rail0", what)?.with_context(|| format!("'{what}' is missing"))?;
        ensure!(at >= before, "'{what}' at {at}, before what led to it: {}", sh("rdmactl boot")?);
        before = at;
    }
    ensure!(when("rail0", "udev has seen it")?.is_some(), "udev");
    ensure!(when("rdma-hw.target", "active")?.is_some(), "the target");
    bed.remove_later("/run/lab/boot.svg");
    sh("rdmactl boot --svg /run/lab/boot.svg
        python3 -c 'import xml.dom.minidom as x; x.parse(\"/run/lab/boot.svg\")'
        grep -q '>rail0<' /run/lab/boot.svg")?;
    Ok(())
}

/// One that its unit keeps away from devices.
fn service(bed: &mut Bed) -> Result<()> {
    roce(bed)?;
    bed.file(
        "/run/systemd/system/lab-app.service",
        "[Service]\nType=oneshot\nDynamicUser=yes\nPrivateDevices=yes\nCapabilityBoundingSet=\n\
         ExecStart=sh -c 'ibv_devinfo -d rxe0 >/dev/null && ulimit -l && grep CapEff /proc/self/status'\n",
    )?;
    bed.file("/run/systemd/system/lab-app.service.d/10-other.conf", "")?;
    bed.remove_later("/run/systemd/system/lab-app.service.d");
    bed.remove_later("/etc/systemd/system/lab-app.service.d");
    bed.provokes("lab-app.service");
    let works = || -> Result<bool> {
        let works = status("systemctl start lab-app")?.0 == 0;
        sh("systemctl reset-failed lab-app 2>/dev/null || true")?;
        Ok(works)
    };
    ensure!(!works()?, "it works without");
    let file = "/etc/systemd/system/lab-app.service.d/50-rdma.conf";
    let shown = sh("rdmactl enable-service lab-app --diff")?;
    ensure!(shown.contains("+LimitMEMLOCK=infinity") && !fs::exists(file)?, "{shown}");
    sh("rdmactl enable-service lab-app --raw-packets")?;
    ensure!(works()?, "it does not work: {}", bed.journal("-u lab-app")?);
    let said = bed.journal("-u lab-app")?;
    // CAP_NET_RAW is the 13th bit.
    ensure!(said.contains("unlimited") && said.contains("CapEff:\t0000000000002000"), "{said}");
    let again = sh("rdmactl enable-service lab-app --raw-packets")?;
    ensure!(again.contains("is as it should be"), "{again}");
    sh("rdmactl enable-service lab-app --undo")?;
    ensure!(!fs::exists(file)? && !works()?, "it is still enabled");
    // What somebody else has written stays.
    bed.file(file, "[Unit]\n")?;
    let (code, text) = status("rdmactl enable-service lab-app")?;
    ensure!(code == 1 && text.contains("is not ours"), "{code}: {text}");
    let (code, text) = status("rdmactl enable-service lab-none")?;
    ensure!(code == 1 && text.contains("lab-none.service"), "{code}: {text}");
    Ok(())
}
