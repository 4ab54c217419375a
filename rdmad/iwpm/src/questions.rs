// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other mappers are asked: again while they are silent, not for ever, and only once where nobody was there last time.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rdma_verbs::iwpm::{Connection, Datagram, Kind, Message, PORT};

use crate::mapper::{Output, Outputs};

/// When a mapper is asked for the second time; each wait is twice as long as the one before, up to [`LONGEST`]. The kernel
/// waits for 10 s.
const AGAIN: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(1);
/// How often it is asked: for 6.4 s.
const TRIES: u32 = 8;
/// That long a host that refuses is asked all the same: a mapper that is started anew is back by then.
const RESTART: Duration = Duration::from_millis(500);
/// That long a host without a mapper is asked once only, and not waited for longer than [`AGAIN`].
const SILENCE: Duration = Duration::from_secs(30);
/// How many of those are remembered.
const HOSTS: usize = 4096;
/// That long a mapper may say again what it has said, as it does when it does not hear that it was understood.
const ECHO: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Question {
    /// Of the kernel's request.
    sequence: u32,
    connection: Connection,
    peer: SocketAddr,
    /// How often it was sent.
    tries: u32,
    /// It is answered, and only remembered.
    is_done: bool,
    due: Instant,
}

impl Question {
    fn request(&self, handle: u64) -> Vec<u8> {
        let Connection { local, remote, mapped_local, .. } = self.connection;
        let mapped = Some(mapped_local);
        Datagram { kind: Kind::Request, handle, connecting: local, accepting: remote, mapped }
            .encode()
    }
}

/// The mapper of another host, while there is something to be heard of it.
#[derive(Debug, Default)]
struct Peer {
    questions: BTreeSet<u64>,
    /// Since when its host has said that nobody is there.
    refuses: Option<Instant>,
}

/// All questions, by their handles.
#[derive(Debug, Default)]
pub struct Questions {
    all: HashMap<u64, Question>,
    due: BTreeSet<(Instant, u64)>,
    peers: HashMap<SocketAddr, Peer>,
    /// Hosts without a mapper, and until when that is believed.
    silent: HashMap<IpAddr, Instant>,
}

impl Questions {
    /// How many are not answered.
    pub fn open(&self) -> usize {
        self.all.values().filter(|question| !question.is_done).count()
    }

    /// The hosts that have no mapper, as far as is known.
    pub fn silent(&self, now: Instant) -> impl Iterator<Item = IpAddr> {
        self.silent.iter().filter(move |(_, until)| **until > now).map(|(host, _)| *host)
    }

    /// When something is to be done.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Asks for what the remote end of a connection is mapped to, for a request of the kernel.
    pub fn ask(
        &mut self,
        out: &mut Outputs,
        handle: u64,
        sequence: u32,
        connection: Connection,
        now: Instant,
    ) {
        let mut peer = connection.remote;
        peer.set_port(PORT);
        let due = now + AGAIN;
        let question = Question { sequence, connection, peer, tries: 1, is_done: false, due };
        out.figures.asked += 1;
        out.push(Output::Ask(peer, question.request(handle)));
        self.peers.entry(peer).or_default().questions.insert(handle);
        self.due.insert((due, handle));
        self.all.insert(handle, question);
    }

