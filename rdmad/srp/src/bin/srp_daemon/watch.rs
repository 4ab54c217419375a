// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stays, and logs in to targets as they come.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdma_config::Root;
use rdma_srp::connected::{is_connected, log_in, why};
use rdma_srp::plan::{Plan, Whom};
use rdma_srp::rules::Rules;
use rdma_srp::scan::{Found, Node, Scan};
use rdma_srp::unit::{Extras, Target};
use rdma_udev_helper::local_port::LocalPort;
use rdma_udev_helper::log;
use rdma_udev_helper::world::{Lock, World};
use rdma_varlink::{Call, Error, Interface};
use rdma_verbs::backoff::{about, until_again};
use rdma_verbs::dm;
use rdma_verbs::mad::{Event, MadHeader, Notice, attribute};
use rdma_verbs::requests::Unasked;
use rdma_verbs::sa::{Patience, Subscription, record};
use rdma_verbs::{Change, Watch};
use serde_json::json;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::Arguments;

const INTERFACE: Interface = Interface {
    name: "org.rdmad.srp",
    description: include_str!("../../org.rdmad.srp.varlink"),
    product: "srp_daemon",
};
/// About how long after something has happened to the port all are asked: more of it may come, and on all nodes of the
/// fabric at the same time.
const SOON: Duration = Duration::from_millis(200);
/// How long a port that has just come is given before it is asked.
const A_MOMENT: Duration = Duration::from_millis(100);
/// How long the end of the service waits for the subnet manager.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often in a row a refused login is tried again before long.
const TRIES: u32 = 6;

/// Runs until it is told to end, or the device goes.
pub(crate) fn run(arguments: Arguments, rules: Rules) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot wait for events")?;
    let set = tokio::task::LocalSet::new();
    let outcome =
        set.block_on(&runtime, async { Daemon::begin(arguments, rules).await?.run().await });
    // A login that the kernel has not ended holds up nobody.
    runtime.shutdown_background();
    outcome
}

