// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ibsrpdm`: the SRP targets that there are now.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short};
use rdma_config::Root;
use rdma_srp::scan::Scan;
use rdma_srp::unit::Extras;
use rdma_udev_helper::local_port::LocalPort;
use rdma_udev_helper::log;
use rdma_verbs::sa::Patience;

const USAGE: &str = "\
ibsrpdm [-c] [-d UMAD] [-v]

Lists the SRP targets that a port can reach.
  -c       lines for /sys/class/infiniband_srp/.../add_target
  -d UMAD  through the port of this node (/dev/infiniband/umad0); without it, the first InfiniBand port that is ACTIVE
  -v       also say who has not answered
Exit status: 0 done, 1 failed, 2 wrong usage, 77 no permission.";

#[derive(Default)]
struct Arguments {
    connections: bool,
    umad: Option<PathBuf>,
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ibsrpdm: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ibsrpdm: {error:#}");
            ExitCode::from(log::exit_status(&error))
        }
    }
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut arguments = Arguments::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => {
                println!("{USAGE}");
                return Ok(None);
            }
            Long("version") => {
                println!("ibsrpdm {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            Short('c') => arguments.connections = true,
            Short('d') => arguments.umad = Some(parser.value()?.parse()?),
            Short('v') => arguments.verbose = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let root = Root::system();
    let port = LocalPort::find(&root, arguments.umad.as_deref(), None)?;
    port.ready()?;
    let patience = Patience { timeout: Duration::from_secs(5), retries: 3 };
    let found = Scan::run(port, patience)?;
    let extras = Extras::of_module(&root);
    for unit in &found.units {
        if arguments.connections {
            let lines = unit.targets().filter_map(|target| target.line("", extras));
            lines.for_each(|line| println!("{line}"));
        } else {
            print!("{}", unit.for_people());
        }
    }
    if arguments.verbose {
        found.problems.iter().for_each(|problem| eprintln!("ibsrpdm: {problem}"));
    }
    Ok(())
}
