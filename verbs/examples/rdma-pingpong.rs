// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-pingpong [-d DEVICE] [-i PORT] [-g GID-INDEX] [-p TCP-PORT] [-s SIZE] [-n ROUNDS] [-m MTU] [-e] [HOST]`: sends a
//! message back and forth over a reliable connection. The other side may be `ibv_rc_pingpong`.
//!
//! Shows all that a program with queues does: open the device, register memory, make queues, exchange who they are over
//! TCP, connect, and then post and poll, with -e asleep until there is a completion.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Instant;

use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short, Value};
use rdma_verbs::netlink::Socket;
use rdma_verbs::uverbs::{
    Access, Capacity, Completion, CompletionChannel, CompletionQueue, Context, Data, Global,
    MemoryRegion, Operation, Path, Peer, QueuePair, ReadyToSend, ReceiveRequest, SendRequest,
    Sending, WorkStatus,
};
use rdma_verbs::{Gid, PortNum};
use zerocopy::FromZeros as _;

const USAGE: &str = "rdma-pingpong [-d DEVICE] [-i PORT] [-g GID-INDEX] [-p TCP-PORT] [-s SIZE] \
                     [-n ROUNDS] [-m MTU] [-e] [HOST]";

type Error = Box<dyn std::error::Error>;

struct Arguments {
    device: Option<String>,
    port: u32,
    gid_index: Option<u8>,
    tcp_port: u16,
    size: u32,
    rounds: u64,
    mtu: u32,
    events: bool,
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
        device: None,
        port: 1,
        gid_index: None,
        tcp_port: 18515,
        size: 4096,
        rounds: 1000,
        mtu: 1024,
        events: false,
        host: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('d') | Long("ib-dev") => arguments.device = Some(parser.value()?.string()?),
            Short('i') | Long("ib-port") => arguments.port = parser.value()?.parse()?,
            Short('g') | Long("gid-idx") => arguments.gid_index = Some(parser.value()?.parse()?),
            Short('p') | Long("port") => arguments.tcp_port = parser.value()?.parse()?,
            Short('s') | Long("size") => arguments.size = parser.value()?.parse()?,
            Short('n') | Long("iters") => arguments.rounds = parser.value()?.parse()?,
            Short('m') | Long("mtu") => arguments.mtu = parser.value()?.parse()?,
            Short('e') | Long("events") => arguments.events = true,
            Value(host) if arguments.host.is_none() => arguments.host = Some(host.string()?),
            other => return Err(format!("{}\n{USAGE}", other.unexpected()).into()),
        }
    }
    Ok(arguments)
}

/// Opens a device by its name, or the first.
fn open(name: Option<&str>) -> Result<Context, Error> {
    let mut socket = Socket::open()?;
    let mut devices = socket.devices()?;
    devices.sort_by_key(|device| device.index);
    let device = devices.into_iter().find(|device| name.is_none_or(|name| name == device.name));
    let device = device.ok_or("there is no such RDMA device")?;
    Ok(Context::of(&mut socket, &device)?)
}

/// How one side is reached.
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

