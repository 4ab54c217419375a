// SPDX-License-Identifier: MIT OR Apache-2.0
//! `srp`: the SRP targets that the srp_daemon of each port has found.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use rdma_config::Root;
use serde_json::{Value, json};

use crate::table;

/// Where the control sockets are, each called as its port.
const SOCKETS: &str = "/run/rdma/srp";

pub(crate) fn run(root: &Root, rescan: bool, as_json: bool) -> Result<ExitCode> {
    let dir = root.path(SOCKETS);
    let files = fs::read_dir(&dir).with_context(|| {
        format!("cannot read {}; srp_daemon.service makes it: is it active?", dir.display())
    })?;
    let mut sockets: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
    sockets.sort();
    let method = |name: &str| format!("org.rdmad.srp.{name}");
    let mut ports = Vec::new();
    let mut errors = Vec::new();
    for socket in &sockets {
        let name = if rescan { "Rescan" } else { "Targets" };
        match rdma_varlink::call(socket, &method(name), &json!({})) {
            Ok(answer) => ports.push(Value::Object(answer)),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    if !errors.is_empty() {
        bail!("{}", errors.join("; "));
    }
    if as_json && !rescan {
        println!("{:#}", Value::Array(ports));
    } else if !rescan {
        print!("{}", table::render(&["PORT", "STATE", "TARGET"], &rows(&ports)));
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(ports: &[Value]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for port in ports {
        let name = format!("{}:{}", port["device"].as_str().unwrap_or_default(), port["port"]);
        let targets = port["targets"].as_array().cloned().unwrap_or_default();
        if targets.is_empty() {
            let state = if port["asked"].is_null() { "was not asked yet" } else { "no targets" };
            rows.push(vec![name.clone(), state.to_owned(), String::new()]);
        }
        for target in targets {
            let text = |key: &str| target[key].as_str().unwrap_or_default().to_owned();
            rows.push(vec![name.clone(), text("state"), text("line")]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people() {
        let ports = [
            json!({ "device": "a", "port": 1, "asked": null, "targets": [] }),
            json!({ "device": "b", "port": 2, "asked": 1.5, "targets": [] }),
            json!({
                "device": "c", "port": 1, "asked": 0.1,
                "targets": [{ "line": "id_ext=7", "state": "connected" }],
            }),
        ];
        assert_eq!(
            rows(&ports),
            [
                ["a:1", "was not asked yet", ""],
                ["b:2", "no targets", ""],
                ["c:1", "connected", "id_ext=7"]
            ]
        );
    }
}
