// SPDX-License-Identifier: MIT OR Apache-2.0
//! Port mappers of two hosts, and what is between them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rdma_iwpm::kept::Line;
use rdma_iwpm::mapper::{Mapper, Output};
use rdma_iwpm::mappings::{Host, Mapping};
use rdma_verbs::iwpm::{Connection, Datagram, Failure, Kind, LIBRARY, Malformed, Message, Request};

type Ports = Rc<RefCell<BTreeSet<SocketAddr>>>;

/// A host with ports from 40000 on, as many as it is allowed.
#[derive(Debug, Default)]
struct Fake {
    ports: Ports,
    room: usize,
    handles: u64,
}

#[derive(Debug)]
struct Port(Ports, SocketAddr);

impl Drop for Port {
    fn drop(&mut self) {
        self.0.borrow_mut().remove(&self.1);
    }
}

impl Host for Fake {
    type Port = Port;

    fn reserve(&mut self, mut address: SocketAddr) -> io::Result<(Port, u16)> {
        let mut ports = self.ports.borrow_mut();
        if address.port() == 0 {
            let free = (40000..).find(|port| {
                address.set_port(*port);
                !ports.contains(&address)
            });
            assert!(free.is_some());
        }
        if ports.len() >= self.room || !ports.insert(address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok((Port(Rc::clone(&self.ports), address), address.port()))
    }

    fn handle(&mut self) -> u64 {
        self.handles += HANDLE;
        self.handles
    }
}

fn mapper(room: usize) -> (Mapper<Fake>, Ports) {
    let ports = Ports::default();
    (Mapper::new(Fake { ports: Rc::clone(&ports), room, handles: 0 }), ports)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// All that is to be done, without what is kept for later.
fn outputs(mapper: &mut Mapper<Fake>) -> Vec<Output> {
    let all = std::iter::from_fn(|| mapper.output());
    all.filter(|output| !matches!(output, Output::Keep(_))).collect()
}

fn add(mapper: &mut Mapper<Fake>, local: &str, now: Instant) -> Vec<Output> {
    let add = Request::Add { sequence: 7, local: address(local), reserve: true };
    mapper.hear(Ok(add), now);
    outputs(mapper)
}

fn added(local: &str, mapped: &str) -> Vec<Output> {
    let (local, mapped) = (address(local), address(mapped));
    vec![Output::Tell(Message::Added { sequence: 7, local, mapped })]
}

fn failed(failure: Failure) -> Output {
    Output::Tell(Message::Failed { sequence: 7, failure })
}

fn query(mapper: &mut Mapper<Fake>, local: &str, remote: &str, now: Instant) -> Vec<Output> {
    let (local, remote) = (address(local), address(remote));
    mapper.hear(Ok(Request::Query { sequence: 9, local, remote, reserve: true }), now);
    outputs(mapper)
}

const HERE: &str = "10.0.0.1:50000";
const THERE: &str = "10.0.0.2:5000";
const MAPPER: &str = "10.0.0.2:3935";

fn connection(mapped_remote: &str) -> Connection {
    Connection {
        local: address(HERE),
        remote: address(THERE),
        mapped_local: address("10.0.0.1:40000"),
        mapped_remote: address(mapped_remote),
    }
}

fn not_found() -> Output {
    Output::Tell(Message::NotFound { sequence: 9, connection: connection(THERE) })
}

fn answer(kind: Kind, handle: u64) -> Datagram {
    let (connecting, accepting) = (address(HERE), address("10.0.0.2:40000"));
    Datagram { kind, handle, connecting, accepting, mapped: None }
}

const HANDLE: u64 = 0x1_0000_0001;

#[test]
fn who_is_there() {
    let (mut mapper, _) = mapper(9);
    let now = Instant::now();
    for (library, said) in [
        (LIBRARY, Message::Registered { sequence: 1, device: "siw0".into() }),
        ("other", Message::Failed { sequence: 1, failure: Failure::OtherLibrary }),
    ] {
        let (device, library) = ("siw0".to_owned(), library.to_owned());
        mapper.hear(Ok(Request::Register { sequence: 1, device, library }), now);
        assert_eq!(outputs(&mut mapper), [Output::Tell(said)]);
    }
    mapper.hear(Err(Malformed { sequence: 7, operation: 1 }), now);
    assert_eq!(outputs(&mut mapper)[0], failed(Failure::Malformed));
}

/// I11: a port is that of its address, not of all.
#[test]
fn listeners() {
    let (mut mapper, ports) = mapper(9);
    let now = Instant::now();
    assert_eq!(add(&mut mapper, "10.0.0.1:5000", now), added("10.0.0.1:5000", "10.0.0.1:40000"));
    assert_eq!(add(&mut mapper, "10.0.0.2:5000", now), added("10.0.0.2:5000", "10.0.0.2:40000"));
    assert_eq!(
        add(&mut mapper, "[fe80::1%3]:5000", now),
        added("[fe80::1%3]:5000", "[fe80::1%3]:40000")
    );
    // The same of both families, and what both have, but not one of what all have.
    assert_eq!(add(&mut mapper, "0.0.0.0:5000", now), [failed(Failure::Duplicate)]);
    assert_eq!(add(&mut mapper, "[::]:5000", now), [failed(Failure::Duplicate)]);
    assert_eq!(add(&mut mapper, "0.0.0.0:5001", now), added("0.0.0.0:5001", "0.0.0.0:40000"));
    assert_eq!(add(&mut mapper, "0.0.0.0:5001", now), added("0.0.0.0:5001", "0.0.0.0:40000"));
    assert_eq!(add(&mut mapper, "10.0.0.1:5001", now), [failed(Failure::Duplicate)]);
    assert_eq!(add(&mut mapper, "[::]:5001", now), added("[::]:5001", "[::]:40000"));
    assert_eq!((mapper.mappings.len(), ports.borrow().len()), (5, 5));
    // It goes with the last who has it; one that is not there is no matter.
    for (local, left) in
        [("0.0.0.0:5001", 5), ("0.0.0.0:5001", 4), ("0.0.0.0:5001", 4), ("[::]:5001", 3)]
    {
        mapper.hear(Ok(Request::Remove { local: address(local) }), now);
        assert_eq!((mapper.mappings.len(), ports.borrow().len()), (left, left), "{local}");
    }
    assert_eq!(outputs(&mut mapper), []);
}

#[test]
fn without_a_port_of_its_own() {
    let (mut mapper, ports) = mapper(0);
    let local = address(HERE);
    let now = Instant::now();
    mapper.hear(Ok(Request::Add { sequence: 7, local, reserve: false }), now);
    assert_eq!(outputs(&mut mapper), added(HERE, HERE));
    assert_eq!((mapper.mappings.len(), ports.borrow().len()), (1, 0));
}

/// I1: where ports run out nothing is kept of what could not be had. And that is said, but not each time.
#[test]
fn no_ports_are_left() {
    let (mut mapper, ports) = mapper(1);
    let now = Instant::now();
    add(&mut mapper, "10.0.0.1:1", now);
    let said = add(&mut mapper, "10.0.0.1:2", now);
    assert_eq!(said[0], failed(Failure::NoPort));
    assert!(matches!(&said[1], Output::Warn(text) if text.contains("10.0.0.1:2")), "{said:?}");
    for port in 3..103 {
        let said = add(&mut mapper, &format!("10.0.0.1:{port}"), now);
        assert_eq!(said, [failed(Failure::NoPort)]);
    }
    assert_eq!((mapper.mappings.len(), ports.borrow().len()), (1, 1));
    assert_eq!(add(&mut mapper, "10.0.0.1:2", now + Duration::from_secs(11)).len(), 2);
    mapper.hear(Ok(Request::Remove { local: address("10.0.0.1:1") }), now);
    assert_eq!(add(&mut mapper, "10.0.0.1:2", now), added("10.0.0.1:2", "10.0.0.1:40000"));
}

/// 8fd9eb803: a port that connects, and connects again, or listens, is the same.
#[test]
fn one_port_many_connections() {
    let (mut mapper, ports) = mapper(9);
    let now = Instant::now();
    add(&mut mapper, HERE, now);
    for remote in ["10.0.0.2:1", "10.0.0.2:2"] {
        assert!(matches!(query(&mut mapper, HERE, remote, now)[..], [Output::Ask(..)]));
    }
    assert_eq!((mapper.mappings.len(), ports.borrow().len()), (1, 1));
    mapper.hear(
        Ok(Request::Query {
            sequence: 7,
            local: address("0.0.0.0:1"),
            remote: address(THERE),
            reserve: true,
        }),
        now,
    );
    assert_eq!(outputs(&mut mapper), [failed(Failure::NoPort)]);
}

/// The wire between two: who is asked, what both kernels are told, and in which order (I5).
#[test]
fn a_connection() {
    for (listens, mapped) in [(THERE, THERE), ("0.0.0.0:5000", "0.0.0.0:5000")] {
        let ((mut here, _), (mut there, _)) = (mapper(9), mapper(9));
        let now = Instant::now();
        add(&mut there, listens, now);
        let asked = query(&mut here, HERE, THERE, now);
        let [Output::Ask(peer, request)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((*peer, request.len()), (address(MAPPER), 64));
        let (from, to) = (address("10.0.0.1:60000"), address(MAPPER).ip());
        there.request(from, Some(to), request, now);
        let answered = outputs(&mut there);
        let mut mapped = address(mapped);
        mapped.set_port(40000);
        let told = Connection {
            local: address(listens),
            remote: address(HERE),
            mapped_local: mapped,
            mapped_remote: address("10.0.0.1:40000"),
        };
        let datagram = answer(Kind::Accept, HANDLE).encode();
        let accept = Output::Answer { from: Some(to), to: from, datagram: datagram.clone() };
        assert_eq!(answered, [Output::Tell(Message::Remote(told)), accept.clone()]);
        // It comes twice, and is told once.
        there.request(from, Some(to), request, now);
        assert_eq!(outputs(&mut there), [accept]);
        here.answer(*peer, &datagram, now);
        let found = Message::Found { sequence: 9, connection: connection("10.0.0.2:40000") };
        let ack = Output::Ask(*peer, answer(Kind::Ack, HANDLE).encode());
        assert_eq!(outputs(&mut here), [Output::Tell(found), ack.clone()]);
        there.request(from, Some(to), &answer(Kind::Ack, HANDLE).encode(), now);
        assert_eq!(outputs(&mut there), []);
        // One that has not heard it says it again, and is told again, for a while.
        here.answer(*peer, &datagram, now + Duration::from_secs(9));
        assert_eq!(outputs(&mut here), [ack]);
        here.tick(here.deadline().unwrap());
        assert_eq!(outputs(&mut here), [Output::Leave(*peer)]);
        assert_eq!(here.deadline(), None);
        here.answer(*peer, &datagram, now + Duration::from_secs(11));
        assert_eq!((outputs(&mut here), here.figures().refused), (vec![], 1));
    }
}

#[test]
fn nobody_listens_there() {
    let ((mut here, ports), (mut there, _)) = (mapper(9), mapper(9));
    let now = Instant::now();
    add(&mut there, "10.0.0.3:5000", now);
    let asked = query(&mut here, HERE, THERE, now);
    let [Output::Ask(peer, request)] = &asked[..] else { panic!("{asked:?}") };
    there.request(address("10.0.0.1:60000"), None, request, now);
    let said = outputs(&mut there);
    let [Output::Answer { datagram, .. }] = &said[..] else { panic!("{said:?}") };
    here.answer(*peer, datagram, now);
    assert_eq!(outputs(&mut here), [Output::Leave(*peer), not_found()]);
    // It connects all the same; its port is free when that is done.
    assert_eq!(ports.borrow().len(), 1);
    mapper_is_idle(&here);
    // Another listener there may be mapped.
    assert_eq!(query(&mut here, HERE, THERE, now).len(), 1);
}

fn mapper_is_idle(mapper: &Mapper<Fake>) {
    assert_eq!((mapper.deadline(), mapper.questions.open()), (None, 0));
}

/// Until something is said: what is sent when, in milliseconds.
fn until_told(mapper: &mut Mapper<Fake>, began: Instant) -> Vec<(u128, usize)> {
    let mut log = Vec::new();
    while let Some(at) = mapper.deadline() {
        mapper.tick(at);
        log.push(((at - began).as_millis(), outputs(mapper).len()));
    }
    log
}

/// I7, I12: the kernel has its answer before it stops waiting; the next one does not wait for what did not come.
#[test]
fn nobody_answers() {
    let (mut mapper, _) = mapper(9);
    let now = Instant::now();
    query(&mut mapper, HERE, THERE, now);
    let log = until_told(&mut mapper, now);
    let (when, what): (Vec<_>, Vec<_>) = log.into_iter().unzip();
    assert_eq!(when, [200, 600, 1400, 2400, 3400, 4400, 5400, 6400]);
    assert_eq!(what, [1, 1, 1, 1, 1, 1, 1, 2]);
    let later = now + Duration::from_secs(7);
    assert_eq!(mapper.questions.silent(later).collect::<Vec<_>>(), [address(MAPPER).ip()]);
    query(&mut mapper, HERE, "10.0.0.2:5001", later);
    assert_eq!(until_told(&mut mapper, later), [(200, 2)]);
    // Another host is asked as ever; and this one when it was heard of again, or after a while.
    let other = "10.0.0.3:5000";
    query(&mut mapper, HERE, other, later);
    assert_eq!(until_told(&mut mapper, later).len(), 8);
    query(&mut mapper, HERE, THERE, later);
    let handle = HANDLE * 4;
    mapper.answer(address(MAPPER), &answer(Kind::Accept, handle).encode(), later);
    assert_eq!(mapper.questions.silent(later).count(), 1);
    let much_later = later + Duration::from_secs(60);
    assert_eq!(mapper.questions.silent(much_later).count(), 0);
    outputs(&mut mapper);
    until_told(&mut mapper, later);
    query(&mut mapper, HERE, other, much_later);
    assert_eq!(until_told(&mut mapper, much_later).len(), 8);
}

/// A host that says that nobody is there is believed when it says so for as long as a mapper takes to be started anew.
#[test]
fn nobody_is_there() {
    let (mut mapper, _) = mapper(9);
    let (now, peer) = (Instant::now(), address(MAPPER));
    let ms = |ms| now + Duration::from_millis(ms);
    query(&mut mapper, HERE, THERE, now);
    query(&mut mapper, HERE, THERE, now);
    for at in [0, 200, 499] {
        mapper.refused(peer, ms(at));
        assert_eq!(outputs(&mut mapper), []);
    }
    mapper.refused(peer, ms(600));
    let told = outputs(&mut mapper);
    assert_eq!(told, [not_found(), Output::Leave(peer), not_found()]);
    mapper_is_idle(&mapper);
    // From now on at the first word of that.
    query(&mut mapper, HERE, THERE, ms(700));
    mapper.refused(peer, ms(700));
    assert_eq!(outputs(&mut mapper), [Output::Leave(peer), not_found()]);
    // One that is back is asked as ever.
    query(&mut mapper, HERE, THERE, ms(800));
    mapper.answer(peer, &answer(Kind::Accept, HANDLE * 4).encode(), ms(801));
    outputs(&mut mapper);
    query(&mut mapper, HERE, THERE, ms(900));
    mapper.refused(peer, ms(900));
    assert_eq!(outputs(&mut mapper), []);
}

/// A host with several addresses answers from another than was asked: who knows the handle is who was asked.
#[test]
fn another_address_of_the_same_host() {
    let (mut mapper, _) = mapper(9);
    let now = Instant::now();
    query(&mut mapper, HERE, THERE, now);
    mapper.answer(address("10.1.0.2:3935"), &answer(Kind::Accept, HANDLE).encode(), now);
    let found = Message::Found { sequence: 9, connection: connection("10.0.0.2:40000") };
    let ack = Output::Ask(address(MAPPER), answer(Kind::Ack, HANDLE).encode());
    assert_eq!(outputs(&mut mapper), [Output::Tell(found), ack]);
}

/// I4: an answer is from a mapper that was asked, about what was asked.
#[test]
fn not_from_whom_it_should_be() {
    let (mut mapper, _) = mapper(9);
    let now = Instant::now();
    query(&mut mapper, HERE, THERE, now);
    let good = answer(Kind::Accept, HANDLE);
    let peer = address(MAPPER);
    let other_connecting = Datagram { connecting: address("10.0.0.1:50001"), ..good };
    for (from, datagram) in [
        (address("10.0.0.2:3936"), good),
        (address("10.0.0.3:3935"), answer(Kind::Accept, HANDLE + 1)),
        (peer, answer(Kind::Accept, HANDLE + 1)),
        (peer, other_connecting),
        (peer, answer(Kind::Ack, HANDLE)),
        (peer, Datagram { mapped: Some(good.connecting), ..answer(Kind::Request, HANDLE) }),
        (address("10.0.0.3:60000"), answer(Kind::Reject, HANDLE)),
    ] {
        mapper.answer(from, &datagram.encode(), now);
        assert_eq!(outputs(&mut mapper), [], "{from} {datagram:?}");
    }
    // Answers do not come to where requests do.
    for kind in [Kind::Accept, Kind::Reject] {
        mapper.request(peer, None, &answer(kind, HANDLE).encode(), now);
        assert_eq!(outputs(&mut mapper), []);
    }
    assert_eq!(mapper.figures().refused, 9);
    mapper.answer(peer, &good.encode(), now);
    assert_eq!(outputs(&mut mapper).len(), 2);
    // Nor is what was accepted rejected by one that comes late.
    mapper.answer(peer, &answer(Kind::Reject, HANDLE).encode(), now);
    assert_eq!(outputs(&mut mapper), []);
}

/// The kernel keeps what it is told of a request until the connection comes: so there is an end to that.
#[test]
fn a_flood_of_requests() {
    let (mut mapper, _) = mapper(9);
    let now = Instant::now();
    add(&mut mapper, THERE, now);
    let request = |handle| {
        let mapped = Some(address("10.0.0.1:1"));
        let of = Datagram { mapped, accepting: address(THERE), ..answer(Kind::Request, handle) };
        of.encode()
    };
    let from = address("10.0.0.1:60000");
    for handle in 0..100_000 {
        mapper.request(from, None, &request(handle), now);
    }
    let said = outputs(&mut mapper);
    let told = said.iter().filter(|output| matches!(output, Output::Tell(_))).count();
    let warned = said.iter().filter(|output| matches!(output, Output::Warn(_))).count();
    assert_eq!((told, warned, said.len()), (65_536, 1, 2 * 65_536 + 1));
    mapper.request(from, None, &request(0), now);
    assert_eq!(outputs(&mut mapper).len(), 1);
    mapper.request(from, None, &request(100_000), now + Duration::from_secs(10));
    assert_eq!(outputs(&mut mapper).len(), 2);
}

fn tell(
    mapper: &mut Mapper<Fake>,
    mappings: &[(&str, &str)],
    sent: Option<u32>,
    now: Instant,
) -> Vec<Output> {
    for (local, mapped) in mappings {
        let (local, mapped) = (address(local), address(mapped));
        mapper.hear(Ok(Request::Mapping { local, mapped, reserve: true }), now);
    }
    if let Some(sent) = sent {
        mapper.hear(Ok(Request::Mappings { sequence: 3, sent }), now);
    }
    mapper.agree(false, now);
    outputs(mapper)
}

/// After a start: what the kernel has is there again, under the same ports.
#[test]
fn a_mapper_that_is_started_anew() {
    let (mut mapper, ports) = mapper(9);
    let now = Instant::now();
    ports.borrow_mut().insert(address("10.0.0.1:40002"));
    let said = tell(
        &mut mapper,
        &[
            ("10.0.0.1:5000", "10.0.0.1:40001"),
            ("10.0.0.1:5000", "10.0.0.1:40001"),
            ("10.0.0.1:5001", "10.0.0.1:40002"),
            // It was connected without a mapper.
            ("10.0.0.1:5003", "10.0.0.1:5003"),
        ],
        Some(4),
        now,
    );
    let taken = Message::MappingsTaken { sequence: 3, sent: 4, taken: 4 };
    assert_eq!(said[0], Output::Tell(taken));
    assert!(
        matches!(&said[1..], [Output::Warn(text)] if text.contains("10.0.0.1:40002")),
        "{said:?}"
    );
    let all: Vec<_> = mapper
        .mappings
        .after(None)
        .map(|mapping| {
            (mapping.local.port(), mapping.mapped.port(), mapping.users, mapping.is_reserved())
        })
        .collect();
    assert_eq!(all, [(5000, 40001, 2, true), (5001, 40002, 1, false), (5003, 5003, 1, false)]);
    assert_eq!(ports.borrow().len(), 2);
    let (mut other, _) = self::mapper(9);
    assert_eq!(tell(&mut other, &[], None, now), []);
}

/// What one mapper keeps another begins with, whatever the kernel tells of it.
#[test]
fn what_is_kept() {
    let ((mut before, ports), (mut after, ports_after)) = (mapper(9), mapper(9));
    let now = Instant::now();
    for (local, reserve) in
        [("10.0.0.1:1", true), ("10.0.0.1:2", false), ("10.0.0.1:3", true), ("10.0.0.1:1", true)]
    {
        before.hear(Ok(Request::Add { sequence: 7, local: address(local), reserve }), now);
    }
    before.hear(Ok(Request::Remove { local: address("10.0.0.1:3") }), now);
    before.hear(Ok(Request::Remove { local: address("10.0.0.1:4") }), now);
    let kept: Vec<_> = std::iter::from_fn(|| before.output())
        .filter_map(|output| match output {
            Output::Keep(line) => Some((line.local.port(), line)),
            _ => None,
        })
        .collect();
    let users: Vec<_> = kept.iter().map(|(port, line)| (*port, line.users)).collect();
    assert_eq!(users, [(1, 1), (2, 1), (3, 1), (1, 2), (3, 0)]);
    // As `kept` does: the last word on each.
    let last: BTreeMap<_, _> = kept.into_iter().filter(|(port, _)| *port != 3).collect();
    let last: Vec<_> = last.into_values().collect();
    after.restore(&last);
    let lines = |mapper: &Mapper<Fake>| -> Vec<_> {
        mapper.mappings.after(None).map(Mapping::line).collect()
    };
    assert_eq!((lines(&after), outputs(&mut after)), (lines(&before), vec![]));
    assert_eq!(*ports.borrow(), *ports_after.borrow());
    // The kernel has stopped in the middle; and it has not.
    after.agree(true, now);
    assert_eq!(lines(&after), last);
    tell(&mut after, &[("10.0.0.1:1", "10.0.0.1:40000")], Some(1), now);
    assert_eq!(lines(&after), [Line { users: 1, ..last[0] }]);
    // A port that was taken meanwhile.
    let (mut other, ports) = mapper(9);
    ports.borrow_mut().insert(last[0].mapped);
    other.restore(&last);
    let said = outputs(&mut other);
    assert!(
        matches!(&said[..], [Output::Warn(text)] if text.contains("10.0.0.1:40000")),
        "{said:?}"
    );
}

/// I8: what was lost between the kernel and a mapper is found out.
#[test]
fn what_was_lost() {
    let (mut mapper, ports) = mapper(9);
    let now = Instant::now();
    for local in ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:2", "10.0.0.1:3"] {
        add(&mut mapper, local, now);
    }
    let later = now + Duration::from_secs(11);
    // Not yet in the kernel's list: it has only just been asked for.
    add(&mut mapper, "10.0.0.1:4", later);
    let kept = [("10.0.0.1:2", "10.0.0.1:40001"), ("10.0.0.1:3", "10.0.0.1:40002")];
    // It has not told all.
    let said = tell(&mut mapper, &kept, Some(3), later);
    assert!(matches!(&said[..], [Output::Tell(_)]), "{said:?}");
    assert_eq!(mapper.mappings.len(), 4);
    assert_eq!(tell(&mut mapper, &kept, Some(2), later).len(), 1);
    let users: Vec<_> =
        mapper.mappings.after(None).map(|mapping| (mapping.local.port(), mapping.users)).collect();
    assert_eq!(users, [(2, 1), (3, 1), (4, 1)]);
    assert_eq!(ports.borrow().len(), 3);
    // Nothing at all is told where there is nothing.
    assert_eq!(tell(&mut mapper, &[], None, later + Duration::from_secs(11)), []);
    assert!(mapper.mappings.is_empty() && ports.borrow().is_empty());
}

/// Two mappers and a wire that loses, doubles and delays: each of 200 questions has one answer, the right one.
#[test]
fn a_bad_wire() {
    proptest::proptest!(proptest::prelude::ProptestConfig { cases: 50, failure_persistence: None, ..Default::default() }, |(seed: u64)| {
        let mut state = seed | 1;
        let mut dice = move |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % sides
        };
        let ((mut here, _), (mut there, _)) = (mapper(1000), mapper(1000));
        let mut now = Instant::now();
        for port in 1..=100 {
            add(&mut there, &format!("10.0.0.2:{port}"), now);
        }
        let (from, peer) = (address("10.0.0.1:60000"), address(MAPPER));
        // When it arrives, and where.
        let mut wire: Vec<(Instant, bool, Vec<u8>)> = Vec::new();
        let mut told = 0;
        for port in 1..=200 {
            let (local, remote) = (format!("10.0.0.1:{port}"), format!("10.0.0.2:{port}"));
            let (local, remote) = (address(&local), address(&remote));
            here.hear(Ok(Request::Query { sequence: port, local, remote, reserve: false }), now);
        }
        loop {
            let mut send = |to_there, datagram: Vec<u8>, now| {
                for _ in 0..[0, 1, 1, 1, 2][usize::try_from(dice(5)).unwrap()] {
                    wire.push((now + Duration::from_millis(dice(300)), to_there, datagram.clone()));
                }
            };
            for output in outputs(&mut here) {
                match output {
                    Output::Ask(to, datagram) => { assert_eq!(to, peer); send(true, datagram, now); }
                    Output::Tell(Message::Found { sequence, connection }) => {
                        told += 1;
                        proptest::prop_assert!(sequence <= 100);
                        let mapped = there.mappings.find(connection.remote).unwrap().mapped;
                        proptest::prop_assert_eq!(connection.mapped_remote, mapped);
                    }
                    Output::Tell(Message::NotFound { .. }) => told += 1,
                    Output::Leave(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            for output in outputs(&mut there) {
                if let Output::Answer { datagram, .. } = output {
                    send(false, datagram, now);
                }
            }
            wire.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
            match (wire.last().map(|(at, ..)| *at), here.deadline()) {
                (Some(at), deadline) if deadline.is_none_or(|deadline| at <= deadline) => {
                    now = at;
                    let (_, to_there, datagram) = wire.pop().unwrap();
                    if to_there {
                        there.request(from, None, &datagram, now);
                    } else {
                        here.answer(peer, &datagram, now);
                    }
                }
                (_, Some(deadline)) => { now = deadline; here.tick(now); }
                (_, None) => break,
            }
        }
        proptest::prop_assert_eq!(told, 200);
        proptest::prop_assert!(there.figures().granted <= 100);
    });
}

proptest::proptest! {
    /// Whatever comes by any way: no panic, and nothing is kept of what makes no sense.
    #[test]
    fn any_datagram(datagrams in proptest::collection::vec((0u8..2, proptest::collection::vec(0u8.., 40..66)), 0..50)) {
        let (mut mapper, _) = mapper(9);
        let now = Instant::now();
        add(&mut mapper, "0.0.0.0:1", now);
        query(&mut mapper, HERE, THERE, now);
        for (way, bytes) in datagrams {
            match way {
                0 => mapper.request(address(THERE), None, &bytes, now),
                _ => mapper.answer(address(MAPPER), &bytes, now),
            }
        }
        proptest::prop_assert_eq!(mapper.mappings.len(), 2);
    }
}
