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
    /// Give a device a name, which it keeps as one given by a person
    Rename {
        /// Its name
        device: String,
        /// That it is to have
        name: String,
    },
    /// Kernel modules that the lists in /etc/rdma/modules ask for, and what has become of them
    Modules {
        #[command(subcommand)]
        /// One module
        command: Option<ModulesCommand>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Software devices that link tables of the configuration ask for, and what has become of them
    Links {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Node descriptions, and what they should be, as rdma-ndd keeps them
    Ndd {
        /// Write the description of this device anew, whatever it is; without a name, of all
        #[arg(long, value_name = "DEVICE", num_args = 0..=1)]
        write: Option<Option<String>>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// SRP targets, as the srp_daemon of each port has found them, and whether there is a connection
    Srp {
        /// Have all of them ask the fabric now
        #[arg(long)]
        rescan: bool,
        /// For programs
        #[arg(long, conflicts_with = "rescan")]
        json: bool,
    },
    /// What ibacm calls the InfiniBand ports, and how much it is asked
    Acm {
        /// For programs, with figures of what was asked and answered
        #[arg(long)]
        json: bool,
    },
    /// The TCP ports behind iWARP listeners and connections, as iwpmd has them
    Iwpm {
        /// For programs, with figures of what was asked and answered
        #[arg(long)]
        json: bool,
    },
    /// What happens to devices and ports from now on, after what there is; without end
    Monitor {
        /// For programs: an object a line
        #[arg(long)]
        json: bool,
    },
    /// The variables that have NCCL and UCX use the ports that can be used now; rdmad keeps them in /run/rdma/env
    Env {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// A hash of which name is which port: equal on nodes that are wired and named alike, whatever their GUIDs
    Fingerprint {
        /// The lines that it is the SHA-256 of: device, port, protocol, place
        #[arg(long)]
        lines: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Look for what keeps RDMA from working and say what to do about it; exit status 1 when there is anything
    Doctor {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Let a service use RDMA, by a drop-in of systemd: started when RDMA is ready, locked memory without limit, the
    /// devices where its unit restricts them
    EnableService {
        /// Its unit
        unit: String,
        /// Also let it use raw packets (CAP_NET_RAW)
        #[arg(long)]
        raw_packets: bool,
        /// Only show what would change
        #[arg(long)]
        diff: bool,
        /// Remove the drop-in
        #[arg(long, conflicts_with = "raw_packets")]
        undo: bool,
    },
    /// What happened to each device since the machine was started, from the journal, udev and systemd
    Boot {
        /// Draw it, as systemd-analyze plot does, into this file; - is standard output
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// For programs
        #[arg(long, conflicts_with = "svg")]
        json: bool,
    },
    /// The configuration, /etc/rdma/rdma.toml and its drop-ins
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// `modules`
#[derive(Debug, Subcommand)]
pub enum ModulesCommand {
    /// Say who asks for a module and what modprobe makes of it
    Why {
        /// Its name, or an alias of it
        module: String,
    },
}

/// `config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what cannot be used, by file, line and column; exit status 78 when there is any
    Check {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show the files that are in force, in the order in which they apply
    Cat,
    /// Show what is not as the configuration says: names, settings, software devices; exit status 1 when anything is
    Diff {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of the configuration, for editors
    Schema,
    /// Print the configuration that says what udev rules with rdma_rename say; exit status 1 when a rule is
    /// left out
    Import {
        /// Rule files; without any those in /etc/udev/rules.d
        files: Vec<PathBuf>,
    },
}
