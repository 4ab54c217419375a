// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-pingpong [-t rc|uc|ud|srq] [-d DEVICE] [-i PORT] [-g GID-INDEX] [-p TCP-PORT] [-s SIZE] [-n ROUNDS] [-m MTU] [-e]
//! [HOST]`: sends a message back and forth over a reliable connection, an unreliable one, by datagrams, or over sixteen reliable
//! ones that share a receive queue. The other side may be `ibv_rc_pingpong`, `ibv_uc_pingpong` and so on.
//!
//! Shows all that a program with queues does: open the device, register memory, make queues, exchange who they are over
//! TCP, connect, and then post and poll, with -e asleep until there is a completion.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Instant;

use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short, Value};
use rdma_verbs::netlink::{Device, Socket};
use rdma_verbs::uverbs::{
    Access, AddressHandle, Answering, Asking, Capacity, Completion, CompletionChannel,
    CompletionQueue, Context, Data, Datagram, Global, Init, MemoryRegion, Operation, Path, Peer,
    ProtectionDomain, QueuePair, ReadyToSend, ReceiveRequest, Receiving, Reliable, SendRequest,
    SharedReceiveQueue, Unreliable, WorkStatus,
};
use rdma_verbs::{Gid, PortNum};

const USAGE: &str = "rdma-pingpong [-t rc|uc|ud|srq] [-d DEVICE] [-i PORT] [-g GID-INDEX] \
                     [-p TCP-PORT] [-s SIZE] [-n ROUNDS] [-m MTU] [-e] [--libibverbs] [HOST]";

type Error = Box<dyn std::error::Error>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reliable,
    Unreliable,
    Datagrams,
    Shared,
}

struct Arguments {
    kind: Kind,
    device: Option<String>,
    port: u32,
    gid_index: Option<u8>,
    tcp_port: u16,
    size: Option<u32>,
    rounds: u64,
    mtu: u32,
    events: bool,
    by_libibverbs: bool,
    host: Option<String>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdma-pingpong: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, Error> {
    let mut arguments = Arguments {
        kind: Kind::Reliable,
        device: None,
        port: 1,
        gid_index: None,
        tcp_port: 18515,
        size: None,
        rounds: 1000,
        mtu: 1024,
        events: false,
        by_libibverbs: false,
        host: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('t') | Long("transport") => {
                arguments.kind = match &*parser.value()?.string()? {
                    "rc" => Kind::Reliable,
                    "uc" => Kind::Unreliable,
                    "ud" => Kind::Datagrams,
                    "srq" => Kind::Shared,
                    other => return Err(format!("there is no transport {other}").into()),
                }
            }
            Short('d') | Long("ib-dev") => arguments.device = Some(parser.value()?.string()?),
            Short('i') | Long("ib-port") => arguments.port = parser.value()?.parse()?,
            Short('g') | Long("gid-idx") => arguments.gid_index = Some(parser.value()?.parse()?),
            Short('p') | Long("port") => arguments.tcp_port = parser.value()?.parse()?,
            Short('s') | Long("size") => arguments.size = Some(parser.value()?.parse()?),
            Short('n') | Long("iters") => arguments.rounds = parser.value()?.parse()?,
            Short('m') | Long("mtu") => arguments.mtu = parser.value()?.parse()?,
            Short('e') | Long("events") => arguments.events = true,
            Long("libibverbs") => arguments.by_libibverbs = true,
            Value(host) if arguments.host.is_none() => arguments.host = Some(host.string()?),
            other => return Err(format!("{}\n{USAGE}", other.unexpected()).into()),
        }
    }
    Ok(arguments)
}

/// Opens a device by its name, or the first.
fn open(name: Option<&str>, by_libibverbs: bool) -> Result<Context, Error> {
    let mut socket = Socket::open()?;
    let mut devices = socket.devices()?;
    devices.sort_by_key(|device| device.index);
    let device = devices.into_iter().find(|device| name.is_none_or(|name| name == device.name));
    let device = device.ok_or("there is no such RDMA device")?;
    if by_libibverbs {
        return open_by_libibverbs(&mut socket, &device);
    }
    Ok(Context::of(&mut socket, &device)?)
}

#[cfg(feature = "libibverbs")]
fn open_by_libibverbs(socket: &mut Socket, device: &Device) -> Result<Context, Error> {
    Ok(Context::by_libibverbs(socket, device)?)
}

#[cfg(not(feature = "libibverbs"))]
fn open_by_libibverbs(_: &mut Socket, _: &Device) -> Result<Context, Error> {
    Err("this was built without the feature libibverbs".into())
}

/// How one queue pair of a side is reached.
#[derive(Clone, Copy)]
struct Side {
    lid: u16,
    qpn: u32,
    psn: u32,
    gid: Gid,
}

