// SPDX-License-Identifier: MIT OR Apache-2.0
//! `gid`: which GID to use now, and all that there are.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use rdma_config::Root;
use rdma_udev_helper::world::{Lock, World};
use rdma_verbs::PortNum;
use rdma_verbs::sysfs::{GidEntry, GidType, best_roce_v2};
use serde_json::{Value, json};

use crate::table;

pub(crate) fn run(
    root: &Root,
    name: &str,
    port: u32,
    all: bool,
    as_json: bool,
) -> Result<ExitCode> {
    let mut world = World::now(root, Lock::None)?;
    let device = world.by_name(name).cloned();
    let device = device.with_context(|| format!("there is no RDMA device '{name}'"))?;
    let ports = world.ports(&device);
    let facts = ports.iter().find(|p| p.number == PortNum(port));
    let facts = facts.with_context(|| format!("RDMA device '{name}' has no port {port}"))?;
    let netdev = facts.netdev().map(|n| n.name.as_str());
    let entries = world.sysfs.gids(name, facts.number)?;
    // On InfiniBand there is no choice to make: the first is the port's own.
    let best = best_roce_v2(&entries, netdev).or_else(|| match netdev {
        None => entries.first(),
        Some(_) => None,
    });
    if all && as_json {
        println!("{:#}", Value::Array(entries.iter().map(|e| entry_json(e, best)).collect()));
    } else if all {
        let rows: Vec<Vec<String>> = entries.iter().map(|e| row(e, best)).collect();
        print!("{}", table::render(&["INDEX", "GID", "TYPE", "NETDEV", "BEST"], &rows));
    } else {
        let Some(best) = best else {
            let of = netdev.map(|n| format!("; has '{n}' an address?")).unwrap_or_default();
            bail!("port {port} of RDMA device '{name}' has no RoCE v2 GID{of}");
        };
        match as_json {
            true => println!("{:#}", entry_json(best, Some(best))),
            false => println!("{}", best.index),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn kind(entry: &GidEntry) -> &'static str {
    match (entry.kind, &entry.netdev) {
        (Some(GidType::RoceV2), _) => "RoCE v2",
        (Some(GidType::IbOrRoceV1), Some(_)) => "RoCE v1",
        (Some(GidType::IbOrRoceV1), None) => "IB",
        (None, _) => "",
    }
}

fn row(entry: &GidEntry, best: Option<&GidEntry>) -> Vec<String> {
    let mark = if best == Some(entry) { "*" } else { "" };
    let netdev = entry.netdev.clone().unwrap_or_default();
    vec![entry.index.to_string(), entry.gid.to_string(), kind(entry).into(), netdev, mark.into()]
}

fn entry_json(entry: &GidEntry, best: Option<&GidEntry>) -> Value {
    json!({
        "index": entry.index,
        "gid": entry.gid.to_string(),
        "type": kind(entry),
        "netdev": entry.netdev,
        "best": best == Some(entry),
    })
}
