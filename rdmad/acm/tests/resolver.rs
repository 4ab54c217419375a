// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs and the kernel are answered, byte by byte, with a fabric that answers what the test says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rdma_acm::address::Address;
use rdma_acm::endpoints::Assigned;
use rdma_acm::options::{DEADLINE, Options};
use rdma_acm::resolver::{ClientId, Host, Output, QuestionId, Resolver};
use rdma_acm::wire::{Broken, Messages, Request, Status};
use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::local_service::{Reply, Request as KernelRequest, decode};
use rdma_verbs::sa::PathRecord;
use rdma_verbs::{DevIndex, Gid, Guid, PortNum};

/// The network of the test: 10.0.0.1 and fd00::1 here, 10.0.0.2 there.
struct Routes;

impl Host for Routes {
    fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        match destination {
            IpAddr::V4(to) if to.octets()[0] == 10 => Some("10.0.0.1".parse().unwrap()),
            IpAddr::V6(_) => Some("fd00::1".parse().unwrap()),
            IpAddr::V4(_) => None,
        }
    }

    fn neighbour(&self, interface: u32, address: IpAddr) -> Option<u128> {
        (interface == 4 && address == IpAddr::from([10, 0, 0, 3])).then_some(PREFIX + 3)
    }
}

const CLIENT: ClientId = ClientId(7);
const PREFIX: u128 = 0xfe80 << 112 | 0x0002_c903_0000_1000;

fn gid(number: u128) -> [u8; 16] {
    (PREFIX + number).to_be_bytes()
}

fn port(number: u32) -> LocalPort {
    LocalPort {
        index: DevIndex(number),
        device: format!("mlx5_{}", number - 1),
        node_guid: Guid(0x0002_c903_0000_1000),
        ports: 2,
        number: PortNum(1),
        umad: "/dev/infiniband/umad0".into(),
        is_active: true,
        lid: u16::try_from(number).unwrap(),
        lmc: 0,
        sm_lid: 1,
        sm_sl: 0,
        gids: vec![Gid(PREFIX + u128::from(number))],
        pkeys: vec![(0, 0xffff)],
    }
}

fn name(text: &str, device: &str) -> Assigned {
    Assigned {
        text: text.into(),
        address: Address::parse(text).unwrap(),
        device: device.into(),
        port: PortNum(1),
        pkey: None,
        interface: None,
    }
}

fn resolver() -> Resolver<Routes> {
    let mut resolver = Resolver::new(Routes, Options::default());
    let hosts = [("10.0.0.2", 2), ("fd00::2", 2), ("dead", 9), ("node-b", 2)];
    let hosts = hosts.map(|(text, number)| (Address::parse(text).unwrap(), PREFIX + number));
    resolver.configure(Options::default(), HashMap::from(hosts));
    let names = ["10.0.0.1", "fd00::1", "Node-A"].map(|text| name(text, "mlx5_0"));
    resolver.set_ports(vec![port(1)], &names);
    resolver
}

/// Little-endian, as the vectors are.
const RECORD: usize = 72;

fn record(flags: u32, kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = flags.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend(value);
    bytes.resize(RECORD, 0);
    bytes
}

fn message(opcode: u8, data: [u8; 3], records: &[Vec<u8>]) -> Vec<u8> {
    let length = u16::try_from(16 + RECORD * records.len()).unwrap();
    let length = if opcode == 1 { length.to_ne_bytes() } else { length.to_be_bytes() };
    let mut bytes = vec![1, opcode, 0];
    bytes.extend(data);
    bytes.extend(length);
    bytes.extend(b"whatever");
    bytes.extend(records.concat());
    bytes
}

fn source(text: &str) -> Vec<u8> {
    let (kind, bytes) = Address::parse(text).unwrap().encode();
    record(1, kind, &bytes)
}

fn destination(text: &str) -> Vec<u8> {
    let (kind, bytes) = Address::parse(text).unwrap().encode();
    record(2, kind, &bytes)
}

fn request(bytes: &[u8]) -> Request {
    let mut messages = Messages::default();
    messages.push(bytes);
    messages.take().unwrap().expect("it is whole")
}

