// SPDX-License-Identifier: MIT OR Apache-2.0
//! Of devices, and of what is made of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rdma_verbs::netlink::Socket;
use rdma_verbs::uverbs::{
    Access, Capacity, Data, Datagram, Error, MemoryRegion, MemoryWindow, Operation, PairState,
    ReceiveRequest, Receiving, Reliable, WindowKind, WorkStatus,
};
use rdma_verbs::{EventType, PortNum, Source};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::Driver::{Rxe, Siw};
use super::{CAPACITY, End, Lab, PORT, QKEY, fails, refused, succeeds, take};
use crate::bed::sh;

pub(super) fn opened_twice(lab: &Lab) -> Result<()> {
    let again = lab.again()?;
    let domains = (0..50).map(|_| again.protection_domain()).collect::<Result<Vec<_>, _>>()?;
    drop(again);
    // What was made of it keeps it open.
    domains[0].memory_region(100, Access::LOCAL_WRITE)?;
    Ok(())
}

pub(super) fn attributes(lab: &Lab) -> Result<()> {
    let device = lab.context.device()?;
    let of_netlink = Socket::open()?.devices()?.into_iter().find(|d| d.name == lab.name);
    let of_netlink = of_netlink.context("it has gone")?;
    ensure!(u32::from(device.ports) == of_netlink.ports, "{} ports", device.ports);
    let guid = of_netlink.node_guid.map(|guid| guid.0);
    ensure!(guid == Some(u64::from_be_bytes(device.node_guid)), "{:x?}", device.node_guid);
    ensure!(lab.context.port(PORT)?.state == 4, "its port is not ACTIVE");
    Ok(())
}

pub(super) fn no_port(lab: &Lab) -> Result<()> {
    refused(lab.context.port(PortNum(0)), &[Errno::INVAL])?;
    refused(lab.context.port(PortNum(99)), &[Errno::INVAL])
}

pub(super) fn short_table(lab: &Lab) -> Result<()> {
    refused(lab.context.gids(0), &[Errno::INVAL])
}

pub(super) fn illegal_access(lab: &Lab) -> Result<()> {
    for access in [Access::REMOTE_WRITE, Access::REMOTE_ATOMIC] {
        refused(lab.domain.memory_region(4096, access), &[Errno::INVAL])?;
    }
    lab.domain.memory_region(1, Access::REMOTE_READ)?;
    Ok(())
}

pub(super) fn too_much(lab: &Lab) -> Result<()> {
    let no = [Errno::INVAL, Errno::NOMEM];
    refused(lab.context.completion_queue(u32::MAX / 2, None), &no)?;
    let queue = lab.context.completion_queue(8, None)?;
    for capacity in [
        Capacity { send_requests: 1 << 30, ..CAPACITY },
        Capacity { receive: Receiving::Own(1 << 30), ..CAPACITY },
        Capacity { sge: 1000, ..CAPACITY },
    ] {
        let pair = lab.context.queue_pair::<Reliable>(&lab.domain, (&queue, &queue), capacity);
        refused(pair, &no)?;
    }
    Ok(())
}

pub(super) fn no_pkey(lab: &Lab) -> Result<()> {
    let queue = lab.context.completion_queue(8, None)?;
    let pair = lab.context.queue_pair::<Reliable>(&lab.domain, (&queue, &queue), CAPACITY)?;
    refused(pair.init(PORT, 999, Access(0)), &[Errno::INVAL])
}

pub(super) fn port_events(lab: &Lab) -> Result<()> {
    let mut events = lab.context.device_channel()?;
    for (to, kind) in [("down", EventType::PORT_ERR), ("up", EventType::PORT_ACTIVE)] {
        sh(&format!("ip link set {} {to}", lab.netdev))?;
        let deadline = Some(Instant::now() + Duration::from_secs(20));
        loop {
            let event =
                events.wait(deadline)?.with_context(|| format!("nothing when it is {to}"))?;
            if event.kind == kind {
                ensure!(event.port() == Some(PORT), "{event:?}");
                break;
            }
        }
    }
    // Addresses of IPv6 go with the link.
    sh(&format!("ip addr replace {}/24 dev {}", lab.address, lab.netdev))?;
    Ok(())
}

