// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ibacm`: tells programs and the kernel the paths of InfiniBand, and asks subnet administration once for each.
#![forbid(unsafe_code)]

mod clients;
mod fabric;
mod host;
mod keep;
mod look;
mod service;
mod shared;
mod sockets;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use lexopt::prelude::{Long, Short, ValueExt as _};
use rdma_udev_helper::log;

const USAGE: &str = "\
ibacm: tells programs and the kernel the paths of InfiniBand. SIGHUP has it read its files again

  -A FILE                 what the ports of this host are called (/etc/rdma/ibacm_addr.cfg)
  -O FILE                 options (/etc/rdma/ibacm_opts.cfg)
  -h, --help              this
      --version           which it is
  -D, -P, --systemd       as with rdma-core; it always stays in the foreground";

/// Its files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// `-A`
    pub(crate) names: PathBuf,
    /// `-O`
    pub(crate) options: PathBuf,
}

fn main() -> ExitCode {
    let files = match arguments() {
        Ok(Ok(files)) => files,
        Ok(Err(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("ibacm: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let done = runtime
        .context("cannot wait for events")
        .and_then(|runtime| tokio::task::LocalSet::new().block_on(&runtime, service::run(files)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(format!("{error:#}"));
            ExitCode::from(log::exit_status(&error))
        }
    }
}

/// The files; or what to print.
fn arguments() -> Result<Result<Files, &'static str>, lexopt::Error> {
    let mut files = Files {
        names: "/etc/rdma/ibacm_addr.cfg".into(),
        options: "/etc/rdma/ibacm_opts.cfg".into(),
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('A') => files.names = arguments.value()?.parse()?,
            Short('O') => files.options = arguments.value()?.parse()?,
            Short('D' | 'P') | Long("systemd") => {}
            Short('h') | Long("help") => return Ok(Err(USAGE)),
            Long("version") => return Ok(Err(concat!("ibacm ", env!("CARGO_PKG_VERSION")))),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Ok(files))
}
