// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `rdmactl`, from which its manual pages and completions are made, too.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Shows and manages RDMA devices.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 77 no permission, 78 bad configuration."
)]
pub struct Arguments {
    #[command(subcommand)]
    /// What is to be done.
    pub command: Option<Command>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
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
    /// Whether RDMA is ready, and what is missing: what rdma-wait-online waits for; exit status 1 when it is not
    Online {
        /// A NAME of an online.NAME table in the configuration, or a device, or device:port; without it, the online table
        what: Option<String>,
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
    Config(ConfigCommand),
}

/// `config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what cannot be used, by file, line and column; exit status 78 when there is any
    Check,
    /// Show the files that are in force, in the order in which they apply
    Cat,
    /// Print the JSON schema of the configuration, for editors
    Schema,
    /// Print the configuration that says what udev rules with rdma_rename say; exit status 1 when a rule is
    /// left out
    Import {
        /// Rule files; without any those in /etc/udev/rules.d
        files: Vec<PathBuf>,
    },
}
