// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdmactl` against the kernel and iproute2's `rdma`.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::bed::{Bed, devices, node, sh};
use super::hca::{plug, subnet_manager};
use super::names::CONFIG;
use super::{Test, better};

const NONE: &str = "rdma-core has no rdmactl";

pub(crate) const TESTS: &[Test] = &[
    better("rdmactl_agrees_with_rdma", NONE, agrees),
    better("rdmactl_needs_no_privilege_to_look", NONE, unprivileged),
    better("rdmactl_plans_and_applies_names", NONE, names),
    better("rdmactl_tells_who_uses_a_device", NONE, users),
    better("rdmactl_finds_the_gid_to_use", NONE, gid),
    better("rdmactl_imports_rename_rules", NONE, import),
    better("rdmactl_checks_the_configuration", NONE, check),
];

pub(crate) fn json(command: &str) -> Result<Vec<Value>> {
    let text = sh(command)?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("{command}: {text}"))?;
    Ok(value.as_array().cloned().unwrap_or_default())
}

/// Without the colons that `rdma` puts in.
fn hex(value: &Value) -> Value {
    value.as_str().map_or(Value::Null, |text| text.replace(':', "").into())
}

fn agrees(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 2, &[("fw_ver", "20.1.3")])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "a")?;
    super::bed::plug("rxe", "rxe0", &bed.nics[0])?;
    super::bed::plug("siw", "siw0", &bed.nics[1])?;
    let ours = json("rdmactl list --json")?;
    let (theirs, links) = (json("rdma -j dev")?, json("rdma -j link")?);
    ensure!(ours.len() == theirs.len() && ours.len() >= 4, "{} devices", ours.len());
    let mut ports = 0;
    for (our, their) in ours.iter().zip(&theirs) {
        let name = &our["name"];
        ensure!(*name == their["ifname"] && our["index"] == their["ifindex"], "{our} {their}");
        for (key, value) in [
            ("node_guid", hex(&their["node_guid"])),
            ("sys_image_guid", hex(&their["sys_image_guid"])),
            ("fw_version", their["fw"].clone()),
        ] {
            ensure!(our[key] == value, "{name}: {key} is {} and {value}", our[key]);
        }
        for port in our["ports"].as_array().into_iter().flatten() {
            let link = links.iter().find(|l| l["ifname"] == *name && l["port"] == port["port"]);
            let link = link.with_context(|| format!("rdma does not have port {port} of {name}"))?;
            ports += 1;
            for (key, value) in [
                ("state", link["state"].clone()),
                ("physical_state", link["physical_state"].clone()),
                ("lid", link["lid"].clone()),
                ("sm_lid", link["sm_lid"].clone()),
                ("lmc", link["lmc"].clone()),
                ("subnet_prefix", hex(&link["subnet_prefix"])),
                ("netdev", link["netdev"].clone()),
                ("netdev_index", link["netdev_index"].clone()),
            ] {
                ensure!(port[key] == value, "{name}: {key} is {} and {value}", port[key]);
            }
        }
    }
    ensure!(ports == links.len(), "{ports} ports, and rdma has {}", links.len());
    let shown = sh(&format!("rdmactl show {a}"))?;
    for line in ["fw version: 20.1.3", "driver: qib", "  state: ACTIVE", "nodes: uverbs"] {
        ensure!(shown.contains(line), "no '{line}' in {shown}");
    }
    let table = sh("rdmactl")?;
    ensure!(table.starts_with("DEVICE") && table.contains("roce"), "{table}");
    Ok(())
}

fn unprivileged(bed: &mut Bed) -> Result<()> {
    super::bed::plug("rxe", "rxe0", &bed.nics[0])?;
    let table = sh("setpriv --reuid=65534 --regid=65534 --clear-groups rdmactl names --plan")?;
    ensure!(table.contains("rxe0"), "{table}");
    bed.file(CONFIG, "[[device]]\nmatch = { sysname = 'rxe0' }\nname = 'mine'\n")?;
    let status =
        status("setpriv --reuid=65534 --regid=65534 --clear-groups rdmactl names --apply")?;
    ensure!(status.0 == 77, "names --apply without privilege: {status:?}");
    Ok(())
}

/// Exit status and all that is printed.
pub(crate) fn status(command: &str) -> Result<(i32, String)> {
    let output = Command::new("bash").args(["-c", &format!("{command} 2>&1")]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.code().unwrap_or(-1), text))
}

