// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many requests at once through one port, each with its own end.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zerocopy::IntoBytes as _;

use crate::mad::{MadHeader, Status, method};
use crate::umad::{Address, AgentId, Carrier, Received, is_gone, wait_readable};

/// A request and how long it may take.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which of the node's agents asks.
    pub agent: AgentId,
    /// Who is asked.
    pub to: Address,
    /// The datagram; its transaction id is written by [`Requests`].
    pub mad: Vec<u8>,
    /// How long an answer is waited for, each time.
    pub timeout: Duration,
    /// How often it is sent again.
    pub retries: u32,
}

/// Which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(u32);

/// Which one has ended, with the datagram of its answer.
pub type Ended = (RequestId, Result<Vec<u8>, Failure>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody has answered.
    #[error("no answer")]
    TimedOut,
    /// It was answered so.
    #[error("{0}")]
    Refused(Status),
    /// The device has gone; all requests end so.
    #[error("the device has gone")]
    Gone,
    /// The device is there, but no subnet manager that could be asked.
    #[error("there is no subnet manager")]
    NoManager,
    /// It could not be sent.
    #[error("cannot send: {0}")]
    Send(io::Error),
    /// It is too short for what it should be.
    #[error("the answer makes no sense")]
    Garbage,
}

/// Requests through one [`Carrier`]. As many as the window allows are under way; the others wait for their turn.
#[derive(Debug)]
pub struct Requests {
    carrier: Box<dyn Carrier>,
    window: usize,
    last: u32,
    waiting: VecDeque<(RequestId, Request)>,
    under_way: BTreeMap<RequestId, AgentId>,
    ended: VecDeque<Ended>,
    unasked: VecDeque<Unasked>,
    is_gone: bool,
}

/// A datagram that nobody here has asked for.
#[derive(Clone, Debug)]
pub struct Unasked {
    /// Who it is for.
    pub agent: AgentId,
    /// Who has sent it.
    pub from: Address,
    /// As on the wire.
    pub mad: Vec<u8>,
}

/// How many datagrams that nobody has asked for are kept until they are taken.
const UNASKED: usize = 256;

impl AsFd for Requests {
    /// Readable when [`Requests::advance`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.carrier.as_fd()
    }
}

impl AsRawFd for Requests {
    fn as_raw_fd(&self) -> RawFd {
        self.carrier.as_fd().as_raw_fd()
    }
}

impl Requests {
    /// At most `window` of them are under way at a time, and at least one.
    #[must_use]
    pub fn new(carrier: impl Carrier + 'static, window: usize) -> Self {
        Self {
            carrier: Box::new(carrier),
            window: window.max(1),
            last: 0,
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            ended: VecDeque::new(),
            unasked: VecDeque::new(),
            is_gone: false,
        }
    }

