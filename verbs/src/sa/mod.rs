// SPDX-License-Identifier: MIT OR Apache-2.0
//! Subnet administration (IBTA volume 1, chapter 15): asked for records, politely and patiently, wherever the subnet manager
//! goes. No clock of its own: the caller says what time it is.

mod query;
mod record;
mod subscription;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

pub use query::Query;
pub use record::{
    McMemberRecord, NodeRecord, PathRecord, PortInfoRecord, Record, SaHeader, ServiceRecord,
    record, records,
};
pub use subscription::{Subscription, TRAPS};

use crate::backoff::about;
use crate::mad::MadHeader;
use crate::requests::{Failure, Request, RequestId, Requests};
use crate::umad::{Address, AgentId};

/// ClassPortInfo:CapabilityMask.IsPortInfoCapMaskMatchSupported, of subnet administration.
pub const CAN_MATCH_CAPABILITIES: u16 = 1 << 13;

/// How many questions are under way at a time, unless somebody says otherwise: all nodes of a fabric ask the same one.
const WINDOW: usize = 8;
/// How long one that is busy is left alone, the first time and at most.
const BUSY: Duration = Duration::from_millis(100);
const MOST_BUSY: Duration = Duration::from_secs(2);

/// How long and how often somebody is asked.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For an answer, in all.
    pub timeout: Duration,
    /// How often it is asked again in that time.
    pub retries: u32,
}

impl Patience {
    /// How long the answer to each try is waited for: twice as long each time, and `timeout` in all.
    fn of_try(self, tries: u32) -> Duration {
        let parts = |tries: u32| f64::from(2_u32.saturating_pow(tries.min(16)));
        self.timeout.mul_f64(parts(tries) / (parts(self.retries + 1) - 1.0))
    }
}

/// A question to subnet administration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueryId(u64);

/// What was asked through a [`Client`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// Of subnet administration.
    Query(QueryId),
    /// Of somebody else, with [`Client::ask_other`].
    Request(RequestId),
}

/// What has ended, with the datagram of its answer.
pub type Ended = (Id, Result<Vec<u8>, Failure>);

/// One node that asks subnet administration, and others.
#[derive(Debug)]
pub struct Client {
    requests: Requests,
    agent: AgentId,
    patience: Patience,
    window: usize,
    manager: Option<Address>,
    last: u64,
    waiting: VecDeque<Question>,
    under_way: BTreeMap<RequestId, Question>,
    /// Those whose answer was that it is busy, and when they are asked again.
    resting: Vec<(Instant, Question)>,
    ended: VecDeque<Ended>,
}

#[derive(Debug)]
struct Question {
    id: QueryId,
    query: Query,
    tries: u32,
    /// Since when it is answered that it is busy, and how often.
    busy: Option<(Instant, u32)>,
}

impl Question {
    fn new(id: QueryId, query: Query) -> Self {
        Self { id, query, tries: 0, busy: None }
    }
}

impl AsRawFd for Client {
    /// Readable when [`Client::advance`] has something.
    fn as_raw_fd(&self) -> RawFd {
        self.requests.as_raw_fd()
    }
}

impl Client {
    /// `agent` is one of class SubnAdm, version 2, with RMPP.
    #[must_use]
    pub fn new(requests: Requests, agent: AgentId, patience: Patience) -> Self {
        Self {
            requests,
            agent,
            patience,
            window: WINDOW,
            manager: None,
            last: 0,
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            resting: Vec::new(),
            ended: VecDeque::new(),
        }
    }

    /// How many questions may be under way at a time, at least one; the [`Requests`] have a window of their own.
    #[must_use]
    pub fn with_window(self, window: usize) -> Self {
        Self { window: window.max(1), ..self }
    }

    /// The node's requests, for what nobody has asked for and whether the device has gone.
    pub fn requests(&mut self) -> &mut Requests {
        &mut self.requests
    }

    /// Where the subnet manager is; None while there is none, when all questions end with [`Failure::NoManager`]. What
    /// another was asked is asked again of this one.
    pub fn set_manager(&mut self, manager: Option<Address>) {
        if manager == self.manager {
            return;
        }
        self.manager = manager;
        for (request, question) in std::mem::take(&mut self.under_way) {
            self.requests.cancel(request);
            self.waiting.push_front(Question::new(question.id, question.query));
        }
        let resting = self.resting.drain(..).map(|(_, question)| question);
        self.waiting.extend(resting.map(|question| Question::new(question.id, question.query)));
        self.ask_next();
    }

