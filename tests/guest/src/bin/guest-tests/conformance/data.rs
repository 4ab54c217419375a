// SPDX-License-Identifier: MIT OR Apache-2.0
//! Of what is sent, written and read.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdma_verbs::uverbs::{
    Access, Capacity, Completion, DATAGRAM_HEADER, Data, Datagram, Error, MemoryRegion, Operation,
    Peer, Placement, ReceiveRequest, Receiving, SendRequest, Sge, Unreliable, WorkStatus,
};

use rustix::io::Errno;

use super::super::bed::sh;
use super::{CAPACITY, End, Lab, PORT, QKEY, fails, pattern, refused, succeeds, take};

pub(super) fn lengths(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    for length in [0, 1, 1023, 1024, 1025, 1 << 20] {
        let data = pattern(length);
        one.memory.write(0, &data);
        let size = u32::try_from(length)?;
        let whole = other.memory.sge(0, 1 << 20);
        other.receive(1, &[whole])?;
        one.send(2, Operation::Send(None), Data::Regions(&[one.memory.sge(0, size)]))?;
        let sent = succeeds(&mut one.queue).with_context(|| format!("{length} are sent"))?;
        let received = succeeds(&mut other.queue).with_context(|| format!("{length} come"))?;
        ensure!((sent.id, sent.opcode, sent.qpn) == (2, 0, one.pair.number()), "{sent:?}");
        ensure!((received.id, received.opcode, received.length) == (1, 128, size), "{received:?}");
        ensure!(other.bytes(0, length) == data, "{length} bytes came as something else");
    }
    Ok(())
}

pub(super) fn unreliable(lab: &Lab) -> Result<()> {
    let mut queue = lab.context.completion_queue(32, None)?;
    let memory = lab.memory()?;
    let [one, other] = [(); 2].map(|()| -> Result<_> {
        let pair = lab.context.queue_pair::<Unreliable>(&lab.domain, (&queue, &queue), CAPACITY)?;
        Ok(pair.init(PORT, 0, Access(0))?)
    });
    let (one, other, path) = (one?, other?, lab.path()?);
    let numbers = (one.number(), other.number());
    let peer = |qpn| Peer { qpn, psn: 1, mtu: 3, path };
    let mut one = one.ready_to_receive(&peer(numbers.1))?.ready_to_send(1)?;
    let mut other = other.ready_to_receive(&peer(numbers.0))?.ready_to_send(1)?;
    memory.write(0, &pattern(5000));
    other.post_receive(&[ReceiveRequest { id: 1, to: &[memory.sge(8192, 5000)] }])?;
    let data = Data::Regions(&[memory.sge(0, 5000)]);
    let operation = Operation::Send(Some(9));
    one.post_send(&[SendRequest::new(2, operation, data)])?;
    for completion in take(&mut queue, 2)? {
        ensure!(completion.status == WorkStatus::SUCCESS, "{completion:?}");
    }
    let mut bytes = vec![0; 5000];
    memory.read(8192, &mut bytes);
    ensure!(bytes == pattern(5000), "it came as something else");
    Ok(())
}

pub(super) fn immediate(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    other.receive(1, &[])?;
    one.send(2, Operation::Send(Some(0x0102_0304)), Data::Regions(&[]))?;
    let received = succeeds(&mut other.queue)?;
    ensure!(received.immediate == [1, 2, 3, 4] && received.flags & 2 != 0, "{received:?}");
    Ok(())
}

pub(super) fn no_immediate(lab: &Lab) -> Result<()> {
    let [mut one, _other] = lab.connected()?;
    for operation in [Operation::Send(Some(1)), Operation::FetchAdd { address: 0, rkey: 0, add: 1 }]
    {
        let outcome = one.send(2, operation, Data::Regions(&[]));
        ensure!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
    }
    Ok(())
}

pub(super) fn inline(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    let most = one.pair.inline();
    ensure!(most >= 64, "only {most} bytes");
    for length in [0, 1, most] {
        let mut data = pattern(length);
        other.receive(1, &[other.memory.sge(0, 4096)])?;
        one.send(2, Operation::Send(None), Data::Inline(&data))?;
        // They were copied.
        let sent = std::mem::take(&mut data);
        succeeds(&mut one.queue)?;
        let received = succeeds(&mut other.queue)?;
        ensure!(received.length as usize == length, "{length}: {received:?}");
        ensure!(other.bytes(0, length) == sent, "{length} bytes came as something else");
    }
    let outcome = one.send(2, Operation::Send(None), Data::Inline(&vec![0; most + 1]));
    ensure!(matches!(outcome, Err(Error::TooLong(..))), "{outcome:?}");
    Ok(())
}

