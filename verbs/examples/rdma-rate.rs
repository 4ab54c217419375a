// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-rate`: messages one way, many at a time, from one queue pair to another on the same port: how many a second.
//!
//! What perftest's `ib_send_bw` and `ib_write_bw` measure between two programs.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use lexopt::Arg::{Long, Short};
use lexopt::ValueExt as _;
use rdma_verbs::netlink::Socket;
use rdma_verbs::uverbs::{
    Access, Answering, Asking, Capacity, Completion, CompletionQueue, Context, Data, Datagram,
    Global, MemoryRegion, Operation, Path, Peer, ProtectionDomain, QueuePair, ReadyToSend,
    ReceiveRequest, Receiving, Reliable, SendRequest, WorkStatus,
};
use rdma_verbs::{Gid, PortNum};

type Error = Box<dyn StdError + Send + Sync>;

const USAGE: &str = "usage: rdma-rate -d DEVICE [-i PORT] [-g GID_INDEX] [-o send|write|datagram] [-s BYTES] [-n COUNT]
                 [-l AT_ONCE]";

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Send,
    Write,
    Datagram,
}

struct Arguments {
    device: String,
    port: PortNum,
    gid_index: Option<u8>,
    kind: Kind,
    size: u32,
    count: usize,
    at_once: usize,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdma-rate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, Error> {
    let (mut device, mut port, mut gid_index) = (None, 1, None);
    let (mut kind, mut size, mut count, mut at_once) = (Kind::Send, 64, 1000, 1);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('d') | Long("ib-dev") => device = Some(parser.value()?.string()?),
            Short('i') | Long("ib-port") => port = parser.value()?.parse()?,
            Short('g') | Long("gid-idx") => gid_index = Some(parser.value()?.parse()?),
            Short('o') | Long("operation") => {
                kind = match &*parser.value()?.string()? {
                    "send" => Kind::Send,
                    "write" => Kind::Write,
                    "datagram" => Kind::Datagram,
                    other => return Err(format!("there is no operation {other}").into()),
                }
            }
            Short('s') | Long("size") => size = parser.value()?.parse()?,
            Short('n') | Long("iters") => count = parser.value()?.parse()?,
            Short('l') | Long("at-once") => at_once = parser.value()?.parse()?,
            other => return Err(format!("{}\n{USAGE}", other.unexpected()).into()),
        }
    }
    let (Some(device), 1..=SENDS) = (device, at_once) else { return Err(USAGE.into()) };
    Ok(Arguments { device, port: PortNum(port), gid_index, kind, size, count, at_once })
}

/// Requests under way on either side, as perftest has them.
const SENDS: usize = 128;
const RECEIVES: usize = 512;
/// Completions that are taken at a time.
const TAKEN: usize = 16;
/// After this nothing more will come.
const SILENCE: Duration = Duration::from_millis(500);
const QKEY: u32 = 0x1111_1111;
/// Before each datagram that is received there is room for its global route header.
const HEADER: u32 = 40;

enum Pair {
    Reliable(QueuePair<Reliable, ReadyToSend>),
    Datagrams(QueuePair<Datagram, ReadyToSend>),
}

