// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: the front door for contributors.
#![forbid(unsafe_code)]

mod check;
mod layout;
mod made;
mod vm;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use layout::{Install, Layout};
use vm::{Boot, Suite};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The front door for contributors")]
enum Command {
    /// Everything that must pass; what CI runs.
    Test(check::Options),
    /// Plug, rename and unplug RDMA devices in a guest, and show what happens.
    Demo {
        /// Guest distribution.
        #[arg(long, value_enum, default_value = "trixie")]
        suite: Suite,
    },
    /// This suite and rdma-core in turn in one guest, as ratios.
    #[command(subcommand)]
    Bench(Bench),
    /// The lab.
    #[command(subcommand)]
    Vm(Vm),
    /// Install what packaging/layout.toml lists.
    Install {
        /// The root that is filled.
        #[arg(long)]
        destdir: PathBuf,
        /// Only this package's files.
        #[arg(long)]
        package: Option<String>,
        /// Where the built programs are.
        #[arg(long, default_value = "target/release")]
        bin: PathBuf,
        /// Another directory for a role, as in unit=/lib/systemd/system.
        #[arg(long, value_name = "ROLE=PATH", value_parser = role)]
        dir: Vec<(String, String)>,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// From adding a device to rdma-hw.target, and the CPU time that udev spends on it.
    Boot,
    /// Messages back and forth and one way on rxe, by our examples, by libibverbs' and by perftest.
    Verbs,
    /// TCP ports for many iWARP listeners, by our port mapper and by rdma-core's.
    Iwpm,
    /// Paths for many programs, by our ibacm and by rdma-core's.
    Acm,
}

#[derive(Subcommand)]
enum Vm {
    /// Make the guest's image.
    Image {
        /// Guest distribution.
        #[arg(long, value_enum, default_value = "trixie")]
        suite: Suite,
    },
    /// Run a command as root in a booted guest.
    Exec {
        #[command(flatten)]
        options: vm::Options,
        /// Run this script instead of a command.
        #[arg(long, conflicts_with = "command")]
        script: Option<PathBuf>,
        /// The command and its arguments.
        #[arg(last = true, required_unless_present = "script")]
        command: Vec<String>,
    },
    /// A root shell in the guest; Ctrl-A X ends it.
    Shell {
        #[command(flatten)]
        options: vm::Options,
    },
}

fn role(text: &str) -> Result<(String, String), String> {
    let (role, path) = text.split_once('=').ok_or("write it as ROLE=PATH")?;
    Ok((role.to_owned(), path.to_owned()))
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the suite does, shown in a guest; its exit status.
fn demo(repo: &Path, suite: Suite) -> Result<i32> {
    let options = vm::Options::new(suite, Boot::Ours, 300);
    vm::exec(repo, &options, include_str!("../../tests/guest/demo.sh"))
}

fn run(command: Command) -> Result<ExitCode> {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no repository")?;
    match command {
        Command::Test(options) => check::test(repo, &options)?,
        Command::Demo { suite } => {
            println!("Building, and starting a guest; the first time this takes some minutes.");
            let status = demo(repo, suite)?;
            return Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)));
        }
        Command::Bench(bench) => {
            let (boot, script) = match bench {
                Bench::Boot => (Boot::RdmaCore, "/usr/lib/lab/bench-boot".to_owned()),
                Bench::Verbs => {
                    (Boot::Ours, fs::read_to_string(repo.join("tests/guest/bench-verbs.sh"))?)
                }
                Bench::Iwpm => {
                    (Boot::Ours, fs::read_to_string(repo.join("tests/guest/bench-iwpm.sh"))?)
                }
                Bench::Acm => {
                    (Boot::Ours, fs::read_to_string(repo.join("tests/guest/bench-acm.sh"))?)
                }
            };
            let status = vm::exec(repo, &vm::Options::new(Suite::Trixie, boot, 900), &script)?;
            return Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)));
        }
        Command::Vm(Vm::Image { suite }) => println!("{}", vm::image(repo, suite)?.display()),
        Command::Vm(Vm::Shell { options }) => vm::shell(repo, &options)?,
        Command::Vm(Vm::Exec { options, script, command }) => {
            let script = match script {
                Some(path) => fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?,
                None => command.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" "),
            };
            let status = vm::exec(repo, &options, &script)?;
            return Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)));
        }
        Command::Install { destdir, package, bin, dir } => {
            let to = Install { repo, bin: &bin, dest: &destdir, package: package.as_deref() };
            Layout::load(repo, &dir)?.install(&to)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A word as the shell reads it back.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
