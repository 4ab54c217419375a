// SPDX-License-Identifier: MIT OR Apache-2.0
//! A million messages by each way, good ones with some bytes changed and ones of chance: none is a panic, and nothing of
//! what other hosts send is kept for longer than it has a use.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rdma_iwpm::mapper::{Mapper, Output};
use rdma_iwpm::mappings::Host;
use rdma_verbs::iwpm::{Datagram, Kind, Request, decode};

const ROUNDS: u32 = 1_000_000;

#[derive(Debug)]
struct Fake(u64);

impl Host for Fake {
    type Port = ();

    fn reserve(&mut self, _: SocketAddr) -> io::Result<((), u16)> {
        Ok(((), 40000))
    }

    fn handle(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// One of `good` with up to seven bytes changed, perhaps cut off, or bytes of chance.
fn mutated(random: &mut fastrand::Rng, good: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match good.get(random.usize(..=good.len())) {
        Some(good) => good.clone(),
        None => std::iter::repeat_with(|| random.u8(..)).take(70).collect(),
    };
    for _ in 0..random.usize(..8) {
        let place = random.usize(..bytes.len().max(1));
        if let Some(byte) = bytes.get_mut(place) {
            *byte = random.u8(..);
        }
    }
    if random.u8(..4) == 0 {
        bytes.truncate(random.usize(..=bytes.len()));
    }
    bytes
}

#[test]
fn a_million_datagrams_of_other_hosts() {
    // The same each time, so that what fails can be found again.
    let mut random = fastrand::Rng::with_seed(7);
    let mut mapper = Mapper::new(Fake(0));
    let mut now = Instant::now();
    let (local, remote) = (address("10.0.0.1:50000"), address("10.0.0.2:5000"));
    let listener = Request::Add { sequence: 1, local: address("0.0.0.0:7"), reserve: true };
    mapper.hear(Ok(listener), now);
    let request = Datagram {
        kind: Kind::Request,
        handle: 1,
        connecting: remote,
        accepting: address("10.0.0.1:7"),
        mapped: Some(remote),
    };
    let answer = Datagram { connecting: local, accepting: remote, mapped: None, ..request };
    let good: Vec<Vec<u8>> = [
        request,
        Datagram { kind: Kind::Accept, ..answer },
        Datagram { kind: Kind::Ack, ..answer },
        Datagram { kind: Kind::Reject, ..answer },
    ]
    .iter()
    .map(Datagram::encode)
    .collect();
    let mut answers = 0_u32;
    for round in 0..ROUNDS {
        if round % 1000 == 0 {
            mapper.hear(Ok(Request::Query { sequence: 2, local, remote, reserve: true }), now);
        }
        let from = SocketAddr::from((IpAddr::from([10, 0, 0, random.u8(..)]), 3935));
        mapper.request(from, None, &mutated(&mut random, &good), now);
        mapper.answer(from, &mutated(&mut random, &good), now);
        while let Some(output) = mapper.output() {
            // One for one, and no longer than what was asked.
            if let Output::Answer { datagram, .. } = output {
                assert_eq!(datagram.len(), 48);
                answers += 1;
            }
        }
        assert!(answers <= round + 1);
        now += Duration::from_millis(1);
        mapper.tick(now);
    }
    assert_eq!(mapper.mappings.len(), 2);
    mapper.tick(now + Duration::from_secs(60));
    assert_eq!((mapper.questions.open(), mapper.deadline()), (0, None));
    assert!(answers > 100_000, "{answers}");
}

#[test]
fn a_million_messages_of_the_kernel() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut mapper = Mapper::new(Fake(0));
    let now = Instant::now();
    let storage = |port: u8| [&[2, 0, 0, port, 10, 0, 0, 1][..], &[0; 120]].concat();
    let message = |operation: u16, values: &[&[u8]]| {
        let mut payload = Vec::new();
        for (number, value) in (1_u16..).zip(values) {
            payload.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            payload.extend(number.to_ne_bytes());
            payload.extend(*value);
        }
        let length = u32::try_from(16 + payload.len()).unwrap();
        let kind = 0x800 | operation;
        let mut bytes = [length.to_ne_bytes(), [0; 4], [0; 4], [0; 4]].concat();
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(payload);
        bytes
    };
    let number = &[0; 4][..];
    let good = [
        message(0, &[number, &[b'a'; 16], &[b'b'; 32], b"iWarpPortMapperUser\0"]),
        message(1, &[number, &storage(1), number]),
        message(2, &[number, &storage(2), &storage(3), number]),
        message(3, &[number, &storage(1)]),
        message(6, &[&storage(1), &storage(4), number]),
        message(7, &[number, number]),
    ];
    let mut heard = 0;
    for round in 0..ROUNDS {
        for request in decode(&mutated(&mut random, &good)).unwrap_or_default() {
            heard += u32::from(request.is_ok());
            mapper.hear(request, now);
        }
        if round % 1000 == 0 {
            mapper.agree(false, now);
        }
        while mapper.output().is_some() {}
    }
    assert!(heard > 100_000, "{heard}");
}