fn outputs(resolver: &mut Resolver<Routes>) -> Vec<Output> {
    std::iter::from_fn(|| resolver.output()).collect()
}

/// What is done about a request.
fn ask(resolver: &mut Resolver<Routes>, bytes: &[u8], now: Instant) -> Vec<Output> {
    resolver.client(CLIENT, &request(bytes), now);
    outputs(resolver)
}

/// The path that is asked for, and nothing else.
fn asked(outputs: &[Output]) -> (QuestionId, PathRecord, u64) {
    match outputs {
        [Output::Ask { port: (DevIndex(1), PortNum(1)), question, path, components }] => {
            (*question, *path, *components)
        }
        other => panic!("{other:?}"),
    }
}

fn answer(outputs: &[Output]) -> &[u8] {
    match outputs {
        [Output::Answer(CLIENT, bytes)] => bytes,
        other => panic!("{other:?}"),
    }
}

/// Byte 2 of an answer that is a header only.
fn status(outputs: &[Output]) -> u8 {
    let bytes = answer(outputs);
    assert_eq!((bytes.len(), &bytes[8..]), (16, &b"whatever"[..]));
    bytes[2]
}

fn said(dgid: u128) -> PathRecord {
    PathRecord {
        dgid: gid(dgid),
        sgid: gid(1),
        dlid: 2.into(),
        slid: 1.into(),
        reversible_and_paths: 0x80,
        pkey: 0xffff.into(),
        mtu: 0x84,
        rate: 0x83,
        lifetime: 0x92,
        ..PathRecord::default()
    }
}

/// DGID, SGID, Reversible, NumbPath, P_Key.
const COMPONENTS: u64 = 1 << 2 | 1 << 3 | 1 << 11 | 1 << 12 | 1 << 13;

#[test]
fn a_path_to_an_address() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let question = message(1, [0; 3], &[source("10.0.0.1"), destination("10.0.0.2")]);
    let mut expected = b"\x01\x01\0\0\0\0\xa0\0whatever\x01\0\0\0\x02\0\0\0\x0a\0\0\x01".to_vec();
    expected.resize(0x58, 0);
    expected.extend(b"\x02\0\0\0\x02\0\0\0\x0a\0\0\x02");
    expected.resize(160, 0);
    assert_eq!(question, expected);

    let (id, path, components) = asked(&ask(&mut resolver, &question, now));
    assert_eq!((path.dgid, path.sgid, path.pkey.get()), (gid(2), gid(1), 0xffff));
    assert_eq!((path.reversible_and_paths, components), (0x81, COMPONENTS));
    // Whoever asks the same waits for the same answer.
    assert!(ask(&mut resolver, &question, now).is_empty());
    resolver.answered(id, Ok(said(2)), now);
    let answers = outputs(&mut resolver);
    assert_eq!(answers.len(), 2);
    let mut expected = b"\x01\x01\0\0\0\0\x58\0whatever\x2b\0\0\0\x10\0\0\0".to_vec();
    expected.extend([0; 8]);
    expected.extend([gid(2), gid(1)].concat());
    expected.extend(b"\0\x02\0\x01\0\0\0\0\0\x80\xff\xff\0\0\x84\x83\x92\0\0\0\0\0\0\0");
    assert_eq!((answer(&answers[..1]), answer(&answers[1..])), (&expected[..], &expected[..]));
    // From now on it is known, by whatever name.
    assert_eq!(answer(&ask(&mut resolver, &question, now)), expected);
    let by_name = message(1, [0; 3], &[source("node-a"), destination("NODE-B")]);
    assert_eq!(answer(&ask(&mut resolver, &by_name, now)), expected);
    // Without a source the one that leads there is told, too.
    let without = message(1, [0; 3], &[destination("10.0.0.2")]);
    let outputs = ask(&mut resolver, &without, now);
    let bytes = answer(&outputs);
    assert_eq!((bytes.len(), u16::from_ne_bytes([bytes[6], bytes[7]])), (160, 160));
    assert_eq!((&bytes[16..88], &bytes[88..]), (&expected[16..], &source("10.0.0.1")[..]));
    assert_eq!(resolver.figures().paths_asked, 1);
    assert_eq!(resolver.figures().questions, 5);
}