    /// Asks; [`Client::advance`] has the answer.
    pub fn ask(&mut self, query: Query) -> Id {
        self.last += 1;
        let id = QueryId(self.last);
        self.waiting.push_back(Question::new(id, query));
        self.ask_next();
        Id::Query(id)
    }

    /// Asks somebody else.
    pub fn ask_other(&mut self, request: Request) -> Id {
        Id::Request(self.requests.ask(request))
    }

    /// Nobody wants the answer any more.
    pub fn cancel(&mut self, id: Id) {
        match id {
            Id::Request(request) => self.requests.cancel(request),
            Id::Query(query) => {
                self.waiting.retain(|question| question.id != query);
                self.resting.retain(|(_, question)| question.id != query);
                let asked = self.under_way.iter().find(|(_, question)| question.id == query);
                if let Some(request) = asked.map(|(request, _)| *request) {
                    self.under_way.remove(&request);
                    self.requests.cancel(request);
                }
                self.ask_next();
            }
        }
        self.ended.retain(|(other, _)| *other != id);
    }

    /// The next that has ended, without waiting. None when there is none at the moment; there may be one when the file is
    /// readable, or when it is [`Client::next`].
    pub fn advance(&mut self, now: Instant) -> Option<Ended> {
        let all = std::mem::take(&mut self.resting).into_iter();
        let (rested, resting): (Vec<_>, Vec<_>) = all.partition(|(again, _)| *again <= now);
        self.resting = resting;
        rested.into_iter().for_each(|(_, question)| self.waiting.push_front(question));
        loop {
            self.ask_next();
            let Some((request, outcome)) = self.requests.advance() else {
                return self.ended.pop_front();
            };
            match self.under_way.remove(&request) {
                None => self.ended.push_back((Id::Request(request), outcome)),
                Some(question) => self.answered(question, outcome, now),
            }
        }
    }

