// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdmactl`: the command line for people.
//!
//! Nothing here needs a daemon: the kernel, udev's database and the configuration are asked. Exit status: 0 done,
//! 1 failed, 2 wrong usage, 77 no permission, 78 bad configuration.
#![forbid(unsafe_code)]

mod config;
mod gid;
mod import;
mod list;
mod names;
mod online;
mod schema;
mod table;
mod users;

use std::process::ExitCode;

use clap::Parser;
use rdma_config::Root;
use rdma_udev_helper::log;
use rdma_wait_online::BadCondition;
use rdmactl::{Arguments, Command};

fn main() -> ExitCode {
    let root = Root::system();
    let done = match Arguments::parse().command {
        None => list::list(&root, false),
        Some(Command::List { json }) => list::list(&root, json),
        Some(Command::Show { device, json }) => list::show(&root, &device, json),
        Some(Command::Gid { device, port, all, json }) => gid::run(&root, &device, port, all, json),
        Some(Command::Online { what, json }) => online::run(&root, what.as_deref(), json),
        Some(Command::Names { plan, apply: false, json }) => names::show(&root, plan, json),
        Some(Command::Names { json, .. }) => names::apply(&root, json),
        Some(Command::Config(command)) => config::run(&root, &command),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rdmactl: {error:#}");
            ExitCode::from(if error.is::<BadCondition>() { 78 } else { log::exit_status(&error) })
        }
    }
}
