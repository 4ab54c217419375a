// SPDX-License-Identifier: MIT OR Apache-2.0
//! `path-responder UMAD MICROSECONDS`: answers every question for a path, in the place of a subnet manager that has gone, so
//! long after it has come, however many there are.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdma_verbs::mad::{class, method};
use rdma_verbs::sa::{PathRecord, Record, SaHeader};
use rdma_verbs::umad::{AgentRequest, Carrier as _, Received, Umad, wait_readable};
use zerocopy::{FromBytes as _, IntoBytes as _};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let node = arguments.next().context("path-responder UMAD MICROSECONDS")?;
    let late = Duration::from_micros(arguments.next().context("how late?")?.parse()?);
    let mut umad = Umad::open(Path::new(&node))?;
    let methods = [method::GET];
    let request =
        AgentRequest { class: class::SUBN_ADM, version: 2, methods: &methods, rmpp: false };
    let agent = umad.register(&request)?;
    sd_notify::notify(false, &[sd_notify::NotifyState::Ready])?;
    let mut waiting = VecDeque::new();
    loop {
        wait_readable(umad.as_fd(), waiting.front().map(|(due, _, _)| *due))?;
        while let Some(received) = umad.receive()? {
            if let Received::Datagram { from, mad, .. } = received
                && let Some(answer) = answer(mad)
            {
                waiting.push_back((Instant::now() + late, from, answer));
            }
        }
        while waiting.front().is_some_and(|(due, _, _)| *due <= Instant::now()) {
            if let Some((_, to, mad)) = waiting.pop_front() {
                umad.send(agent, to, &mad, None, 0)?;
            }
        }
    }
}

fn answer(mut mad: Vec<u8>) -> Option<Vec<u8>> {
    let (mut header, rest) = SaHeader::read_from_prefix(&mad).ok()?;
    let (mut path, _) = PathRecord::read_from_prefix(rest).ok()?;
    if header.mad.attribute.get() != PathRecord::ATTRIBUTE {
        return None;
    }
    header.mad.method |= method::RESPONSE;
    header.attribute_offset = 8.into();
    (path.dlid, path.slid) = (7.into(), 1.into());
    (path.reversible_and_paths, path.pkey) = (0x80, 0xffff.into());
    (path.mtu, path.rate, path.lifetime) = (0x84, 0x87, 0x92);
    header.write_to_prefix(&mut mad).ok()?;
    path.write_to_prefix(mad.get_mut(size_of::<SaHeader>()..)?).ok()?;
    Some(mad)
}
