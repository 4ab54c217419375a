// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-udev-helper`: run by udev's rules, once an event.
//!
//! Exit status: 0 done, also when the device is gone; 1 failed; 2 wrong usage; 77 no permission.
#![forbid(unsafe_code)]

mod children;
mod device;
mod remove;
mod rename;
mod rename_compat;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use lexopt::prelude::{Long, Short, Value};
use rdma_config::Root;
use rdma_udev_helper::log;
use rdma_verbs::DevIndex;

const USAGE: &str = "\
rdma-udev-helper device [--may-rename] NAME   properties of an RDMA device
rdma-udev-helper rename INDEX                 give a device the name it should have
rdma-udev-helper node CLASS NAME              file for a uverbs, umad or issm node that came late
rdma-udev-helper ipoib [--may-rename] NETDEV  properties of an IPoIB interface
rdma-udev-helper remove INDEX                 forget a device that is gone
rdma_rename [-v] NAME POLICY [FIXED-NAME]     the same rename as rdma-core's program of that name";

enum Command {
    Device { name: String, may_rename: bool },
    Rename(DevIndex),
    Node { class: String, name: String },
    Ipoib { netdev: String, may_rename: bool },
    Remove(DevIndex),
    Help,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let root = Root::system();
    if Path::new(&called).file_name().is_some_and(|n| n == "rdma_rename") {
        return rename_compat::main(&root, arguments);
    }
    let command = match parse(arguments) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("rdma-udev-helper: {error}; see --help");
            return ExitCode::from(2);
        }
    };
    let done = match command {
        Command::Device { name, may_rename } => device::run(&root, &name, may_rename),
        Command::Rename(index) => rename::run(&root, index),
        Command::Node { class, name } => children::node(&root, &class, &name),
        Command::Ipoib { netdev, may_rename } => children::ipoib(&root, &netdev, may_rename),
        Command::Remove(index) => remove::run(&root, index),
        Command::Help => {
            println!("{USAGE}");
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Tells an error once, and turns it into an exit status.
fn report(error: &anyhow::Error) -> ExitCode {
    log::error(format!("{error:#}"));
    ExitCode::from(log::exit_status(error))
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut words = Vec::new();
    let mut may_rename = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Value(word) => words.push(word.into_string().ok().context("an argument is not text")?),
            Long("may-rename") => may_rename = true,
            Short('h') | Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected().into()),
        }
    }
    let index = |text: &str| -> Result<DevIndex> {
        let number = text.parse().with_context(|| format!("'{text}' is no device index"))?;
        Ok(DevIndex(number))
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["device", name] => Ok(Command::Device { name: name.to_owned(), may_rename }),
        ["rename", number] => Ok(Command::Rename(index(number)?)),
        ["node", class, name] => {
            Ok(Command::Node { class: class.to_owned(), name: name.to_owned() })
        }
        ["ipoib", netdev] => Ok(Command::Ipoib { netdev: netdev.to_owned(), may_rename }),
        ["remove", number] => Ok(Command::Remove(index(number)?)),
        [] => anyhow::bail!("what is to be done?"),
        [first, ..] => anyhow::bail!("'{first}' and {} arguments make no command", words.len() - 1),
    }
}
