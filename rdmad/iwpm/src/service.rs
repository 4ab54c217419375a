// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop of the daemon.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use rdma_config::Root;
use rdma_iwpm::SOCKET;
use rdma_iwpm::config::Config;
use rdma_iwpm::kept::{Kept, Line};
use rdma_iwpm::mapper::{Mapper, Output};
use rdma_iwpm::mappings::Mapping;
use rdma_udev_helper::log;
use rdma_varlink::{Call, Error, Interface, ListenFd, Reply};
use rdma_verbs::iwpm::{Message, PORT, Received, Socket};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use sd_notify::NotifyState;
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::network::{Asked, Datagram, Peers, ThisHost};

const INTERFACE: Interface = Interface {
    name: "org.rdmad.iwpm",
    description: include_str!("org.rdmad.iwpm.varlink"),
    product: "iwpmd",
};
const CONFIG: &str = "/etc/iwpmd.conf";
/// How many mappings one call gives.
const PAGE: usize = 1000;
/// The kernel is asked again for what there is when some of it was lost on the way, so often.
const TRIES: u32 = 3;
/// How many answers of other mappers are read ahead; more wait in their sockets.
const ANSWERS: usize = 1024;

struct Service {
    kernel: AsyncFd<Socket>,
    v4: Option<Asked>,
    v6: Option<Asked>,
    peers: Peers,
    mapper: Mapper<ThisHost>,
    /// None where there is nothing to keep it in.
    kept: Option<Kept>,
}

pub(crate) async fn run() -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut dump = signal(SignalKind::user_defined1())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, mut calls) = mpsc::channel(16);
    let mut passed = ListenFd::from_env();
    if let Some(listener) = rdma_varlink::listener_of(&mut passed)
        .with_context(|| format!("cannot listen at {SOCKET}"))?
    {
        tokio::task::spawn_local(async {
            if let Err(error) = rdma_varlink::serve(listener, INTERFACE, sender).await {
                log::warning(format!("nobody can ask any more: {error}"));
            }
        });
    }
    let (sender, mut answers) = mpsc::channel(ANSWERS);
    let mut service = Service::open(Peers::new(sender), netlink(&mut passed))?;
    service.configure();
    service.agree()?;
    notify(&[NotifyState::Ready]);
    loop {
        service.act()?;
        let deadline = service.mapper.deadline();
        tokio::select! {
            ready = service.kernel.readable() => {
                ready?.clear_ready();
                service.hear()?;
            }
            asked = receive(service.v4.as_ref()) => service.request(asked),
            asked = receive(service.v6.as_ref()) => service.request(asked),
            Some((from, answer)) = answers.recv() => match answer {
                Ok(bytes) => service.mapper.answer(from, &bytes, Instant::now()),
                Err(_) => service.mapper.refused(from, Instant::now()),
            },
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                service.mapper.tick(Instant::now());
            }
            Some(call) = calls.recv() => service.called(call),
            _ = dump.recv() => service.dump(),
            _ = hangup.recv() => {
                let now = NotifyState::monotonic_usec_now();
                notify(&[NotifyState::Reloading, now?]);
                service.configure();
                service.agree()?;
                notify(&[NotifyState::Ready]);
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    notify(&[NotifyState::Stopping]);
    Ok(())
}

/// The netlink socket that systemd has opened: what the kernel asks while nobody is there waits in it.
fn netlink(passed: &mut ListenFd) -> Option<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK.as_raw(), SocketType::RAW.as_raw());
    let kind = i32::try_from(kind).ok()?;
    (0..passed.len())
        .find_map(|index| passed.take_custom(index, family.into(), kind, "netlink socket").ok()?)
}

async fn receive(socket: Option<&Asked>) -> io::Result<Vec<Datagram>> {
    match socket {
        Some(socket) => socket.receive().await,
        None => std::future::pending().await,
    }
}

impl Service {
    fn open(peers: Peers, netlink: Option<OwnedFd>) -> Result<Self> {
        let asked = |is_v4| {
            Asked::open(is_v4).with_context(|| {
                format!("cannot be asked at UDP port {PORT} (is there another port mapper?)")
            })
        };
        let (v4, v6) = (asked(true)?, asked(false)?);
        anyhow::ensure!(v4.is_some() || v6.is_some(), "this host has no IP addresses");
        let kernel = Socket::open(netlink).context("cannot serve the kernel's iw_cm")?;
        let kernel = watched(kernel)?;
        let mut mapper = Mapper::new(ThisHost);
        // RuntimeDirectory= of its unit.
        let path =
            std::env::var_os("RUNTIME_DIRECTORY").map(|dir| Path::new(&dir).join("mappings"));
        let kept = path.map(|path| Kept::open(&path)).transpose().unwrap_or_else(|error| {
            log::warning(format!("cannot keep mappings for when it is started anew: {error}"));
            None
        });
        let kept = kept.map(|(kept, lines)| {
            mapper.restore(&lines);
            kept
        });
        Ok(Self { kernel, v4, v6, peers, mapper, kept })
    }

    fn configure(&self) {
        let text = match std::fs::read_to_string(Root::system().path(CONFIG)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return log::warning(format!("cannot read {CONFIG}: {error}")),
        };
        let (config, problems) = Config::parse(&text);
        for problem in problems {
            log::warning(format!("{CONFIG}, {problem}"));
        }
        if let Some(bytes) = config.receive_buffer
            && let Err(error) = self.kernel.get_ref().set_receive_buffer(bytes)
        {
            log::warning(format!("cannot have a receive buffer of {bytes} bytes: {error}"));
        }
    }

