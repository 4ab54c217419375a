// SPDX-License-Identifier: MIT OR Apache-2.0
//! `config diff`: what is not as the configuration says.

use std::process::ExitCode;

use anyhow::Result;
use rdma_config::{Config, Root};
use rdma_udev_helper::world::{Lock, World, config};
use rdmad::apply;
use rdmad::links::{self, Act};
use serde_json::{Value, json};

use crate::table;

/// The key of what rdma-ndd does.
pub(crate) const DESCRIPTION: &str = "node-description";

/// One thing that is not as it should be.
pub(crate) struct Off {
    pub(crate) about: String,
    pub(crate) key: String,
    pub(crate) is: String,
    pub(crate) should_be: String,
}

pub(crate) fn run(root: &Root, as_json: bool) -> Result<ExitCode> {
    let all = all(&mut World::now(root, Lock::None)?, &config(root));
    if as_json {
        let value = |off: &Off| {
            let Off { about, key, is, should_be } = off;
            json!({ "about": about, "key": key, "is": is, "should_be": should_be })
        };
        println!("{:#}", Value::Array(all.iter().map(value).collect()));
    } else if all.is_empty() {
        println!("All is as the configuration says.");
    } else {
        let row = |off: &Off| {
            vec![off.about.clone(), off.key.clone(), off.is.clone(), off.should_be.clone()]
        };
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        print!("{}", table::render(&["ABOUT", "KEY", "IS", "SHOULD BE"], &rows));
    }
    Ok(if all.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Names, settings, software devices, the mode of network namespaces.
pub(crate) fn all(world: &mut World, config: &Config) -> Vec<Off> {
    let mut all = Vec::new();
    let mut tell = |about: &str, key: &str, is: String, should_be: &str| {
        let (about, key, should_be) = (about.to_owned(), key.to_owned(), should_be.to_owned());
        all.push(Off { about, key, is, should_be });
    };
    let (planned, _) = world.plan_all(config);
    let host = rdma_ndd::host(&world.root);
    let mut on_netdev = Vec::new();
    for planned in planned {
        let (look, name) = (planned.look, planned.decision.name);
        let device = look.device.name.clone();
        if name != device {
            let why = planned.refusal.map(|why| format!(" (refused: {why})")).unwrap_or_default();
            tell(&device, "name", format!("{device}{why}"), &name);
        }
        let facts = world.identity(&look, config.matches_serials()).1;
        for (key, wanted) in config.settings_of(&facts) {
            match apply::get(world, &look, key) {
                Ok(is) if is == wanted || key == "netns" => {}
                Ok(is) => tell(&device, key, is, wanted),
                Err(error) => tell(&device, key, format!("unknown: {error:#}"), wanted),
            }
        }
        if let Some(format) = config.description_of(&facts) {
            let wanted = rdma_ndd::fill(world, config, &look, &facts, format, &host);
            match world.sysfs.node_description(&device).map(Option::unwrap_or_default) {
                Ok(is) if is == wanted => {}
                Ok(is) => tell(&device, DESCRIPTION, is, &wanted),
                Err(error) => tell(&device, DESCRIPTION, format!("unknown: {error}"), &wanted),
            }
        }
        on_netdev.extend(links::OnNetdev::of(&look));
    }
    let has_netdev = |name: &str| world.sysfs.netdev_index(name).is_some();
    for act in links::plan(&config.links, &links::made(&world.root), &on_netdev, has_netdev) {
        match act {
            Act::Make(link) => tell(&link.name, "link", String::new(), link.kind),
            Act::Remove(name, _) => tell(&name, "link", "made by rdmad".into(), ""),
            Act::Forget(_) => {}
        }
    }
    if let Some(shared) = config.netns_shared {
        let word = |shared: bool| if shared { "shared" } else { "exclusive" };
        match world.socket.system().map(|system| system.netns_shared) {
            Ok(Some(is)) if is == shared => {}
            Ok(is) => {
                let is = is.map(word).unwrap_or_default();
                tell("system", "netns", is.to_owned(), word(shared));
            }
            Err(error) => tell("system", "netns", format!("unknown: {error}"), word(shared)),
        }
    }
    all
}