/// A swap and a collision are seen before they happen.
fn names(bed: &mut Bed) -> Result<()> {
    super::bed::plug("rxe", "a", &bed.nics[0])?;
    super::bed::plug("rxe", "b", &bed.nics[1])?;
    let text: String = [("0", "b"), ("1", "a")]
        .iter()
        .map(|(nic, name)| {
            let netdev = &bed.nics[usize::from(*nic == "1")];
            format!("[[device]]\nmatch = {{ netdev = '{netdev}' }}\nname = '{name}'\n")
        })
        .collect();
    bed.file(CONFIG, &text)?;
    let outcome = |name: &str| -> Result<(String, String)> {
        let planned = json("rdmactl names --plan --json")?;
        let device = planned.iter().find(|p| p["name"] == name).context("it is not planned")?;
        Ok((device["outcome"].as_str().unwrap_or("").into(), device["target"].to_string()))
    };
    ensure!(outcome("a")? == ("rename".into(), "\"b\"".into()), "a: {:?}", outcome("a")?);
    ensure!(devices()? == "a b", "a plan changes nothing");
    let guid = |name: &str| sh(&format!("cat /sys/class/infiniband/{name}/node_guid"));
    let before = guid("a")?;
    sh("rdmactl names --apply; udevadm settle")?;
    ensure!(guid("b")? == before && devices()? == "a b", "they have not swapped");
    let status_word = super::bed::device_property("b", "ID_RDMA_NAME_STATUS")?;
    ensure!(status_word == "renamed", "b is told as '{status_word}'");
    // Two are to have one name.
    bed.file(CONFIG, "[[device]]\nmatch = { driver = 'rxe' }\nname = 'one'\n")?;
    let (code, text) = status("rdmactl names")?;
    ensure!(
        code == 0 && text.contains("refused: it is, or is to be, the name of device"),
        "{text}"
    );
    ensure!(text.contains(&format!("{CONFIG}:1")), "it does not say who says so: {text}");
    let (code, text) = status("rdmactl names --apply; udevadm settle")?;
    ensure!(code == 0 || code == 1, "{text}");
    ensure!(devices()?.split(' ').filter(|d| *d == "one").count() == 1, "{}", devices()?);
    Ok(())
}

fn users(bed: &mut Bed) -> Result<()> {
    super::bed::plug("rxe", "rxe0", &bed.nics[0])?;
    node("infiniband_verbs", "rxe0")?;
    sh("systemd-run -q --collect --unit=lab-async ibv_asyncwatch -d rxe0")?;
    bed.stop_later("lab-async.service");
    super::bed::wait_for("the user is seen", || {
        Ok(sh("rdmactl names --plan")?.contains("ibv_asyncwatch["))
    })
}

fn check(bed: &mut Bed) -> Result<()> {
    ensure!(status("rdmactl config check")? == (0, String::new()), "the default is not good");
    bed.file(
        CONFIG,
        "[naming]\npolicy = 'path'\nshceme = 'v1'\n[[device]]\nmatch = { vf = 'x' }\n",
    )?;
    let (code, text) = status("rdmactl config check")?;
    ensure!(code == 78, "exit status {code}: {text}");
    for place in [":3:1: naming.shceme is not known", ":5:16: match.vf must be"] {
        ensure!(text.contains(&format!("{CONFIG}{place}")), "no {place} in {text}");
    }
    let warnings = json("rdmactl config check --json || true")?;
    let [first, second] = warnings.as_slice() else { bail!("{warnings:?}") };
    ensure!(
        first["file"] == CONFIG && first["line"] == 3 && second["column"] == 16,
        "{warnings:?}"
    );
    ensure!(sh("rdmactl config cat")?.contains("policy = 'path'"), "config cat");
    Ok(())
}

/// As libibverbs sees it, and as an address comes and goes.
fn gid(bed: &mut Bed) -> Result<()> {
    let nic = bed.nics[0].clone();
    super::bed::plug("rxe", "rxe0", &nic)?;
    sh(&format!("ip addr add 2001:db8::1/64 dev {nic} nodad; ip addr add 10.1.1.1/24 dev {nic}"))?;
    let best = |address: &str| -> Result<()> {
        super::bed::wait_for(&format!("{address} is the best"), || {
            let index = sh("rdmactl gid rxe0")?;
            let line = sh(&format!("ibv_devinfo -v -d rxe0 | grep 'GID\\[ *{index}\\]' || true"))?;
            Ok(line.contains(address) && line.contains("RoCE v2"))
        })
    };
    let outcome = best("::ffff:10.1.1.1").and_then(|()| {
        sh(&format!("ip addr del 10.1.1.1/24 dev {nic}"))?;
        best("2001:db8::1")?;
        let table = sh("rdmactl gid rxe0 --all")?;
        ensure!(table.lines().filter(|l| l.ends_with('*')).count() == 1, "{table}");
        Ok(())
    });
    sh(&format!("ip addr del 2001:db8::1/64 dev {nic}"))?;
    outcome?;
    let hca = plug("a", 1, &[])?;
    ensure!(sh(&format!("rdmactl gid {hca}"))? == "0", "InfiniBand");
    let (code, text) = status("rdmactl gid rxe0 --port 2")?;
    ensure!(code == 1 && text.contains("'rxe0' has no port 2"), "{code}: {text}");
    Ok(())
}

/// What a rule has named is named so by the entry that is made of it.
fn import(bed: &mut Bed) -> Result<()> {
    let rules = "/etc/udev/rules.d/60-rdma-persistent-naming.rules";
    let rule = "ACTION==\"add\", SUBSYSTEM==\"infiniband\", ATTR{board_id}==\"RAIL*\", \
                PROGRAM=\"rdma_rename %k NAME_FIXED rail0\"\n";
    bed.file(rules, rule)?;
    ensure!(plug("a", 1, &[("board_id", "RAIL-1")])? == "rail0", "the rule does not name it");
    let toml = sh("rdmactl config import")?;
    super::hca::live("a", false)?;
    sh(&format!("rm {rules}"))?;
    bed.file(CONFIG, &toml)?;
    sh("rdmactl config check")?;
    super::hca::live("a", true)?;
    ensure!(super::hca::device("a")? == "rail0", "the entry does not name it: {toml}");
    Ok(())
}
