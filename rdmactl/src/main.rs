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
mod table;
mod users;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rdma_config::Root;
use rdma_udev_helper::log;

/// Shows and manages RDMA devices.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// A line for each port (this is what rdmactl does when nothing is said)
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// All that is known of a device
    Show {
        /// Its name
        device: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// The index of the GID to use: for RoCE that of v2 which reaches furthest (IPv4, then global IPv6)
    Gid {
        /// Name of the RDMA device
        device: String,
        /// Its port
        #[arg(long, default_value_t = 1)]
        port: u32,
        /// All entries of the table
        #[arg(long)]
        all: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// What devices are called, what they should be called, and who says so
    Names {
        /// Also show who has each device open (as root: of all processes)
        #[arg(long)]
        plan: bool,
        /// Give every device the name it should have
        #[arg(long, conflicts_with = "plan")]
        apply: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// The configuration, /etc/rdma/rdma.toml and its drop-ins
    #[command(subcommand)]
    Config(config::Command),
}

fn main() -> ExitCode {
    let root = Root::system();
    let done = match Arguments::parse().command {
        None => list::list(&root, false),
        Some(Command::List { json }) => list::list(&root, json),
        Some(Command::Show { device, json }) => list::show(&root, &device, json),
        Some(Command::Gid { device, port, all, json }) => gid::run(&root, &device, port, all, json),
        Some(Command::Names { plan, apply: false, json }) => names::show(&root, plan, json),
        Some(Command::Names { json, .. }) => names::apply(&root, json),
        Some(Command::Config(command)) => config::run(&root, &command),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rdmactl: {error:#}");
            ExitCode::from(log::exit_status(&error))
        }
    }
}
