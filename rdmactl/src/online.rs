// SPDX-License-Identifier: MIT OR Apache-2.0
//! `online`: whether RDMA is ready, without waiting.

use std::process::ExitCode;

use anyhow::Result;
use rdma_config::Root;
use rdma_udev_helper::world::config;
use rdma_wait_online::{check, condition, look};
use serde_json::json;

pub(crate) fn run(root: &Root, what: Option<&str>, as_json: bool) -> Result<ExitCode> {
    let online = condition(&config(root), what)?;
    let missing = check(&online, &look(root, &online, |_| false)?);
    let ready = missing.is_empty();
    if as_json {
        println!("{:#}", json!({ "online": ready, "missing": missing }));
    } else if ready {
        println!("RDMA is ready.");
    } else {
        println!("{}", missing.join("\n"));
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
