// SPDX-License-Identifier: MIT OR Apache-2.0
//! What verbs do, case by case, on each driver that does it: rxe and siw, whose queues are mapped, and vhca, which takes system
//! calls.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdma_verbs::cm::{Channel, EventKind, Id, Parameters};
use rdma_verbs::netlink::Socket;
use rdma_verbs::uverbs::{
    Access, Answering, Asking, Capacity, Completion, CompletionQueue, Context, Data, Datagram,
    Error, Global, MemoryRegion, Operation, Path, Peer, ProtectionDomain, QueuePair, ReadyToSend,
    ReceiveRequest, Receiving, Reliable, Reset, SendRequest, Sge, Unreliable, WorkStatus,
};
use rdma_verbs::{EventType, Gid, PortNum};
use rustix::io::Errno;
use zerocopy::FromZeros as _;

use super::bed::{self, Bed, sh, with_ours_alone};
use super::hca::{plug, subnet_manager};
use super::{Test, both};

pub(crate) const TESTS: &[Test] = &[both("verbs_do_what_they_should", all)];

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
    ("opened twice, and closed", EVERYWHERE, opened_twice),
    ("attributes are netlink's", EVERYWHERE, attributes),
    ("a port that there is not", EVERYWHERE, no_port),
    ("a GID table that is longer than there is room", NOT_SIW, short_table),
    ("memory that others may write to and this may not", EVERYWHERE, illegal_access),
    ("more than the device can", EVERYWHERE, too_much),
    // rxe takes any.
    ("a P_Key that there is not", &[Vhca], no_pkey),
    ("messages of all lengths", EVERYWHERE, lengths),
    ("over an unreliable connection", NOT_SIW, unreliable),
    ("32 bits beside the data", NOT_SIW, immediate),
    ("32 bits where there are none", &[Siw], no_immediate),
    ("inline data, as long as it may be and longer", EVERYWHERE, inline),
    ("gathered and scattered", EVERYWHERE, gathered),
    ("RDMA writes", EVERYWHERE, writes),
    ("RDMA writes with 32 bits", NOT_SIW, writes_immediate),
    ("RDMA reads, many at a time", EVERYWHERE, reads),
    ("atomics", NOT_SIW, atomics),
    ("atomics where they may not be", &[Rxe], bad_atomics),
    ("a key that nobody has", NOT_SIW, bad_key),
    ("memory that was given back", NOT_SIW, given_back),
    ("nobody receives", NOT_SIW, not_ready),
    ("nobody answers", NOT_SIW, no_answer),
    ("queues that are full", EVERYWHERE, full),
    ("what is left when a connection fails", NOT_SIW, flushed),
    ("a shared receive queue", NOT_SIW, shared),
    ("datagrams", NOT_SIW, datagrams),
    ("events, and none missed", EVERYWHERE, events),
    ("events of solicited messages alone", NOT_SIW, solicited),
    ("a few completions at a time", EVERYWHERE, a_few),
    ("many threads", EVERYWHERE, threads),
    ("a port that goes down and up", &[Rxe, Siw], port_events),
    ("let go, and opened anew", EVERYWHERE, let_go),
];