pub(super) fn let_go(lab: &Lab) -> Result<()> {
    let context = lab.again()?;
    let domain = context.protection_domain()?;
    let mut events = context.device_channel()?;
    context.let_go()?;
    ensure!(context.is_gone(), "it is there");
    let event = events.wait(None)?.context("nothing is told")?;
    ensure!(event.kind == EventType::DEVICE_FATAL, "{event:?}");
    ensure!(matches!(context.device(), Err(Error::Gone(_))), "it answers");
    ensure!(matches!(domain.memory_region(1, Access(0)), Err(Error::Gone(_))), "it has memory");
    context.let_go()?;
    lab.again()?.device()?;
    Ok(())
}

/// What a driver does not have.
fn unsupported<T>(outcome: Result<T, Error>) -> Result<()> {
    refused(outcome, &[Errno::OPNOTSUPP, Errno::PROTONOSUPPORT])
}

pub(super) fn pair_attributes(lab: &Lab) -> Result<()> {
    let queue = lab.queue()?;
    let pair = lab.context.queue_pair::<Datagram>(&lab.domain, (&queue, &queue), CAPACITY)?;
    let made = pair.attributes()?;
    ensure!(made.state == PairState::RESET, "{made:?}");
    ensure!(made.send_requests >= 16 && made.receive_requests >= 16, "{made:?}");
    ensure!(made.send_sge >= 4 && made.inline >= 64, "{made:?}");
    let pair = pair.init(PORT, 0, QKEY)?;
    let init = pair.attributes()?;
    ensure!((init.state, init.qkey, init.port) == (PairState::INIT, QKEY, 1), "{init:?}");
    let pair = pair.ready_to_receive()?;
    ensure!(pair.attributes()?.state == PairState::READY_TO_RECEIVE, "{:?}", pair.attributes()?);
    let pair = pair.ready_to_send(77)?;
    let ready = pair.attributes()?;
    ensure!((ready.state, ready.send_psn) == (PairState::READY_TO_SEND, 77), "{ready:?}");
    let [one, other] = lab.connected()?;
    let connected = one.pair.attributes()?;
    ensure!(connected.destination_qpn == other.pair.number(), "{connected:?}");
    ensure!(connected.access == lab.access() && connected.mtu == 3, "{connected:?}");
    Ok(())
}

pub(super) fn failed(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    (0..3).try_for_each(|id| other.receive(id, &[]))?;
    other.pair.fail()?;
    let flushed = take(&mut other.queue, 3)?;
    ensure!(flushed.iter().all(|each| each.status == WorkStatus::FLUSHED), "{flushed:?}");
    if lab.driver != Siw {
        let state = other.pair.attributes()?.state;
        ensure!(state == PairState::ERROR, "{state:?}");
        one.send(1, Operation::Send(None), Data::Inline(&[1]))?;
        fails(&mut one.queue, WorkStatus::RETRIES_EXCEEDED.0)?;
    }
    Ok(())
}

fn write_to(end: &mut End, region: &MemoryRegion, offset: u64, rkey: u32) -> Result<(), Error> {
    let address = region.address() + offset;
    let operation = Operation::Write { address, rkey, immediate: None };
    end.send(1, operation, Data::Regions(&[end.memory.sge(0, 8)]))
}

/// Remote access error.
const REMOTE_ACCESS: u32 = 10;

pub(super) fn changed_region(lab: &Lab) -> Result<()> {
    let mut region = lab.domain.memory_region(4096, Access::LOCAL_WRITE)?;
    let changed = region.change(Some(lab.access()), None);
    // rxe can since Linux 6.5.
    if lab.driver != Rxe || sh("uname -r")?.starts_with("6.1.") {
        return unsupported(changed);
    }
    changed?;
    let [mut one, _other] = lab.connected()?;
    write_to(&mut one, &region, 0, region.rkey())?;
    succeeds(&mut one.queue)?;
    region.change(None, Some(&lab.context.protection_domain()?))?;
    write_to(&mut one, &region, 0, region.rkey())?;
    fails(&mut one.queue, REMOTE_ACCESS)
}

