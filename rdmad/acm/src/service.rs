// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use rdma_acm::endpoints::{Assigned, Endpoint, PortKey};
use rdma_acm::names;
use rdma_acm::options::{DEADLINE, Options};
use rdma_config::Root;
use rdma_udev_helper::local_port::LocalPort;
use rdma_udev_helper::log;
use rdma_varlink::{Call, Interface};
use rdma_verbs::local_service::{Received, Socket};
use rdma_verbs::{Change, DevIndex, Watch};
use sd_notify::NotifyState;
use serde_json::json;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::Files;
use crate::clients::{accept, serve};
use crate::host::AddressChanges;
use crate::keep::keep;
use crate::look::Seen;
use crate::shared::Shared;
use crate::sockets::passed;

const INTERFACE: Interface = Interface {
    name: "org.rdmad.acm",
    description: include_str!("org.rdmad.acm.varlink"),
    product: "ibacm",
};

/// What it listens to, and what it has found.
pub(crate) struct Service {
    pub(crate) root: Root,
    pub(crate) files: Files,
    pub(crate) shared: Rc<Shared>,
    pub(crate) options: Options,
    pub(crate) watch: AsyncFd<Watch>,
    /// The devices whose events are told, by their uverbs nodes.
    pub(crate) followed: BTreeMap<String, DevIndex>,
    /// What the ports are called; None where that is not said.
    pub(crate) names: Option<Vec<Assigned>>,
    /// What was wrong at the last look: it is said once.
    pub(crate) problems: BTreeSet<String>,
    /// A look that is under way.
    pub(crate) looking: Option<JoinHandle<Seen>>,
    /// Something has changed meanwhile.
    pub(crate) again: bool,
    /// systemd waits for the next look.
    is_reloading: bool,
}

pub(crate) async fn run(files: Files) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let passed = passed().context("cannot use what systemd has opened")?;
    let (sender, mut calls) = mpsc::channel(16);
    if let Some(listener) = passed.control {
        tokio::task::spawn_local(async {
            if let Err(error) = rdma_varlink::serve(listener, INTERFACE, sender).await {
                log::warning(format!("nobody can ask any more: {error}"));
            }
        });
    }
    // Before anything is looked at, so that nothing is missed.
    let addresses = AddressChanges::open().context("cannot listen to the kernel")?;
    let mut addresses = watched(addresses)?;
    let mut service = Service::open(files, passed.netlink).await?;
    let shared = Rc::clone(&service.shared);
    let mut serving = tokio::task::spawn_local(serve(Rc::clone(&shared)));
    for (stream, is_librdmacm) in passed.kept {
        shared.clients.borrow_mut().add(stream, is_librdmacm)?;
    }
    let listeners = [(Some(passed.clients), false), (passed.librdmacm, true)];
    let mut accepting = JoinSet::new();
    for (listener, is_librdmacm) in listeners {
        if let Some(listener) = listener {
            accepting.spawn_local(accept(Rc::clone(&shared), listener, is_librdmacm));
        }
    }
    let mut end = None;
    notify(&[NotifyState::Ready]);
    loop {
        if end.is_some_and(|end| end <= Instant::now() || shared.clients.borrow().is_idle()) {
            break;
        }
        let deadline = shared.resolver.borrow().deadline();
        let wake = deadline.into_iter().chain(end).min();
        tokio::select! {
            ready = readable(shared.kernel.as_ref()) => {
                ready?;
                hear(&shared)?;
            }
            ready = service.watch.readable_mut() => {
                let mut ready = ready?;
                let changes = ready.get_inner_mut().wait(Some(Instant::now()))?;
                if changes.is_empty() {
                    ready.clear_ready();
                }
                service.changed(&changes);
            }
            ready = addresses.readable_mut() => {
                let mut ready = ready?;
                ready.get_inner().take();
                ready.clear_ready();
                service.look();
            }
            seen = done(&mut service.looking) => {
                service.looking = None;
                service.seen(seen?);
                if service.looking.is_none() && std::mem::take(&mut service.is_reloading) {
                    notify(&[NotifyState::Ready]);
                }
            }
            () = shared.deadline.notified() => {}
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {
                shared.resolver.borrow_mut().tick(Instant::now());
                shared.act();
            }
            Some(call) = calls.recv() => service.called(call),
            ended = &mut serving => ended?.context("cannot hear what programs ask")?,
            _ = hangup.recv() => service.reload()?,
            _ = terminate.recv() => end = service.end(&mut accepting),
            _ = interrupt.recv() => end = service.end(&mut accepting),
        }
    }
    keep(shared.clients.borrow().idle())
}

/// What a file says; None where there is none.
fn read(path: &Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            log::warning(format!("cannot read {}: {error}", path.display()));
            None
        }
    }
}

fn warn(path: &Path, problems: Vec<String>) {
    for problem in problems {
        log::warning(format!("{}, {problem}", path.display()));
    }
}