/// `0001:000011:c0ffee:fe80...` and a NUL.
const MESSAGE: usize = 52;

impl Side {
    fn text(self) -> String {
        format!("{:04x}:{:06x}:{:06x}:{:032x}\0", self.lid, self.qpn, self.psn, self.gid.0)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
        let parts: Vec<&str> = text.split(':').collect();
        let [lid, qpn, psn, gid] = parts.as_slice() else { return None };
        Some(Self {
            lid: u16::from_str_radix(lid, 16).ok()?,
            qpn: u32::from_str_radix(qpn, 16).ok()?,
            psn: u32::from_str_radix(psn, 16).ok()?,
            gid: Gid(u128::from_str_radix(gid, 16).ok()?),
        })
    }

    fn print(self, which: &str) {
        let Self { lid, qpn, psn, gid } = self;
        let gid = Ipv6Addr::from(gid.0);
        println!("  {which} address: LID 0x{lid:04x}, QPN 0x{qpn:06x}, PSN 0x{psn:06x}, GID {gid}");
    }
}

/// Receive requests that are kept posted.
const DEPTH: u32 = 500;
/// What libibverbs' programs ask of datagrams.
const QKEY: u32 = 0x1111_1111;
/// Before each datagram that is received there is room for its global route header.
const HEADER: u32 = 40;
/// How many queue pairs share a receive queue, and how many lines `ibv_srq_pingpong` has for them.
const SHARING: usize = 16;
const LINES: usize = 256;

/// A queue pair before it knows the other side, and with it.
enum Half {
    Reliable(QueuePair<Reliable, Init>),
    Unreliable(QueuePair<Unreliable, Init>),
    Datagrams(QueuePair<Datagram, Init>),
}

enum Pair {
    Reliable(QueuePair<Reliable, ReadyToSend>),
    Unreliable(QueuePair<Unreliable, ReadyToSend>),
    Datagrams(QueuePair<Datagram, ReadyToSend>, AddressHandle, u32),
}

impl Half {
    fn make(
        kind: Kind,
        port: PortNum,
        context: &Context,
        domain: &ProtectionDomain,
        completions: &CompletionQueue,
        capacity: Capacity<'_>,
    ) -> Result<Self, Error> {
        let queues = (completions, completions);
        Ok(match kind {
            Kind::Reliable | Kind::Shared => {
                let pair = context.queue_pair::<Reliable>(domain, queues, capacity)?;
                Self::Reliable(pair.init(port, 0, Access(0))?)
            }
            Kind::Unreliable => {
                let pair = context.queue_pair::<Unreliable>(domain, queues, capacity)?;
                Self::Unreliable(pair.init(port, 0, Access(0))?)
            }
            Kind::Datagrams => {
                let pair = context.queue_pair::<Datagram>(domain, queues, capacity)?;
                Self::Datagrams(pair.init(port, 0, QKEY)?)
            }
        })
    }

    fn number(&self) -> u32 {
        match self {
            Self::Reliable(pair) => pair.number(),
            Self::Unreliable(pair) => pair.number(),
            Self::Datagrams(pair) => pair.number(),
        }
    }

    fn connect(
        self,
        domain: &ProtectionDomain,
        port: PortNum,
        psn: u32,
        peer: &Peer,
    ) -> Result<Pair, Error> {
        Ok(match self {
            Self::Reliable(pair) => {
                let pair = pair.ready_to_receive(peer, &Answering { reads: 1, rnr_timer: 12 })?;
                let asking = Asking { timeout: 14, retries: 7, rnr_retries: 7, reads: 1 };
                Pair::Reliable(pair.ready_to_send(psn, &asking)?)
            }
            Self::Unreliable(pair) => {
                Pair::Unreliable(pair.ready_to_receive(peer)?.ready_to_send(psn)?)
            }
            Self::Datagrams(pair) => {
                let path = domain.address_handle(port, &peer.path)?;
                Pair::Datagrams(pair.ready_to_receive()?.ready_to_send(psn)?, path, peer.qpn)
            }
        })
    }
}

impl Pair {
    fn number(&self) -> u32 {
        match self {
            Self::Reliable(pair) => pair.number(),
            Self::Unreliable(pair) => pair.number(),
            Self::Datagrams(pair, ..) => pair.number(),
        }
    }

    fn send(&mut self, data: Data<'_>) -> Result<(), Error> {
        let operation = Operation::Send(None);
        let message = SendRequest::new(SENT, operation, data);
        Ok(match self {
            Self::Reliable(pair) => pair.post_send(&[message]),
            Self::Unreliable(pair) => pair.post_send(&[message]),
            Self::Datagrams(pair, path, qpn) => {
                let operation = Operation::SendTo { path, qpn: *qpn, qkey: QKEY, immediate: None };
                pair.post_send(&[SendRequest { operation, ..message }])
            }
        }?)
    }