pub(super) fn relaxed(lab: &Lab) -> Result<()> {
    lab.domain.memory_region(4096, Access::LOCAL_WRITE | Access::RELAXED_ORDERING)?;
    Ok(())
}

/// A connection, with a region that windows of its second end can be bound to.
fn windows(lab: &Lab, kind: WindowKind) -> Result<([End; 2], MemoryRegion, MemoryWindow)> {
    let region = lab.domain.memory_region(4096, Access::LOCAL_WRITE | Access::MW_BIND)?;
    Ok((lab.connected()?, region, lab.domain.memory_window(kind)?))
}

fn bind(end: &mut End, operation: Operation<'_>) -> Result<()> {
    end.send(9, operation, Data::Regions(&[]))?;
    let bound = succeeds(&mut end.queue)?;
    ensure!((bound.id, bound.opcode) == (9, 5), "{bound:?}");
    Ok(())
}

pub(super) fn window_of_a_domain(lab: &Lab) -> Result<()> {
    let ([mut one, mut other], region, mut window) = windows(lab, WindowKind::Domain)?;
    bind(&mut other, window.bind(&region, 1024, 512, Access::REMOTE_WRITE))?;
    let first = window.rkey();
    for offset in [1024, 1024 + 512 - 8] {
        write_to(&mut one, &region, offset, first)?;
        succeeds(&mut one.queue)?;
    }
    // Bound elsewhere it has another key.
    bind(&mut other, window.bind(&region, 0, 64, Access::REMOTE_WRITE))?;
    write_to(&mut one, &region, 0, window.rkey())?;
    succeeds(&mut one.queue)?;
    write_to(&mut one, &region, 1024, first)?;
    fails(&mut one.queue, REMOTE_ACCESS)
}

pub(super) fn no_window(lab: &Lab) -> Result<()> {
    let ([_, mut other], _region, mut window) = windows(lab, WindowKind::Domain)?;
    let operation = window.bind(&other.memory, 0, 64, Access::REMOTE_WRITE);
    other.send(1, operation, Data::Regions(&[]))?;
    // IBTA would have it be a bind error; rxe says that it is flushed.
    let bound = take(&mut other.queue, 1)?[0];
    ensure!(bound.status != WorkStatus::SUCCESS, "it is bound");
    Ok(())
}

pub(super) fn window_of_a_pair(lab: &Lab) -> Result<()> {
    for by_the_other_side in [false, true] {
        let ([mut one, mut other], region, mut window) = windows(lab, WindowKind::QueuePair)?;
        bind(&mut other, window.bind(&region, 0, 64, Access::REMOTE_WRITE))?;
        let rkey = window.rkey();
        write_to(&mut one, &region, 0, rkey)?;
        succeeds(&mut one.queue)?;
        if by_the_other_side {
            other.receive(7, &[])?;
            one.send(8, Operation::SendInvalidate { rkey }, Data::Inline(&[]))?;
            succeeds(&mut one.queue)?;
            let received = succeeds(&mut other.queue)?;
            ensure!(received.flags & 4 != 0, "{received:?}");
            ensure!(received.immediate == rkey.to_ne_bytes(), "{received:?}");
        } else {
            other.send(8, Operation::Invalidate { rkey }, Data::Regions(&[]))?;
            ensure!(succeeds(&mut other.queue)?.opcode == 6, "another opcode");
        }
        write_to(&mut one, &region, 0, rkey)?;
        fails(&mut one.queue, REMOTE_ACCESS)?;
    }
    Ok(())
}

pub(super) fn no_windows(lab: &Lab) -> Result<()> {
    unsupported(lab.domain.memory_window(WindowKind::Domain))
}

