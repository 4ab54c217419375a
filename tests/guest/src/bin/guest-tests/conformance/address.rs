// SPDX-License-Identifier: MIT OR Apache-2.0
//! Of what is found by IP address.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdma_verbs::cm::{Channel, Datagrams, Event, EventKind, Id, Parameters};
use rdma_verbs::uverbs::{
    AddressHandle, CompletionQueue, Data, Datagram, MemoryRegion, Operation, QueuePair,
    ReadyToSend, ReceiveRequest, Reliable, SendRequest,
};

use super::{CAPACITY, Lab, expect, next, next_port, succeeds, take};

type Pair = QueuePair<Datagram, ReadyToSend>;

fn pair(lab: &Lab, queue: &CompletionQueue, id: &Id) -> Result<Pair> {
    let pair = lab.context.queue_pair::<Datagram>(&lab.domain, (queue, queue), CAPACITY)?;
    Ok(pair.init_for(id)?.ready_to_receive()?.ready_to_send(0)?)
}

/// Where it is said to go, and the way there.
fn way(lab: &Lab, event: &Event) -> Result<(Datagrams, AddressHandle)> {
    let to = event.datagrams.context("it is not said where they go")?;
    Ok((to, to.address_handle(&lab.domain)?))
}

fn send(pair: &mut Pair, (to, path): &(Datagrams, AddressHandle)) -> Result<()> {
    let (qpn, qkey) = (to.qpn, to.qkey);
    let operation = Operation::SendTo { path, qpn, qkey, immediate: None };
    let data = Data::Inline(b"hello");
    pair.post_send(&[SendRequest::new(9, operation, data)])?;
    Ok(())
}

/// The header of a datagram, and what is sent.
const LENGTH: u32 = 40 + 5;

fn receive(pair: &mut Pair, memory: &MemoryRegion) -> Result<()> {
    let to = [memory.sge(0, 64)];
    Ok(pair.post_receive(&[ReceiveRequest { id: u64::from(pair.number()), to: &to }])?)
}

pub(super) fn datagrams(lab: &Lab) -> Result<()> {
    let address = SocketAddr::from((lab.address, next_port()?));
    let (channel, server) = (Channel::open()?, Channel::open()?);
    let (id, listener) = (channel.datagram_id()?, server.datagram_id()?);
    listener.bind(address)?;
    listener.listen(1)?;
    id.resolve_address(None, address, Duration::from_secs(2))?;
    expect(&channel, EventKind::ADDRESS_RESOLVED)?;
    id.resolve_route(Duration::from_secs(2))?;
    expect(&channel, EventKind::ROUTE_RESOLVED)?;
    id.connect(&Parameters { private: b"who", retries: 7, ..Parameters::default() })?;
    let event = expect(&server, EventKind::CONNECT_REQUEST)?;
    ensure!(event.private.starts_with(b"who"), "it says {:?}", event.private);
    let request = event.request.context("no request")?;
    let (mut queue, memory) = (lab.queue()?, lab.memory()?);
    let (mut one, mut other) = (pair(lab, &queue, &id)?, pair(lab, &queue, &request)?);
    let (qpn, private) = (other.number(), b"me");
    request.accept(&Parameters { qpn, private, ..Parameters::default() })?;
    let event = expect(&channel, EventKind::ESTABLISHED)?;
    ensure!(event.private.starts_with(b"me"), "it says {:?}", event.private);
    let way = way(lab, &event)?;
    ensure!(way.0.qpn == qpn, "{:?} is not where {qpn} is", way.0);
    receive(&mut other, &memory)?;
    send(&mut one, &way)?;
    let all = take(&mut queue, 2)?;
    let received = all.iter().find(|each| each.id == u64::from(qpn)).context("nothing came")?;
    ensure!(received.length == LENGTH && received.source_qpn == one.number(), "{received:?}");
    Ok(())
}

