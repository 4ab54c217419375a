// SPDX-License-Identifier: MIT OR Apache-2.0
//! `iwpmd`: reserves TCP ports for the iWARP connections of the kernel, and tells other hosts which.
#![forbid(unsafe_code)]

mod network;
mod service;

use std::process::ExitCode;

use anyhow::Context as _;
use lexopt::prelude::{Long, Short};
use rdma_udev_helper::log;

const USAGE: &str = "\
iwpmd: the iWARP port mapper. SIGHUP has it read /etc/iwpmd.conf again, and ask the kernel what there is; SIGUSR1 has it
write all mappings to its log

  -h, --help              this
      --version           which it is
  -f, --foreground, -s, --systemd
                          as with rdma-core; it always stays in the foreground";

fn main() -> ExitCode {
    match usage() {
        Ok(None) => {}
        Ok(Some(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("iwpmd: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let done = runtime
        .context("cannot wait for events")
        .and_then(|runtime| tokio::task::LocalSet::new().block_on(&runtime, service::run()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(format!("{error:#}"));
            ExitCode::from(log::exit_status(&error))
        }
    }
}

fn usage() -> Result<Option<&'static str>, lexopt::Error> {
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('f' | 's') | Long("foreground" | "systemd") => {}
            Short('h') | Long("help") => return Ok(Some(USAGE)),
            Long("version") => return Ok(Some(concat!("iwpmd ", env!("CARGO_PKG_VERSION")))),
            other => return Err(other.unexpected()),
        }
    }
    Ok(None)
}
