// SPDX-License-Identifier: MIT OR Apache-2.0
//! `modules`: what the lists ask for, and what has become of it.

use std::process::ExitCode;

use anyhow::Result;
use rdma_config::{Root, modules};
use rdma_load_modules::kernel::Kernel;
use rdma_load_modules::{Step, Verdict, explain, plan, servers};
use serde_json::{Value, json};

use crate::table;

pub(crate) fn list(root: &Root, as_json: bool) -> Result<ExitCode> {
    let kernel = Kernel::running(root);
    let mut rows: Vec<[String; 4]> = Vec::new();
    for list in explain::list_names(root) {
        let (wanted, _) = modules::read(root, &list).unwrap_or_default();
        let asked = servers::wants(root, &list).0;
        for Step { wanted, verdict } in plan([wanted], &kernel) {
            let state = match verdict {
                Verdict::Loaded => "loaded",
                Verdict::Builtin => "in the kernel",
                Verdict::Load if !asked => "not asked for by the server's configuration",
                Verdict::Load => "not loaded",
            };
            let source = format!("{}:{}", wanted.file.display(), wanted.line);
            rows.push([wanted.module, list.clone(), state.into(), source]);
        }
    }
    if as_json {
        let value = |[module, list, state, source]: &[String; 4]| json!({ "module": module, "list": list, "state": state, "source": source });
        println!("{:#}", Value::Array(rows.iter().map(value).collect()));
    } else {
        let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
        print!("{}", table::render(&["MODULE", "LIST", "STATE", "FROM"], &rows));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn why(root: &Root, module: &str) -> Result<ExitCode> {
    println!("{}", explain::explain(root, &Kernel::running(root), module)?);
    Ok(ExitCode::SUCCESS)
}
