// SPDX-License-Identifier: MIT OR Apache-2.0
//! `org.rdmad1`, with busctl and a Python program as clients.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bed::{self, Bed, sh, wait_for};
use super::hca::{live, plug, subnet_manager};
use super::manager;
use super::names::CONFIG;
use super::rdmactl::{json, status};
use super::{Test, better};

const NONE: &str = "rdma-core is not on the bus";

pub(crate) const TESTS: &[Test] = &[
    better("bus_shows_what_rdmactl_shows", NONE, shows),
    better("bus_tells_of_changes", NONE, tells),
    better("bus_refuses_those_who_may_not", NONE, refuses),
    better("bus_is_as_it_is_described", NONE, described),
    better("bus_waits_for_no_client", NONE, deaf),
];

/// Puts the client into the guest; the command that runs it.
fn client(bed: &mut Bed) -> Result<&'static str> {
    bed.file("/run/lab/bus.py", include_str!("../../../bus.py"))?;
    bed.stop_later("rdmad.service");
    Ok("python3 /run/lab/bus.py")
}

/// All objects with an interface, by path.
fn objects(client: &str, interface: &str) -> Result<Vec<(String, Value)>> {
    let text = sh(&format!("{client} objects"))?;
    let value: Value = serde_json::from_str(&text)?;
    let objects = value.as_object().context("no objects")?.iter();
    Ok(objects.filter_map(|(path, of)| Some((path.clone(), of.get(interface)?.clone()))).collect())
}

fn shows(bed: &mut Bed) -> Result<()> {
    let client = client(bed)?;
    let a = plug("a", 2, &[("fw_ver", "20.1.3")])?;
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    bed::plug("siw", "siw0", &bed.nics[1])?;
    subnet_manager(bed, "a")?;
    sh(&format!("rdma dev set {a} name other; udevadm settle"))?;
    manager::started()?;
    let agree = || -> Result<()> {
        let listed = json("rdmactl list --json")?;
        let devices = objects(client, "org.rdmad1.Device")?;
        ensure!(devices.len() == listed.len() && listed.len() >= 3, "{} objects", devices.len());
        for our in &listed {
            let path = format!("/org/rdmad1/device/{}", our["index"]);
            let find = |all: &[(String, Value)], path: &str| {
                let found = all.iter().find(|(p, _)| p == path).map(|(_, of)| of.clone());
                found.with_context(|| format!("no object {path}"))
            };
            let device = find(&devices, &path)?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            for (property, field) in [
                ("Name", "name"),
                ("KernelName", "kernel_name"),
                ("NamePolicy", "name_policy"),
                ("NameStatus", "name_status"),
                ("Protocol", "protocol"),
                ("Driver", "driver"),
                ("NodeGuid", "node_guid"),
                ("SysImageGuid", "sys_image_guid"),
                ("FirmwareVersion", "fw_version"),
            ] {
                let (is, lists) = (text(&device[property]), text(&our[field]));
                ensure!(is == lists, "{property} of {path} is '{is}', not '{lists}'");
            }
            let ports = objects(client, "org.rdmad1.Port")?;
            for port in our["ports"].as_array().into_iter().flatten() {
                let path = format!("{path}/port/{}", port["port"]);
                let object = find(&ports, &path)?;
                for (property, field) in [
                    ("State", "state"),
                    ("PhysicalState", "physical_state"),
                    ("Guid", "guid"),
                    ("Netdev", "netdev"),
                ] {
                    let (is, lists) = (text(&object[property]), text(&port[field]));
                    ensure!(is == lists, "{property} of {path} is '{is}', not '{lists}'");
                }
                let lid = port["lid"].as_u64().unwrap_or(0);
                ensure!(object["Lid"].as_u64() == Some(lid), "LID of {path}: {}", object["Lid"]);
            }
        }
        Ok(())
    };
    let mut last = None;
    wait_for("the bus agrees with rdmactl", || {
        last = agree().err();
        Ok(last.is_none())
    })
    .with_context(|| format!("{last:?}"))
}

fn tells(bed: &mut Bed) -> Result<()> {
    let client = client(bed)?;
    // Something to be there for.
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    manager::started()?;
    bed.remove_later("/run/lab/signals");
    bed.stop_later("lab-watch.service");
    sh(&format!("systemd-run -q --unit=lab-watch --collect {client} watch /run/lab/signals"))?;
    let said = |parts: &[&str]| {
        wait_for(&format!("a signal says {parts:?}"), || {
            let text = fs::read_to_string("/run/lab/signals").unwrap_or_default();
            Ok(text.lines().any(|line| parts.iter().all(|part| line.contains(part))))
        })
    };
    said(&["listening"])?;
    signals(bed, &said).with_context(|| fs::read_to_string("/run/lab/signals").unwrap_or_default())
}