struct Daemon {
    root: Root,
    arguments: Arguments,
    rules: Rules,
    watch: AsyncFd<Watch>,
    /// What the port was at the last look.
    port: LocalPort,
    node: AsyncFd<Node>,
    subscription: Subscription,
    plan: Plan,
    scan: Option<(Whom, Scan)>,
    asked: Option<Instant>,
    /// By the line for ib_srp.
    targets: BTreeMap<String, (Target, State)>,
    jobs: std::sync::mpsc::Sender<(LocalPort, Target, String)>,
    logins: mpsc::UnboundedReceiver<(String, io::Result<()>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    New,
    NotAllowed,
    /// And how it was refused before.
    LogsIn(Option<Refusal>),
    Connected,
    Refused(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    why: String,
    /// In a row.
    times: u32,
}

impl Daemon {
    async fn begin(arguments: Arguments, rules: Rules) -> Result<Self> {
        let root = Root::system();
        // Before anything is looked at, so that nothing is missed.
        let mut watch = Watch::open().context("cannot listen to the kernel")?;
        let port = arguments.port(&root)?;
        follow(&root, &port, &mut watch);
        let node = open(&port, arguments.patience).await?;
        let (jobs, logins) = login_thread(root.clone())?;
        Ok(Self {
            plan: Plan::new(arguments.period),
            watch: watched(watch)?,
            node: watched(node)?,
            subscription: Subscription::default(),
            scan: None,
            asked: None,
            targets: BTreeMap::new(),
            root,
            arguments,
            rules,
            port,
            jobs,
            logins,
        })
    }

    async fn run(mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, mut calls) = mpsc::channel(16);
        if let Some(listener) = rdma_varlink::listener().context("cannot listen")? {
            tokio::task::spawn_local(async {
                if let Err(error) = rdma_varlink::serve(listener, INTERFACE, sender).await {
                    log::warning(format!("nobody can ask any more: {error}"));
                }
            });
        }
        self.port_changed();
        sd_notify::notify(false, &[sd_notify::NotifyState::Ready]).ok();
        loop {
            self.advance();
            if self.node.get_mut().client.requests().is_gone() {
                log::note(format!("RDMA device '{}' has gone", self.port.device));
                return Ok(());
            }
            let wake = self.next();
            tokio::select! {
                ready = self.node.readable() => ready?.clear_ready(),
                ready = self.watch.readable_mut() => {
                    let mut ready = ready?;
                    let changes = ready.get_inner_mut().wait(Some(Instant::now()))?;
                    if changes.is_empty() {
                        ready.clear_ready();
                    }
                    let number = self.port.number;
                    let ours = |change: &Change| match change {
                        Change::Async(_, event) => event.port().is_none_or(|port| port == number),
                        Change::Lost => true,
                        Change::Uevent(_) | Change::Link => false,
                    };
                    if changes.iter().any(ours) {
                        self.port_changed();
                    }
                }
                () = until(wake) => {}
                Some((line, outcome)) = self.logins.recv() => self.logged_in(&line, outcome),
                Some(call) = calls.recv() => self.answer(call),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.farewell().await
    }

    /// When there is something to do, whatever happens.
    fn next(&self) -> Option<Instant> {
        let plan = self.plan.next().filter(|_| self.scan.is_none());
        let client = self.node.get_ref().client.next();
        self.subscription.again().into_iter().chain(plan).chain(client).min()
    }

    /// The port, its subnet manager, its tables: something is different, or may be.
    fn port_changed(&mut self) {
        let was_ready = self.port.ready().is_ok();
        match LocalPort::find(&self.root, Some(&self.port.umad), None) {
            Ok(port) => self.port = port,
            // It is going, and its node says so next.
            Err(error) => return log::note(format!("{error:#}")),
        }
        if let Some((_, mut scan)) = self.scan.take() {
            scan.cancel(self.node.get_mut());
        }
        self.node.get_mut().client.set_manager(self.port.manager());
        match self.port.ready() {
            Ok(()) => {
                self.subscription.begin(&mut self.node.get_mut().client);
                self.plan.ask(Whom::All, Instant::now() + about(SOON));
            }
            Err(error) => {
                if was_ready || self.asked.is_none() {
                    log::note(format!("{error:#}; waiting for that"));
                }
                self.plan.clear();
            }
        }
    }

    /// Does what can be done without waiting.
    fn advance(&mut self) {
        let now = Instant::now();
        if self.subscription.again().is_some_and(|again| again <= now) {
            self.subscription.begin(&mut self.node.get_mut().client);
        }
        if self.scan.is_none()
            && let Some(whom) = self.plan.take(now)
        {
            self.scan = Some((whom, Scan::begin(self.node.get_mut(), self.port.clone(), whom)));
        }
        while let Some((id, outcome)) = self.node.get_mut().client.advance(Instant::now()) {
            match self.subscription.take(id, outcome, now) {
                Ok(said) => said.iter().for_each(log::note),
                Err(outcome) => {
                    if let Some((_, scan)) = &mut self.scan {
                        scan.take(self.node.get_mut(), id, outcome);
                    }
                }
            }
        }
        while let Some(unasked) = self.node.get_mut().client.requests().take_unasked() {
            self.reported(unasked, now);
        }
        if self.scan.as_ref().is_some_and(|(_, scan)| scan.is_done())
            && let Some((whom, scan)) = self.scan.take()
        {
            self.scanned(whom, scan, now);
        }
    }

    fn reported(&mut self, unasked: Unasked, now: Instant) {
        let from_manager = unasked.from.lid == self.port.sm_lid;
        let header = MadHeader::of(&unasked.mad);
        let notice = record::<Notice>(&unasked.mad);
        // Anybody can send one; what it leads to is a question to the subnet manager.
        if !from_manager || header.is_none_or(|h| h.attribute.get() != attribute::NOTICE) {
            return;
        }
        if let Err(error) = self.node.get_mut().client.requests().acknowledge(unasked) {
            log::note(format!("cannot acknowledge a report: {error}"));
        }
        // Something has come: maybe what has refused before is another by now.
        for (_, state) in self.targets.values_mut() {
            if let State::Refused(refusal) = state {
                refusal.times = 0;
            }
        }
        match notice.and_then(|notice| notice.event()) {
            Some(Event::InService(gid)) => self.plan.ask(Whom::Gid(gid), now + A_MOMENT),
            Some(Event::Capabilities { lid, mask }) if mask & dm::IS_SUPPORTED != 0 => {
                self.plan.ask(Whom::Lid(lid), now + A_MOMENT);
            }
            _ => {}
        }
    }

    fn scanned(&mut self, whom: Whom, scan: Scan, now: Instant) {
        let outcome = scan.finish();
        self.plan.done(whom, outcome.is_ok(), now);
        let found = match outcome {
            Ok(found) => found,
            Err(error) => return log::note(format!("{error:#}; asking again")),
        };
        if self.arguments.verbose {
            found.problems.iter().for_each(log::note);
        }
        if whom == Whom::All {
            self.asked = Some(now);
        }
        self.take_targets(whom, &found, now);
    }

    fn take_targets(&mut self, whom: Whom, found: &Found, now: Instant) {
        let extras = Extras {
            max_imm_data: Extras::of_module(&self.root).max_imm_data,
            ..self.arguments.extras
        };
        let mut seen = BTreeMap::new();
        for target in found.units.iter().flat_map(|unit| unit.targets()) {
            let options = self.rules.options(&target);
            let Some(line) = target.line(options.unwrap_or_default(), extras) else {
                log::warning(format!("there is no room for all options of {target:?}"));
                continue;
            };
            let before = self.targets.get(&line).map(|(_, state)| state.clone());
            let any_pkey = self.arguments.log_in;
            let connected = is_connected(&self.root, &self.port, &target, any_pkey);
            let state = match (options, before) {
                (None, _) => State::NotAllowed,
                (Some(_), Some(State::LogsIn(before))) => State::LogsIn(before),
                (Some(_), _) if connected => {
                    // It has just come back; ib_srp may be about to end what there was before.
                    if let (true, Some(recheck)) = (whom != Whom::All, self.arguments.recheck) {
                        self.plan.ask(Whom::Gid(target.gid), now + recheck);
                    }
                    State::Connected
                }
                (Some(_), before) => {
                    if self.arguments.print {
                        println!("{line}");
                    }
                    if self.arguments.log_in {
                        // The thread lives as long as this.
                        let job = (self.port.clone(), target.clone(), line.clone());
                        self.jobs.send(job).ok();
                        State::LogsIn(match before {
                            Some(State::Refused(refusal)) => Some(refusal),
                            _ => None,
                        })
                    } else {
                        State::New
                    }
                }
            };
            seen.insert(line, (target, state));
        }
        if whom == Whom::All {
            self.targets = seen;
        } else {
            self.targets.extend(seen);
        }
    }

    fn logged_in(&mut self, line: &str, outcome: io::Result<()>) {
        let why = match outcome {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                format!("{}: {error}", why(&error))
            }
            Ok(()) | Err(_) => {
                log::note(format!("logged in to {line}"));
                if let Some((_, state)) = self.targets.get_mut(line) {
                    *state = State::Connected;
                }
                return;
            }
        };
        // It may be there no more.
        let Some((target, state)) = self.targets.get_mut(line) else { return };
        let before = match state {
            State::LogsIn(Some(before)) => before.clone(),
            _ => Refusal { why: String::new(), times: 0 },
        };
        // Once, however often it is tried.
        if before.why != why {
            log::warning(format!("cannot log in to {line}: {why}"));
        }
        let times = before.times + 1;
        // One that has just come may not be ready yet; who refuses for long is asked with all others only.
        if times <= TRIES {
            self.plan.ask(Whom::Gid(target.gid), Instant::now() + until_again(times));
        }
        *state = State::Refused(Refusal { why, times });
    }

    fn answer(&mut self, call: Call) {
        let reply = match call.method.as_str() {
            "Targets" => {
                let target = |(line, (_, state)): (&String, &(Target, State))| {
                    let state = match state {
                        State::New => "new",
                        State::NotAllowed => "not allowed",
                        State::LogsIn(_) => "logs in",
                        State::Connected => "connected",
                        State::Refused(Refusal { why, .. }) => why,
                    };
                    json!({ "line": line, "state": state })
                };
                Ok(json!({
                    "device": self.port.device,
                    "port": self.port.number.0,
                    "asked": self.asked.map(|asked| asked.elapsed().as_secs_f64()),
                    "targets": self.targets.iter().map(target).collect::<Vec<_>>(),
                }))
            }
            "Rescan" => match self.port.ready() {
                Ok(()) => {
                    self.plan.ask(Whom::All, Instant::now());
                    Ok(json!({}))
                }
                Err(error) => {
                    Err(Error::new("org.rdmad.srp.NotReady", "why", &format!("{error:#}")))
                }
            },
            // Whoever has called is told that there is no such method.
            _ => return,
        };
        // Whoever asked may have gone.
        call.answer.send(reply).ok();
    }

    /// Takes the subscriptions back, as long as that is answered soon.
    async fn farewell(mut self) -> Result<()> {
        if self.port.ready().is_err() {
            return Ok(());
        }
        self.subscription.end(&mut self.node.get_mut().client);
        let deadline = Instant::now() + FAREWELL;
        while !self.subscription.is_done() && !self.node.get_mut().client.requests().is_gone() {
            while let Some((id, outcome)) = self.node.get_mut().client.advance(Instant::now()) {
                self.subscription.take(id, outcome, deadline).ok();
            }
            tokio::select! {
                ready = self.node.readable() => ready?.clear_ready(),
                () = until(Some(deadline)) => break,
            }
        }
        Ok(())
    }
}

/// Opens the port's node. After a rename the daemon of the old name may have it for a moment yet, and nothing tells when
/// it has not.
async fn open(port: &LocalPort, patience: Patience) -> Result<Node> {
    let mut failures = 0;
    loop {
        failures += 1;
        match Node::open(port, patience, true) {
            Err(_) if failures < 4 => tokio::time::sleep(until_again(failures)).await,
            opened => {
                return opened.context(
                    "cannot be told of targets that come; is there another srp_daemon for this port?",
                );
            }
        }
    }
}

/// Has the events of the port's device told.
fn follow(root: &Root, port: &LocalPort, watch: &mut Watch) {
    let mut followed = || -> Result<()> {
        let mut world = World::now(root, Lock::None)?;
        let device = world.by_name(&port.device).cloned().context("it has gone")?;
        let look = world.look(&device);
        let Some(node) = look.uverbs() else { bail!("it has no uverbs node") };
        watch.follow(&root.path("/dev/infiniband"), node, look.driver.as_deref())?;
        Ok(())
    };
    if let Err(error) = followed() {
        let device = &port.device;
        log::warning(format!("changes of RDMA device '{device}' are not seen at once: {error:#}"));
    }
}

/// A thread that logs in: the kernel answers when the target has, or when it gives it up.
#[expect(clippy::type_complexity, reason = "both ends of two channels")]
fn login_thread(
    root: Root,
) -> Result<(
    std::sync::mpsc::Sender<(LocalPort, Target, String)>,
    mpsc::UnboundedReceiver<(String, io::Result<()>)>,
)> {
    let (jobs, to_do) = std::sync::mpsc::channel::<(LocalPort, Target, String)>();
    let (done, logins) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("login".into())
        .spawn(move || {
            for (port, target, line) in to_do {
                // It was asked for twice, or over two P_Keys.
                let outcome = match is_connected(&root, &port, &target, true) {
                    true => Ok(()),
                    false => log_in(&root, &port, &line),
                };
                if done.send((line, outcome)).is_err() {
                    return;
                }
            }
        })
        .context("cannot start a thread")?;
    Ok((jobs, logins))
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => pending().await,
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; these descriptors are owned and stay the same"
)]
fn watched<T: AsRawFd>(what: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(what, Interest::READABLE)
}
