// SPDX-License-Identifier: MIT OR Apache-2.0
//! `iwpm`: TCP ports behind iWARP connections, as iwpmd has them.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::table;

fn ask(method: &str, parameters: &Value) -> Result<Map<String, Value>> {
    rdma_varlink::call(Path::new(rdma_iwpm::SOCKET), method, parameters)
        .context("iwpmd runs while there is an iWARP device")
}

pub(crate) fn run(as_json: bool) -> Result<ExitCode> {
    let mut status = ask("org.rdmad.iwpm.Status", &json!({}))?;
    let mut mappings: Vec<Value> = Vec::new();
    loop {
        let after = mappings.last().map(|mapping| mapping["local"].clone());
        let answer = ask("org.rdmad.iwpm.Mappings", &json!({ "after": after }))?;
        match answer.get("mappings").and_then(Value::as_array) {
            Some(page) if !page.is_empty() => mappings.extend(page.iter().cloned()),
            _ => break,
        }
    }
    if as_json {
        status.insert("mappings".into(), Value::Array(mappings));
        println!("{:#}", Value::Object(status));
        return Ok(ExitCode::SUCCESS);
    }
    let row = |mapping: &Value| {
        let text = |key: &str| mapping[key].as_str().unwrap_or_default().to_owned();
        let reserved = if mapping["reserved"] == true { "reserved" } else { "" };
        vec![text("local"), text("mapped"), mapping["users"].to_string(), reserved.to_owned()]
    };
    let rows: Vec<Vec<String>> = mappings.iter().map(row).collect();
    print!("{}", table::render(&["ADDRESS", "IN TCP", "USERS", "PORT"], &rows));
    for host in status.get("silent").and_then(Value::as_array).into_iter().flatten() {
        println!("{} has no port mapper", host.as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}
