// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ndd`: node descriptions, as rdma-ndd keeps them.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::table;

#[expect(clippy::option_option, reason = "not to write; to write all; to write one")]
pub(crate) fn run(write: Option<Option<String>>, as_json: bool) -> Result<ExitCode> {
    let (method, parameters) = match write {
        None => ("org.rdmad.ndd.List", json!({})),
        Some(device) => ("org.rdmad.ndd.Write", json!({ "device": device })),
    };
    let answer = rdma_varlink::call(Path::new(rdma_ndd::SOCKET), method, &parameters)
        .context("rdma-ndd runs while there is an RDMA device")?;
    let devices = answer.get("devices").and_then(Value::as_array).cloned().unwrap_or_default();
    if as_json {
        println!("{:#}", Value::Array(devices));
        return Ok(ExitCode::SUCCESS);
    }
    let row = |device: &Value| {
        let text = |key: &str| device[key].as_str().unwrap_or_default().to_owned();
        let wrong = match device["problem"].as_str() {
            Some(problem) => problem.to_owned(),
            None if device["description"] == device["wanted"] => String::new(),
            None => format!("should be '{}'", text("wanted")),
        };
        vec![text("name"), text("description"), wrong]
    };
    let rows: Vec<Vec<String>> = devices.iter().map(row).collect();
    print!("{}", table::render(&["DEVICE", "DESCRIPTION", "PROBLEM"], &rows));
    Ok(ExitCode::SUCCESS)
}
