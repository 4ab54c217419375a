// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-unplug -d DEVICE [-g GID-INDEX] [-r]`: what a program sees when its device is pulled out. It has queue pairs with requests
//! that nothing comes for, one thread that polls, one that sleeps until there is a completion, and one that waits for what the
//! device tells; says `ready`, and waits for the device to go. Then each request must have come back once, as flushed, nothing
//! can be posted, and everything is given up: the files and the memory of the program are what they were.
//!
//! With -r it has receive requests only: iWARP connects by `rdma_cm` alone, and breaks a connection nobody receives on.
//!
//! It ends when its standard input does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short};
use rdma_verbs::netlink::Socket;
use rdma_verbs::uverbs::{
    Access, Answering, Asking, Capacity, Completion, CompletionChannel, CompletionQueue, Context,
    Data, DeviceChannel, Error as VerbsError, Global, Init, Operation, Path, Peer,
    ProtectionDomain, QueuePair, ReadyToSend, ReceiveRequest, Receiving, Reliable, SendRequest,
    Sge, WorkStatus,
};
use rdma_verbs::{EventType, Gid, PortNum};

type Error = Box<dyn std::error::Error + Send + Sync>;

const PAIRS: usize = 64;
const RECEIVES: u64 = 1000;
const SENDS: u64 = 10;
const PORT: PortNum = PortNum(1);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdma-unplug: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let (mut name, mut gid_index, mut sends) = (String::new(), None, true);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('d') | Long("ib-dev") => name = parser.value()?.string()?,
            Short('g') | Long("gid-idx") => gid_index = Some(parser.value()?.parse()?),
            Short('r') => sends = false,
            other => return Err(other.unexpected().into()),
        }
    }
    // The first that is opened leaves the thread that listens, the first that is said its buffer.
    drop(open(&name)?);
    println!("device {name}");
    let before = in_use()?;
    hold(&name, gid_index, sends)?;
    let after = in_use()?;
    println!("files: {} before, {} after", before.0, after.0);
    println!("allocations: {} before, {} after", before.1, after.1);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn open(name: &str) -> Result<Context, Error> {
    let mut socket = Socket::open()?;
    let device = socket.devices()?.into_iter().find(|device| device.name == name);
    Ok(Context::of(&mut socket, &device.ok_or("there is no such RDMA device")?)?)
}

/// Files and memory, while the thread that listens does not read an announcement.
fn in_use() -> Result<(usize, usize), Error> {
    #[expect(clippy::disallowed_methods, reason = "nothing tells that it is asleep")]
    thread::sleep(std::time::Duration::from_millis(500));
    Ok((std::fs::read_dir("/proc/self/fd")?.count(), HEAP.0.load(Ordering::SeqCst)))
}

/// Who can be reached at a port of this device: itself.
fn path(context: &Context, gid_index: Option<u8>) -> Result<Path, Error> {
    let port = context.port(PORT)?;
    let Some(sgid_index) = gid_index else {
        return Ok(Path { lid: port.lid, sl: 0, global: None });
    };
    let gids = context.gids_of(PORT)?;
    let own = gids.iter().find(|entry| entry.index == u32::from(sgid_index));
    let gid = Gid(u128::from_be_bytes(own.ok_or("there is no GID at that place")?.gid));
    Ok(Path { lid: 0, sl: 0, global: Some(Global { gid, sgid_index, hop_limit: 1 }) })
}

/// Has all that a program can have, until it is taken away.
fn hold(name: &str, gid_index: Option<u8>, sends: bool) -> Result<(), Error> {
    let context = open(name)?;
    let path = path(&context, gid_index)?;
    let events = context.device_channel()?;
    let channel = context.completion_channel()?;
    let polled = context.completion_queue(2048, None)?;
    let slept = context.completion_queue(2048, Some((&channel, 7)))?;
    let domain = context.protection_domain()?;
    let memory = domain.memory_region(4096, Access::LOCAL_WRITE)?;
    let receive = Receiving::Own(32);
    let capacity = Capacity { send_requests: 16, receive, sge: 1, inline: 0 };
    let mut pairs = Vec::new();
    for number in 0..PAIRS {
        let queue = if number % 2 == 0 { &polled } else { &slept };
        let pair = context.queue_pair::<Reliable>(&domain, (queue, queue), capacity)?;
        pairs.push(pair.init(PORT, 0, Access(0))?);
    }
    let part = [memory.sge(0, 64)];
    for (id, number) in (0..RECEIVES).zip((0..PAIRS).cycle()) {
        pairs[number].post_receive(&[ReceiveRequest { id, to: &part }])?;
    }
    let mut ends = if sends {
        Some(send(&context, &domain, (&polled, &slept), capacity, path, &part)?)
    } else {
        None
    };
    println!("ready");

    let (fatal, by_poll, by_sleep) = thread::scope(|scope| {
        let fatal = scope.spawn(|| wait_fatal(events));
        let by_poll = scope.spawn(|| poll(&context, polled));
        let by_sleep = scope.spawn(|| sleep(&channel, slept));
        Ok::<_, Error>((join(fatal)?, join(by_poll)?, join(by_sleep)?))
    })?;
    println!("told: {fatal}");
    let mut times = BTreeMap::new();
    for id in by_poll.iter().chain(&by_sleep) {
        *times.entry(*id).or_insert(0) += 1;
    }
    let once = times.values().filter(|times| **times == 1).count();
    println!("flushed: {} by polling, {} after sleep, {once} once", by_poll.len(), by_sleep.len());
    for pair in &mut pairs {
        if pair.post_receive(&[ReceiveRequest { id: 0, to: &part }]).is_ok() {
            return Err("a receive request was taken".into());
        }
    }
    if let Some([one, _]) = &mut ends {
        let none = Data::Regions(&[]);
        let operation = Operation::Send(None);
        let late = SendRequest::new(0, operation, none);
        let late = one.post_send(&[late]).err().ok_or("a send request was taken")?;
        println!("posting: {late}");
    }
    let late = context.protection_domain().err().ok_or("there is more to be had")?;
    println!("afterwards: {late}");
    // In another order than it was made.
    drop((memory, domain, channel, context, pairs, ends));
    Ok(())
}

