// SPDX-License-Identifier: MIT OR Apache-2.0
//! `acm`: what ibacm calls the InfiniBand ports, and how much it is asked.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::table;

fn ask(method: &str) -> Result<Map<String, Value>> {
    rdma_varlink::call(Path::new(rdma_acm::SOCKET), method, &json!({}))
        .context("is ibacm.socket active?")
}

pub(crate) fn run(as_json: bool) -> Result<ExitCode> {
    let mut status = ask("org.rdmad.acm.Status")?;
    status.extend(ask("org.rdmad.acm.Endpoints")?);
    if as_json {
        println!("{:#}", Value::Object(status));
        return Ok(ExitCode::SUCCESS);
    }
    let texts = |names: &Value| -> Vec<String> {
        let names = names.as_array().into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let row = |endpoint: &Value| {
        let device = endpoint["device"].as_str().unwrap_or_default();
        let pkey = endpoint["pkey"].as_u64().unwrap_or_default();
        let names = texts(&endpoint["names"]).join(" ");
        vec![format!("{device}:{}", endpoint["port"]), format!("{pkey:#06x}"), names]
    };
    let endpoints = status.get("endpoints").and_then(Value::as_array).into_iter().flatten();
    let rows: Vec<Vec<String>> = endpoints.map(row).collect();
    print!("{}", table::render(&["PORT", "PKEY", "NAMES"], &rows));
    let number = |key: &str| status.get(key).and_then(Value::as_u64).unwrap_or_default();
    println!(
        "{} programs, {} paths known, {} questions open",
        number("clients"),
        number("paths"),
        number("questions")
    );
    let figure =
        |key: &str| status.get("figures").and_then(|f| f[key].as_u64()).unwrap_or_default();
    println!(
        "{} questions, {} of them from what was known, {} without an answer, {} failed",
        figure("questions"),
        figure("paths_known"),
        figure("no_data"),
        figure("errors")
    );
    println!(
        "the kernel has asked {} times, and was told something {} times",
        figure("kernel_asked"),
        figure("kernel_answered")
    );
    Ok(ExitCode::SUCCESS)
}
