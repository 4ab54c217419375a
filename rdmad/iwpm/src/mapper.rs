// SPDX-License-Identifier: MIT OR Apache-2.0
//! The port mapper, without a socket or a clock of its own: what the kernel and other mappers say goes in, what they are
//! to be told comes out.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rdma_verbs::iwpm::{Connection, Datagram, Failure, Kind, LIBRARY, Malformed, Message, Request};
use serde::Serialize;

use crate::kept::Line;
use crate::mappings::{Host, Mapping, Mappings, Told};
use crate::questions::Questions;

/// That long a request that is sent again is known to be the same.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How many of those there may be: the kernel is told of each, and keeps it until the connection comes.
const REQUESTS: usize = 1 << 16;
/// How long nothing is said of what goes wrong all the time.
const QUIET: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Keep what has become of a mapping, for a port mapper that is started anew.
    Keep(Line),
    /// Tell the kernel.
    Tell(Message),
    /// Send to the mapper of another host.
    Ask(SocketAddr, Vec<u8>),
    /// Nothing more is to be heard of that one.
    Leave(SocketAddr),
    /// Send from the mappers' port to where a request has come from.
    Answer {
        /// The address that was asked, where it is known.
        from: Option<IpAddr>,
        /// Who has asked.
        to: SocketAddr,
        /// The answer.
        datagram: Vec<u8>,
    },
    /// Tell the administrator.
    Warn(String),
}

/// What is to be done, in this order, and what was done so far.
#[derive(Debug, Default)]
pub struct Outputs {
    outputs: VecDeque<Output>,
    /// What was done so far.
    pub figures: Figures,
}

impl Outputs {
    /// One more.
    pub fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Listeners and connections that have got a mapping.
    pub added: u64,
    /// Those that have got none.
    pub failed: u64,
    /// Questions to other mappers.
    pub asked: u64,
    /// Times that one was sent again.
    pub again: u64,
    /// Those that were answered with a mapping.
    pub accepted: u64,
    /// Those that were answered with none.
    pub rejected: u64,
    /// Those that nobody has answered.
    pub silent: u64,
    /// Requests of other mappers that were answered with a mapping.
    pub granted: u64,
    /// Requests of other mappers for what is not there.
    pub denied: u64,
    /// Datagrams that make no sense, or are not from whom they should be.
    pub refused: u64,
}

/// A port mapper.
#[derive(Debug)]
pub struct Mapper<H: Host> {
    host: H,
    /// What is mapped to what.
    pub mappings: Mappings<H::Port>,
    /// What other mappers are asked.
    pub questions: Questions,
    /// Requests of other mappers that the kernel was told of, oldest first.
    granted: VecDeque<(Instant, (SocketAddr, u64))>,
    is_granted: HashSet<(SocketAddr, u64)>,
    /// What the kernel tells of what there is already, and how much it said that there is.
    told: (Vec<Told>, Option<u32>),
    warned: Option<Instant>,
    out: Outputs,
}

impl<H: Host> Mapper<H> {
    /// A mapper that knows nothing yet.
    pub fn new(host: H) -> Self {
        Self {
            host,
            mappings: Mappings::default(),
            questions: Questions::default(),
            granted: VecDeque::new(),
            is_granted: HashSet::new(),
            told: (Vec::new(), None),
            warned: None,
            out: Outputs::default(),
        }
    }

    /// What is to be done next.
    pub fn output(&mut self) -> Option<Output> {
        self.out.outputs.pop_front()
    }

    /// What has happened so far.
    pub fn figures(&self) -> Figures {
        self.out.figures
    }