pub(super) fn gathered(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    one.memory.write(0, &pattern(4000));
    let from: Vec<Sge> = [(300, 100), (0, 1), (2000, 999)]
        .map(|(offset, length)| one.memory.sge(offset, length))
        .into();
    let to: Vec<Sge> = [(64, 50), (1000, 500), (3000, 550)]
        .map(|(offset, length)| other.memory.sge(offset, length))
        .into();
    other.receive(1, &to)?;
    one.send(2, Operation::Send(None), Data::Regions(&from))?;
    succeeds(&mut one.queue)?;
    let received = succeeds(&mut other.queue)?;
    let all = pattern(4000);
    let sent = [&all[300..400], &all[..1], &all[2000..2999]].concat();
    let came = [other.bytes(64, 50), other.bytes(1000, 500), other.bytes(3000, 550)].concat();
    ensure!(received.length == 1100 && came == sent, "it came as something else");
    let many = vec![one.memory.sge(0, 1); 100];
    let outcome = one.send(2, Operation::Send(None), Data::Regions(&many));
    ensure!(matches!(outcome, Err(Error::TooLong(100, _))), "{outcome:?}");
    let outcome = one.receive(2, &many);
    ensure!(matches!(outcome, Err(Error::TooLong(100, _))), "{outcome:?}");
    Ok(())
}

pub(super) fn writes(lab: &Lab) -> Result<()> {
    let [mut one, other] = lab.connected()?;
    for length in [0, 1, 70_000] {
        let data = pattern(length);
        one.memory.write(0, &data);
        let (address, rkey) = (other.memory.address() + 3, other.memory.rkey());
        let operation = Operation::Write { address, rkey, immediate: None };
        let from = [one.memory.sge(0, u32::try_from(length)?)];
        one.send(2, operation, Data::Regions(&from))?;
        ensure!(succeeds(&mut one.queue)?.opcode == 1, "another opcode");
        // On iWARP it may still be on the way: a read after it is not.
        let operation = Operation::Read { address, rkey };
        let back = [one.memory.sge(1 << 20, u32::try_from(length)?)];
        one.send(3, operation, Data::Regions(&back))?;
        ensure!(succeeds(&mut one.queue)?.opcode == 2, "another opcode");
        ensure!(other.bytes(3, length) == data, "{length} bytes came as something else");
        ensure!(one.bytes(1 << 20, length) == data, "{length} bytes came back as something else");
    }
    Ok(())
}

pub(super) fn writes_immediate(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    one.memory.write(0, &pattern(10));
    other.receive(1, &[])?;
    let (address, rkey) = (other.memory.address(), other.memory.rkey());
    let operation = Operation::Write { address, rkey, immediate: Some(0x0a0b_0c0d) };
    one.send(2, operation, Data::Regions(&[one.memory.sge(0, 10)]))?;
    succeeds(&mut one.queue)?;
    let received = succeeds(&mut other.queue)?;
    ensure!(received.id == 1 && received.opcode == 129, "{received:?}");
    ensure!(received.immediate == [10, 11, 12, 13], "{received:?}");
    ensure!(other.bytes(0, 10) == pattern(10), "it came as something else");
    Ok(())
}

pub(super) fn reads(lab: &Lab) -> Result<()> {
    let [mut one, other] = lab.connected()?;
    let data = pattern(16 * 1000);
    other.memory.write(0, &data);
    let rkey = other.memory.rkey();
    for id in 0..16 {
        let address = other.memory.address() + id * 1000;
        let to = [one.memory.sge(usize::try_from(id)? * 1000, 1000)];
        one.send(id, Operation::Read { address, rkey }, Data::Regions(&to))?;
    }
    let ids: Vec<u64> = take(&mut one.queue, 16)?
        .iter()
        .map(|c| if c.status == WorkStatus::SUCCESS { c.id } else { 99 })
        .collect();
    ensure!(ids == Vec::from_iter(0..16), "{ids:?}");
    ensure!(one.bytes(0, data.len()) == data, "it came as something else");
    Ok(())
}

