// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-ndd`: keeps the node descriptions of RDMA devices as the configuration says, whatever the host and the
//! devices are called. Between two events it sleeps.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lexopt::Arg::{Long, Short};
use rdma_config::Root;
use rdma_ndd::{DEFAULT_FORMAT, Keeper, NoSuchDevice, SOCKET};
use rdma_udev_helper::log;
use rdma_varlink::{Call, Error, Interface, Reply};
use rdma_verbs::{Change, Uevent, Watch};
use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

const INTERFACE: Interface = Interface {
    name: "org.rdmad.ndd",
    description: include_str!("org.rdmad.ndd.varlink"),
    product: "rdma-ndd",
};

/// How long it is waited for udev before the service is called ready: network-pre.target waits for that.
const PATIENCE: Duration = Duration::from_secs(5);

const USAGE: &str = "rdma-ndd: keeps the node descriptions of RDMA devices; SIGHUP has it read the configuration again

  -h, --help              this
  -f, --foreground, -s, --systemd, -d, --debug
                          as with rdma-core; it always stays in the foreground

RDMA_NDD_ND_FORMAT in the environment is the format of devices of which /etc/rdma/rdma.toml says nothing.";

fn main() -> ExitCode {
    match usage() {
        Ok(None) => {}
        Ok(Some(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("rdma-ndd: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let done = runtime
        .context("cannot wait for events")
        .and_then(|runtime| tokio::task::LocalSet::new().block_on(&runtime, run(Root::system())));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(format!("{error:#}"));
            ExitCode::from(log::exit_status(&error))
        }
    }
}

fn usage() -> Result<Option<&'static str>, lexopt::Error> {
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('f' | 's' | 'd') | Long("foreground" | "systemd" | "debug") => {}
            Short('h') | Long("help") => return Ok(Some(USAGE)),
            other => return Err(other.unexpected()),
        }
    }
    Ok(None)
}

async fn run(root: Root) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Before anything is looked at, so that nothing is missed.
    let watch = Watch::open().context("cannot listen to the kernel")?;
    let mut watch = watched(watch, Interest::READABLE)?;
    let hostname = File::open(root.path("/proc/sys/kernel/hostname"))?;
    let hostname = watched(hostname, Interest::PRIORITY)?;
    let (sender, mut calls) = mpsc::channel(16);
    if let Some(listener) =
        rdma_varlink::listener().with_context(|| format!("cannot listen at {SOCKET}"))?
    {
        tokio::task::spawn_local(async {
            if let Err(error) = rdma_varlink::serve(listener, INTERFACE, sender).await {
                log::warning(format!("nobody can ask any more: {error}"));
            }
        });
    }
    let format = std::env::var("RDMA_NDD_ND_FORMAT").ok().filter(|format| !format.is_empty());
    let mut keeper = Keeper::new(root.clone(), format.unwrap_or_else(|| DEFAULT_FORMAT.to_owned()));
    let mut is_ready = false;
    let deadline = tokio::time::sleep(PATIENCE);
    tokio::pin!(deadline);
    let mut unsettled = keeper.tick()?;
    loop {
        if !is_ready && (unsettled == 0 || deadline.is_elapsed()) {
            if unsettled > 0 {
                log::note(format!(
                    "udev is not done with {unsettled} devices; they are described when it is"
                ));
            }
            is_ready = true;
            notify(&[NotifyState::Ready]);
        }
        tokio::select! {
            ready = watch.readable_mut() => {
                let mut ready = ready?;
                let changes = ready.get_inner_mut().wait(Some(Instant::now()))?;
                if changes.is_empty() {
                    ready.clear_ready();
                    continue;
                }
                // Not any(): each is to be heard.
                if changes.iter().filter(|change| hear(&mut keeper, change)).count() == 0 {
                    continue;
                }
                unsettled = keeper.tick()?;
            }
            renamed = hostname.ready(Interest::PRIORITY) => {
                renamed?.clear_ready();
                keeper.forget_all();
                unsettled = keeper.tick()?;
            }
            Some(call) = calls.recv() => answer(&mut keeper, call),
            _ = hangup.recv() => {
                let now = NotifyState::monotonic_usec_now();
                notify(&[NotifyState::Reloading, now?]);
                keeper.reload();
                unsettled = keeper.tick()?;
                notify(&[NotifyState::Ready]);
            }
            () = &mut deadline, if !is_ready => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    notify(&[NotifyState::Stopping]);
    Ok(())
}

/// Whether something is to be looked at.
fn hear(keeper: &mut Keeper, change: &Change) -> bool {
    match change {
        Change::Lost => keeper.forget_all(),
        // Devices are matched and named by their interfaces.
        Change::Uevent(event) if event.subsystem() == "net" && event.action() == "move" => {
            keeper.forget_all();
        }
        Change::Uevent(event) if is_of_device(event) => keeper.forget(event.name()),
        _ => return false,
    }
    true
}

fn is_of_device(event: &Uevent) -> bool {
    event.subsystem() == "infiniband"
}

fn answer(keeper: &mut Keeper, call: Call) {
    let Call { method, parameters, answer } = call;
    let reply = match method.as_str() {
        "List" => list(keeper),
        "Write" => match parameters.get("device") {
            None | Some(Value::Null) => write(keeper, None),
            Some(Value::String(name)) => write(keeper, Some(name)),
            Some(_) => Err(Error::invalid("device")),
        },
        // Whoever has called is told that there is no such method.
        _ => return,
    };
    // Whoever asked may have gone.
    answer.send(reply).ok();
}

fn list(keeper: &Keeper) -> Reply {
    keeper.list().map(|devices| json!({ "devices": devices })).map_err(failed)
}

fn write(keeper: &mut Keeper, device: Option<&str>) -> Reply {
    match keeper.write(device).map_err(failed)? {
        Ok(()) => list(keeper),
        Err(NoSuchDevice(name)) => Err(Error::new("org.rdmad.ndd.NoSuchDevice", "device", &name)),
    }
}

/// The kernel cannot be asked.
#[expect(clippy::needless_pass_by_value, reason = "what map_err gives")]
fn failed(error: anyhow::Error) -> Error {
    Error::new("org.rdmad.ndd.Failed", "why", &format!("{error:#}"))
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; these descriptors are owned and stay the same"
)]
fn watched<T: AsRawFd>(what: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(what, interest)
}

/// Without systemd there is nobody to tell.
fn notify(states: &[NotifyState<'_>]) {
    sd_notify::notify(false, states).ok();
}
