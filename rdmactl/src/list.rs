// SPDX-License-Identifier: MIT OR Apache-2.0
//! `list` and `show`: devices and their ports as they are.

use std::process::ExitCode;

use anyhow::{Context, Result};
use rdma_config::Root;
use rdma_udev_helper::world::{Lock, Look, PortFacts, World};
use serde_json::{Value, json};

use crate::table;

pub(crate) fn list(root: &Root, as_json: bool) -> Result<ExitCode> {
    let mut world = World::now(root, Lock::None)?;
    let devices = world.devices.clone();
    let looks: Vec<Look> = devices.iter().map(|device| world.look(device)).collect();
    if as_json {
        println!("{:#}", Value::Array(looks.iter().map(device_json).collect()));
    } else if looks.is_empty() {
        println!("There is no RDMA device.");
    } else {
        print!("{}", table::render(HEAD, &looks.iter().flat_map(rows).collect::<Vec<_>>()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn show(root: &Root, name: &str, as_json: bool) -> Result<ExitCode> {
    let mut world = World::now(root, Lock::None)?;
    let device = world.by_name(name).cloned();
    let device = device.with_context(|| format!("there is no RDMA device '{name}'"))?;
    let look = world.look(&device);
    let value = device_json(&look);
    if as_json {
        println!("{value:#}");
    } else {
        print!("{}", lines(&value, 0));
    }
    Ok(ExitCode::SUCCESS)
}

const HEAD: &[&str] =
    &["DEVICE", "PORT", "PROTOCOL", "STATE", "LID", "NETDEV", "DRIVER", "PORT GUID"];

fn rows(look: &Look) -> impl Iterator<Item = Vec<String>> {
    look.ports.iter().map(|port| {
        let link = port.link.as_ref();
        vec![
            look.device.name.clone(),
            port.number.to_string(),
            text(port.protocol),
            text(link.and_then(|l| l.state)),
            text(link.and_then(|l| l.lid).filter(|lid| *lid != 0)),
            text(port.netdev().map(|n| &n.name)),
            text(look.driver.as_ref()),
            text(port.guid),
        ]
    })
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

/// A device for programs; what is not known is null.
fn device_json(look: &Look) -> Value {
    let Look { device, state, driver, .. } = look;
    json!({
        "index": device.index.0,
        "name": device.name,
        "kernel_name": state.kernel_name,
        "name_policy": state.policy,
        "name_status": state.status.to_string(),
        "protocol": device.protocol.map(|p| p.to_string()),
        "driver": driver,
        "fw_version": device.fw_version,
        "node_guid": device.node_guid.map(|g| g.to_string()),
        "sys_image_guid": device.sys_image_guid.map(|g| g.to_string()),
        "nodes": look.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(),
        "ports": look.ports.iter().map(port_json).collect::<Vec<_>>(),
    })
}

fn port_json(port: &PortFacts) -> Value {
    let link = port.link.as_ref();
    json!({
        "port": port.number.0,
        "protocol": port.protocol.map(|p| p.to_string()),
        "guid": port.guid.map(|g| g.to_string()),
        "state": link.and_then(|l| l.state).map(|s| s.to_string()),
        "physical_state": link.and_then(|l| l.phys_state).map(|s| s.to_string()),
        "lid": link.and_then(|l| l.lid),
        "sm_lid": link.and_then(|l| l.sm_lid),
        "lmc": link.and_then(|l| l.lmc),
        "subnet_prefix": link.and_then(|l| l.subnet_prefix).map(|p| format!("{p:016x}")),
        "netdev": port.netdev().map(|n| n.name.as_str()),
        "netdev_index": port.netdev().map(|n| n.index),
    })
}

/// The same for people: `name: value`, what is in a list a step further right.
fn lines(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let mut out = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let key = key.replace('_', " ");
        match value {
            Value::Null => {}
            Value::Array(items) if items.iter().all(Value::is_string) => {
                let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                out += &format!("{indent}{key}: {}\n", words.join(" "));
            }
            Value::Array(items) => {
                for item in items {
                    let number = &item["port"];
                    out += &format!("{indent}port {number}:\n{}", lines(item, depth + 1));
                }
            }
            Value::String(text) => out += &format!("{indent}{key}: {text}\n"),
            other => out += &format!("{indent}{key}: {other}\n"),
        }
    }
    out
}