/// What is read is sent on, without a wait between.
pub(super) fn fenced(lab: &Lab) -> Result<()> {
    const LENGTH: u32 = 100_000;
    let [mut one, mut other] = lab.connected()?;
    let (data, after) = (pattern(LENGTH.try_into()?), 200_000);
    other.memory.write(0, &data);
    let (address, rkey) = (other.memory.address(), other.memory.rkey());
    let to = [other.memory.sge(after, LENGTH)];
    other.receive(7, &to)?;
    let regions = [one.memory.sge(0, LENGTH)];
    let regions = Data::Regions(&regions);
    let send = SendRequest::new(2, Operation::Send(None), regions);
    one.pair.post_send(&[
        SendRequest::new(1, Operation::Read { address, rkey }, regions),
        SendRequest { fenced: true, ..send },
    ])?;
    succeeds(&mut one.queue)?;
    succeeds(&mut one.queue)?;
    succeeds(&mut other.queue)?;
    ensure!(other.bytes(after, data.len()) == data, "it was sent before it was read");
    Ok(())
}

fn word(end: &End, offset: usize) -> u64 {
    let mut bytes = [0; 8];
    end.memory.read(offset, &mut bytes);
    u64::from_ne_bytes(bytes)
}

pub(super) fn atomics(lab: &Lab) -> Result<()> {
    let [mut one, other] = lab.connected()?;
    other.memory.write(8, &40_u64.to_ne_bytes());
    let (address, rkey) = (other.memory.address() + 8, other.memory.rkey());
    let to = [one.memory.sge(0, 8)];
    for (operation, was, is) in [
        (Operation::FetchAdd { address, rkey, add: 2 }, 40, 42),
        (Operation::CompareSwap { address, rkey, compare: 42, swap: 7 }, 42, 7),
        (Operation::CompareSwap { address, rkey, compare: 42, swap: 9 }, 7, 7),
    ] {
        one.send(1, operation, Data::Regions(&to))?;
        succeeds(&mut one.queue)?;
        let found = (word(&one, 0), word(&other, 8));
        ensure!(found == (was, is), "{operation:?}: {found:?}");
    }
    Ok(())
}

pub(super) fn bad_atomics(lab: &Lab) -> Result<()> {
    // Not at a multiple of eight.
    let [mut one, other] = lab.connected()?;
    let (address, rkey) = (other.memory.address() + 4, other.memory.rkey());
    one.send(
        1,
        Operation::FetchAdd { address, rkey, add: 1 },
        Data::Regions(&[one.memory.sge(0, 8)]),
    )?;
    fails(&mut one.queue, 9)?;
    // In memory that does not allow it.
    let [mut one, _other] = lab.connected()?;
    let memory = lab.domain.memory_region(64, Access::LOCAL_WRITE | Access::REMOTE_WRITE)?;
    let (address, rkey) = (memory.address(), memory.rkey());
    one.send(
        1,
        Operation::FetchAdd { address, rkey, add: 1 },
        Data::Regions(&[one.memory.sge(0, 8)]),
    )?;
    fails(&mut one.queue, 10)
}

/// Kernels before 6.3 know neither atomic writes nor flushes.
fn is_old() -> Result<bool> {
    Ok(sh("uname -r")?.starts_with("6.1."))
}

pub(super) fn atomic_write(lab: &Lab) -> Result<()> {
    let [mut one, other] = lab.connected()?;
    let (address, rkey) = (other.memory.address() + 8, other.memory.rkey());
    let (value, none) = ([1, 2, 3, 4, 5, 6, 7, 8], Data::Regions(&[]));
    one.send(1, Operation::AtomicWrite { address, rkey, value }, none)?;
    if is_old()? {
        return fails(&mut one.queue, 2);
    }
    let completion = succeeds(&mut one.queue)?;
    ensure!(completion.opcode == 9, "{completion:?}");
    ensure!(other.bytes(0, 24) == [&[0; 8][..], &value, &[0; 8]].concat(), "it is not there");
    // Not at a multiple of eight.
    one.send(2, Operation::AtomicWrite { address: address + 4, rkey, value }, none)?;
    fails(&mut one.queue, 9)
}

