// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdmad`: keeps RDMA devices as the configuration says: software devices of `[[link]]`, settings of `[[device]]`,
//! `[system]`; and tells of devices and ports on D-Bus. Between two events it sleeps.
#![forbid(unsafe_code)]

mod bus;
mod manager;
mod metrics;
mod polkit;

use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use bus::{Bus, Order};
use manager::Manager;
use metrics::Counters;
use rdma_config::{Config, Root};
use rdma_udev_helper::log;
use rdma_verbs::{Change, Watch};
use rdmad::env;
use rdmad::model::{Model, differences};
use sd_notify::NotifyState;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

fn main() -> ExitCode {
    let root = Root::system();
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--is-needed") => return ExitCode::from(u8::from(!is_needed(&root))),
        Some(_) => {
            eprintln!(
                "rdmad              run, until told to end; SIGHUP has it read the configuration again\n\
                 rdmad --is-needed  exit status 0 when there are RDMA devices, or the configuration asks for any"
            );
            return ExitCode::from(2);
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let done =
        runtime.context("cannot wait for events").and_then(|runtime| runtime.block_on(run(root)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(format!("{error:#}"));
            ExitCode::from(log::exit_status(&error))
        }
    }
}

/// Whether there is anything to do, now or when a network interface comes.
fn is_needed(root: &Root) -> bool {
    // What is wrong in it is told by who runs.
    let (config, _) = Config::load(root);
    let devices = std::fs::read_dir(root.path("/sys/class/infiniband"));
    let any = devices.is_ok_and(|mut devices| devices.next().is_some());
    any || !config.links.is_empty() || config.netns_shared.is_some()
}

async fn run(root: Root) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let watch = Watch::open().context("cannot listen to the kernel")?;
    let mut watch = watched(watch, Interest::READABLE)?;
    let (orders, mut ordered) = mpsc::channel(16);
    let mut manager = Manager::new(root.clone());
    manager.tick(watch.get_mut())?;
    let mut bus = match Bus::open(&root, orders).await {
        Ok(bus) => Some(bus),
        Err(error) => {
            log::warning(format!("{error:#}; going on without it"));
            None
        }
    };
    let mut shown = Model::new();
    let mut counters = Counters::default();
    show(&mut bus, &manager, &mut shown, &mut counters).await;
    notify(&[NotifyState::Ready]);
    loop {
        tokio::select! {
            ready = watch.readable_mut() => {
                let mut ready = ready?;
                let changes = ready.get_inner_mut().wait(Some(Instant::now()))?;
                if changes.is_empty() {
                    ready.clear_ready();
                    continue;
                }
                for change in &changes {
                    match change {
                        Change::Link => {}
                        // The ports of another device have it by another name.
                        Change::Uevent(event)
                            if event.subsystem() == "net" && event.action() == "move" =>
                        {
                            manager.forget();
                        }
                        Change::Lost => {
                            counters.lost();
                            manager.forget();
                        }
                        Change::Async(node, _) => manager.forget_node(node),
                        Change::Uevent(event) => counters.uevent(event),
                    }
                }
                if !changes.iter().any(matters) {
                    continue;
                }
                manager.tick(watch.get_mut())?;
            }
            _ = hangup.recv() => reload(&mut manager, watch.get_mut())?,
            Some(Order::Reload(done)) = ordered.recv() => {
                reload(&mut manager, watch.get_mut())?;
                // Whoever asked may have gone.
                done.send(()).ok();
            }
            _ = terminate.recv() => {
                notify(&[NotifyState::Stopping]);
                return Ok(());
            }
        }
        show(&mut bus, &manager, &mut shown, &mut counters).await;
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; these descriptors are owned and stay the same"
)]
fn watched<T: AsRawFd>(what: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(what, interest)
}

fn reload(manager: &mut Manager, watch: &mut Watch) -> Result<()> {
    let now = NotifyState::monotonic_usec_now();
    notify(&[NotifyState::Reloading, now?]);
    manager.reload();
    manager.tick(watch)?;
    notify(&[NotifyState::Ready]);
    Ok(())
}

/// What the journal keeps, for `rdmactl boot` and for later questions; who wants all asks `rdmactl monitor`.
const TOLD: [&str; 5] = ["added", "removed", "name", "state", "gid index for RoCE v2"];

/// Brings the journal, the files in `/run/rdma` and the bus up to date. Without a bus the rest goes on.
async fn show(
    bus: &mut Option<Bus>,
    manager: &Manager,
    shown: &mut Model,
    counters: &mut Counters,
) {
    let model = manager.model();
    counters.states(shown, &model);
    for difference in differences(shown, &model).iter().filter(|d| TOLD.contains(&d.what)) {
        log::note(difference);
    }
    manager.write("metrics/rdma.prom", &metrics::text(&model, manager.problems().len(), counters));
    manager.write("env", &env::text(&model));
    if let Some(open) = bus
        && let Err(error) = open.show(&model, manager.problems()).await
    {
        log::warning(format!("the system bus is lost: {error:#}; going on without it"));
        *bus = None;
    }
    *shown = model;
}

fn matters(change: &Change) -> bool {
    match change {
        // Network interfaces are ready when udev says so.
        Change::Uevent(event) => {
            event.subsystem().starts_with("infiniband")
                || (event.subsystem() == "net" && event.from_udev)
        }
        Change::Async(..) | Change::Link | Change::Lost => true,
    }
}

/// Without systemd there is nobody to tell.
fn notify(states: &[NotifyState<'_>]) {
    sd_notify::notify(false, states).ok();
}