/// A question says what it asks with, and how: rdma-core's statuses.
#[test]
fn questions_that_cannot_be_answered() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let (from, to) = (source("10.0.0.1"), destination("10.0.0.2"));
    let path =
        |flags, record_: PathRecord| record(flags, 0x10, zerocopy::IntoBytes::as_bytes(&record_));
    let elsewhere = PathRecord { sgid: gid(5), dgid: gid(2), ..PathRecord::default() };
    for (records, expected) in [
        (vec![], Status::DestinationType),
        (vec![from.clone()], Status::DestinationType),
        (vec![from.clone(), to.clone(), to.clone()], Status::DestinationAddress),
        (vec![from.clone(), from.clone(), to.clone()], Status::SourceAddress),
        (vec![record(1, 6, b"x"), to.clone()], Status::SourceType),
        (vec![from.clone(), record(2, 0, b"x")], Status::DestinationType),
        (vec![source("10.0.0.3"), to.clone()], Status::SourceAddress),
        (vec![from.clone(), destination("10.0.0.9")], Status::NoData),
        (vec![destination("node-b")], Status::DestinationType),
        (vec![destination("192.168.0.1")], Status::DestinationAddress),
        (vec![path(0, PathRecord::default())], Status::DestinationAddress),
        (vec![path(0, elsewhere)], Status::SourceAddress),
        (vec![path(1 << 31, elsewhere), to.clone()], Status::Invalid),
        (vec![path(1 << 31, elsewhere)], Status::SourceAddress),
    ] {
        let question = message(1, [0; 3], &records);
        assert_eq!(status(&ask(&mut resolver, &question, now)), expected as u8, "{records:?}");
    }
    // An opcode that there is not, and a RESOLVE that does not end with a record.
    assert_eq!(status(&ask(&mut resolver, &message(9, [0; 3], &[]), now)), 2);
    let mut odd = message(1, [0; 3], &[from]);
    odd[6..8].copy_from_slice(&86_u16.to_ne_bytes());
    assert_eq!(status(&ask(&mut resolver, &odd[..86], now)), 2);
}

/// rdma-core A1: eight records without a source leave no room for the one that is told.
#[test]
fn eight_records_without_a_source() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let mut records = vec![destination("10.0.0.2")];
    records.resize(8, record(0, 0x10, &[]));
    let (id, ..) = asked(&ask(&mut resolver, &message(1, [0; 3], &records), now));
    resolver.answered(id, Ok(said(2)), now);
    assert_eq!(answer(&outputs(&mut resolver)).len(), 160);
    let mut messages = Messages::default();
    let too_long = message(1, [0; 3], &vec![destination("10.0.0.2"); 9]);
    messages.push(&too_long);
    assert_eq!(messages.take().unwrap_err(), Broken::Length(664));
}

/// In pieces, several at once, of another version.
#[test]
fn messages_out_of_a_stream() {
    let question = message(1, [0; 3], &[source("10.0.0.1"), destination("10.0.0.2")]);
    let mut messages = Messages::default();
    let stream = [&question[..], &message(2, [0; 3], &[]), &question].concat();
    let mut whole = 0;
    for byte in stream.chunks(7) {
        messages.push(byte);
        while messages.take().unwrap().is_some() {
            whole += 1;
        }
    }
    assert_eq!(whole, 3);
    messages.push(&[2]);
    assert!(matches!(messages.take(), Ok(None)));
    messages.push(&[0; 15]);
    assert_eq!(messages.take().unwrap_err(), Broken::Version(2));
    for length in [0, 15, 593, u16::MAX] {
        let mut messages = Messages::default();
        let mut header = message(3, [0; 3], &[]);
        header[6..8].copy_from_slice(&length.to_be_bytes());
        messages.push(&header);
        assert_eq!(messages.take().unwrap_err(), Broken::Length(length));
    }
}