pub(super) fn placed(lab: &Lab) -> Result<()> {
    let flush = |memory: &MemoryRegion, length| {
        let (address, rkey, placement) = (memory.address(), memory.rkey(), Placement::Visible);
        Operation::Flush { address, length, rkey, placement }
    };
    let none = Data::Regions(&[]);
    // This memory is not persistent.
    let persistent = lab.domain.memory_region(64, Access::FLUSH_PERSISTENT);
    refused(persistent, &[Errno::INVAL, Errno::OPNOTSUPP])?;
    if is_old()? {
        return refused(lab.domain.memory_region(64, Access::FLUSH_GLOBAL), &[Errno::INVAL]);
    }
    let mut lab = lab.another()?;
    // The other queue pair does not allow it.
    let [mut one, other] = lab.connected()?;
    one.send(1, flush(&other.memory, Some(8)), none)?;
    fails(&mut one.queue, 9)?;
    lab.more = Access::FLUSH_GLOBAL;
    let [mut one, other] = lab.connected()?;
    let (address, rkey) = (other.memory.address(), other.memory.rkey());
    let write = Operation::Write { address, rkey, immediate: None };
    for length in [Some(8), None] {
        one.send(1, write, Data::Regions(&[one.memory.sge(0, 8)]))?;
        one.send(2, flush(&other.memory, length), none)?;
        succeeds(&mut one.queue)?;
        let completion = succeeds(&mut one.queue)?;
        ensure!((completion.id, completion.opcode) == (2, 8), "{completion:?}");
    }
    // The region does not.
    let memory = lab.domain.memory_region(64, Access::LOCAL_WRITE | Access::REMOTE_WRITE)?;
    one.send(3, flush(&memory, Some(8)), none)?;
    fails(&mut one.queue, 10)
}

pub(super) fn bad_key(lab: &Lab) -> Result<()> {
    for operation in [
        Operation::Write { address: 0x1000, rkey: 0xdead_be00, immediate: None },
        Operation::Read { address: 0x1000, rkey: 0xdead_be00 },
    ] {
        let [mut one, _other] = lab.connected()?;
        one.send(1, operation, Data::Regions(&[one.memory.sge(0, 8)]))?;
        fails(&mut one.queue, 10)?;
    }
    Ok(())
}

pub(super) fn given_back(lab: &Lab) -> Result<()> {
    let [mut one, _other] = lab.connected()?;
    let memory = lab.memory()?;
    let (address, rkey) = (memory.address(), memory.rkey());
    let operation = Operation::Write { address, rkey, immediate: None };
    one.send(1, operation, Data::Regions(&[one.memory.sge(0, 8)]))?;
    succeeds(&mut one.queue)?;
    drop(memory);
    one.send(2, operation, Data::Regions(&[one.memory.sge(0, 8)]))?;
    fails(&mut one.queue, 10)
}

pub(super) fn not_ready(lab: &Lab) -> Result<()> {
    let [mut one, _other] = lab.connected_with(CAPACITY, 0)?;
    one.send(1, Operation::Send(None), Data::Regions(&[one.memory.sge(0, 8)]))?;
    fails(&mut one.queue, WorkStatus::RNR_RETRIES_EXCEEDED.0)
}

pub(super) fn no_answer(lab: &Lab) -> Result<()> {
    let [mut one, other] = lab.connected()?;
    drop(other);
    one.send(1, Operation::Send(None), Data::Regions(&[one.memory.sge(0, 8)]))?;
    fails(&mut one.queue, WorkStatus::RETRIES_EXCEEDED.0)
}

pub(super) fn full(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    let to = [other.memory.sge(0, 8)];
    let mut posted = 0;
    let room = loop {
        match other.receive(posted, &to) {
            Ok(()) => posted += 1,
            Err(Error::Full(room)) => break room,
            Err(error) => bail!("{error}"),
        }
        ensure!(posted < 10_000, "there is no end");
    };
    ensure!(room == 0 && posted >= 16, "{posted} were taken, and {room} more would be");
    // Of a list, as many as there is room for.
    one.send(0, Operation::Send(None), Data::Regions(&[one.memory.sge(0, 8)]))?;
    succeeds(&mut one.queue)?;
    succeeds(&mut other.queue)?;
    let more = [ReceiveRequest { id: posted, to: &to }; 3];
    let outcome = other.pair.post_receive(&more);
    ensure!(matches!(outcome, Err(Error::Full(1))), "{outcome:?}");
    // None is lost, none comes twice.
    for id in 0..posted {
        one.send(id, Operation::Send(None), Data::Regions(&[one.memory.sge(0, 8)]))?;
        succeeds(&mut one.queue)?;
        let received = succeeds(&mut other.queue)?;
        ensure!(received.id == id + 1, "{received:?} after {id}");
    }
    Ok(())
}