impl Pair {
    fn send(&mut self, requests: &[SendRequest<'_>]) -> Result<(), Error> {
        Ok(match self {
            Self::Reliable(pair) => pair.post_send(requests),
            Self::Datagrams(pair) => pair.post_send(requests),
        }?)
    }

    fn receive(&mut self, requests: &[ReceiveRequest<'_>]) -> Result<(), Error> {
        Ok(match self {
            Self::Reliable(pair) => pair.post_receive(requests),
            Self::Datagrams(pair) => pair.post_receive(requests),
        }?)
    }
}

/// One of the two sides.
struct Side {
    pair: Pair,
    queue: CompletionQueue,
    memory: MemoryRegion,
}

/// To the port itself.
fn path(context: &Context, arguments: &Arguments) -> Result<Path, Error> {
    let port = context.port(arguments.port)?;
    let Some(index) = arguments.gid_index else {
        return Ok(Path { lid: port.lid, sl: 0, global: None });
    };
    let gids = context.gids_of(arguments.port)?;
    let own = gids.iter().find(|entry| entry.index == index.into());
    let own = own.ok_or("there is no GID at that place")?;
    let gid = Gid(u128::from_be_bytes(own.gid));
    Ok(Path { lid: 0, sl: 0, global: Some(Global { gid, sgid_index: index, hop_limit: 1 }) })
}

/// Both sides, connected; sender first.
fn sides(
    context: &Context,
    domain: &ProtectionDomain,
    arguments: &Arguments,
    path: Path,
) -> Result<[Side; 2], Error> {
    let capacity = Capacity {
        send_requests: u32::try_from(SENDS)?,
        receive: Receiving::Own(u32::try_from(RECEIVES)?),
        sge: 1,
        inline: 0,
    };
    let make = || -> Result<_, Error> {
        let all = Access::LOCAL_WRITE | Access::REMOTE_WRITE;
        let memory = domain.memory_region(usize::try_from(HEADER + arguments.size)?, all)?;
        Ok((context.completion_queue(u32::try_from(SENDS + RECEIVES)?, None)?, memory))
    };
    let [(one_queue, one_memory), (other_queue, other_memory)] = [make()?, make()?];
    let queues = [&one_queue, &other_queue];
    let [one, other] = if arguments.kind == Kind::Datagram {
        let make = |queue| -> Result<_, Error> {
            let pair = context.queue_pair::<Datagram>(domain, (queue, queue), capacity)?;
            let pair = pair.init(arguments.port, 0, QKEY)?.ready_to_receive()?;
            Ok(Pair::Datagrams(pair.ready_to_send(0)?))
        };
        [make(queues[0])?, make(queues[1])?]
    } else {
        let make = |queue| -> Result<_, Error> {
            let pair = context.queue_pair::<Reliable>(domain, (queue, queue), capacity)?;
            Ok(pair.init(arguments.port, 0, Access::REMOTE_WRITE)?)
        };
        let pairs = [make(queues[0])?, make(queues[1])?];
        let [one_number, other_number] = [pairs[0].number(), pairs[1].number()];
        let [one, other] = pairs;
        let connect = |pair: QueuePair<Reliable, _>, qpn| -> Result<_, Error> {
            let peer = Peer { qpn, psn: 0, mtu: 3, path };
            let pair = pair.ready_to_receive(&peer, &Answering { reads: 1, rnr_timer: 12 })?;
            let asking = Asking { timeout: 14, retries: 7, rnr_retries: 7, reads: 1 };
            Ok(Pair::Reliable(pair.ready_to_send(0, &asking)?))
        };
        [connect(one, other_number)?, connect(other, one_number)?]
    };
    Ok([
        Side { pair: one, queue: one_queue, memory: one_memory },
        Side { pair: other, queue: other_queue, memory: other_memory },
    ])
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let mut socket = Socket::open()?;
    let device = socket.devices()?.into_iter().find(|device| device.name == arguments.device);
    let device = device.ok_or("there is no such RDMA device")?;
    let context = Context::of(&mut socket, &device)?;
    let domain = context.protection_domain()?;
    let path = path(&context, arguments)?;
    let [mut sender, mut receiver] = sides(&context, &domain, arguments, path)?;
    let handle = domain.address_handle(arguments.port, &path)?;
    let operation = match (arguments.kind, &receiver.pair) {
        (Kind::Write, _) => {
            let (address, rkey) = (receiver.memory.address(), receiver.memory.rkey());
            Operation::Write { address, rkey, immediate: None }
        }
        (_, Pair::Datagrams(pair)) => {
            Operation::SendTo { path: &handle, qpn: pair.number(), qkey: QKEY, immediate: None }
        }
        _ => Operation::Send(None),
    };
    let receives = arguments.kind != Kind::Write;
    if receives {
        receive(&mut receiver, RECEIVES, arguments.size)?;
    }
    let (start, is_sent) = (Instant::now(), AtomicBool::new(false));
    let (come, seconds) = std::thread::scope(|scope| {
        let received =
            receives.then(|| scope.spawn(|| take_all(&mut receiver, arguments, &is_sent)));
        let sent = send_all(&mut sender, operation, arguments);
        let seconds = start.elapsed().as_secs_f64();
        is_sent.store(true, Ordering::Relaxed);
        let received = received.map_or(Ok(Ok(arguments.count)), ScopedJoinHandle::join);
        let come = received.unwrap_or_else(|_| Err("the receiver has panicked".into()));
        sent.and(come).map(|come| (come, seconds))
    })?;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = arguments.count as f64 / seconds;
    let bandwidth = rate * f64::from(arguments.size) / f64::from(1 << 20);
    let lost = arguments.count - come;
    println!("{rate:.0} messages a second, {bandwidth:.2} MiB/s, {lost} lost");
    Ok(())
}

fn succeeded(completions: &[Completion]) -> Result<(), Error> {
    match completions.iter().find(|completion| completion.status != WorkStatus::SUCCESS) {
        Some(completion) => Err(completion.status.to_string().into()),
        None => Ok(()),
    }
}

fn receive(side: &mut Side, count: usize, size: u32) -> Result<(), Error> {
    let to = [side.memory.sge(0, HEADER + size)];
    let requests = [ReceiveRequest { id: 0, to: &to }; TAKEN];
    for left in (1..=count).rev().step_by(TAKEN) {
        side.pair.receive(requests.get(..left.min(TAKEN)).unwrap_or(&requests))?;
    }
    Ok(())
}

/// Receives all messages, but for datagrams that are lost: how many.
fn take_all(side: &mut Side, arguments: &Arguments, is_sent: &AtomicBool) -> Result<usize, Error> {
    let mut room = [Completion::default(); TAKEN];
    let (mut come, mut last) = (0, Instant::now());
    while come < arguments.count {
        let taken = side.queue.poll(&mut room)?;
        succeeded(room.get(..taken).unwrap_or_default())?;
        come += taken;
        if taken > 0 {
            receive(side, taken, arguments.size)?;
            last = Instant::now();
        } else if is_sent.load(Ordering::Relaxed) && last.elapsed() > SILENCE {
            break;
        }
    }
    Ok(come)
}

/// Sends all messages; the last of each list says when all of it are sent.
fn send_all(side: &mut Side, operation: Operation<'_>, arguments: &Arguments) -> Result<(), Error> {
    let mut room = [Completion::default(); TAKEN];
    let from = [side.memory.sge(0, arguments.size)];
    let data = Data::Regions(&from);
    let request = SendRequest { signaled: false, ..SendRequest::new(0, operation, data) };
    let mut list = vec![request; arguments.at_once];
    // How many requests each list had that is not sent yet.
    let mut lists = VecDeque::new();
    let (mut left, mut room_left) = (arguments.count, SENDS);
    while left > 0 || !lists.is_empty() {
        let next = left.min(arguments.at_once);
        if next > 0 && next <= room_left {
            let list = list.get_mut(..next).unwrap_or_default();
            if let Some(last) = list.last_mut() {
                last.signaled = true;
            }
            side.pair.send(list)?;
            lists.push_back(next);
            (left, room_left) = (left - next, room_left - next);
        }
        let taken = side.queue.poll(&mut room)?;
        succeeded(room.get(..taken).unwrap_or_default())?;
        room_left += lists.drain(..taken.min(lists.len())).sum::<usize>();
    }
    Ok(())
}
