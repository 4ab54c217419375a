// SPDX-License-Identifier: MIT OR Apache-2.0
//! `config`: what is in force, and what is wrong with it.

use std::process::ExitCode;

use anyhow::Result;
use rdma_config::{Config, Root, Warning, dropin};
use serde_json::{Value, json};

use rdmactl::ConfigCommand;

use crate::{diff, import, schema};

pub(crate) fn run(root: &Root, command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Check { json } => {
            let (_, warnings) = Config::load(root);
            if *json {
                let value = |w: &Warning| {
                    let Warning { file, line, column, what } = w;
                    json!({ "file": file, "line": line, "column": column, "what": what })
                };
                println!("{:#}", Value::Array(warnings.iter().map(value).collect()));
            } else {
                warnings.iter().for_each(|warning| println!("{warning}"));
            }
            Ok(if warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(78) })
        }
        ConfigCommand::Diff { json } => diff::run(root, *json),
        ConfigCommand::Schema => {
            println!("{:#}", schema::schema());
            Ok(ExitCode::SUCCESS)
        }
        ConfigCommand::Import { files } => import::run(root, files),
        ConfigCommand::Cat => {
            let (fragments, warnings) = dropin::read(root, "rdma.toml");
            for fragment in fragments {
                println!("# {}\n{}", fragment.path.display(), fragment.text.trim_end());
            }
            for warning in warnings {
                eprintln!("rdmactl: {warning}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