pub(super) fn flushed(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected_with(CAPACITY, 0)?;
    for id in 0..5 {
        one.receive(id, &[])?;
    }
    for id in 5..10 {
        one.send(id, Operation::Send(None), Data::Regions(&[one.memory.sge(0, 8)]))?;
    }
    let all = take(&mut one.queue, 10)?;
    let failed = all.iter().filter(|c| c.status == WorkStatus::RNR_RETRIES_EXCEEDED);
    ensure!(failed.count() == 1, "{all:?}");
    let mut ids: Vec<u64> = all.iter().map(|completion| completion.id).collect();
    ids.sort_unstable();
    ensure!(ids == Vec::from_iter(0..10), "{ids:?}");
    other.receive(1, &[])?;
    Ok(())
}

pub(super) fn shared(lab: &Lab) -> Result<()> {
    let mut shared = lab.domain.shared_receive_queue(16, 1)?;
    let capacity = Capacity { receive: Receiving::Shared(&shared), ..CAPACITY };
    let pairs = [(); 2].map(|()| lab.connected_with(capacity, 0));
    let [one, two] = pairs;
    let (mut one, mut two) = (one?, two?);
    ensure!(matches!(one[1].receive(1, &[]), Err(Error::Shared)), "it has one of its own");
    let to = [one[1].memory.sge(0, 8)];
    shared.post_receive(&[7, 8].map(|id| ReceiveRequest { id, to: &to }))?;
    for (ends, id) in [(&mut two, 7), (&mut one, 8)] {
        let from = [ends[0].memory.sge(0, 8)];
        ends[0].send(1, Operation::Send(None), Data::Regions(&from))?;
        succeeds(&mut ends[0].queue)?;
        let received = succeeds(&mut ends[1].queue)?;
        ensure!((received.id, received.qpn) == (id, ends[1].pair.number()), "{received:?}");
    }
    // There is none left.
    let from = [one[0].memory.sge(0, 8)];
    one[0].send(1, Operation::Send(None), Data::Regions(&from))?;
    fails(&mut one[0].queue, WorkStatus::RNR_RETRIES_EXCEEDED.0)
}

pub(super) fn datagrams(lab: &Lab) -> Result<()> {
    let mut queue = lab.context.completion_queue(32, None)?;
    let memory = lab.memory()?;
    let [one, other] = [(); 2].map(|()| -> Result<_> {
        let pair = lab.context.queue_pair::<Datagram>(&lab.domain, (&queue, &queue), CAPACITY)?;
        Ok(pair.init(PORT, 0, QKEY)?.ready_to_receive()?.ready_to_send(1)?)
    });
    let (mut one, mut other) = (one?, other?);
    let path = lab.domain.address_handle(PORT, &lab.path()?)?;
    for (length, immediate) in [(0_u32, Some(5)), (1, None), (1000, None)] {
        let data = pattern(usize::try_from(length)?);
        memory.write(0, &data);
        let receive = ReceiveRequest { id: 1, to: &[memory.sge(8192, 2048)] };
        other.post_receive(&[receive])?;
        let (qpn, data_of) = (other.number(), [memory.sge(0, length)]);
        let operation = Operation::SendTo { path: &path, qpn, qkey: QKEY, immediate };
        let data_of = Data::Regions(&data_of);
        let request = SendRequest::new(2, operation, data_of);
        one.post_send(&[request])?;
        let all = take(&mut queue, 2)?;
        let received = all.iter().find(|completion| completion.id == 1).context("nothing came")?;
        ensure!(received.status == WorkStatus::SUCCESS, "{received:?}");
        ensure!(received.length as usize == DATAGRAM_HEADER + data.len(), "{received:?}");
        ensure!(received.source_qpn == one.number(), "{received:?}");
        ensure!(immediate.is_none() || received.immediate == [0, 0, 0, 5], "{received:?}");
        let mut bytes = vec![0; data.len()];
        memory.read(8192 + DATAGRAM_HEADER, &mut bytes);
        ensure!(bytes == data, "{length} bytes came as something else");
        // The other one answers, to where it came from.
        let mut header = [0; DATAGRAM_HEADER];
        memory.read(8192, &mut header);
        let back = lab.context.path_back(PORT, received, &header)?;
        let (back, qpn) = (lab.domain.address_handle(PORT, &back)?, received.source_qpn);
        one.post_receive(&[receive])?;
        let operation = Operation::SendTo { path: &back, qpn, qkey: QKEY, immediate: None };
        other.post_send(&[SendRequest { operation, data: Data::Inline(b"yes"), ..request }])?;
        let all = take(&mut queue, 2)?;
        let answer = all.iter().find(|completion| completion.id == 1).context("no answer")?;
        ensure!(answer.length as usize == DATAGRAM_HEADER + 3, "{answer:?}");
        ensure!(answer.source_qpn == other.number(), "{answer:?}");
    }
    Ok(())
}