pub(super) fn multicast(lab: &Lab) -> Result<()> {
    let channel = Channel::open()?;
    let id = channel.datagram_id()?;
    id.bind(SocketAddr::from((lab.address, 0)))?;
    let membership = id.join(SocketAddr::from(([239, 9, 9, 9], 0)))?;
    let event = expect(&channel, EventKind::MULTICAST_JOIN)?;
    ensure!(event.of == id.cookie(), "it is of {}", event.of);
    let way = way(lab, &event)?;
    let (group, mlid) = way.0.group();
    let (mut queue, mut sent, memory) = (lab.queue()?, lab.queue()?, lab.memory()?);
    let mut sender = pair(lab, &sent, &id)?;
    let [one, other] = [(); 2].map(|()| -> Result<_> {
        let mut pair = pair(lab, &queue, &id)?;
        pair.attach(group, mlid)?;
        receive(&mut pair, &memory)?;
        receive(&mut pair, &memory)?;
        Ok(pair)
    });
    let (mut one, other) = (one?, other?);
    send(&mut sender, &way)?;
    succeeds(&mut sent)?;
    let mut got: Vec<u64> = take(&mut queue, 2)?.iter().map(|each| each.id).collect();
    got.sort_unstable();
    let mut all = [one.number(), other.number()].map(u64::from);
    all.sort_unstable();
    ensure!(got == all, "{got:?} have it, not {all:?}");
    one.detach(group, mlid)?;
    ensure!(one.detach(group, mlid).is_err(), "it is detached twice");
    send(&mut sender, &way)?;
    let received = succeeds(&mut queue)?;
    ensure!(received.qpn == other.number() && received.length == LENGTH, "{received:?}");
    // One that is attached can be destroyed.
    drop((membership, other));
    ensure!(queue.poll(&mut [received; 4])? == 0, "what is detached has it, too");
    Ok(())
}

pub(super) fn many(lab: &Lab) -> Result<()> {
    const MANY: usize = 40;
    let address = SocketAddr::from((lab.address, next_port()?));
    let server = Channel::open()?;
    let listener = server.id()?;
    listener.bind(address)?;
    listener.listen(u32::try_from(MANY)?)?;
    // All of one kind of event come before the next is asked for.
    let channel = Channel::open()?;
    let ids = (0..MANY).map(|_| channel.id()).collect::<Result<Vec<_>, _>>()?;
    let each = |kind| ids.iter().try_for_each(|_| expect(&channel, kind).map(drop));
    for id in &ids {
        id.resolve_address(None, address, Duration::from_secs(5))?;
    }
    each(EventKind::ADDRESS_RESOLVED)?;
    for id in &ids {
        id.resolve_route(Duration::from_secs(5))?;
    }
    each(EventKind::ROUTE_RESOLVED)?;
    let queue = lab.queue()?;
    let mut pairs = Vec::new();
    for id in &ids {
        let pair = lab.context.queue_pair::<Reliable>(&lab.domain, (&queue, &queue), CAPACITY)?;
        let pair = pair.init_for(id)?;
        id.connect(&Parameters { qpn: pair.number(), retries: 7, ..Parameters::default() })?;
        pairs.push((pair, id));
    }
    let mut accepted = Vec::new();
    let mut established = 0;
    while established < MANY {
        let event = next(&server)?;
        let Some(request) = event.request else {
            ensure!(event.kind == EventKind::ESTABLISHED, "{}", event.kind);
            established += 1;
            continue;
        };
        let pair = lab.context.queue_pair::<Reliable>(&lab.domain, (&queue, &queue), CAPACITY)?;
        let pair = pair.init_for(&request)?.ready_to_receive_for(&request)?;
        let pair = pair.ready_to_send_for(&request)?;
        request.accept(&Parameters { qpn: pair.number(), ..Parameters::default() })?;
        accepted.push((request, pair));
        // With InfiniBand's connection manager a client says that it is ready.
        let event = next(&channel)?;
        let id = ids.iter().find(|id| id.cookie() == event.of).context("of nobody")?;
        match event.kind {
            EventKind::CONNECT_RESPONSE => id.ready()?,
            kind => ensure!(kind == EventKind::ESTABLISHED, "{kind}"),
        }
    }
    ensure!(accepted.len() == MANY, "{} are accepted", accepted.len());
    Ok(())
}