    fn receive(&mut self, requests: &[ReceiveRequest<'_>]) -> Result<(), Error> {
        Ok(match self {
            Self::Reliable(pair) => pair.post_receive(requests),
            Self::Unreliable(pair) => pair.post_receive(requests),
            Self::Datagrams(pair, ..) => pair.post_receive(requests),
        }?)
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let mtu = [256, 512, 1024, 2048, 4096].iter().position(|mtu| *mtu == arguments.mtu);
    let mtu = u8::try_from(mtu.ok_or("the MTU is 256, 512, 1024, 2048 or 4096")? + 1)?;
    let (header, size) = match arguments.kind {
        Kind::Datagrams => (HEADER, arguments.size.unwrap_or(2048)),
        _ => (0, arguments.size.unwrap_or(4096)),
    };
    let context = open(arguments.device.as_deref(), arguments.by_libibverbs)?;
    let domain = context.protection_domain()?;
    let memory = domain.memory_region(usize::try_from(header + size)?, Access::LOCAL_WRITE)?;
    let channel = if arguments.events { Some(context.completion_channel()?) } else { None };
    let events = channel.as_ref().map(|channel| (channel, 0));
    let completions = context.completion_queue(2 * DEPTH, events)?;
    let receive = ReceiveRequest { id: RECEIVED, to: &[memory.sge(0, header + size)] };
    let receives = vec![receive; DEPTH as usize];
    let mut shared = match arguments.kind {
        Kind::Shared => Some(domain.shared_receive_queue(DEPTH, 1)?),
        _ => None,
    };
    if let Some(shared) = &mut shared {
        shared.post_receive(&receives)?;
    }
    let receiving = shared.as_ref().map_or(Receiving::Own(DEPTH), Receiving::Shared);
    let capacity = Capacity { send_requests: 1, receive: receiving, sge: 1, inline: 0 };
    let number = PortNum(arguments.port);
    let count = if shared.is_some() { SHARING } else { 1 };
    let halves = (0..count)
        .map(|_| Half::make(arguments.kind, number, &context, &domain, &completions, capacity));
    let mut halves = halves.collect::<Result<Vec<_>, _>>()?;
    for half in &mut halves {
        match half {
            Half::Reliable(_) if shared.is_some() => {}
            Half::Reliable(pair) => pair.post_receive(&receives)?,
            Half::Unreliable(pair) => pair.post_receive(&receives)?,
            Half::Datagrams(pair) => pair.post_receive(&receives)?,
        }
    }

    let port = context.port(number)?;
    let gid = own_gid(&context, arguments)?;
    let psn = fastrand::u32(..1 << 24);
    let own: Vec<Side> =
        (halves.iter()).map(|half| Side { lid: port.lid, qpn: half.number(), psn, gid }).collect();
    own.iter().for_each(|side| side.print("local "));
    let peer_of = |other: &Side| Peer {
        qpn: other.qpn,
        psn: other.psn,
        mtu,
        path: Path {
            lid: other.lid,
            sl: 0,
            global: (other.gid.0 != 0).then_some(Global {
                gid: other.gid,
                sgid_index: arguments.gid_index.unwrap_or(0),
                hop_limit: 1,
            }),
        },
    };
    let connect = |others: &[Side]| -> Result<Vec<Pair>, Error> {
        let pairs = halves.into_iter().zip(others);
        pairs.map(|(half, other)| half.connect(&domain, number, psn, &peer_of(other))).collect()
    };
    let lines = if shared.is_some() { LINES } else { 1 };
    let pairs = meet(arguments, &own, lines, connect)?;
    let start = Instant::now();
    let mut game =
        Game { pairs, shared, completions, channel, memory, header, size, receives: DEPTH };
    game.play(arguments)?;
    let (seconds, bytes) = (start.elapsed().as_secs_f64(), u64::from(size) * arguments.rounds * 2);
    println!(
        "{bytes} bytes in {seconds:.2} seconds = {:.2} Mbit/sec",
        bytes as f64 * 8e-6 / seconds
    );
    let each = seconds * 1e6 / arguments.rounds as f64;
    println!("{} iters in {seconds:.2} seconds = {each:.2} usec/iter", arguments.rounds);
    Ok(())
}

/// The GID that is asked for; none without that.
fn own_gid(context: &Context, arguments: &Arguments) -> Result<Gid, Error> {
    let Some(index) = arguments.gid_index else { return Ok(Gid(0)) };
    let gids = context.gids_of(PortNum(arguments.port))?;
    let own = gids.iter().find(|entry| entry.index == u32::from(index));
    let own = own.ok_or("there is no GID at that place")?;
    Ok(Gid(u128::from_be_bytes(own.gid)))
}

/// Tells the other side who this is, and is told who that is.
fn meet(
    arguments: &Arguments,
    own: &[Side],
    lines: usize,
    connect: impl FnOnce(&[Side]) -> Result<Vec<Pair>, Error>,
) -> Result<Vec<Pair>, Error> {
    // The side that is connected to connects its queues first, so that it is ready when it says who it is.
    match &arguments.host {
        Some(host) => {
            let mut stream = TcpStream::connect((host.as_str(), arguments.tcp_port))?;
            say(&mut stream, own, lines)?;
            let others = said(&mut stream, lines, own.len())?;
            stream.write_all(b"done\0")?;
            connect(&others)
        }
        None => {
            let (mut stream, _) = TcpListener::bind(("::", arguments.tcp_port))?.accept()?;
            let pairs = connect(&said(&mut stream, lines, own.len())?)?;
            say(&mut stream, own, lines)?;
            stream.read_exact(&mut [0; 5])?;
            Ok(pairs)
        }
    }
}

fn say(stream: &mut TcpStream, own: &[Side], lines: usize) -> Result<(), Error> {
    let none = Side { lid: 0, qpn: 0, psn: 0, gid: Gid(0) };
    let lines = own.iter().copied().chain(std::iter::repeat(none)).take(lines);
    Ok(stream.write_all(lines.map(Side::text).collect::<String>().as_bytes())?)
}

fn said(stream: &mut TcpStream, lines: usize, count: usize) -> Result<Vec<Side>, Error> {
    let mut bytes = vec![0; lines * MESSAGE];
    stream.read_exact(&mut bytes)?;
    let others: Option<Vec<Side>> = bytes.chunks(MESSAGE).take(count).map(Side::parse).collect();
    let others = others.ok_or("the other side does not say who it is")?;
    others.iter().for_each(|side| side.print("remote"));
    Ok(others)
}

/// What completions are of.
const RECEIVED: u64 = 1;
const SENT: u64 = 2;

struct Game {
    pairs: Vec<Pair>,
    shared: Option<SharedReceiveQueue>,
    completions: CompletionQueue,
    channel: Option<CompletionChannel>,
    memory: MemoryRegion,
    header: u32,
    size: u32,
    /// How many receive requests are posted.
    receives: u32,
}

impl Game {
    fn play(&mut self, arguments: &Arguments) -> Result<(), Error> {
        let message = [self.memory.sge(usize::try_from(self.header)?, self.size)];
        let (mut sent, mut received) = (0, 0);
        // Whether the next message of each pair waits for one to be sent, and for one to come.
        let mut waits = vec![(false, true); self.pairs.len()];
        if arguments.host.is_some() {
            for (pair, waits) in self.pairs.iter_mut().zip(&mut waits) {
                pair.send(Data::Regions(&message))?;
                *waits = (true, true);
            }
        }
        let mut room = [Completion::default(); 2];
        while sent < arguments.rounds || received < arguments.rounds {
            let taken = self.wait(&mut room)?;
            for completion in room.iter().take(taken) {
                if completion.status != WorkStatus::SUCCESS {
                    return Err(completion.status.to_string().into());
                }
                let place = self.pairs.iter().position(|pair| pair.number() == completion.qpn);
                let place = place.ok_or("a completion is of a queue pair that there is not")?;
                if completion.id == SENT {
                    sent += 1;
                    waits[place].0 = false;
                } else {
                    received += 1;
                    waits[place].1 = false;
                    self.receive_more()?;
                }
                if sent < arguments.rounds && waits[place] == (false, false) {
                    self.pairs[place].send(Data::Regions(&message))?;
                    waits[place] = (true, true);
                }
            }
        }
        Ok(())
    }

    /// One receive request was taken: when few are left there are more.
    fn receive_more(&mut self) -> Result<(), Error> {
        self.receives -= 1;
        if self.receives as usize > self.pairs.len() {
            return Ok(());
        }
        let to = [self.memory.sge(0, self.header + self.size)];
        let more = ReceiveRequest { id: RECEIVED, to: &to };
        let more = vec![more; (DEPTH - self.receives) as usize];
        self.receives = DEPTH;
        match (&mut self.shared, self.pairs.as_mut_slice()) {
            (Some(shared), _) => Ok(shared.post_receive(&more)?),
            (None, [pair, ..]) => pair.receive(&more),
            (None, []) => Ok(()),
        }
    }

    /// The next completions.
    fn wait(&mut self, room: &mut [Completion]) -> Result<usize, Error> {
        loop {
            let taken = self.completions.poll(room)?;
            if taken > 0 {
                return Ok(taken);
            }
            let Some(channel) = &self.channel else { continue };
            self.completions.arm(false)?;
            // One that came before that is not told of.
            let taken = self.completions.poll(room)?;
            if taken > 0 {
                return Ok(taken);
            }
            channel.wait(None)?;
        }
    }
}
