// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdmactl`: the command line for people.
//!
//! Nothing here needs a daemon: the kernel, udev's database and the configuration are asked. Exit status: 0 done,
//! 1 failed, 2 wrong usage, 77 no permission, 78 bad configuration.
#![forbid(unsafe_code)]

mod acm;
mod boot;
mod config;
mod diff;
mod doctor;
mod env;
mod fingerprint;
mod gid;
mod import;
mod iwpm;
mod links;
mod list;
mod modules;
mod monitor;
mod names;
mod ndd;
mod online;
mod plot;
mod schema;
mod service;
mod srp;
mod systemd;
mod table;
mod users;

use std::process::ExitCode;

use clap::Parser;
use rdma_config::Root;
use rdma_udev_helper::log;
use rdma_wait_online::BadCondition;
use rdmactl::{Arguments, Command, ModulesCommand};

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
        Some(Command::Rename { device, name }) => names::rename(&root, &device, &name),
        Some(Command::Modules { command: Some(ModulesCommand::Why { module }), .. }) => {
            modules::why(&root, &module)
        }
        Some(Command::Modules { json, .. }) => modules::list(&root, json),
        Some(Command::Iwpm { json }) => iwpm::run(json),
        Some(Command::Acm { json }) => acm::run(json),
        Some(Command::Ndd { write, json }) => ndd::run(write, json),
        Some(Command::Srp { rescan, json }) => srp::run(&root, rescan, json),
        Some(Command::Links { json }) => links::list(&root, json),
        Some(Command::Monitor { json }) => monitor::run(&root, json),
        Some(Command::Env { json }) => env::run(&root, json),
        Some(Command::Fingerprint { lines, json }) => fingerprint::run(&root, lines, json),
        Some(Command::Doctor { json }) => doctor::run(&root, json),
        Some(Command::EnableService { unit, raw_packets, diff, undo }) => match undo {
            true => service::disable(&root, &unit, diff),
            false => service::enable(&root, &unit, raw_packets, diff),
        },
        Some(Command::Boot { svg, json }) => boot::run(&root, svg.as_deref(), json),
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