async fn readable(kernel: Option<&AsyncFd<Socket>>) -> io::Result<()> {
    match kernel {
        Some(kernel) => {
            kernel.readable().await?.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

async fn done(looking: &mut Option<JoinHandle<Seen>>) -> Result<Seen, JoinError> {
    match looking {
        Some(looking) => looking.await,
        None => std::future::pending().await,
    }
}

/// Hears what the kernel asks.
fn hear(shared: &Shared) -> Result<()> {
    let Some(kernel) = &shared.kernel else { return Ok(()) };
    loop {
        match kernel.get_ref().receive()? {
            Received::Requests(requests) => {
                for request in requests {
                    shared.resolver.borrow_mut().kernel(request, Instant::now());
                }
                shared.act();
            }
            // It asks subnet administration for those itself.
            Received::Lost => {}
            Received::Nothing => return Ok(()),
        }
    }
}

impl Service {
    /// Has looked at everything once.
    async fn open(files: Files, netlink: Option<OwnedFd>) -> Result<Self> {
        let watch = watched(Watch::open().context("cannot listen to the kernel")?)?;
        let kernel = match Socket::open(netlink) {
            Ok(socket) => Some(watched(socket)?),
            Err(error) => {
                log::warning(format!("{error}; the kernel asks subnet administration itself"));
                None
            }
        };
        let mut service = Self {
            root: Root::system(),
            files,
            shared: Rc::new(Shared::new(kernel)?),
            options: Options::default(),
            watch,
            followed: BTreeMap::new(),
            names: None,
            problems: BTreeSet::new(),
            looking: None,
            again: false,
            is_reloading: false,
        };
        service.configure();
        service.look();
        while let Some(looking) = service.looking.take() {
            service.seen(looking.await?);
        }
        Ok(service)
    }

    /// Whoever has asked is still answered, and nobody else; until when.
    fn end(&self, accepting: &mut JoinSet<()>) -> Option<Instant> {
        notify(&[NotifyState::Stopping]);
        accepting.abort_all();
        self.shared.clients.borrow_mut().close();
        Some(Instant::now() + DEADLINE)
    }

    fn reload(&mut self) -> Result<()> {
        notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]);
        self.is_reloading = true;
        self.configure();
        self.look();
        Ok(())
    }

    fn configure(&mut self) {
        let Files { names, options } = &self.files;
        let text = read(options).unwrap_or_default();
        let (options, problems) = Options::parse(&text);
        warn(&self.files.options, problems);
        self.names = read(names).map(|text| {
            let (assigned, problems) = names::parse(&text, options.ips_in_names);
            warn(names, problems);
            assigned
        });
        let hosts = options.hosts.as_ref().map(Path::new).map(|path| {
            let (hosts, problems) = names::hosts(&read(path).unwrap_or_default());
            warn(path, problems);
            hosts
        });
        let mut resolver = self.shared.resolver.borrow_mut();
        resolver.configure(options.clone(), hosts.unwrap_or_default());
        self.shared.only_acme_and_kernel.set(options.acme_and_kernel_only);
        if options != self.options {
            // They are opened again, with what is configured now.
            self.shared.ports.borrow_mut().clear();
            self.options = options;
        }
    }

    /// Something has changed, or may have.
    fn changed(&mut self, changes: &[Change]) {
        let mut is_news = false;
        for change in changes {
            match change {
                Change::Async(node, event) => {
                    is_news = true;
                    let Some(index) = self.followed.get(node) else { continue };
                    let ports: Vec<PortKey> = self.shared.ports.borrow().keys().copied().collect();
                    let of = |(device, port): &PortKey| {
                        device == index && event.port().is_none_or(|of| of == *port)
                    };
                    for key in ports.into_iter().filter(of) {
                        self.shared.resolver.borrow_mut().forget(key);
                    }
                }
                Change::Uevent(event) => {
                    if event.action() == "remove" {
                        self.followed.remove(event.name());
                    }
                    is_news |= event.subsystem().starts_with("infiniband");
                }
                Change::Lost => {
                    self.followed.clear();
                    is_news = true;
                }
                // What an interface is called does not matter; its addresses are told by themselves.
                Change::Link => {}
            }
        }
        if is_news {
            self.look();
        }
    }

    fn called(&self, call: Call) {
        let reply = match call.method.as_str() {
            "Status" => {
                let resolver = self.shared.resolver.borrow();
                let (questions, paths) = resolver.sizes();
                json!({
                    "clients": self.shared.clients.borrow().len(),
                    "questions": questions,
                    "paths": paths,
                    "figures": resolver.figures(),
                })
            }
            "Endpoints" => {
                let resolver = self.shared.resolver.borrow();
                let endpoint = |(port, endpoint): (&LocalPort, &Endpoint)| {
                    json!({
                        "device": port.device,
                        "port": port.number.0,
                        "pkey": endpoint.pkey,
                        "names": endpoint.names,
                    })
                };
                json!({ "endpoints": resolver.endpoints().map(endpoint).collect::<Vec<_>>() })
            }
            // Whoever has called is told that there is no such method.
            _ => return,
        };
        // Whoever asked may have gone.
        call.answer.send(Ok(reply)).ok();
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; this descriptor is owned and stays the same"
)]
pub(crate) fn watched<T: AsRawFd>(what: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(what, tokio::io::Interest::READABLE)
}

/// Without systemd there is nobody to tell.
fn notify(states: &[NotifyState<'_>]) {
    sd_notify::notify(false, states).ok();
}