/// rdma-core A17: what else is asked for makes another question, and is asked of the fabric.
#[test]
fn every_wish_counts() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let wish = |path: PathRecord| {
        let bytes = zerocopy::IntoBytes::as_bytes(&path).to_vec();
        message(1, [0; 3], &[record(0, 0x10, &bytes)])
    };
    let plain = PathRecord { dgid: gid(2), ..PathRecord::default() };
    let (id, path, components) = asked(&ask(&mut resolver, &wish(plain), now));
    assert_eq!((path.sgid, path.pkey.get(), components), (gid(1), 0xffff, COMPONENTS));
    resolver.answered(id, Ok(said(2)), now);
    outputs(&mut resolver);
    for (path, more) in [
        (PathRecord { qos_and_sl: 0x0010.into(), ..plain }, PathRecord::QOS_CLASS),
        (PathRecord { qos_and_sl: 0x0003.into(), ..plain }, PathRecord::SL),
        (PathRecord { traffic_class: 4, ..plain }, PathRecord::TRAFFIC_CLASS),
        (PathRecord { service_id: 9.into(), ..plain }, PathRecord::SERVICE_ID),
        (PathRecord { mtu: 0x84, ..plain }, PathRecord::MTU_SELECTOR | PathRecord::MTU),
        (PathRecord { flow: 0x100.into(), ..plain }, PathRecord::FLOW_LABEL),
        (PathRecord { slid: 1.into(), sgid: gid(1), ..plain }, PathRecord::SLID),
    ] {
        let (_, asked_for, components) = asked(&ask(&mut resolver, &wish(path), now));
        assert_eq!(components, COMPONENTS | more);
        assert_eq!(asked_for.qos_and_sl, path.qos_and_sl);
    }
    assert_eq!(answer(&ask(&mut resolver, &wish(plain), now)).len(), 88);
}

/// `ib_acme -v`: subnet administration is asked, whatever is known, and its answer is told with the flags of the question.
#[test]
fn what_subnet_administration_says_now() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let bytes = zerocopy::IntoBytes::as_bytes(&said(2)).to_vec();
    let question = message(1, [0; 3], &[record(1 << 31 | 0x2b, 0x10, &bytes)]);
    for _ in 0..2 {
        let (id, path, components) = asked(&ask(&mut resolver, &question, now));
        assert_eq!(path, said(2));
        let all = COMPONENTS & !PathRecord::PATHS | PathRecord::DLID | PathRecord::SLID;
        assert_eq!(components, all | 0x3f << 16);
        resolver.answered(id, Ok(said(2)), now);
        let outputs = outputs(&mut resolver);
        let answer = answer(&outputs);
        assert_eq!((answer[1], &answer[16..20]), (0x81, &[0x2b, 0, 0, 0x80][..]));
        assert_eq!(answer[24..], bytes);
    }
    let (id, ..) = asked(&ask(&mut resolver, &question, now));
    resolver.answered(id, Err(Status::NoData), now);
    assert_eq!(status(&outputs(&mut resolver)), 3);
}

/// Only what is known; but it is asked for, and known the next time.
#[test]
fn without_delay() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let (kind, bytes) = Address::parse("10.0.0.2").unwrap().encode();
    let no_delay = record(2 | 1 << 30, kind, &bytes);
    let question = message(1, [0; 3], &[source("10.0.0.1"), no_delay]);
    let first = ask(&mut resolver, &question, now);
    assert_eq!(status(&first[..1]), 3);
    let (id, ..) = asked(&first[1..]);
    resolver.answered(id, Ok(said(2)), now);
    assert!(outputs(&mut resolver).is_empty());
    assert_eq!(answer(&ask(&mut resolver, &question, now)).len(), 88);
}