fn run(arguments: &Arguments) -> Result<(), Error> {
    /// Receive requests that are kept posted.
    const DEPTH: u32 = 500;
    let mtu = [256, 512, 1024, 2048, 4096].iter().position(|mtu| *mtu == arguments.mtu);
    let mtu = u8::try_from(mtu.ok_or("the MTU is 256, 512, 1024, 2048 or 4096")? + 1)?;
    let context = open(arguments.device.as_deref())?;
    let domain = context.protection_domain()?;
    let memory = domain.memory_region(usize::try_from(arguments.size)?, Access::LOCAL_WRITE)?;
    let channel = if arguments.events { Some(context.completion_channel()?) } else { None };
    let events = channel.as_ref().map(|channel| (channel, 0));
    let completions = context.completion_queue(DEPTH + 1, events)?;
    let capacity = Capacity { send_requests: 1, receive_requests: DEPTH, sge: 1, inline: 0 };
    let queues = (&completions, &completions);
    let pair = context.reliable_connection(&domain, queues, capacity)?;
    let number = PortNum(arguments.port);
    let mut pair = pair.init(number, 0, Access(0))?;
    let receive = ReceiveRequest { id: RECEIVED, to: &[memory.sge(0, arguments.size)] };
    pair.post_receive(&vec![receive; DEPTH as usize])?;

    let port = context.port(number)?;
    let gid = match arguments.gid_index {
        Some(index) => {
            let most = usize::try_from(port.gids)? * usize::from(context.device()?.ports);
            let gids = context.gids(most)?;
            let own = gids.iter().find(|e| e.port == number.0 && e.index == u32::from(index));
            Gid(u128::from_be_bytes(own.ok_or("there is no GID at that place")?.gid))
        }
        None => Gid(0),
    };
    let psn = fastrand::u32(..1 << 24);
    let own = Side { lid: port.lid, qpn: pair.number(), psn, gid };
    own.print("local ");
    let peer_of = |other: Side| Peer {
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
        reads: 1,
        rnr_timer: 12,
    };
    let sending = Sending { psn, timeout: 14, retries: 7, rnr_retries: 7, reads: 1 };
    // The side that is connected to connects its queues first, so that it is ready when it says who it is.
    let pair = match &arguments.host {
        Some(host) => {
            let mut stream = TcpStream::connect((host.as_str(), arguments.tcp_port))?;
            stream.write_all(own.text().as_bytes())?;
            let other = said(&mut stream)?;
            stream.write_all(b"done\0")?;
            pair.ready_to_receive(&peer_of(other))?.ready_to_send(&sending)?
        }
        None => {
            let (mut stream, _) = TcpListener::bind(("::", arguments.tcp_port))?.accept()?;
            let other = said(&mut stream)?;
            let pair = pair.ready_to_receive(&peer_of(other))?.ready_to_send(&sending)?;
            stream.write_all(own.text().as_bytes())?;
            stream.read_exact(&mut [0; 5])?;
            pair
        }
    };
    let start = Instant::now();
    let mut game = Game { pair, completions, channel, memory, posted: DEPTH };
    game.play(arguments, DEPTH)?;
    let (seconds, bytes) =
        (start.elapsed().as_secs_f64(), u64::from(arguments.size) * arguments.rounds * 2);
    println!(
        "{bytes} bytes in {seconds:.2} seconds = {:.2} Mbit/sec",
        bytes as f64 * 8e-6 / seconds
    );
    let each = seconds * 1e6 / arguments.rounds as f64;
    println!("{} iters in {seconds:.2} seconds = {each:.2} usec/iter", arguments.rounds);
    Ok(())
}

fn said(stream: &mut TcpStream) -> Result<Side, Error> {
    let mut bytes = [0; MESSAGE];
    stream.read_exact(&mut bytes)?;
    let other = Side::parse(&bytes).ok_or("the other side does not say who it is")?;
    other.print("remote");
    Ok(other)
}

/// What completions are of.
const RECEIVED: u64 = 1;
const SENT: u64 = 2;

struct Game {
    pair: QueuePair<ReadyToSend>,
    completions: CompletionQueue,
    channel: Option<CompletionChannel>,
    memory: MemoryRegion,
    posted: u32,
}

impl Game {
    fn play(&mut self, arguments: &Arguments, depth: u32) -> Result<(), Error> {
        let whole = [self.memory.sge(0, arguments.size)];
        let message = SendRequest {
            id: SENT,
            operation: Operation::Send(None),
            data: Data::Regions(&whole),
            signaled: true,
            solicited: false,
        };
        let receive = ReceiveRequest { id: RECEIVED, to: &whole };
        let (mut sent, mut received) = (0, 0);
        // What the next message waits for.
        let (mut is_sending, mut is_receiving) = (false, true);
        if arguments.host.is_some() {
            self.pair.post_send(&[message])?;
            is_sending = true;
        }
        let mut room = [Completion::new_zeroed(); 2];
        while sent < arguments.rounds || received < arguments.rounds {
            let taken = self.wait(&mut room)?;
            for completion in room.iter().take(taken) {
                if completion.status != WorkStatus::SUCCESS {
                    return Err(completion.status.to_string().into());
                }
                if completion.id == SENT {
                    sent += 1;
                    is_sending = false;
                } else {
                    received += 1;
                    is_receiving = false;
                    self.posted -= 1;
                    if self.posted <= 1 {
                        self.pair.post_receive(&vec![receive; (depth - self.posted) as usize])?;
                        self.posted = depth;
                    }
                }
                if sent < arguments.rounds && !is_sending && !is_receiving {
                    self.pair.post_send(&[message])?;
                    (is_sending, is_receiving) = (true, true);
                }
            }
        }
        Ok(())
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
