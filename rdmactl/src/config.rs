// SPDX-License-Identifier: MIT OR Apache-2.0
//! `config`: what is in force, and what is wrong with it.

use std::process::ExitCode;

use anyhow::Result;
use rdma_config::{Config, Root, dropin};

use rdmactl::ConfigCommand;

use crate::{diff, import, schema};

pub(crate) fn run(root: &Root, command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Check => {
            let (_, warnings) = Config::load(root);
            for warning in &warnings {
                println!("{warning}");
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
