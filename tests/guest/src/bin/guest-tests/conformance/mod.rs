// SPDX-License-Identifier: MIT OR Apache-2.0
//! What verbs do, case by case, on each driver that does it: rxe and siw, whose queues are mapped, and vhca, which takes system
//! calls.

mod address;
mod control;
mod data;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdma_verbs::cm::{Channel, Event, EventKind, Id, Parameters};
use rdma_verbs::netlink::{Device, Socket};
use rdma_verbs::uverbs::{
    Access, Answering, Asking, Capacity, Completion, CompletionQueue, Context, Data, Error, Global,
    MemoryRegion, Operation, Path, Peer, ProtectionDomain, QueuePair, ReadyToSend, ReceiveRequest,
    Receiving, Reliable, Reset, SendRequest, Sge, WorkStatus,
};
use rdma_verbs::{Gid, PortNum};
use rustix::io::Errno;

use super::bed::{self, Bed, sh, with_ours_alone};
use super::hca::{plug, subnet_manager};
use super::{Test, both};

pub(crate) const TESTS: &[Test] = &[
    both("verbs_do_what_they_should", all),
    both("verbs_by_libibverbs_do_what_they_should", by_libibverbs),
];

/// What is not done by the C library.
#[cfg(feature = "libibverbs")]
const NOT_BY_LIBIBVERBS: &[(&[Driver], &str)] = &[
    // See `Context::by_libibverbs`.
    (EVERYWHERE, "a window of a protection domain"),
    (EVERYWHERE, "a window of what may have none"),
    (EVERYWHERE, "a window of a queue pair"),
    (EVERYWHERE, "windows where there are none"),
    (EVERYWHERE, "more completions than there is room for"),
    (EVERYWHERE, "the limit of a shared receive queue"),
    // Its providers for rxe and siw do not change memory regions.
    (EVERYWHERE, "memory that others may use more"),
    // Its provider for rxe does not post them: `EINVAL`.
    (&[Rxe], "atomics where they may not be"),
    // They have a way of their own in it, which is not taken.
    (&[Rxe], "atomic writes"),
    (&[Rxe], "what was written is where it is to be"),
    // Its provider for siw says `EINVAL` to these, and takes no receive request that has no room.
    (&[Siw], "32 bits where there are none"),
    (&[Siw], "a queue pair that is ended"),
    (&[Siw], "events, and none missed"),
    (&[Siw], "a few completions at a time"),
    // It cannot make so many queues, nor can `ucmatose -c 40`.
    (&[Siw], "many connections at a time"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Rxe,
    Siw,
    Vhca,
}
use Driver::{Rxe, Siw, Vhca};

/// What is done, and where it can be.
type Case = (&'static str, &'static [Driver], fn(&Lab) -> Result<()>);

const EVERYWHERE: &[Driver] = &[Rxe, Siw, Vhca];
/// iWARP, as siw has it, has sends, writes and reads.
const NOT_SIW: &[Driver] = &[Rxe, Vhca];

const CASES: &[Case] = &[
    ("opened twice, and closed", EVERYWHERE, control::opened_twice),
    ("attributes are netlink's", EVERYWHERE, control::attributes),
    ("a port that there is not", EVERYWHERE, control::no_port),
    ("a GID table that is longer than there is room", NOT_SIW, control::short_table),
    ("memory that others may write to and this may not", EVERYWHERE, control::illegal_access),
    ("more than the device can", EVERYWHERE, control::too_much),
    // rxe takes any.
    ("a P_Key that there is not", &[Vhca], control::no_pkey),
    ("a Q_Key that only some may have", NOT_SIW, control::privileged_qkey),
    ("queue pairs in each state", NOT_SIW, control::pair_attributes),
    ("a queue pair that is ended", EVERYWHERE, control::failed),
    ("memory that others may use more", EVERYWHERE, control::changed_region),
    ("writes that may overtake each other", EVERYWHERE, control::relaxed),
    ("a window of a protection domain", &[Rxe], control::window_of_a_domain),
    ("a window of what may have none", &[Rxe], control::no_window),
    ("a window of a queue pair", &[Rxe], control::window_of_a_pair),
    ("windows where there are none", &[Siw, Vhca], control::no_windows),
    ("a completion queue longer and shorter", EVERYWHERE, control::resized),
    ("more completions than there is room for", NOT_SIW, control::overflow),
    ("the limit of a shared receive queue", NOT_SIW, control::limit),
    ("messages of all lengths", EVERYWHERE, data::lengths),
    ("over an unreliable connection", NOT_SIW, data::unreliable),
    ("32 bits beside the data", NOT_SIW, data::immediate),
    ("32 bits where there are none", &[Siw], data::no_immediate),
    ("inline data, as long as it may be and longer", EVERYWHERE, data::inline),
    ("gathered and scattered", EVERYWHERE, data::gathered),
    ("RDMA writes", EVERYWHERE, data::writes),
    ("RDMA writes with 32 bits", NOT_SIW, data::writes_immediate),
    ("RDMA reads, many at a time", EVERYWHERE, data::reads),
    ("what is read and sent on", EVERYWHERE, data::fenced),
    ("atomics", NOT_SIW, data::atomics),
    ("atomics where they may not be", &[Rxe], data::bad_atomics),
    ("atomic writes", &[Rxe], data::atomic_write),
    ("what was written is where it is to be", &[Rxe], data::placed),
    ("a key that nobody has", NOT_SIW, data::bad_key),
    ("memory that was given back", NOT_SIW, data::given_back),
    ("nobody receives", NOT_SIW, data::not_ready),
    ("nobody answers", NOT_SIW, data::no_answer),
    ("queues that are full", EVERYWHERE, data::full),
    ("what is left when a connection fails", NOT_SIW, data::flushed),
    ("a shared receive queue", NOT_SIW, data::shared),
    ("datagrams", NOT_SIW, data::datagrams),
    ("events, and none missed", EVERYWHERE, data::events),
    ("events of solicited messages alone", NOT_SIW, data::solicited),
    ("a few completions at a time", EVERYWHERE, data::a_few),
    ("many threads", EVERYWHERE, data::threads),
    ("by address, without a connection", &[Rxe], address::datagrams),
    ("a multicast group", &[Rxe], address::multicast),
    ("many connections at a time", &[Rxe, Siw], address::many),
    ("a port that goes down and up", &[Rxe, Siw], control::port_events),
    ("let go, and opened anew", EVERYWHERE, control::let_go),
];

fn all(bed: &mut Bed) -> Result<()> {
    with_ours_alone(bed)?;
    cases(bed, open, |driver, _, where_it_is| where_it_is.contains(&driver))
}

/// The same by the library that other programs use; it knows nothing of vhca.
#[cfg(feature = "libibverbs")]
fn by_libibverbs(bed: &mut Bed) -> Result<()> {
    let open = |name: &str| {
        let (mut socket, device) = found(name)?;
        Ok(Context::by_libibverbs(&mut socket, &device)?)
    };
    cases(bed, open, |driver, name, where_it_is| {
        let is_not = |(drivers, not): &(&[Driver], &str)| drivers.contains(&driver) && *not == name;
        driver != Vhca && where_it_is.contains(&driver) && !NOT_BY_LIBIBVERBS.iter().any(is_not)
    })
}

/// A program that is linked statically cannot load a library: this one's other build does it.
#[cfg(not(feature = "libibverbs"))]
fn by_libibverbs(bed: &mut Bed) -> Result<()> {
    with_ours_alone(bed)?;
    // It looks at the journal itself.
    bed.provokes("");
    sh("/usr/lib/lab/dynamic/guest-tests verbs_by_libibverbs").map(drop)
}

type OpenBy = fn(&str) -> Result<Context>;

fn cases(
    bed: &mut Bed,
    open: OpenBy,
    is_done: impl Fn(Driver, &str, &[Driver]) -> bool,
) -> Result<()> {
    // siw holds its users to it, whatever they may do.
    sh("prlimit --pid $PPID --memlock=unlimited")?;
    // rxe's own, of what it refuses and of what fails.
    bed.provokes("rxe0: ");
    bed.provokes("rdma_rxe: ");
    bed.provokes("callbacks suppressed");
    let addresses = ["10.9.0.1", "10.9.1.1"];
    for (nic, address) in bed.nics.iter().zip(addresses) {
        sh(&format!("ip addr add {address}/24 dev {nic}"))?;
    }
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    bed::plug("siw", "siw0", &bed.nics[1])?;
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "b")?;
    let devices = [
        (Rxe, "rxe0".to_owned(), bed.nics[0].clone(), addresses[0]),
        (Siw, "siw0".to_owned(), bed.nics[1].clone(), addresses[1]),
        (Vhca, a, String::new(), "0.0.0.0"),
    ];
    let mut failed = Vec::new();
    for (driver, device, netdev, address) in devices {
        let address = address.parse()?;
        for (name, where_it_is, case) in CASES {
            if !is_done(driver, name, where_it_is) {
                continue;
            }
            let outcome =
                Lab::new(driver, open, &device, &netdev, address).and_then(|lab| case(&lab));
            if let Err(error) = outcome {
                failed.push(format!("{driver:?}: {name}: {error:#}"));
            }
        }
    }
    for (nic, address) in bed.nics.iter().zip(addresses) {
        sh(&format!("ip addr del {address}/24 dev {nic}"))?;
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

const PORT: PortNum = PortNum(1);
const QKEY: u32 = 0x1234;

/// A device with what each case needs of it.
struct Lab {
    driver: Driver,
    open: OpenBy,
    /// What others may do beside what they always may.
    more: Access,
    name: String,
    netdev: String,
    address: IpAddr,
    context: Context,
    domain: ProtectionDomain,
}

/// One end of a connection, with memory.
struct End {
    queue: CompletionQueue,
    pair: QueuePair<Reliable, ReadyToSend>,
    memory: MemoryRegion,
    /// The connection, where it is one by address.
    _id: Option<Id>,
}

type Pairs = [QueuePair<Reliable, ReadyToSend>; 2];

fn found(name: &str) -> Result<(Socket, Device)> {
    let mut socket = Socket::open()?;
    let device = socket.devices()?.into_iter().find(|device| device.name == name);
    Ok((socket, device.context("it has gone")?))
}

fn open(name: &str) -> Result<Context> {
    let (mut socket, device) = found(name)?;
    Ok(Context::of(&mut socket, &device)?)
}

const ALL: [Access; 4] =
    [Access::LOCAL_WRITE, Access::REMOTE_WRITE, Access::REMOTE_READ, Access::REMOTE_ATOMIC];
/// How much memory each end has: for the longest message, and for what is read back.
const MEMORY: usize = (1 << 20) + (128 << 10);

impl Lab {
    fn new(
        driver: Driver,
        open: OpenBy,
        name: &str,
        netdev: &str,
        address: IpAddr,
    ) -> Result<Self> {
        let context = open(name)?;
        let domain = context.protection_domain()?;
        let (name, netdev) = (name.to_owned(), netdev.to_owned());
        Ok(Self { driver, open, more: Access(0), name, netdev, address, context, domain })
    }

    /// The same device once more.
    fn again(&self) -> Result<Context> {
        (self.open)(&self.name)
    }

    /// The same, to be changed.
    fn another(&self) -> Result<Self> {
        Self::new(self.driver, self.open, &self.name, &self.netdev, self.address)
    }

    /// What others may do; siw has no atomics.
    fn access(&self) -> Access {
        let some = if self.driver == Siw { 3 } else { 4 };
        ALL[..some].iter().fold(self.more, |all, one| all | *one)
    }

    /// To this port itself.
    fn path(&self) -> Result<Path> {
        let port = self.context.port(PORT)?;
        if self.driver == Vhca {
            return Ok(Path { lid: port.lid, sl: 0, global: None });
        }
        let gids = self.context.gids_of(PORT)?;
        // Of an IPv4 address.
        let own = gids.iter().find(|entry| entry.kind == 2 && entry.gid[10] == 0xff);
        let own = own.context("it has no GID")?;
        let (gid, sgid_index) = (Gid(u128::from_be_bytes(own.gid)), u8::try_from(own.index)?);
        Ok(Path { lid: 0, sl: 0, global: Some(Global { gid, sgid_index, hop_limit: 1 }) })
    }

    fn memory(&self) -> Result<MemoryRegion> {
        Ok(self.domain.memory_region(MEMORY, self.access())?)
    }

    fn queue(&self) -> Result<CompletionQueue> {
        Ok(self.context.completion_queue(256, None)?)
    }

    fn connected(&self) -> Result<[End; 2]> {
        self.connected_with(CAPACITY, 7)
    }

    /// Two ends, which send again so often while the other has no receive request.
    fn connected_with(&self, capacity: Capacity<'_>, rnr_retries: u8) -> Result<[End; 2]> {
        self.connected_on([self.queue()?, self.queue()?], capacity, rnr_retries)
    }

    fn connected_on(
        &self,
        queues: [CompletionQueue; 2],
        capacity: Capacity<'_>,
        rnr_retries: u8,
    ) -> Result<[End; 2]> {
        let [one, other] = queues.map(|queue| -> Result<_> {
            let pair =
                self.context.queue_pair::<Reliable>(&self.domain, (&queue, &queue), capacity);
            Ok((queue, pair?, self.memory()?))
        });
        let ((one_queue, one, one_memory), (other_queue, other, other_memory)) = (one?, other?);
        let ([one, other], ids) = if self.driver == Siw {
            let (pairs, [one, other]) = self.by_address(one, other)?;
            (pairs, [Some(one), Some(other)])
        } else {
            let (one, other) =
                (one.init(PORT, 0, self.access())?, other.init(PORT, 0, self.access())?);
            let path = self.path()?;
            let numbers = [one.number(), other.number()];
            let connect = |pair: QueuePair<Reliable, _>, qpn| {
                let pair = pair.ready_to_receive(
                    &Peer { qpn, psn: 7, mtu: 3, path },
                    &Answering { reads: 4, rnr_timer: 1 },
                )?;
                let asking = Asking { timeout: 14, retries: 1, rnr_retries, reads: 4 };
                pair.ready_to_send(7, &asking)
            };
            ([connect(one, numbers[1])?, connect(other, numbers[0])?], [None, None])
        };
        let [one_id, other_id] = ids;
        Ok([
            End { queue: one_queue, pair: one, memory: one_memory, _id: one_id },
            End { queue: other_queue, pair: other, memory: other_memory, _id: other_id },
        ])
    }

    fn by_address(
        &self,
        one: QueuePair<Reliable, Reset>,
        other: QueuePair<Reliable, Reset>,
    ) -> Result<(Pairs, [Id; 2])> {
        let address = SocketAddr::from((self.address, next_port()?));
        let (channel, server) = (Channel::open()?, Channel::open()?);
        let listener = server.id()?;
        listener.bind(address)?;
        listener.listen(1)?;
        let id = channel.id()?;
        id.resolve_address(None, address, Duration::from_secs(2))?;
        expect(&channel, EventKind::ADDRESS_RESOLVED)?;
        id.resolve_route(Duration::from_secs(2))?;
        expect(&channel, EventKind::ROUTE_RESOLVED)?;
        let one = one.init_for(&id)?;
        let parameters =
            |qpn| Parameters { qpn, answers: 4, reads: 4, retries: 7, ..Parameters::default() };
        id.connect(&Parameters { private: b"hello", ..parameters(one.number()) })?;
        let event = expect(&server, EventKind::CONNECT_REQUEST)?;
        ensure!(event.private.starts_with(b"hello"), "it says {:?}", event.private);
        let request = event.request.context("no request")?;
        let other = other.init_for(&request)?.ready_to_receive_for(&request)?;
        let other = other.ready_to_send_for(&request)?;
        request.accept(&parameters(other.number()))?;
        expect(&channel, EventKind::ESTABLISHED)?;
        let one = one.ready_to_receive_for(&id)?.ready_to_send_for(&id)?;
        expect(&server, EventKind::ESTABLISHED)?;
        Ok(([one, other], [id, request]))
    }
}

/// A TCP port that no other case has.
fn next_port() -> Result<u16> {
    static PORTS: AtomicUsize = AtomicUsize::new(20_000);
    Ok(u16::try_from(PORTS.fetch_add(1, Ordering::Relaxed))?)
}

fn next(channel: &Channel) -> Result<Event> {
    let event = channel.wait(Some(Instant::now() + Duration::from_secs(10)))?;
    event.context("nothing happens")
}

/// The next event, which is of this kind.
fn expect(channel: &Channel, kind: EventKind) -> Result<Event> {
    let event = next(channel)?;
    ensure!(event.kind == kind, "{} (status {})", event.kind, event.status);
    Ok(event)
}

const CAPACITY: Capacity<'static> =
    Capacity { send_requests: 16, receive: Receiving::Own(16), sge: 4, inline: 64 };

/// The next completions of a queue, so many of them.
fn take(queue: &mut CompletionQueue, count: usize) -> Result<Vec<Completion>> {
    let start = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        let mut room = [Completion::default(); 8];
        let wanted = room.len().min(count - all.len());
        let taken = queue.poll(&mut room[..wanted])?;
        all.extend(&room[..taken]);
        ensure!(start.elapsed() < Duration::from_secs(20), "{count} should come, and {all:?} did");
        std::thread::yield_now();
    }
    Ok(all)
}

fn succeeds(queue: &mut CompletionQueue) -> Result<Completion> {
    let completion = take(queue, 1)?[0];
    ensure!(completion.status == WorkStatus::SUCCESS, "{}", completion.status);
    Ok(completion)
}

fn fails(queue: &mut CompletionQueue, status: u32) -> Result<()> {
    let completion = take(queue, 1)?[0];
    ensure!(completion.status.0 == status, "{}, not status {status}", completion.status);
    Ok(())
}

impl End {
    fn send(&mut self, id: u64, operation: Operation<'_>, data: Data<'_>) -> Result<(), Error> {
        let request = SendRequest::new(id, operation, data);
        self.pair.post_send(&[request])
    }

    fn receive(&mut self, id: u64, to: &[Sge]) -> Result<(), Error> {
        self.pair.post_receive(&[ReceiveRequest { id, to }])
    }

    fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read(offset, &mut bytes);
        bytes
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| u8::try_from(place * 7 % 251).unwrap_or(0)).collect()
}

/// The kernel says `EINVAL`, or another of these.
fn refused<T>(outcome: Result<T, Error>, errnos: &[Errno]) -> Result<()> {
    match outcome {
        Err(Error::Kernel { source, .. }) => {
            let is_one = errnos.iter().any(|e| source.raw_os_error() == Some(e.raw_os_error()));
            ensure!(is_one, "{source}");
            Ok(())
        }
        Err(error) => bail!("{error}"),
        Ok(_) => bail!("it is taken"),
    }
}