    /// Asks; [`Requests::wait`] has the answer.
    pub fn ask(&mut self, request: Request) -> RequestId {
        // Not 0, which opensm does not answer, and none that is still in use.
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            let id = RequestId(self.last);
            let waits = self.waiting.iter().any(|(other, _)| *other == id);
            if !waits && !self.under_way.contains_key(&id) {
                self.waiting.push_back((id, request));
                return id;
            }
        }
    }

    /// Nobody wants the answer any more.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(other, _)| *other != id);
        self.under_way.remove(&id);
        self.ended.retain(|(other, _)| *other != id);
    }

    /// Waits until a request ends, in whatever order they do; None when there is none.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn wait(&mut self) -> io::Result<Option<Ended>> {
        loop {
            self.send();
            if let Some(ended) = self.ended.pop_front() {
                return Ok(Some(ended));
            }
            if self.under_way.is_empty() {
                return Ok(None);
            }
            self.wait_until(None)?;
            self.receive();
        }
    }

    /// Whether nothing is asked.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.waiting.is_empty() && self.ended.is_empty()
    }

    /// Waits until something has come in, or for so long.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn wait_until(&self, deadline: Option<Instant>) -> io::Result<()> {
        wait_readable(self.carrier.as_fd(), deadline)?;
        Ok(())
    }

    /// The next that has ended, without waiting: None when there is none at the moment, and the file will be readable
    /// when there may be one.
    pub fn advance(&mut self) -> Option<Ended> {
        self.receive();
        self.send();
        self.ended.pop_front()
    }

    /// Whether the device has gone: nothing more will come.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// The next datagram that nobody here has asked for, of those that [`Requests::wait`] and [`Requests::advance`] have
    /// come upon. Of many that are not taken the last are lost.
    pub fn take_unasked(&mut self) -> Option<Unasked> {
        self.unasked.pop_front()
    }

    /// Answers one, with its own bytes and the method of an answer.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn acknowledge(&mut self, unasked: Unasked) -> io::Result<()> {
        let Unasked { agent, from, mut mad } = unasked;
        if let Some(header) = MadHeader::of(&mad) {
            let header = MadHeader { method: header.method | method::RESPONSE, ..header };
            // It is as long as what was read of it.
            header.write_to_prefix(&mut mad).ok();
        }
        self.carrier.send(agent, from, &mad, None, 0)
    }

    fn send(&mut self) {
        while self.under_way.len() < self.window {
            let Some((id, mut request)) = self.waiting.pop_front() else { return };
            let Some(header) = MadHeader::of(&request.mad) else {
                self.ended.push_back((id, Err(Failure::Garbage)));
                continue;
            };
            let header = MadHeader { transaction: u64::from(id.0).into(), ..header };
            // It is as long as what was read of it.
            header.write_to_prefix(&mut request.mad).ok();
            let Request { agent, to, mad, timeout, retries } = request;
            match self.carrier.send(agent, to, &mad, Some(timeout), retries) {
                Ok(()) => {
                    self.under_way.insert(id, agent);
                }
                Err(error) if is_gone(&error) => {
                    self.under_way.insert(id, agent);
                    self.all_gone();
                }
                Err(error) => self.ended.push_back((id, Err(Failure::Send(error)))),
            }
        }
    }

    fn receive(&mut self) {
        loop {
            match self.carrier.receive() {
                Ok(Some(received)) => self.end(received),
                Ok(None) => return,
                Err(_) => return self.all_gone(),
            }
        }
    }

    /// Ends the request that this is about. What is about none is an answer that has come too late, or somebody else's.
    fn end(&mut self, received: Received) {
        let (agent, mad, failure) = match received {
            Received::Datagram { agent, from, mad } => {
                if is_request(&mad) {
                    if self.unasked.len() < UNASKED {
                        self.unasked.push_back(Unasked { agent, from, mad });
                    }
                    return;
                }
                (agent, mad, None)
            }
            Received::Failed { agent, mad, errno } if errno == Errno::TIMEDOUT.raw_os_error() => {
                (agent, mad, Some(Failure::TimedOut))
            }
            Received::Failed { agent, mad, errno } => {
                (agent, mad, Some(Failure::Send(io::Error::from_raw_os_error(errno))))
            }
        };
        let Some(header) = MadHeader::of(&mad) else { return };
        // The upper half is the kernel's.
        let id = header.transaction.get() & u64::from(u32::MAX);
        let id = RequestId(u32::try_from(id).unwrap_or(0));
        if self.under_way.get(&id) != Some(&agent) {
            return;
        }
        let outcome = match failure {
            Some(failure) => Err(failure),
            None if header.status().0 != 0 => Err(Failure::Refused(header.status())),
            None => Ok(mad),
        };
        self.under_way.remove(&id);
        self.ended.push_back((id, outcome));
    }

    fn all_gone(&mut self) {
        self.is_gone = true;
        let waiting = self.waiting.drain(..).map(|(id, _)| id);
        let under_way = std::mem::take(&mut self.under_way).into_keys();
        let all: Vec<RequestId> = under_way.chain(waiting).collect();
        self.ended.extend(all.into_iter().map(|id| (id, Err(Failure::Gone))));
    }
}