    /// What has come to where this host asks from. It is of the mappers' port, of any address: a host with several may
    /// answer from another than was asked. Nobody else knows the handle.
    pub fn answer(
        &mut self,
        out: &mut Outputs,
        from: SocketAddr,
        datagram: &Datagram,
        now: Instant,
    ) {
        let Datagram { kind, handle, connecting, accepting, .. } = *datagram;
        let question = self.all.get_mut(&handle).filter(|question| {
            let local = question.connection.local;
            from.port() == PORT
                && (local.ip(), local.port()) == (connecting.ip(), connecting.port())
        });
        let Some(question) = question else {
            out.figures.refused += 1;
            return;
        };
        let peer = question.peer;
        self.silent.remove(&peer.ip());
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.refuses = None;
        }
        match (kind, question.is_done) {
            (Kind::Accept, is_done) => {
                let ack = Datagram { kind: Kind::Ack, mapped: None, ..*datagram };
                if !is_done {
                    out.figures.accepted += 1;
                    let mut connection = question.connection;
                    connection.mapped_remote = with_scope_of(connection.remote, accepting);
                    out.push(Output::Tell(Message::Found {
                        sequence: question.sequence,
                        connection,
                    }));
                    self.due.remove(&(question.due, handle));
                    (question.is_done, question.due) = (true, now + ECHO);
                    self.due.insert((question.due, handle));
                }
                out.push(Output::Ask(peer, ack.encode()));
            }
            (Kind::Reject, false) => {
                out.figures.rejected += 1;
                self.end(out, handle);
            }
            // It was answered; one that comes late.
            (Kind::Reject, true) => {}
            (Kind::Request | Kind::Ack, _) => out.figures.refused += 1,
        }
    }

    /// A host has said that there is nobody.
    pub fn refused(&mut self, out: &mut Outputs, peer: SocketAddr, now: Instant) {
        let is_known = self.is_silent(peer.ip(), now);
        let Some(of) = self.peers.get_mut(&peer) else { return };
        let since = *of.refuses.get_or_insert(now);
        if is_known || now.saturating_duration_since(since) >= RESTART {
            let handles = of.questions.clone();
            for handle in handles {
                self.give_up(out, handle, now);
            }
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, out: &mut Outputs, now: Instant) {
        while let Some((at, handle)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, handle));
            let Some(question) = self.all.get_mut(&handle) else { continue };
            let is_known = self.silent.get(&question.peer.ip()).is_some_and(|until| *until > now);
            if question.is_done {
                self.forget(out, handle);
            } else if is_known || question.tries == TRIES {
                self.give_up(out, handle, now);
            } else {
                question.due = now + (AGAIN * (1 << question.tries)).min(LONGEST);
                question.tries += 1;
                self.due.insert((question.due, handle));
                out.figures.again += 1;
                out.push(Output::Ask(question.peer, question.request(handle)));
            }
        }
    }

    fn is_silent(&self, host: IpAddr, now: Instant) -> bool {
        self.silent.get(&host).is_some_and(|until| *until > now)
    }

    /// Nobody answers.
    fn give_up(&mut self, out: &mut Outputs, handle: u64, now: Instant) {
        let Some(question) = self.all.get(&handle).filter(|question| !question.is_done) else {
            return;
        };
        let host = question.peer.ip();
        if self.silent.len() >= HOSTS {
            self.silent.retain(|_, until| *until > now);
        }
        if self.silent.len() < HOSTS {
            self.silent.insert(host, now + SILENCE);
        }
        out.figures.silent += 1;
        self.end(out, handle);
    }

    /// There is no mapping: the kernel connects as it was asked to.
    fn end(&mut self, out: &mut Outputs, handle: u64) {
        if let Some(Question { sequence, connection, .. }) = self.forget(out, handle) {
            out.push(Output::Tell(Message::NotFound { sequence, connection }));
        }
    }

    fn forget(&mut self, out: &mut Outputs, handle: u64) -> Option<Question> {
        let question = self.all.remove(&handle)?;
        self.due.remove(&(question.due, handle));
        if let Some(peer) = self.peers.get_mut(&question.peer) {
            peer.questions.remove(&handle);
            if peer.questions.is_empty() {
                self.peers.remove(&question.peer);
                out.push(Output::Leave(question.peer));
            }
        }
        Some(question)
    }
}

/// An address out of a datagram, which has no scopes.
fn with_scope_of(known: SocketAddr, mut address: SocketAddr) -> SocketAddr {
    if let (SocketAddr::V6(address), SocketAddr::V6(known)) = (&mut address, known) {
        address.set_scope_id(known.scope_id());
    }
    address
}