/// Whatever becomes of the fabric, there is an answer in time, and that there was none is known for a moment.
#[test]
fn an_answer_in_time() {
    let (mut resolver, mut now) = (resolver(), Instant::now());
    let question = message(1, [0; 3], &[source("10.0.0.1"), destination("dead")]);
    let (id, ..) = asked(&ask(&mut resolver, &question, now));
    assert_eq!(resolver.deadline(), Some(now + DEADLINE));
    resolver.tick(now + DEADLINE - Duration::from_millis(1));
    assert!(outputs(&mut resolver).is_empty());
    now += DEADLINE;
    resolver.tick(now);
    let done = outputs(&mut resolver);
    assert_eq!(done[0], Output::Leave((DevIndex(1), PortNum(1)), id));
    assert_eq!(status(&done[1..]), 6);
    assert_eq!(resolver.deadline(), None);
    // Too late.
    resolver.answered(id, Ok(said(9)), now);
    assert!(outputs(&mut resolver).is_empty());
    assert_eq!(status(&ask(&mut resolver, &question, now)), 6);
    now += Duration::from_secs(1);
    let (id, ..) = asked(&ask(&mut resolver, &question, now));
    resolver.answered(id, Ok(said(9)), now);
    assert_eq!(answer(&outputs(&mut resolver)).len(), 88);
    assert_eq!(resolver.deadline(), None);
}

/// Nothing that is known outlives a change of the fabric (rdma-core A4, A11).
#[test]
fn what_is_known_is_forgotten() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let question = message(1, [0; 3], &[source("10.0.0.1"), destination("10.0.0.2")]);
    let names = [name("10.0.0.1", "mlx5_0")];
    let known = |resolver: &mut Resolver<Routes>| {
        let (id, ..) = asked(&ask(resolver, &question, now));
        resolver.answered(id, Ok(said(2)), now);
        assert_eq!(answer(&outputs(resolver)).len(), 88);
        assert_eq!(answer(&ask(resolver, &question, now)).len(), 88);
    };
    let key = (DevIndex(1), PortNum(1));
    known(&mut resolver);
    resolver.forget(key);
    known(&mut resolver);
    resolver.set_ports(vec![port(1)], &names);
    assert_eq!(answer(&ask(&mut resolver, &question, now)).len(), 88);
    for changed in [
        LocalPort { lid: 9, ..port(1) },
        LocalPort { sm_lid: 9, ..port(1) },
        LocalPort { gids: vec![Gid(PREFIX + 1), Gid(5)], ..port(1) },
        LocalPort { pkeys: vec![(0, 0xffff), (1, 0x8001)], ..port(1) },
    ] {
        resolver.set_ports(vec![changed], &names);
        known(&mut resolver);
    }
    // What is on its way meanwhile is answered, and not kept.
    resolver.forget(key);
    let (old, ..) = asked(&ask(&mut resolver, &question, now));
    resolver.forget(key);
    let (new, ..) = asked(&ask(&mut resolver, &question, now));
    resolver.answered(old, Ok(said(2)), now);
    assert_eq!(answer(&outputs(&mut resolver)).len(), 88);
    assert!(ask(&mut resolver, &question, now).is_empty());
    resolver.answered(new, Ok(said(2)), now);
    assert_eq!(outputs(&mut resolver).len(), 2);
    // The port goes: who waits is told at once.
    resolver.forget(key);
    let (id, ..) = asked(&ask(&mut resolver, &question, now));
    resolver.set_ports(vec![LocalPort { is_active: false, ..port(1) }], &names);
    let done = outputs(&mut resolver);
    assert_eq!((&done[0], status(&done[1..])), (&Output::Leave(key, id), 5));
    assert_eq!(status(&ask(&mut resolver, &question, now)), 7);
    assert_eq!((resolver.sizes(), resolver.deadline()), ((0, 0), None));
}

/// What `route_timeout` says.
#[test]
fn paths_that_are_kept_for_a_while() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let minute = Duration::from_secs(60);
    let options = Options { path_timeout: Some(minute), ..Options::default() };
    let hosts = HashMap::from([(Address::parse("10.0.0.2").unwrap(), PREFIX + 2)]);
    resolver.configure(options, hosts);
    let question = message(1, [0; 3], &[source("10.0.0.1"), destination("10.0.0.2")]);
    let (id, ..) = asked(&ask(&mut resolver, &question, now));
    resolver.answered(id, Ok(said(2)), now);
    outputs(&mut resolver);
    let almost = now + minute - Duration::from_millis(1);
    assert_eq!(answer(&ask(&mut resolver, &question, almost)).len(), 88);
    asked(&ask(&mut resolver, &question, now + minute));
}