fn all(bed: &mut Bed) -> Result<()> {
    with_ours_alone(bed)?;
    // rxe's own, of what it refuses and of what fails.
    bed.provokes("rxe0: ");
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
            if !where_it_is.contains(&driver) {
                continue;
            }
            let outcome = Lab::new(driver, &device, &netdev, address).and_then(|lab| case(&lab));
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

fn open(name: &str) -> Result<Context> {
    let mut socket = Socket::open()?;
    let device = socket.devices()?.into_iter().find(|device| device.name == name);
    Ok(Context::of(&mut socket, &device.context("it has gone")?)?)
}

const ALL: [Access; 4] =
    [Access::LOCAL_WRITE, Access::REMOTE_WRITE, Access::REMOTE_READ, Access::REMOTE_ATOMIC];
/// How much memory each end has: for the longest message, and for what is read back.
const MEMORY: usize = (1 << 20) + (128 << 10);

impl Lab {
    fn new(driver: Driver, name: &str, netdev: &str, address: IpAddr) -> Result<Self> {
        let context = open(name)?;
        let domain = context.protection_domain()?;
        let (name, netdev) = (name.to_owned(), netdev.to_owned());
        Ok(Self { driver, name, netdev, address, context, domain })
    }

    /// What others may do; siw has no atomics.
    fn access(&self) -> Access {
        let some = if self.driver == Siw { 3 } else { 4 };
        ALL[..some].iter().fold(Access(0), |all, one| all | *one)
    }

    /// To this port itself.
    fn path(&self) -> Result<Path> {
        let port = self.context.port(PORT)?;
        if self.driver == Vhca {
            return Ok(Path { lid: port.lid, sl: 0, global: None });
        }
        let gids = self.context.gids(usize::try_from(port.gids)?)?;
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
        static PORTS: AtomicUsize = AtomicUsize::new(20_000);
        let port = u16::try_from(PORTS.fetch_add(1, Ordering::Relaxed))?;
        let address = SocketAddr::from((self.address, port));
        let soon = || Some(Instant::now() + Duration::from_secs(10));
        let (channel, server) = (Channel::open()?, Channel::open()?);
        let expect = |channel: &Channel, kind: EventKind| {
            let event = channel.wait(soon())?.context("nothing happens")?;
            ensure!(event.kind == kind, "{} (status {})", event.kind, event.status);
            Ok(event)
        };
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

const CAPACITY: Capacity<'static> =
    Capacity { send_requests: 16, receive: Receiving::Own(16), sge: 4, inline: 64 };

/// The next completions of a queue, so many of them.
fn take(queue: &mut CompletionQueue, count: usize) -> Result<Vec<Completion>> {
    let start = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        let mut room = [Completion::new_zeroed(); 8];
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
        let request = SendRequest { id, operation, data, signaled: true, solicited: false };
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

fn opened_twice(lab: &Lab) -> Result<()> {
    let again = open(&lab.name)?;
    let domains = (0..50).map(|_| again.protection_domain()).collect::<Result<Vec<_>, _>>()?;
    drop(again);
    // What was made of it keeps it open.
    domains[0].memory_region(100, Access::LOCAL_WRITE)?;
    Ok(())
}

fn attributes(lab: &Lab) -> Result<()> {
    let device = lab.context.device()?;
    let of_netlink = Socket::open()?.devices()?.into_iter().find(|d| d.name == lab.name);
    let of_netlink = of_netlink.context("it has gone")?;
    ensure!(u32::from(device.ports) == of_netlink.ports, "{} ports", device.ports);
    let guid = of_netlink.node_guid.map(|guid| guid.0);
    ensure!(guid == Some(u64::from_be_bytes(device.node_guid)), "{:x?}", device.node_guid);
    ensure!(lab.context.port(PORT)?.state == 4, "its port is not ACTIVE");
    Ok(())
}

fn no_port(lab: &Lab) -> Result<()> {
    refused(lab.context.port(PortNum(0)), &[Errno::INVAL])?;
    refused(lab.context.port(PortNum(99)), &[Errno::INVAL])
}

fn short_table(lab: &Lab) -> Result<()> {
    refused(lab.context.gids(0), &[Errno::INVAL])
}

fn illegal_access(lab: &Lab) -> Result<()> {
    for access in [Access::REMOTE_WRITE, Access::REMOTE_ATOMIC] {
        refused(lab.domain.memory_region(4096, access), &[Errno::INVAL])?;
    }
    lab.domain.memory_region(1, Access::REMOTE_READ)?;
    Ok(())
}

fn too_much(lab: &Lab) -> Result<()> {
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

fn no_pkey(lab: &Lab) -> Result<()> {
    let queue = lab.context.completion_queue(8, None)?;
    let pair = lab.context.queue_pair::<Reliable>(&lab.domain, (&queue, &queue), CAPACITY)?;
    refused(pair.init(PORT, 999, Access(0)), &[Errno::INVAL])
}

fn lengths(lab: &Lab) -> Result<()> {
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

fn unreliable(lab: &Lab) -> Result<()> {
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
    one.post_send(&[SendRequest { id: 2, operation, data, signaled: true, solicited: false }])?;
    for completion in take(&mut queue, 2)? {
        ensure!(completion.status == WorkStatus::SUCCESS, "{completion:?}");
    }
    let mut bytes = vec![0; 5000];
    memory.read(8192, &mut bytes);
    ensure!(bytes == pattern(5000), "it came as something else");
    Ok(())
}

fn immediate(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    other.receive(1, &[])?;
    one.send(2, Operation::Send(Some(0x0102_0304)), Data::Regions(&[]))?;
    let received = succeeds(&mut other.queue)?;
    ensure!(received.immediate == [1, 2, 3, 4] && received.flags & 2 != 0, "{received:?}");
    Ok(())
}

fn no_immediate(lab: &Lab) -> Result<()> {
    let [mut one, _other] = lab.connected()?;
    for operation in [Operation::Send(Some(1)), Operation::FetchAdd { address: 0, rkey: 0, add: 1 }]
    {
        let outcome = one.send(2, operation, Data::Regions(&[]));
        ensure!(matches!(outcome, Err(Error::Unsupported(_))), "{outcome:?}");
    }
    Ok(())
}

fn inline(lab: &Lab) -> Result<()> {
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

fn gathered(lab: &Lab) -> Result<()> {
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

fn writes(lab: &Lab) -> Result<()> {
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

fn writes_immediate(lab: &Lab) -> Result<()> {
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

fn reads(lab: &Lab) -> Result<()> {
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

fn word(end: &End, offset: usize) -> u64 {
    let mut bytes = [0; 8];
    end.memory.read(offset, &mut bytes);
    u64::from_ne_bytes(bytes)
}

fn atomics(lab: &Lab) -> Result<()> {
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

fn bad_atomics(lab: &Lab) -> Result<()> {
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

fn bad_key(lab: &Lab) -> Result<()> {
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

fn given_back(lab: &Lab) -> Result<()> {
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

fn not_ready(lab: &Lab) -> Result<()> {
    let [mut one, _other] = lab.connected_with(CAPACITY, 0)?;
    one.send(1, Operation::Send(None), Data::Regions(&[one.memory.sge(0, 8)]))?;
    fails(&mut one.queue, WorkStatus::RNR_RETRIES_EXCEEDED.0)
}

fn no_answer(lab: &Lab) -> Result<()> {
    let [mut one, other] = lab.connected()?;
    drop(other);
    one.send(1, Operation::Send(None), Data::Regions(&[one.memory.sge(0, 8)]))?;
    fails(&mut one.queue, WorkStatus::RETRIES_EXCEEDED.0)
}

fn full(lab: &Lab) -> Result<()> {
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

fn flushed(lab: &Lab) -> Result<()> {
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

fn shared(lab: &Lab) -> Result<()> {
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

fn datagrams(lab: &Lab) -> Result<()> {
    const HEADER: usize = 40;
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
        let request =
            SendRequest { id: 2, operation, data: data_of, signaled: true, solicited: false };
        one.post_send(&[request])?;
        let all = take(&mut queue, 2)?;
        let received = all.iter().find(|completion| completion.id == 1).context("nothing came")?;
        ensure!(received.status == WorkStatus::SUCCESS, "{received:?}");
        ensure!(received.length as usize == HEADER + data.len(), "{received:?}");
        ensure!(received.source_qpn == one.number(), "{received:?}");
        ensure!(immediate.is_none() || received.immediate == [0, 0, 0, 5], "{received:?}");
        let mut bytes = vec![0; data.len()];
        memory.read(8192 + HEADER, &mut bytes);
        ensure!(bytes == data, "{length} bytes came as something else");
    }
    Ok(())
}

fn events(lab: &Lab) -> Result<()> {
    const ROUNDS: u64 = 300;
    let channel = lab.context.completion_channel()?;
    let with_events = lab.context.completion_queue(256, Some((&channel, 77)))?;
    let [mut one, mut other] = lab.connected_on([lab.queue()?, with_events], CAPACITY, 7)?;
    other.queue.arm(false)?;
    ensure!(channel.take()?.is_none(), "an event of nothing");
    let mut room = [Completion::new_zeroed(); 4];
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

fn solicited(lab: &Lab) -> Result<()> {
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
    one.pair.post_send(&[SendRequest {
        id: 2,
        operation,
        data,
        signaled: true,
        solicited: true,
    }])?;
    let deadline = Some(Instant::now() + Duration::from_secs(20));
    channel.wait(deadline)?.context("no event")?;
    succeeds(&mut other.queue)?;
    Ok(())
}

fn a_few(lab: &Lab) -> Result<()> {
    let [mut one, mut other] = lab.connected()?;
    for id in 0..10 {
        other.receive(id, &[])?;
    }
    // All of them with one doorbell, most without a completion.
    let (operation, data) = (Operation::Send(None), Data::Regions(&[]));
    let requests: Vec<SendRequest<'_>> = (0..10)
        .map(|id| SendRequest { id, operation, data, signaled: id % 5 == 4, solicited: false })
        .collect();
    one.pair.post_send(&requests)?;
    let ids: Vec<u64> = take(&mut one.queue, 2)?.iter().map(|c| c.id).collect();
    ensure!(ids == [4, 9], "{ids:?} are sent");
    let mut ids = Vec::new();
    while ids.len() < 10 {
        ids.extend(take(&mut other.queue, 3.min(10 - ids.len()))?.iter().map(|c| c.id));
    }
    ensure!(ids == Vec::from_iter(0..10), "{ids:?} have come");
    ensure!(other.queue.poll(&mut [Completion::new_zeroed(); 4])? == 0, "something comes twice");
    Ok(())
}

fn threads(lab: &Lab) -> Result<()> {
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

fn port_events(lab: &Lab) -> Result<()> {
    let mut events = lab.context.device_channel()?;
    for (to, kind) in [("down", EventType::PORT_ERR), ("up", EventType::PORT_ACTIVE)] {
        sh(&format!("ip link set {} {to}", lab.netdev))?;
        let deadline = Some(Instant::now() + Duration::from_secs(20));
        loop {
            let event =
                events.wait(deadline)?.with_context(|| format!("nothing when it is {to}"))?;
            if event.kind == kind {
                ensure!(event.port == Some(PORT), "{event:?}");
                break;
            }
        }
    }
    // Addresses of IPv6 go with the link.
    sh(&format!("ip addr replace {}/24 dev {}", lab.address, lab.netdev))?;
    Ok(())
}

fn let_go(lab: &Lab) -> Result<()> {
    let context = open(&lab.name)?;
    let domain = context.protection_domain()?;
    let mut events = context.device_channel()?;
    context.let_go()?;
    ensure!(context.is_gone(), "it is there");
    let event = events.wait(None)?.context("nothing is told")?;
    ensure!(event.kind == EventType::DEVICE_FATAL, "{event:?}");
    ensure!(matches!(context.device(), Err(Error::Gone(_))), "it answers");
    ensure!(matches!(domain.memory_region(1, Access(0)), Err(Error::Gone(_))), "it has memory");
    context.let_go()?;
    open(&lab.name)?.device()?;
    Ok(())
}