    /// When there is something to do, whatever comes in.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.resting.iter().map(|(again, _)| *again).min()
    }

    /// The next that ends; waits for it. None when nothing is asked.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn wait(&mut self) -> io::Result<Option<Ended>> {
        loop {
            if let Some(ended) = self.advance(Instant::now()) {
                return Ok(Some(ended));
            }
            if self.requests.is_idle() && self.resting.is_empty() {
                return Ok(None);
            }
            self.requests.wait_until(self.next())?;
        }
    }

    fn answered(
        &mut self,
        mut question: Question,
        outcome: Result<Vec<u8>, Failure>,
        now: Instant,
    ) {
        let outcome = match outcome {
            Err(Failure::TimedOut) if question.tries < self.patience.retries => {
                question.tries += 1;
                return self.waiting.push_front(question);
            }
            // As it is until a new manager has seen the whole fabric.
            Err(Failure::Refused(status)) if status.is_busy() => {
                let (since, times) = question.busy.unwrap_or((now, 0));
                let again = now + about((BUSY * 2_u32.saturating_pow(times.min(8))).min(MOST_BUSY));
                if again <= since + self.patience.timeout {
                    question.busy = Some((since, times + 1));
                    return self.resting.push((again, question));
                }
                Err(Failure::Refused(status))
            }
            Ok(mad) if !MadHeader::of(&mad).is_some_and(|h| question.query.is_answered_by(&h)) => {
                Err(Failure::Garbage)
            }
            outcome => outcome,
        };
        self.ended.push_back((Id::Query(question.id), outcome));
    }

    fn ask_next(&mut self) {
        let Some(to) = self.manager else {
            let waiting = self.waiting.drain(..);
            let without = |question: Question| (Id::Query(question.id), Err(Failure::NoManager));
            return self.ended.extend(waiting.map(without));
        };
        while self.under_way.len() < self.window {
            let Some(question) = self.waiting.pop_front() else { return };
            let request = Request {
                agent: self.agent,
                to,
                mad: question.query.mad(),
                timeout: self.patience.of_try(question.tries),
                retries: 0,
            };
            self.under_way.insert(self.requests.ask(request), question);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::tests::{answer, pair, sent};
    use crate::umad::tests::timeout_of;

    const PATIENCE: Patience = Patience { timeout: Duration::from_millis(700), retries: 2 };

    fn at(lid: u16) -> Option<Address> {
        Some(Address { lid, qpn: 1, ..Address::default() })
    }

    fn client() -> (Client, std::os::fd::OwnedFd) {
        let (requests, agent, kernel) = pair(256);
        let mut client = Client::new(requests, agent, PATIENCE);
        client.set_manager(at(1));
        (client, kernel)
    }

    fn path() -> Query {
        Query::get(&PathRecord::default(), PathRecord::DLID)
    }

    /// rdma-core S1: a datagram that is lost is sent again, later each time.
    #[test]
    fn a_lost_question_is_asked_again() {
        let (mut client, kernel) = client();
        let id = client.ask(path());
        let now = Instant::now();
        for expected in [100, 200, 400] {
            assert!(client.advance(now).is_none());
            let packets = sent(&kernel);
            assert_eq!(packets.iter().map(|p| timeout_of(p)).collect::<Vec<_>>(), [expected]);
            answer(&kernel, &packets[0], 110, 0);
        }
        let (ended, outcome) = client.advance(now).unwrap();
        assert_eq!(ended, id);
        assert!(matches!(outcome, Err(Failure::TimedOut)));
        assert!(client.wait().unwrap().is_none());
    }

    #[test]
    fn one_that_is_busy_is_left_alone_for_a_while() {
        let (mut client, kernel) = client();
        let id = client.ask(path());
        let (begin, mut now) = (Instant::now(), Instant::now());
        let mut waits = Vec::new();
        let (ended, outcome) = loop {
            assert!(client.advance(now).is_none());
            let packets = sent(&kernel);
            assert_eq!(packets.len(), 1);
            answer(&kernel, &packets[0], 0, 1);
            if let Some(ended) = client.advance(now) {
                break ended;
            }
            assert!(sent(&kernel).is_empty());
            let again = client.next().unwrap();
            waits.push(again - now);
            now = again;
        };
        assert_eq!(ended, id);
        assert!(matches!(outcome, Err(Failure::Refused(status)) if status.is_busy()));
        assert!(now <= begin + PATIENCE.timeout + BUSY && waits.len() >= 2, "{waits:?}");
        assert!(waits[0] >= BUSY * 3 / 4 && waits[1] >= waits[0], "{waits:?}");
        assert_eq!(client.next(), None);
    }

    /// 809041855 of rdma-core: what the manager of before was asked is asked of the new one.
    #[test]
    fn questions_follow_the_manager() {
        let (mut client, kernel) = client();
        let ids: Vec<Id> = (0..WINDOW + 2).map(|_| client.ask(path())).collect();
        let now = Instant::now();
        assert!(client.advance(now).is_none());
        let old = sent(&kernel);
        assert_eq!(old.len(), WINDOW);
        client.set_manager(at(2));
        assert!(client.advance(now).is_none());
        let new = sent(&kernel);
        assert_eq!(new.len(), WINDOW);
        assert!(new.iter().all(|packet| packet[28..30] == [0, 2]));
        // What the old one says now is about nothing.
        answer(&kernel, &old[0], 0, 0);
        assert!(client.advance(now).is_none());
        client.set_manager(None);
        let mut ended: Vec<Id> = Vec::new();
        while let Some((id, outcome)) = client.advance(now) {
            assert!(matches!(outcome, Err(Failure::NoManager)));
            ended.push(id);
        }
        ended.sort_unstable();
        assert_eq!(ended, ids);
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let (mut client, kernel) = client();
        client.ask(path());
        assert!(client.advance(Instant::now()).is_none());
        let mut packet = sent(&kernel).remove(0);
        packet[64 + 17] = 0x12;
        answer(&kernel, &packet, 0, 0);
        assert!(matches!(client.wait().unwrap(), Some((_, Err(Failure::Garbage)))));
    }

    #[test]
    fn cancelled() {
        let (mut client, kernel) = client();
        let ids: Vec<Id> = (0..WINDOW + 1).map(|_| client.ask(path())).collect();
        let other = client.ask_other(Request {
            agent: AgentId(9),
            to: Address::default(),
            mad: vec![0; 256],
            timeout: Duration::from_millis(1),
            retries: 0,
        });
        assert!(client.advance(Instant::now()).is_none());
        assert_eq!(sent(&kernel).len(), WINDOW + 1);
        for id in ids.into_iter().chain([other]) {
            client.cancel(id);
        }
        assert!(client.wait().unwrap().is_none());
    }
}