/// rdma-core A6: the number of an endpoint is not that of its port, too.
#[test]
fn counters_and_endpoints() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let names = [name("10.0.0.1", "mlx5_0"), name("Node-B", "mlx5_1")];
    resolver.set_ports(vec![port(1), port(2)], &names);
    let question = message(1, [0; 3], &[source("node-b"), destination("10.0.0.1")]);
    let [Output::Ask { question, path, .. }] = ask(&mut resolver, &question, now)[..] else {
        panic!("nothing is asked");
    };
    assert_eq!((path.dgid, path.sgid), (gid(1), gid(2)));
    resolver.answered(question, Err(Status::NoData), now);
    outputs(&mut resolver);
    // Errors, questions, no data, addresses asked and known, paths asked and known.
    let counters = |resolver: &mut Resolver<Routes>, data, records: &[Vec<u8>]| -> Vec<u64> {
        let outputs = ask(resolver, &message(2, data, records), now);
        let bytes = answer(&outputs);
        if bytes.len() == 16 {
            return vec![bytes[2].into()];
        }
        assert_eq!((&bytes[..8], bytes.len()), (&b"\x01\x82\0\x07\0\0\0\x48"[..], 72));
        bytes[16..].chunks(8).map(|word| u64::from_be_bytes(word.try_into().unwrap())).collect()
    };
    assert_eq!(counters(&mut resolver, [0; 3], &[]), [0, 1, 1, 0, 1, 1, 0]);
    assert_eq!(counters(&mut resolver, [0, 2, 0], &[]), [0, 1, 1, 0, 1, 1, 0]);
    assert_eq!(counters(&mut resolver, [0, 1, 0], &[]), [0; 7]);
    assert_eq!(counters(&mut resolver, [0; 3], &[source("node-b")]), [0, 1, 1, 0, 1, 1, 0]);
    assert_eq!(counters(&mut resolver, [0, 3, 0], &[]), [7]);
    assert_eq!(counters(&mut resolver, [0; 3], &[source("nobody")]), [7]);

    let outputs = ask(&mut resolver, &message(3, [2, 0, 0], &[]), now);
    let mut expected = b"\x01\x83\0\0\0\0\0\xa0whatever".to_vec();
    expected.extend(b"\0\x02\xc9\x03\0\0\x10\0\x01\x02\0\0\xff\xff\0\x01ibacmp");
    expected.resize(96, 0);
    expected.extend(b"Node-B");
    expected.resize(160, 0);
    assert_eq!(answer(&outputs), expected);
    for none in [[0, 0, 0], [3, 0, 0], [1, 2, 0]] {
        assert_eq!(status(&ask(&mut resolver, &message(3, none, &[]), now)), 2);
    }
}