pub(super) fn events(lab: &Lab) -> Result<()> {
    const ROUNDS: u64 = 300;
    let channel = lab.context.completion_channel()?;
    let with_events = lab.context.completion_queue(256, Some((&channel, 77)))?;
    let [mut one, mut other] = lab.connected_on([lab.queue()?, with_events], CAPACITY, 7)?;
    other.queue.arm(false)?;
    ensure!(channel.take()?.is_none(), "an event of nothing");
    let mut room = [Completion::default(); 4];
    for round in 0..ROUNDS {
        other.receive(round, &[])?;
        one.send(round, Operation::Send(None), Data::Regions(&[]))?;
        let deadline = Some(Instant::now() + Duration::from_secs(20));
        while other.queue.poll(&mut room)? == 0 {
            other.queue.arm(false)?;
            if other.queue.poll(&mut room)? > 0 {
                break;
            }
            let number = channel.wait(deadline)?.context("an event was missed")?;
            ensure!(number == 77, "the event is of {number}");
        }
        succeeds(&mut one.queue)?;
    }
    Ok(())
}

pub(super) fn solicited(lab: &Lab) -> Result<()> {
    let channel = lab.context.completion_channel()?;
    let with_events = lab.context.completion_queue(256, Some((&channel, 1)))?;
    let [mut one, mut other] = lab.connected_on([lab.queue()?, with_events], CAPACITY, 7)?;
    other.receive(1, &[])?;
    other.receive(2, &[])?;
    other.queue.arm(true)?;
    one.send(1, Operation::Send(None), Data::Regions(&[]))?;
    succeeds(&mut other.queue)?;
    ensure!(channel.take()?.is_none(), "an event that was not asked for");
    let (operation, data) = (Operation::Send(None), Data::Regions(&[]));
    one.pair
        .post_send(&[SendRequest { solicited: true, ..SendRequest::new(2, operation, data) }])?;
    let deadline = Some(Instant::now() + Duration::from_secs(20));
    channel.wait(deadline)?.context("no event")?;
    succeeds(&mut other.queue)?;
    Ok(())
}

pub(super) fn a_few(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    for id in 0..10 {
        other.receive(id, &[])?;
    }
    // All of them with one doorbell, most without a completion.
    let (operation, data) = (Operation::Send(None), Data::Regions(&[]));
    let requests: Vec<SendRequest<'_>> = (0..10)
        .map(|id| SendRequest { signaled: id % 5 == 4, ..SendRequest::new(id, operation, data) })
        .collect();
    one.pair.post_send(&requests)?;
    let ids: Vec<u64> = take(&mut one.queue, 2)?.iter().map(|c| c.id).collect();
    ensure!(ids == [4, 9], "{ids:?} are sent");
    let mut ids = Vec::new();
    while ids.len() < 10 {
        ids.extend(take(&mut other.queue, 3.min(10 - ids.len()))?.iter().map(|c| c.id));
    }
    ensure!(ids == Vec::from_iter(0..10), "{ids:?} have come");
    ensure!(other.queue.poll(&mut [Completion::default(); 4])? == 0, "something comes twice");
    Ok(())
}

pub(super) fn threads(lab: &Lab) -> Result<()> {
    std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| {
            scope.spawn(|| -> Result<()> {
                let [mut one, mut other] = lab.connected()?;
                let to = [other.memory.sge(0, 1)];
                for id in 0..100 {
                    other.receive(id, &to)?;
                    one.send(id, Operation::Send(None), Data::Inline(&[1]))?;
                    succeeds(&mut one.queue)?;
                    ensure!(succeeds(&mut other.queue)?.id == id, "another one has come");
                }
                Ok(())
            })
        });
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??;
        }
        Ok(())
    })
}
