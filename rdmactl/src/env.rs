// SPDX-License-Identifier: MIT OR Apache-2.0
//! `env`: which ports applications should use now.

use std::process::ExitCode;

use anyhow::Result;
use rdma_config::Root;
use rdma_udev_helper::world::{Lock, World};
use rdmad::{env, model};
use serde_json::Value;

pub(crate) fn run(root: &Root, as_json: bool) -> Result<ExitCode> {
    let model = model::all(&mut World::now(root, Lock::None)?);
    if as_json {
        let variables = env::variables(&model).into_iter();
        let variables = variables.map(|(name, value)| (name.to_owned(), value.into()));
        println!("{:#}", Value::Object(variables.collect()));
    } else {
        print!("{}", env::text(&model));
    }
    Ok(ExitCode::SUCCESS)
}
