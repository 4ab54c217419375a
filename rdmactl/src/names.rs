// SPDX-License-Identifier: MIT OR Apache-2.0
//! `names`: what devices are called, and what they should be called.

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use rdma_config::{Root, check_device_name};
use rdma_udev_helper::renames::Step;
use rdma_udev_helper::world::{Lock, Planned, World, config};
use serde_json::{Value, json};

use crate::{table, users};

pub(crate) fn show(root: &Root, with_users: bool, as_json: bool) -> Result<ExitCode> {
    let mut world = World::now(root, Lock::None)?;
    let (planned, _) = world.plan_all(&config(root));
    print(root, &planned, with_users, as_json);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn apply(root: &Root, as_json: bool) -> Result<ExitCode> {
    let mut world = World::now(root, Lock::Alone)?;
    let (planned, steps) = world.plan_all(&config(root));
    print(root, &planned, false, as_json);
    world.rename(&steps)?;
    let refused = planned.iter().any(|p| p.refusal.is_some());
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(crate) fn rename(root: &Root, from: &str, to: &str) -> Result<ExitCode> {
    check_device_name(to).map_err(|why| anyhow!("'{to}' cannot be a name: {why}"))?;
    let mut world = World::now(root, Lock::Alone)?;
    let device =
        world.by_name(from).with_context(|| format!("there is no RDMA device '{from}'"))?;
    let device = device.index;
    world.rename(&[Step { device, name: to.to_owned(), policy: "user" }])?;
    Ok(ExitCode::SUCCESS)
}

fn print(root: &Root, planned: &[Planned], with_users: bool, as_json: bool) {
    let by_node = if with_users { users::by_node(root) } else { Default::default() };
    let users = |p: &Planned| -> Vec<String> {
        let nodes = p.look.nodes.iter().map(|n| root.path("/dev/infiniband").join(&n.name));
        let mut users: Vec<String> =
            nodes.filter_map(|n| by_node.get(&n)).flatten().cloned().collect();
        users.sort();
        users.dedup();
        users
    };
    if as_json {
        let value = |p: &Planned| {
            json!({
                "index": p.look.device.index.0,
                "name": p.look.device.name,
                "target": p.decision.name,
                "policy": p.decision.policy,
                "source": p.decision.source,
                "outcome": outcome(p),
                "reason": p.refusal.map(|r| r.to_string()),
                "users": with_users.then(|| users(p)),
            })
        };
        println!("{:#}", Value::Array(planned.iter().map(value).collect()));
        return;
    }
    if planned.is_empty() {
        println!("There is no RDMA device.");
        return;
    }
    let mut head = vec!["DEVICE", "NAME TO BE", "POLICY", "FROM", "OUTCOME"];
    if with_users {
        head.push("IN USE BY");
    }
    let rows: Vec<Vec<String>> = planned
        .iter()
        .map(|p| {
            let why = p.refusal.map(|r| format!(": {r}")).unwrap_or_default();
            let mut row = vec![
                p.look.device.name.clone(),
                p.decision.name.escape_debug().to_string(),
                p.decision.policy.to_owned(),
                p.decision.source.clone().unwrap_or_default(),
                format!("{}{why}", outcome(p)),
            ];
            if with_users {
                row.push(users(p).join(" "));
            }
            row
        })
        .collect();
    print!("{}", table::render(&head, &rows));
}

fn outcome(planned: &Planned) -> &'static str {
    if planned.refusal.is_some() {
        "refused"
    } else if planned.decision.name == planned.look.device.name {
        "keeps"
    } else {
        "rename"
    }
}