#[test]
fn the_kernel() {
    let (mut resolver, mut now) = (resolver(), Instant::now());
    let mut bytes = b"\x84\0\0\0\0\x10\x01\0\x07\0\0\0\0\0\0\0mlx5_0".to_vec();
    bytes.resize(0x50, 0);
    bytes.extend(b"\x01\0\0\0\x14\0\x04\x20");
    bytes.extend(gid(2));
    bytes.extend(b"\x14\0\x05\x20");
    bytes.extend(gid(1));
    bytes.extend(b"\x06\0\x07\x20\xff\xff\0\0");
    let request = |bytes: &[u8]| -> KernelRequest { decode(bytes).unwrap().remove(0) };
    let KernelRequest::Path { ticket, .. } = request(&bytes) else { panic!("no path") };
    resolver.kernel(request(&bytes), now);
    let (id, path, components) = asked(&outputs(&mut resolver));
    assert_eq!((path.dgid, path.sgid, components), (gid(2), gid(1), COMPONENTS));
    resolver.answered(id, Ok(said(2)), now);
    let answered = Output::Kernel(ticket, Reply::Path(0x2b, said(2)));
    assert_eq!(outputs(&mut resolver)[0], answered);
    // What a program has asked for is known to the kernel, and the other way round.
    let question = message(1, [0; 3], &[source("10.0.0.1"), destination("10.0.0.2")]);
    assert_eq!(answer(&ask(&mut resolver, &question, now)).len(), 88);
    resolver.kernel(request(&bytes), now);
    assert_eq!(outputs(&mut resolver), [answered]);
    // It is told in time that there is none, and helps itself; what it cannot be told, at once.
    resolver.forget((DevIndex(1), PortNum(1)));
    resolver.kernel(request(&bytes), now);
    asked(&outputs(&mut resolver));
    now += DEADLINE;
    assert!(DEADLINE < Duration::from_secs(2));
    resolver.tick(now);
    let failed = Output::Kernel(ticket, Reply::Failed);
    assert_eq!(outputs(&mut resolver)[1], failed);
    let mut other = bytes.clone();
    other[0x14..0x16].copy_from_slice(b"_9");
    resolver.kernel(request(&other), now);
    resolver.kernel(KernelRequest::Malformed(ticket), now);
    assert_eq!(outputs(&mut resolver), [failed.clone(), failed]);
    let figures = resolver.figures();
    assert_eq!((figures.kernel_asked, figures.kernel_answered), (5, 2));
}

/// 100 destinations that never answer hold up nobody else; and there is an end to what can be asked.
#[test]
fn dead_destinations_and_too_many_questions() {
    let (mut resolver, now) = (resolver(), Instant::now());
    for number in 0..1 << 16 {
        let dgid = (PREFIX + 100 + number).to_be_bytes();
        let path = PathRecord { dgid, ..PathRecord::default() };
        let bytes = zerocopy::IntoBytes::as_bytes(&path).to_vec();
        asked(&ask(&mut resolver, &message(1, [0; 3], &[record(0, 0x10, &bytes)]), now));
    }
    let question = message(1, [0; 3], &[source("10.0.0.1"), destination("10.0.0.2")]);
    assert_eq!(status(&ask(&mut resolver, &question, now)), Status::NoMemory as u8);
    resolver.tick(now + DEADLINE);
    assert_eq!(outputs(&mut resolver).len(), 2 << 16);
    assert_eq!(resolver.sizes().0, 0);
    asked(&ask(&mut resolver, &question, now + DEADLINE));
}

/// Whom the kernel has spoken with already, over the interface of who asks; and for the kernel, behind a router.
#[test]
fn neighbours() {
    let (mut resolver, now) = (resolver(), Instant::now());
    let question = message(1, [0; 3], &[source("10.0.0.1"), destination("10.0.0.3")]);
    assert_eq!(status(&ask(&mut resolver, &question, now)), 3);
    let of_interface = Assigned { interface: Some(4), ..name("10.0.0.1", "mlx5_0") };
    resolver.set_ports(vec![port(1)], &[of_interface]);
    let (_, path, _) = asked(&ask(&mut resolver, &question, now));
    assert_eq!(path.dgid, gid(3));
    // IP_RESOLVE: interface 4, an IPv4 address.
    let mut bytes = b"\x1c\0\0\0\x02\x10\x01\0\x07\0\0\0\0\0\0\0\x04\0\0\0\x08\0\x09\x20".to_vec();
    bytes.extend([10, 0, 0, 0]);
    for (last, known) in [(1, Some(1)), (2, Some(2)), (3, Some(3)), (9, None)] {
        bytes[27] = last;
        let request = decode(&bytes).unwrap().remove(0);
        assert!(matches!(request, KernelRequest::Ip { interface: 4, .. }), "{request:?}");
        resolver.kernel(request, now);
        let [Output::Kernel(_, reply)] = &outputs(&mut resolver)[..] else { panic!("no reply") };
        let expected = known.map_or(Reply::Failed, |n| Reply::Gid(Gid(PREFIX + n)));
        assert_eq!(*reply, expected);
    }
}
