// SPDX-License-Identifier: MIT OR Apache-2.0
//! `config`: what is in force, and what is wrong with it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use rdma_config::{Config, Root, dropin};

use crate::import;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Say what cannot be used, by file, line and column; exit status 78 when there is any
    Check,
    /// Show the files that are in force, in the order in which they apply
    Cat,
    /// Print the configuration that says what udev rules with rdma_rename say; exit status 1 when a rule is
    /// left out
    Import {
        /// Rule files; without any those in /etc/udev/rules.d
        files: Vec<PathBuf>,
    },
}

pub(crate) fn run(root: &Root, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Check => {
            let (_, warnings) = Config::load(root);
            for warning in &warnings {
                println!("{warning}");
            }
            Ok(if warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(78) })
        }
        Command::Import { files } => import::run(root, files),
        Command::Cat => {
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
