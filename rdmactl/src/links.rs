// SPDX-License-Identifier: MIT OR Apache-2.0
//! `links`: the software devices that are asked for, and what has become of them.

use std::process::ExitCode;

use anyhow::Result;
use rdma_config::Root;
use rdma_udev_helper::world::{Lock, World, config};
use rdmad::links::{self, OnNetdev};
use serde_json::{Value, json};

use crate::table;

pub(crate) fn list(root: &Root, as_json: bool) -> Result<ExitCode> {
    let config = config(root);
    let mut world = World::now(root, Lock::None)?;
    let devices = world.devices.clone();
    let devices: Vec<OnNetdev> =
        devices.iter().filter_map(|device| OnNetdev::of(&world.look(device))).collect();
    let made = links::made(root);
    let rows = config.links.iter().map(|link| {
        let device = devices.iter().find(|device| device.is_for(link));
        let ours = made.get(&link.name).and_then(|made| made.index);
        let state = match device {
            Some(device) if ours.is_some_and(|ours| ours == device.index) => "made by rdmad",
            Some(_) => "made by somebody else",
            None if world.sysfs.netdev_index(&link.netdev).is_none() => "waits for its interface",
            None => "is not there: see the journal of rdmad.service",
        };
        let source = format!("{}:{}", link.source.0.display(), link.source.1);
        let name = device.map(|device| device.name.clone()).unwrap_or_default();
        [link.name.clone(), link.kind.into(), link.netdev.clone(), name, state.into(), source]
    });
    let rows: Vec<[String; 6]> = rows.collect();
    if as_json {
        let value = |[name, kind, netdev, device, state, source]: &[String; 6]| {
            let device = Some(device).filter(|device| !device.is_empty());
            json!({ "name": name, "type": kind, "netdev": netdev, "device": device, "state": state, "source": source })
        };
        println!("{:#}", Value::Array(rows.iter().map(value).collect()));
    } else if rows.is_empty() {
        println!("The configuration asks for no software device.");
    } else {
        let head = ["NAME", "TYPE", "NETDEV", "DEVICE", "STATE", "FROM"];
        print!("{}", table::render(&head, &rows.into_iter().map(Vec::from).collect::<Vec<_>>()));
    }
    Ok(ExitCode::SUCCESS)
}