    /// When [`Mapper::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.questions.deadline()
    }

    /// The time has come.
    pub fn tick(&mut self, now: Instant) {
        self.questions.tick(&mut self.out, now);
    }

    /// What the kernel has said.
    pub fn hear(&mut self, request: Result<Request, Malformed>, now: Instant) {
        match request {
            Ok(Request::Register { sequence, device, library }) => {
                self.out.push(Output::Tell(if library == LIBRARY {
                    Message::Registered { sequence, device }
                } else {
                    Message::Failed { sequence, failure: Failure::OtherLibrary }
                }));
            }
            Ok(Request::Add { sequence, local, .. }) if self.mappings.overlaps(local) => {
                self.fail(sequence, Failure::Duplicate);
            }
            Ok(Request::Add { sequence, local, reserve }) => {
                if let Some(mapped) = self.add(sequence, local, reserve, now) {
                    self.out.push(Output::Tell(Message::Added { sequence, local, mapped }));
                }
            }
            // Nobody connects from all addresses.
            Ok(Request::Query { sequence, local, .. }) if local.ip().is_unspecified() => {
                self.fail(sequence, Failure::NoPort);
            }
            Ok(Request::Query { sequence, local, remote, reserve }) => {
                if let Some(mapped_local) = self.add(sequence, local, reserve, now) {
                    let connection =
                        Connection { local, remote, mapped_local, mapped_remote: remote };
                    let handle = self.host.handle();
                    self.questions.ask(&mut self.out, handle, sequence, connection, now);
                }
            }
            Ok(Request::Remove { local }) => {
                let line = self.mappings.remove(local);
                self.out.outputs.extend(line.map(Output::Keep));
            }
            Ok(Request::Mapping { local, mapped, reserve }) => {
                self.told.0.push(Told { local, mapped, reserve });
            }
            Ok(Request::Mappings { sequence, sent }) => {
                self.told.1 = Some(sent);
                let taken = u32::try_from(self.told.0.len()).unwrap_or(u32::MAX);
                self.out.push(Output::Tell(Message::MappingsTaken { sequence, sent, taken }));
            }
            Ok(Request::Hello { .. }) => {}
            Err(malformed) => {
                let Malformed { sequence, .. } = malformed;
                self.fail(sequence, Failure::Malformed);
                self.warn(now, || malformed.to_string());
            }
        }
    }

    fn add(
        &mut self,
        sequence: u32,
        local: SocketAddr,
        reserve: bool,
        now: Instant,
    ) -> Option<SocketAddr> {
        match self.mappings.add(&mut self.host, local, reserve, now) {
            Ok(mapped) => {
                self.out.figures.added += 1;
                let line = self.mappings.find(local).map(Mapping::line);
                self.out.outputs.extend(line.map(Output::Keep));
                Some(mapped)
            }
            Err(error) => {
                self.fail(sequence, Failure::NoPort);
                self.warn(now, || {
                    format!("cannot reserve a TCP port for {local}, so it goes without: {error}")
                });
                None
            }
        }
    }

    fn fail(&mut self, sequence: u32, failure: Failure) {
        self.out.figures.failed += 1;
        self.out.push(Output::Tell(Message::Failed { sequence, failure }));
    }

    /// The kernel has told what there is already: all of it, unless it has stopped in the middle.
    pub fn agree(&mut self, did_stop: bool, now: Instant) {
        let (told, sent) = std::mem::take(&mut self.told);
        // Where there is nothing the kernel says nothing.
        let is_all = !did_stop && sent.unwrap_or(0) as usize == told.len();
        let lost = self.mappings.agree(&mut self.host, &told, is_all, now);
        self.lost(lost);
    }

    /// What a port mapper before this one has had.
    pub fn restore(&mut self, lines: &[Line]) {
        let lost = self.mappings.restore(&mut self.host, lines);
        self.lost(lost);
    }

    fn lost(&mut self, ports: Vec<(SocketAddr, io::Error)>) {
        for (mapped, error) in ports {
            self.out.push(Output::Warn(format!(
                "TCP port {mapped} of a mapping was taken meanwhile ({error}): a program that connects to it may reach another"
            )));
        }
    }

    /// A datagram that has come to the mappers' port of an address: of somebody who connects.
    pub fn request(&mut self, from: SocketAddr, to: Option<IpAddr>, bytes: &[u8], now: Instant) {
        let datagram = match Datagram::decode(bytes) {
            // Nothing is sent again until that comes.
            Ok(Datagram { kind: Kind::Ack, .. }) => return,
            Ok(datagram @ Datagram { kind: Kind::Request, .. }) => datagram,
            _ => {
                self.out.figures.refused += 1;
                return;
            }
        };
        let Datagram { handle, connecting, accepting, mapped, .. } = datagram;
        let answer = |kind, accepting| Output::Answer {
            from: to,
            to: from,
            datagram: Datagram { kind, accepting, mapped: None, ..datagram }.encode(),
        };
        let Some(mapping) = self.mappings.find(accepting) else {
            self.out.figures.denied += 1;
            self.out.push(answer(Kind::Reject, accepting));
            return;
        };
        let (local, mapped_local) = (mapping.local, mapping.mapped);
        // What listens at all addresses is reached at the one that was asked for.
        let mut reached = accepting;
        reached.set_port(mapped_local.port());
        let is_old = |at: Instant| now.saturating_duration_since(at) >= REMEMBERED;
        while let Some((_, key)) = self.granted.front().copied().filter(|(at, _)| is_old(*at)) {
            self.granted.pop_front();
            self.is_granted.remove(&key);
        }
        if !self.is_granted.contains(&(from, handle)) {
            if self.granted.len() == REQUESTS {
                self.out.figures.refused += 1;
                return self.warn(now, || {
                    format!("more than {REQUESTS} requests in {REMEMBERED:?}: that of {from} is not answered")
                });
            }
            self.granted.push_back((now, (from, handle)));
            self.is_granted.insert((from, handle));
            self.out.figures.granted += 1;
            // Before the other side is told: its connection may be quick.
            self.out.push(Output::Tell(Message::Remote(Connection {
                local,
                remote: connecting,
                mapped_local,
                mapped_remote: mapped.unwrap_or(connecting),
            })));
        }
        self.out.push(answer(Kind::Accept, reached));
    }

    /// A datagram that has come to where other mappers are asked from.
    pub fn answer(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) {
        match Datagram::decode(bytes) {
            Ok(datagram) => self.questions.answer(&mut self.out, from, &datagram, now),
            Err(_) => self.out.figures.refused += 1,
        }
    }

    /// The host of a mapper that was asked says that there is none.
    pub fn refused(&mut self, peer: SocketAddr, now: Instant) {
        self.questions.refused(&mut self.out, peer, now);
    }

    fn warn(&mut self, now: Instant, what: impl FnOnce() -> String) {
        if self.warned.is_none_or(|at| now.saturating_duration_since(at) >= QUIET) {
            self.warned = Some(now);
            self.out.push(Output::Warn(what()));
        }
    }
}