pub(super) fn resized(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    if lab.driver == Siw {
        return unsupported(other.queue.resize(512));
    }
    let come = |one: &mut End, other: &mut End| -> Result<()> {
        for id in 0..5 {
            other.receive(id, &[])?;
            one.send(id, Operation::Send(None), Data::Inline(&[]))?;
            succeeds(&mut one.queue)?;
        }
        Ok(())
    };
    for entries in [1024, 8] {
        come(&mut one, &mut other)?;
        other.queue.resize(entries)?;
        ensure!(other.queue.entries() >= entries, "{} entries", other.queue.entries());
        let ids: Vec<u64> = take(&mut other.queue, 5)?.iter().map(|each| each.id).collect();
        ensure!(ids == [0, 1, 2, 3, 4], "{ids:?}");
    }
    come(&mut one, &mut other)?;
    refused(other.queue.resize(1), &[Errno::INVAL])?;
    take(&mut other.queue, 5)?;
    Ok(())
}

pub(super) fn overflow(lab: &Lab) -> Result<()> {
    let mut events = lab.context.device_channel()?;
    let channel = lab.context.completion_channel()?;
    let small = lab.context.completion_queue(4, Some((&channel, 99)))?;
    let entries = small.entries();
    let [mut one, mut other] = lab.connected_on([small, lab.queue()?], CAPACITY, 7)?;
    for id in 0..=entries.into() {
        other.receive(id, &[])?;
        one.send(id, Operation::Send(None), Data::Inline(&[]))?;
        succeeds(&mut other.queue)?;
    }
    let event = events.wait(Some(Instant::now() + Duration::from_secs(20)))?;
    let event = event.context("nothing is told")?;
    let expected = (EventType::CQ_ERR, Source::CompletionQueue(99));
    ensure!((event.kind, event.of) == expected, "{event:?}");
    Ok(())
}

pub(super) fn limit(lab: &Lab) -> Result<()> {
    let mut events = lab.context.device_channel()?;
    let mut shared = lab.domain.shared_receive_queue(16, 1)?;
    let capacity = Capacity { receive: Receiving::Shared(&shared), ..CAPACITY };
    let [mut one, mut other] = lab.connected_with(capacity, 0)?;
    let to = [other.memory.sge(0, 8)];
    shared.post_receive(&[1, 2, 3].map(|id| ReceiveRequest { id, to: &to }))?;
    shared.set_limit(2)?;
    ensure!(shared.limit()? == 2, "the limit is {}", shared.limit()?);
    for _ in 0..2 {
        ensure!(events.take()?.is_none(), "it is told too soon");
        one.send(1, Operation::Send(None), Data::Inline(&[1]))?;
        succeeds(&mut other.queue)?;
    }
    let event = events.wait(Some(Instant::now() + Duration::from_secs(20)))?;
    let event = event.context("nothing is told")?;
    let expected = (EventType::SRQ_LIMIT_REACHED, Source::SharedReceiveQueue(shared.id()));
    ensure!((event.kind, event.of) == expected, "{event:?}");
    if lab.driver == Rxe {
        refused(shared.set_limit(1 << 20), &[Errno::INVAL])?;
    }
    Ok(())
}

/// A Q_Key with the highest bit is for those who may send anything.
pub(super) fn privileged_qkey(lab: &Lab) -> Result<()> {
    let with_it = |lab: &Lab| -> Result<_> {
        let queue = lab.queue()?;
        let pair = lab.context.queue_pair::<Datagram>(&lab.domain, (&queue, &queue), CAPACITY)?;
        Ok(pair.init(PORT, 0, 1 << 31).map(drop))
    };
    with_it(lab)??;
    let without = std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<_> {
            let mut sets = capabilities(None)?;
            sets.effective.remove(CapabilitySet::NET_RAW);
            set_capabilities(None, sets)?;
            with_it(lab)
        });
        thread.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))?
    })?;
    refused(without, &[Errno::PERM])
}