    /// Has the kernel tell what there is already.
    fn agree(&mut self) -> Result<()> {
        for _ in 0..TRIES {
            let told = self.kernel.get_mut().tell(&Message::TellMappings);
            let did_stop = match told {
                Ok(()) => false,
                Err(error) if error.reason.errno() == Some(Errno::NOMEM.raw_os_error()) => true,
                Err(error) => {
                    return Err(error).context(
                        "the kernel has no iw_cm, or it is not of this network namespace",
                    );
                }
            };
            let is_lost = self.receive()?;
            self.mapper.agree(did_stop || is_lost, Instant::now());
            self.act()?;
            self.keep_anew();
            if did_stop && self.kept.is_none() {
                log::warning(
                    "the kernel does not tell of all listeners and connections: others may be given their ports",
                );
            }
            if !is_lost {
                break;
            }
        }
        Ok(())
    }

    /// Hears what the kernel asks; where something was lost, all that there is.
    fn hear(&mut self) -> Result<()> {
        if self.receive()? { self.agree() } else { Ok(()) }
    }

    /// Whether something was lost.
    fn receive(&mut self) -> Result<bool> {
        let mut is_lost = false;
        loop {
            match self.kernel.get_ref().receive()? {
                Received::Requests(requests) => {
                    for request in requests {
                        self.mapper.hear(request, Instant::now());
                    }
                    self.act()?;
                }
                Received::Lost => is_lost = true,
                Received::Nothing => return Ok(is_lost),
            }
        }
    }

    fn request(&mut self, asked: io::Result<Vec<Datagram>>) {
        // An error is that of a datagram that could not be delivered.
        for (from, to, bytes) in asked.unwrap_or_default() {
            self.mapper.request(from, to, &bytes, Instant::now());
        }
    }

    /// Does what the mapper has said.
    fn act(&mut self) -> Result<()> {
        while let Some(output) = self.mapper.output() {
            match output {
                Output::Tell(message) => match self.kernel.get_mut().tell(&message) {
                    // It does not wait for that any more.
                    Err(error) if error.reason.errno() == Some(Errno::INVAL.raw_os_error()) => {}
                    told => told?,
                },
                Output::Ask(peer, datagram) => self.peers.ask(peer, &datagram),
                Output::Leave(peer) => self.peers.leave(peer),
                Output::Answer { from, to, datagram } => {
                    let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
                    if let Some(socket) = socket {
                        socket.answer(from, to, &datagram);
                    }
                }
                Output::Keep(line) => self.keep(&line),
                Output::Warn(what) => log::warning(what),
            }
        }
        Ok(())
    }

    fn keep(&mut self, line: &Line) {
        let Some(kept) = &mut self.kept else { return };
        let done = kept.push(line);
        let is_long = kept.is_long(self.mapper.mappings.len());
        self.kept_or_not(done);
        if is_long {
            self.keep_anew();
        }
    }

    fn keep_anew(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        let done = kept.shorten(self.mapper.mappings.after(None).map(Mapping::line));
        self.kept_or_not(done);
    }

    fn kept_or_not(&mut self, done: io::Result<()>) {
        if let Err(error) = done {
            log::warning(format!("mappings are not kept for when it is started anew: {error}"));
            if let Some(kept) = self.kept.take() {
                kept.discard();
            }
        }
    }

    fn dump(&self) {
        for mapping in self.mapper.mappings.after(None) {
            log::note(format!("{} is {}, {} times", mapping.local, mapping.mapped, mapping.users));
        }
        log::note(format!("{} mappings, {:?}", self.mapper.mappings.len(), self.mapper.figures()));
    }

    fn called(&self, call: Call) {
        let Call { method, parameters, answer } = call;
        let reply = match method.as_str() {
            "Mappings" => match parameters.get("after") {
                None | Some(Value::Null) => Ok(self.page(None)),
                Some(Value::String(text)) => text
                    .parse()
                    .map(|after| self.page(Some(after)))
                    .map_err(|_| Error::invalid("after")),
                Some(_) => Err(Error::invalid("after")),
            },
            "Status" => self.status(),
            // Whoever has called is told that there is no such method.
            _ => return,
        };
        // Whoever asked may have gone.
        answer.send(reply).ok();
    }

    fn page(&self, after: Option<SocketAddr>) -> Value {
        let mappings = self.mapper.mappings.after(after).take(PAGE).map(|mapping| {
            json!({
                "local": mapping.local.to_string(),
                "mapped": mapping.mapped.to_string(),
                "users": mapping.users,
                "reserved": mapping.is_reserved(),
            })
        });
        json!({ "mappings": mappings.collect::<Vec<_>>() })
    }

    fn status(&self) -> Reply {
        let silent = self.mapper.questions.silent(Instant::now());
        Ok(json!({
            "mappings": self.mapper.mappings.len(),
            "questions": self.mapper.questions.open(),
            "silent": silent.map(|host| host.to_string()).collect::<Vec<_>>(),
            "figures": self.mapper.figures(),
        }))
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; this descriptor is owned and stays the same"
)]
fn watched<T: AsRawFd>(what: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(what, tokio::io::Interest::READABLE)
}

/// Without systemd there is nobody to tell.
fn notify(states: &[NotifyState<'_>]) {
    sd_notify::notify(false, states).ok();
}
