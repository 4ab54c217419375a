// SPDX-License-Identifier: MIT OR Apache-2.0
//! A million mutated messages by each way: everybody is answered once, what is kept stays bounded, nothing panics.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rdma_acm::address::Address;
use rdma_acm::endpoints::Assigned;
use rdma_acm::options::Options;
use rdma_acm::paths;
use rdma_acm::resolver::{ClientId, Host, Output, Resolver};
use rdma_acm::wire::{LONGEST, Messages, Status};
use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::local_service;
use rdma_verbs::sa::PathRecord;
use rdma_verbs::{DevIndex, Gid, Guid, PortNum};

struct Anywhere;

impl Host for Anywhere {
    fn source(&self, _: IpAddr) -> Option<IpAddr> {
        Some("10.0.0.1".parse().unwrap())
    }

    fn neighbour(&self, _: u32, _: IpAddr) -> Option<u128> {
        None
    }
}

fn resolver() -> Resolver<Anywhere> {
    let mut resolver = Resolver::new(Anywhere, Options::default());
    let port = LocalPort {
        index: DevIndex(1),
        device: "mlx5_0".into(),
        node_guid: Guid(1),
        ports: 1,
        number: PortNum(1),
        umad: "/dev/infiniband/umad0".into(),
        is_active: true,
        lid: 1,
        lmc: 0,
        sm_lid: 1,
        sm_sl: 0,
        gids: vec![Gid(0xfe80 << 112 | 1)],
        pkeys: vec![(0, 0xffff)],
    };
    let name = Assigned {
        text: "10.0.0.1".into(),
        address: Address::parse("10.0.0.1").unwrap(),
        device: "mlx5_0".into(),
        port: PortNum(1),
        pkey: None,
        interface: None,
    };
    resolver.set_ports(vec![port], &[name]);
    resolver
}

/// Changes some bytes, and its length.
fn mutated(random: &mut fastrand::Rng, template: &[u8]) -> Vec<u8> {
    let mut bytes = template.to_vec();
    for _ in 0..random.usize(..6) {
        let at = random.usize(..bytes.len());
        bytes[at] = random.u8(..);
    }
    if random.u8(..) < 32 {
        bytes.truncate(random.usize(..=bytes.len()));
    }
    bytes
}

/// The fabric answers some, late or never.
fn fabric(resolver: &mut Resolver<Anywhere>, random: &mut fastrand::Rng, now: Instant) -> usize {
    let mut answered = 0;
    while let Some(output) = resolver.output() {
        match output {
            Output::Answer(_, bytes) => {
                assert!((16..=LONGEST).contains(&bytes.len()));
                answered += 1;
            }
            Output::Kernel(..) => answered += 1,
            Output::Ask { question, path, .. } => match random.u8(..8) {
                0 => {}
                1 => resolver.answered(question, Err(Status::NoData), now),
                _ => resolver.answered(question, Ok(PathRecord { dlid: 2.into(), ..path }), now),
            },
            Output::Leave(..) => {}
        }
    }
    answered
}

/// From time to time it is later.
fn later(resolver: &mut Resolver<Anywhere>, round: u32, now: Instant) -> Instant {
    if round % 256 != 0 {
        return now;
    }
    let now = now + Duration::from_millis(50);
    resolver.tick(now);
    now
}

/// Who has waited until the end.
fn rest(resolver: &mut Resolver<Anywhere>, random: &mut fastrand::Rng, now: Instant) -> usize {
    let now = now + Duration::from_secs(2);
    resolver.tick(now);
    fabric(resolver, random, now)
}

const ROUNDS: u32 = 1_000_000;

#[test]
fn programs() {
    let (mut resolver, mut now) = (resolver(), Instant::now());
    let mut random = fastrand::Rng::with_seed(7);
    let mut resolve = b"\x01\x01\0\0\0\0\xa0\0whatever\x01\0\0\0\x02\0\0\0\x0a\0\0\x01".to_vec();
    resolve.resize(0x58, 0);
    resolve.extend(b"\x02\0\0\0\x04\0\0\0\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x02");
    resolve.resize(160, 0);
    let mut path = b"\x01\x01\0\0\0\0\x58\0whatever\0\0\0\0\x10\0\0\0".to_vec();
    path.extend([0; 8]);
    path.extend(b"\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x02");
    path.resize(88, 0);
    let templates = [resolve, path, b"\x01\x03\0\x01\0\0\0\x10whatever".to_vec()];
    let (mut asked, mut answered, mut broken) = (0, 0, 0);
    let mut messages = Messages::default();
    for round in 0..ROUNDS {
        let template = &templates[random.usize(..templates.len())];
        messages.push(&mutated(&mut random, template));
        loop {
            match messages.take() {
                Ok(Some(request)) => {
                    asked += 1;
                    resolver.client(ClientId(round.into()), &request, now);
                }
                Ok(None) => break,
                Err(_) => {
                    broken += 1;
                    messages = Messages::default();
                }
            }
        }
        answered += fabric(&mut resolver, &mut random, now);
        now = later(&mut resolver, round, now);
    }
    assert_eq!(asked, answered + rest(&mut resolver, &mut random, now));
    assert!(asked > ROUNDS as usize / 4 && broken > 1000, "{asked} asked, {broken} broken");
    let (open, known) = resolver.sizes();
    assert!(open == 0 && known <= paths::MOST.get(), "{open} {known}");
}

#[test]
fn the_kernel() {
    let (mut resolver, mut now) = (resolver(), Instant::now());
    let mut random = fastrand::Rng::with_seed(8);
    let mut template = b"\x84\0\0\0\0\x10\x01\0\x07\0\0\0\0\0\0\0mlx5_0".to_vec();
    template.resize(0x50, 0);
    template.extend(b"\x01\0\0\0\x14\0\x04\x20\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x02");
    template.extend(b"\x14\0\x05\x20\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x01");
    template.extend(b"\x06\0\x07\x20\xff\xff\0\0");
    let (mut asked, mut answered) = (0, 0);
    for round in 0..ROUNDS {
        for request in local_service::decode(&mutated(&mut random, &template)).unwrap_or_default() {
            asked += 1;
            resolver.kernel(request, now);
        }
        answered += fabric(&mut resolver, &mut random, now);
        now = later(&mut resolver, round, now);
    }
    assert_eq!(asked, answered + rest(&mut resolver, &mut random, now));
    assert!(asked > ROUNDS as usize / 2, "{asked}");
}