/// A connection whose other end has no receive request, and is asked for ever.
fn send(
    context: &Context,
    domain: &ProtectionDomain,
    queues: (&CompletionQueue, &CompletionQueue),
    capacity: Capacity<'_>,
    path: Path,
    part: &[Sge],
) -> Result<[QueuePair<Reliable, ReadyToSend>; 2], Error> {
    let ends = [(); 2].map(|()| {
        context.queue_pair::<Reliable>(domain, queues, capacity)?.init(PORT, 0, Access(0))
    });
    let [one, other] = ends;
    let (one, other) = (one?, other?);
    let numbers = (one.number(), other.number());
    let connect = |pair: QueuePair<Reliable, Init>, qpn| {
        let peer = Peer { qpn, psn: 0, mtu: 1, path };
        let pair = pair.ready_to_receive(&peer, &Answering { reads: 1, rnr_timer: 24 })?;
        pair.ready_to_send(0, &Asking { timeout: 14, retries: 7, rnr_retries: 7, reads: 1 })
    };
    let other = connect(other, numbers.0)?;
    let mut one = connect(one, numbers.1)?;
    for id in RECEIVES..RECEIVES + SENDS {
        // One without a completion of its own, too.
        let signaled = id != RECEIVES + 3;
        let (operation, data) = (Operation::Send(None), Data::Regions(part));
        one.post_send(&[SendRequest { signaled, ..SendRequest::new(id, operation, data) }])?;
    }
    Ok([one, other])
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T, Error>>) -> Result<T, Error> {
    thread.join().map_err(|_| "a thread has panicked")?
}

fn wait_fatal(mut events: DeviceChannel) -> Result<String, Error> {
    loop {
        match events.wait(None)? {
            Some(event) if event.kind == EventType::DEVICE_FATAL => break,
            _ => {}
        }
    }
    Ok(format!("DEVICE_FATAL, then {}", events.wait(None).err().ok_or("yet more")?))
}

/// The requests that have come back.
fn poll(context: &Context, mut queue: CompletionQueue) -> Result<Vec<u64>, Error> {
    let mut all = Vec::new();
    loop {
        let is_gone = context.is_gone();
        if !take(&mut queue, &mut all)? && is_gone {
            return Ok(all);
        }
    }
}

fn sleep(channel: &CompletionChannel, mut queue: CompletionQueue) -> Result<Vec<u64>, Error> {
    let mut all = Vec::new();
    loop {
        let outcome = queue.arm(false).and_then(|()| {
            // What came before that is not told of.
            if take(&mut queue, &mut all).unwrap_or(false) { Ok(None) } else { channel.wait(None) }
        });
        match outcome {
            Ok(_) => {}
            Err(VerbsError::Gone(_)) => break,
            Err(error) => return Err(error.into()),
        }
    }
    while take(&mut queue, &mut all)? {}
    Ok(all)
}

/// Whether there were any.
fn take(queue: &mut CompletionQueue, all: &mut Vec<u64>) -> Result<bool, Error> {
    let mut room = [Completion::default(); 16];
    let taken = queue.poll(&mut room)?;
    for completion in room.iter().take(taken) {
        if completion.status != WorkStatus::FLUSHED {
            return Err(format!("{}: {}", completion.id, completion.status).into());
        }
        all.push(completion.id);
    }
    Ok(taken > 0)
}

/// The system's, and how much of it is in use.
struct Counted(AtomicUsize);

#[global_allocator]
static HEAP: Counted = Counted(AtomicUsize::new(0));

// SAFETY: it is the system's.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        self.0.fetch_sub(1, Ordering::SeqCst);
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(place, layout) }
    }
}