fn signals(bed: &mut Bed, said: &dyn Fn(&[&str]) -> Result<()>) -> Result<()> {
    let device = plug("a", 1, &[])?;
    let index = sh(&format!("rdma dev show {device} | cut -d: -f1"))?;
    let path = &format!("/org/rdmad1/device/{index}");
    let port = &format!("{path}/port/1\"");
    said(&["InterfacesAdded", &format!("{path}\""), &device])?;
    // As what it was when it was looked at: nothing tells when a port becomes INIT.
    said(&["InterfacesAdded", port])?;
    subnet_manager(bed, "a")?;
    said(&["PropertiesChanged", port, "\"State\": \"ACTIVE\""])?;
    said(&["PropertiesChanged", port, "\"Lid\""])?;
    sh(&format!("rdma dev set {device} name other"))?;
    said(&["PropertiesChanged", &format!("{path}\""), "\"Name\": \"other\""])?;
    let nic = bed.nics[0].clone();
    sh(&format!("ip addr add 10.1.1.1/24 dev {nic}"))?;
    said(&["PropertiesChanged", "::ffff:10.1.1.1"])?;
    sh(&format!("ip addr del 10.1.1.1/24 dev {nic}; ip link set {nic} down"))?;
    said(&["PropertiesChanged", "\"State\": \"DOWN\""])?;
    sh(&format!("ip link set {nic} up"))?;
    live("a", false)?;
    said(&["InterfacesRemoved", &format!("{path}\"")])
}

const BUSCTL: &str = "busctl --system call org.rdmad1";
const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

fn refuses(bed: &mut Bed) -> Result<()> {
    bed.stop_later("rdmad.service");
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    manager::started()?;
    let index = sh("rdma dev show rxe0 | cut -d: -f1")?;
    let device = format!("/org/rdmad1/device/{index} org.rdmad1.Device");
    wait_for("the device is on the bus", || {
        Ok(status(&format!("busctl --system introspect org.rdmad1 {device}"))?.0 == 0)
    })?;
    for (command, why) in [
        (format!("{NOBODY} {BUSCTL} {device} Rename s mine"), "ccess denied"),
        (format!("{NOBODY} {BUSCTL} /org/rdmad1 org.rdmad1.Manager Reload"), "ccess denied"),
        (format!("{NOBODY} {BUSCTL} /org/rdmad1 org.rdmad1.Manager Apply"), "ccess denied"),
        (format!("{BUSCTL} {device} Rename s 'a b'"), "a character that is not"),
        (format!("{BUSCTL} {device} Rename s ''"), "it is empty"),
        (format!("{BUSCTL} {device} Rename u 7"), "ignature"),
        (format!("{BUSCTL} {device} Rename"), ""),
        (format!("{BUSCTL} {device} Nothing"), "Unknown method"),
        (format!("{BUSCTL} /org/rdmad1/device/4000 org.rdmad1.Device Rename s x"), "nknown object"),
    ] {
        let (code, text) = status(&command)?;
        ensure!(code != 0 && text.contains(why), "{command}: {code}: {text}");
    }
    ensure!(sh("rdma dev")?.contains("rxe0"), "it was renamed");
    sh(&format!("{NOBODY} busctl --system get-property org.rdmad1 {device} Name"))?;
    sh(&format!("{BUSCTL} {device} Rename s mine; udevadm settle"))?;
    ensure!(sh("rdmactl names --json")?.contains("\"user\""), "it is not a person's name");
    bed.file(CONFIG, "[[device]]\nmatch = { driver = 'rxe' }\nname = 'rail0'\n")?;
    sh(&format!("{BUSCTL} /org/rdmad1 org.rdmad1.Manager Apply; udevadm settle"))?;
    ensure!(sh("rdma dev")?.contains("rail0"), "the configuration's names are not given");
    sh(&format!("{BUSCTL} /org/rdmad1 org.rdmad1.Manager Reload"))?;
    Ok(())
}

/// Every interface in the committed description is the one that is there.
fn described(bed: &mut Bed) -> Result<()> {
    bed.stop_later("rdmad.service");
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    manager::started()?;
    let index = sh("rdma dev show rxe0 | cut -d: -f1")?;
    let lines = |text: &str| -> Vec<String> {
        let tags = text.lines().map(str::trim).filter(|line| line.starts_with('<'));
        tags.filter(|line| !line.starts_with("<!--")).map(str::to_owned).collect()
    };
    let described = fs::read_to_string("/usr/share/dbus-1/interfaces/org.rdmad1.xml")?;
    for (path, interface) in [
        ("/org/rdmad1".to_owned(), "Manager"),
        (format!("/org/rdmad1/device/{index}"), "Device"),
        (format!("/org/rdmad1/device/{index}/port/1"), "Port"),
    ] {
        let of = |text: &str| -> Vec<String> {
            let start = format!("<interface name=\"org.rdmad1.{interface}\">");
            let lines = lines(text).into_iter();
            lines
                .skip_while(|line| *line != start)
                .take_while(|line| line != "</interface>")
                .collect()
        };
        let mut live = String::new();
        wait_for(&format!("{path} is there"), || {
            let command = format!("busctl --system introspect --xml-interface org.rdmad1 {path}");
            let (code, text) = status(&command)?;
            live = text;
            Ok(code == 0)
        })?;
        ensure!(!of(&described).is_empty() && of(&described) == of(&live), "{interface}: {live}");
    }
    Ok(())
}

/// A client that subscribes and never reads: everybody else is served.
fn deaf(bed: &mut Bed) -> Result<()> {
    let client = client(bed)?;
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    manager::started()?;
    bed.stop_later("lab-deaf.service");
    sh(&format!("systemd-run -q --unit=lab-deaf --collect {client} deaf"))?;
    for _ in 0..20 {
        sh("rdma dev set rxe0 name rxe1; rdma dev set rxe1 name rxe0")?;
    }
    sh("udevadm settle")?;
    wait_for("the name is the last one", || {
        let devices = objects(client, "org.rdmad1.Device")?;
        Ok(devices.iter().any(|(_, device)| device["Name"] == "rxe0"))
    })
}
