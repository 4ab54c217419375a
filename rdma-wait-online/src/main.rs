// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-wait-online`: ends when RDMA is ready, or when the time is over with what is missing.
//!
//! It needs the kernel alone: neither a daemon nor D-Bus, so that it works in the initrd. Between looks it sleeps
//! until something is announced.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short, Value};
use rdma_config::{Online, Root};
use rdma_udev_helper::state::{Run, replace};
use rdma_udev_helper::world::{Look, config};
use rdma_verbs::{Change, Watch};
use rdma_wait_online::{BadCondition, check, condition, look};
use sd_notify::NotifyState;

const USAGE: &str = "\
rdma-wait-online [--timeout SECONDS] [WHAT]

Waits until RDMA is ready. WHAT is a NAME of [online.NAME] in /etc/rdma/rdma.toml, or a device, or device:port; without
it [online] counts, whose default is that every RDMA device has an ACTIVE port.
Exit status: 0 ready, 1 not ready in time, 2 wrong usage, 78 bad configuration.";

#[derive(Default)]
struct Arguments {
    timeout: Option<Duration>,
    what: Option<String>,
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdma-wait-online: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rdma-wait-online: {error:#}");
            ExitCode::from(if error.is::<BadCondition>() { 78 } else { 1 })
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
                println!("rdma-wait-online {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            Long("timeout") => {
                let seconds = parser.value()?.parse()?;
                arguments.timeout = Some(Duration::from_secs(seconds));
            }
            Value(what) if arguments.what.is_none() => arguments.what = Some(what.string()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(arguments))
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let root = Root::system();
    let online = condition(&config(&root), arguments.what.as_deref())?;
    let start = Instant::now();
    let deadline = start + arguments.timeout.unwrap_or(online.timeout);
    let mut watch = Watch::open().context("cannot listen to the kernel")?;
    let mut deaf = BTreeMap::new();
    let mut said = String::new();
    loop {
        let missing = missing(&root, &online, &mut watch, &mut deaf)?;
        if missing.is_empty() {
            write_metrics(&root, arguments.what.as_deref(), start.elapsed(), true);
            return Ok(ExitCode::SUCCESS);
        }
        let status = missing.join("; ");
        if status != said {
            // Nobody may listen; then there is nobody to tell.
            sd_notify::notify(false, &[NotifyState::Status(&status)]).ok();
            said = status;
        }
        if !wait(&mut watch, deadline)? {
            write_metrics(&root, arguments.what.as_deref(), start.elapsed(), false);
            for line in missing.iter().chain(deaf.values()) {
                eprintln!("rdma-wait-online: {line}");
            }
            return Ok(ExitCode::FAILURE);
        }
    }
}

/// For node_exporter, beside rdmad's: a file for each condition. Who may not write there has no need to.
fn write_metrics(root: &Root, what: Option<&str>, took: Duration, ready: bool) {
    let condition = what.unwrap_or_default().replace('\\', "\\\\").replace('"', "\\\"");
    let file = match what {
        None => "metrics/rdma-wait-online.prom".to_owned(),
        Some(what) => format!("metrics/rdma-wait-online-{}.prom", what.replace('/', "-")),
    };
    let text = format!(
        "# TYPE rdma_wait_online_seconds gauge\n\
         # HELP rdma_wait_online_seconds How long the last wait for a condition took.\n\
         rdma_wait_online_seconds{{condition=\"{condition}\"}} {:.3}\n\
         # TYPE rdma_wait_online_ready gauge\n\
         # HELP rdma_wait_online_ready Whether it ended with the condition met.\n\
         rdma_wait_online_ready{{condition=\"{condition}\"}} {}\n# EOF\n",
        took.as_secs_f64(),
        u8::from(ready)
    );
    replace(&Run::of(root).path(&file), text.as_bytes()).ok();
}

/// What is missing now. Whatever changes it after this wakes the watch; a device whose events are not told is
/// put among the `deaf`, with the reason.
fn missing(
    root: &Root,
    online: &Online,
    watch: &mut Watch,
    deaf: &mut BTreeMap<String, String>,
) -> Result<Vec<String>> {
    let nodes = root.path("/dev/infiniband");
    deaf.clear();
    let devices = look(root, online, |found: &Look| {
        let name = &found.device.name;
        let driver = found.driver.as_deref();
        let why = match found.uverbs().map(|node| watch.follow(&nodes, node, driver)) {
            Some(Ok(news)) => return news,
            Some(Err(error)) => error.to_string(),
            None => "it has no uverbs node; is ib_uverbs loaded?".to_owned(),
        };
        let line = format!("RDMA device '{name}' cannot tell when its ports change: {why}");
        deaf.insert(name.clone(), line);
        false
    })?;
    Ok(check(online, &devices))
}

/// Waits until something happens that may matter; false when the time is over.
fn wait(watch: &mut Watch, deadline: Instant) -> Result<bool> {
    loop {
        let changes = watch.wait(Some(deadline)).context("cannot wait for events")?;
        if changes.is_empty() {
            return Ok(false);
        }
        let matters = |change: &Change| match change {
            // ib_core itself may come late.
            Change::Uevent(event) => {
                event.subsystem().starts_with("infiniband") || event.subsystem() == "module"
            }
            Change::Async(..) | Change::Link | Change::Lost => true,
        };
        if changes.iter().any(matters) {
            return Ok(true);
        }
    }
}
