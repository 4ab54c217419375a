// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-load-modules`: loads the kernel modules that lists ask for.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use lexopt::prelude::{Long, Short, Value};
use rdma_config::{Root, modules};
use rdma_load_modules::kernel::Kernel;
use rdma_load_modules::{Step, Verdict, explain, plan, servers};

const USAGE: &str = "\
rdma-load-modules LIST...            load the modules of lists, such as 'rdma' and 'roce'
rdma-load-modules --dry-run LIST...  say what would be done
rdma-load-modules --explain MODULE   say which lists ask for a module and what becomes of it

A list is /etc/rdma/modules/LIST.conf, or that of /run or /usr/lib where /etc has none, with
the drop-ins in LIST.conf.d of all three. A module that does not exist is a warning.
Exit status: 0 done, 1 failed, 2 wrong usage.";

#[derive(Default)]
struct Arguments {
    lists: Vec<String>,
    dry_run: bool,
    explain: Option<String>,
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdma-load-modules: {error}");
            return ExitCode::from(2);
        }
    };
    let root = Root::system();
    let kernel = Kernel::running(&root);
    if let Some(module) = arguments.explain {
        return match explain::explain(&root, &kernel, &module) {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("rdma-load-modules: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let lists = arguments.lists.iter().filter_map(|name| list(&root, name));
    let steps = plan(lists, &kernel);
    if arguments.dry_run {
        for step in &steps {
            let what = match step.verdict {
                Verdict::Loaded => "is loaded",
                Verdict::Builtin => "is part of the kernel",
                Verdict::Load => "would be loaded",
            };
            println!("{} {what} ({})", step.wanted.module, place(step));
        }
        return ExitCode::SUCCESS;
    }
    let steps: Vec<Step> = steps.into_iter().filter(|s| s.verdict == Verdict::Load).collect();
    match load(&steps) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(3, format!("cannot run modprobe: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut arguments = Arguments::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(list) => arguments.lists.push(list.into_string()?),
            Long("dry-run") => arguments.dry_run = true,
            Long("explain") => arguments.explain = Some(parser.value()?.into_string()?),
            Short('h') | Long("help") => {
                println!("{USAGE}");
                return Ok(None);
            }
            Long("version") => {
                println!("rdma-load-modules {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            other => return Err(other.unexpected()),
        }
    }
    if arguments.lists.is_empty() && arguments.explain.is_none() {
        return Err("which list? See --help".into());
    }
    Ok(Some(arguments))
}

/// A list's modules; None, and said so where it matters, when there is nothing to load.
fn list(root: &Root, name: &str) -> Option<Vec<modules::Wanted>> {
    let Some((wanted, warnings)) = modules::read(root, name) else {
        log(5, format!("there is no list '{name}' in /etc/rdma/modules, nothing to load"));
        return None;
    };
    let (asked, more) = servers::wants(root, name);
    for warning in warnings.iter().chain(&more) {
        log(4, warning);
    }
    asked.then_some(wanted)
}

/// Loads modules, a part of them for each processor, at the same time.
fn load(steps: &[Step]) -> io::Result<()> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(steps.len());
    let part = |n: usize| -> Vec<&Step> { steps.iter().skip(n).step_by(workers).collect() };
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..workers).map(|n| scope.spawn(move || modprobe(&part(n)))).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or(Ok(())))
    })
}

/// Aliases, dependencies, options, blacklists and install lines are modprobe's business. With `-b`, a
/// blacklisted module is success without a word; with `-a`, it goes on after one that fails.
fn modprobe(steps: &[&Step]) -> io::Result<()> {
    let output = Command::new("modprobe")
        .args(["-a", "-b", "--"])
        .args(steps.iter().map(|s| &s.wanted.module))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()?;
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        let line = line.trim_start_matches("modprobe: ");
        let about =
            steps.iter().find(|s| line.split_whitespace().any(|word| word == s.wanted.module));
        let place = about.map(|step| format!(" ({})", place(step))).unwrap_or_default();
        log(4, format!("{line}{place}, going on"));
    }
    Ok(())
}

fn place(step: &Step) -> String {
    format!("{}:{}", step.wanted.file.display(), step.wanted.line)
}

/// A line on standard error, with the priority that the journal reads.
fn log(priority: u8, what: impl Display) {
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        eprintln!("<{priority}>{what}");
    } else {
        eprintln!("rdma-load-modules: {what}");
    }
}