fn is_request(mad: &[u8]) -> bool {
    MadHeader::of(mad).is_some_and(|header| header.method & method::RESPONSE == 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;

    use rustix::io::{read, write};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::OwnedFd;

    use zerocopy::FromBytes as _;

    use super::*;
    use crate::umad::Umad;

    const AGENT: AgentId = AgentId(3);

    /// Requests, an agent, and the kernel's end of the node.
    pub(crate) fn pair(window: usize) -> (Requests, AgentId, OwnedFd) {
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK);
        let (ours, theirs) = socketpair(kind.0, kind.1, kind.2, None).unwrap();
        (Requests::new(Umad::over(File::from(ours)), window), AGENT, theirs)
    }

    fn request(modifier: u32) -> Request {
        let header =
            MadHeader { method: method::GET, modifier: modifier.into(), ..MadHeader::default() };
        let mut mad = header.as_bytes().to_vec();
        mad.resize(256, 0);
        let (timeout, retries) = (Duration::from_millis(7), 2);
        Request { agent: AGENT, to: Address::default(), mad, timeout, retries }
    }

    /// What has been sent: packets with the kernel's header before each.
    pub(crate) fn sent(kernel: &OwnedFd) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = [0; 512];
        while let Ok(length @ 1..) = read(kernel, &mut buffer) {
            packets.push(buffer[..length].to_vec());
        }
        packets
    }

    /// The answer, or with an errno the request that comes back; as the kernel has it, with the agent in the transaction id.
    pub(crate) fn answer(kernel: &OwnedFd, packet: &[u8], errno: u8, status: u16) {
        let mut packet = packet.to_vec();
        packet[4] = errno;
        let (header, _) = MadHeader::read_from_prefix(&packet[64..]).unwrap();
        let method = match (errno, header.method) {
            // What answers Get and Set is GetResp.
            (0, method::SET) => method::GET | method::RESPONSE,
            (0, method) => method | method::RESPONSE,
            (_, method) => method,
        };
        let header = MadHeader {
            method,
            status: status.into(),
            transaction: (header.transaction.get() | 3 << 32).into(),
            ..header
        };
        header.write_to_prefix(&mut packet[64..]).unwrap();
        write(kernel, &packet).unwrap();
    }

    fn modifier(outcome: &Result<Vec<u8>, Failure>) -> u32 {
        let mad = outcome.as_ref().unwrap();
        MadHeader::read_from_prefix(mad.as_slice()).unwrap().0.modifier.get()
    }

    #[test]
    fn no_more_than_the_window_and_in_any_order() {
        let (mut requests, _, kernel) = pair(2);
        let ids: Vec<RequestId> = (0..5).map(|n| requests.ask(request(n))).collect();
        requests.send();
        let mut under_way = sent(&kernel);
        assert_eq!(under_way.len(), 2);
        // Timeout and retries are the kernel's business.
        assert_eq!((under_way[0][8], under_way[0][12]), (7, 2));
        let mut ended = Vec::new();
        while let Some(packet) = under_way.pop() {
            answer(&kernel, &packet, 0, 0);
            let (id, outcome) = requests.wait().unwrap().unwrap();
            let place = ids.iter().position(|other| *other == id).unwrap();
            assert_eq!(u32::try_from(place).unwrap(), modifier(&outcome));
            ended.push(place);
            requests.send();
            under_way.extend(sent(&kernel));
            assert!(under_way.len() <= 2);
        }
        ended.sort_unstable();
        assert_eq!(ended, [0, 1, 2, 3, 4]);
        assert!(requests.wait().unwrap().is_none());
    }

    #[test]
    fn how_a_request_can_fail() {
        let (mut requests, _, kernel) = pair(8);
        for (errno, status, expected) in [
            (110, 0, "no answer"),
            (0, 0x0300, "no records (status 0x0300)"),
            (113, 0, "cannot send: No route to host (os error 113)"),
        ] {
            requests.ask(request(0));
            requests.send();
            answer(&kernel, &sent(&kernel)[0], errno, status);
            let (_, outcome) = requests.wait().unwrap().unwrap();
            assert_eq!(outcome.unwrap_err().to_string(), expected);
        }
        requests.ask(Request { mad: vec![0; 23], ..request(0) });
        assert!(matches!(requests.wait().unwrap(), Some((_, Err(Failure::Garbage)))));
    }

    /// Not 0, which opensm does not answer, and none that is in use, also when they come round.
    #[test]
    fn numbers_of_requests() {
        let (mut requests, _, _) = pair(8);
        requests.last = u32::MAX - 1;
        let ids: Vec<u32> = (0..4).map(|n| requests.ask(request(n)).0).collect();
        assert_eq!(ids, [u32::MAX, 1, 2, 3]);
        requests.last = u32::MAX;
        assert_eq!(requests.ask(request(4)).0, 4);
    }

    /// An answer that has come too late, or is somebody else's, or none at all, ends nothing.
    #[test]
    fn what_is_no_answer() {
        let (mut requests, _, kernel) = pair(8);
        let late = requests.ask(request(0));
        requests.send();
        let packet = sent(&kernel).remove(0);
        requests.cancel(late);
        answer(&kernel, &packet, 0, 0);
        let id = requests.ask(request(1));
        requests.send();
        let mut packet = sent(&kernel).remove(0);
        write(&kernel, &packet).unwrap();
        packet[0] = 4;
        answer(&kernel, &packet, 0, 0);
        packet[0] = 3;
        answer(&kernel, &packet, 0, 0);
        answer(&kernel, &packet, 0, 0);
        assert_eq!(requests.wait().unwrap().unwrap().0, id);
        assert!(requests.wait().unwrap().is_none());
    }

    /// What somebody else asks is kept, not without end, and can be answered.
    #[test]
    fn what_nobody_has_asked_for() {
        let (mut requests, _, kernel) = pair(8);
        assert!(requests.advance().is_none());
        let id = requests.ask(request(1));
        assert!(requests.advance().is_none());
        let packet = sent(&kernel).remove(0);
        let mut report = packet.clone();
        report[64 + 3] = method::REPORT;
        write(&kernel, &report).unwrap();
        answer(&kernel, &packet, 0, 0);
        assert_eq!(requests.advance().unwrap().0, id);
        let unasked = requests.take_unasked().unwrap();
        assert_eq!(unasked.agent, AGENT);
        requests.acknowledge(unasked).unwrap();
        let answered = sent(&kernel).remove(0);
        assert_eq!(answered[64 + 3], method::REPORT | method::RESPONSE);
        // No answer to that is waited for.
        assert_eq!(answered[8..12], [0; 4]);
        for _ in 0..3 {
            for _ in 0..UNASKED / 2 {
                write(&kernel, &report).unwrap();
                requests.advance();
            }
        }
        assert_eq!(std::iter::from_fn(|| requests.take_unasked()).count(), UNASKED);
    }

    #[test]
    fn a_device_that_goes_ends_all() {
        let (mut requests, _, kernel) = pair(1);
        let ids = [requests.ask(request(0)), requests.ask(request(1))];
        requests.send();
        drop(kernel);
        assert!(!requests.is_gone());
        for id in ids {
            let (ended, outcome) = requests.wait().unwrap().unwrap();
            assert_eq!(ended, id);
            assert!(matches!(outcome, Err(Failure::Gone)), "{outcome:?}");
        }
        assert!(requests.is_gone());
        assert!(requests.wait().unwrap().is_none());
    }
}
