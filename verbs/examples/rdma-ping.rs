// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-ping -s|-c -a ADDRESS [-p PORT] [-C ROUNDS] [-S SIZE] [-v]`: a server that reads memory of a client and writes it back
//! elsewhere, over a connection by IP address. The other side may be `rping`.
//!
//! Shows what a program does with connections: resolve or listen, make queues on the device that this leads to, connect, and
//! then wait for completions and for the end of the connection alike.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::ValueExt as _;
use lexopt::prelude::Short;
use rdma_verbs::cm::{Channel, Event, EventKind, Id, Parameters};
use rdma_verbs::netlink::Socket;
use rdma_verbs::uverbs::{
    Access, Capacity, Completion, CompletionChannel, CompletionQueue, Context, Data, MemoryRegion,
    Operation, QueuePair, ReadyToSend, ReceiveRequest, Receiving, Reliable, Reset, SendRequest,
    WorkStatus,
};
use rustix::event::{PollFd, PollFlags, poll};

const USAGE: &str = "rdma-ping -s|-c -a ADDRESS [-p PORT] [-C ROUNDS] [-S SIZE] [-v]";
const TIMEOUT: Duration = Duration::from_secs(2);
/// Where memory is, and for how long: address, key and length, in network byte order.
const MESSAGE: u32 = 16;
/// Where in the region a message is received, and sent from; after those, what is read and what is written.
const RECEIVE: usize = 0;
const SEND: usize = 16;
const DATA: usize = 64;

type Error = Box<dyn std::error::Error>;

struct Arguments {
    is_server: bool,
    address: SocketAddr,
    rounds: u32,
    size: usize,
    is_verbose: bool,
}

fn main() -> ExitCode {
    let outcome =
        arguments().and_then(
            |arguments| {
                if arguments.is_server { serve(&arguments) } else { ask(&arguments) }
            },
        );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdma-ping: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, Error> {
    let (mut is_server, mut ip, mut port) = (None, None, 7174);
    let (mut rounds, mut size, mut is_verbose) = (10, 64, false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('s') => is_server = Some(true),
            Short('c') => is_server = Some(false),
            Short('a') => ip = Some(parser.value()?.parse::<IpAddr>()?),
            Short('p') => port = parser.value()?.parse()?,
            Short('C') => rounds = parser.value()?.parse()?,
            Short('S') => size = parser.value()?.parse()?,
            Short('v') => is_verbose = true,
            other => return Err(format!("{}\n{USAGE}", other.unexpected()).into()),
        }
    }
    let (Some(is_server), Some(ip)) = (is_server, ip) else { return Err(USAGE.into()) };
    Ok(Arguments { is_server, address: (ip, port).into(), rounds, size, is_verbose })
}

/// The next event, which should be one of these.
fn expect(channel: &Channel, wanted: &[EventKind]) -> Result<Event, Error> {
    let event = channel.wait(None)?.ok_or("no event")?;
    if wanted.contains(&event.kind) {
        Ok(event)
    } else {
        Err(format!("{} (status {})", event.kind, event.status).into())
    }
}

/// One end of a connection.
struct End {
    id: Id,
    channel: Channel,
    completed: CompletionChannel,
    queue: CompletionQueue,
    memory: MemoryRegion,
    size: usize,
    /// How many messages have come, and reads or writes are done, that nobody has asked for.
    received: usize,
    done: usize,
}

const RECEIVED: u64 = 1;
const SENT: u64 = 2;
const DONE: u64 = 3;

impl End {
    /// With all it needs on the device that the connection goes over, and room for `regions` times the data.
    fn new(
        id: Id,
        channel: &Channel,
        size: usize,
        regions: usize,
    ) -> Result<(Self, QueuePair<Reliable, Reset>), Error> {
        let route = id.route()?;
        let mut socket = Socket::open()?;
        let device = socket.devices()?.into_iter().find(|device| device.index == route.device);
        let context = Context::of(&mut socket, &device.ok_or("the device has gone")?)?;
        let domain = context.protection_domain()?;
        let all = Access::LOCAL_WRITE | Access::REMOTE_READ | Access::REMOTE_WRITE;
        let memory = domain.memory_region(DATA + regions * size, all)?;
        let completed = context.completion_channel()?;
        let queue = context.completion_queue(32, Some((&completed, 0)))?;
        let receive = Receiving::Own(2);
        let capacity = Capacity { send_requests: 16, receive, sge: 1, inline: 0 };
        let pair = context.queue_pair(&domain, (&queue, &queue), capacity)?;
        let (received, done, channel) = (0, 0, channel.clone());
        Ok((Self { id, channel, completed, queue, memory, size, received, done }, pair))
    }

    fn parameters(&self, qpn: u32) -> Parameters<'static> {
        Parameters { qpn, private: &[], answers: 1, reads: 1, retries: 7, rnr_retries: 7 }
    }

    fn message(&self) -> [rdma_verbs::uverbs::Sge; 1] {
        [self.memory.sge(RECEIVE, MESSAGE)]
    }

    /// Tells where memory is.
    fn advertise(
        &self,
        pair: &mut QueuePair<Reliable, ReadyToSend>,
        at: usize,
    ) -> Result<(), Error> {
        let address = self.memory.address() + at as u64;
        self.memory.write(SEND, &address.to_be_bytes());
        self.memory.write(SEND + 8, &self.memory.rkey().to_be_bytes());
        self.memory.write(SEND + 12, &u32::try_from(self.size)?.to_be_bytes());
        let message = [self.memory.sge(SEND, MESSAGE)];
        self.post(pair, SENT, Operation::Send(None), &message)
    }

    fn post(
        &self,
        pair: &mut QueuePair<Reliable, ReadyToSend>,
        id: u64,
        operation: Operation<'_>,
        regions: &[rdma_verbs::uverbs::Sge],
    ) -> Result<(), Error> {
        let data = Data::Regions(regions);
        let request = SendRequest::new(id, operation, data);
        Ok(pair.post_send(&[request])?)
    }

    /// The next message: address, key and length. None when the other side has ended the connection.
    fn receive(
        &mut self,
        pair: &mut QueuePair<Reliable, ReadyToSend>,
    ) -> Result<Option<(u64, u32, u32)>, Error> {
        while self.received == 0 {
            if !self.wait()? {
                return Ok(None);
            }
        }
        self.received -= 1;
        let mut message = [0; MESSAGE as usize];
        self.memory.read(RECEIVE, &mut message);
        pair.post_receive(&[ReceiveRequest { id: RECEIVED, to: &self.message() }])?;
        let (address, rest) = message.split_first_chunk().ok_or("a short message")?;
        let (key, length) = rest.split_first_chunk().ok_or("a short message")?;
        let length = length.first_chunk().ok_or("a short message")?;
        let words = (u32::from_be_bytes(*key), u32::from_be_bytes(*length));
        Ok(Some((u64::from_be_bytes(*address), words.0, words.1)))
    }

    /// Waits until what was read or written is.
    fn done(&mut self) -> Result<(), Error> {
        while self.done == 0 {
            if !self.wait()? {
                return Err("the other side has ended the connection".into());
            }
        }
        self.done -= 1;
        Ok(())
    }

    /// Waits for completions; false when the connection has ended.
    fn wait(&mut self) -> Result<bool, Error> {
        if self.take()? {
            return Ok(true);
        }
        self.queue.arm(false)?;
        // What came before that is not told of.
        if self.take()? {
            return Ok(true);
        }
        let (completed, channel) = (self.completed.as_fd(), self.channel.as_fd());
        let mut files =
            [completed, channel].map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
        poll(&mut files, None)?;
        self.completed.take()?;
        match self.channel.take()? {
            Some(event) if event.kind == EventKind::DISCONNECTED => Ok(false),
            Some(event) if event.kind == EventKind::DEVICE_REMOVAL => {
                Err(event.kind.to_string().into())
            }
            _ => Ok(true),
        }
    }

    /// Whether there were any.
    fn take(&mut self) -> Result<bool, Error> {
        let mut room = [Completion::default(); 4];
        let taken = self.queue.poll(&mut room)?;
        for completion in room.iter().take(taken) {
            match (completion.status, completion.id) {
                (WorkStatus::SUCCESS, RECEIVED) => self.received += 1,
                (WorkStatus::SUCCESS, DONE) => self.done += 1,
                (WorkStatus::SUCCESS, _) | (WorkStatus::FLUSHED, RECEIVED) => {}
                (status, _) => return Err(status.to_string().into()),
            }
        }
        Ok(taken > 0)
    }
}

/// What a client has read, and wants to have back.
fn text(round: u32, size: usize) -> Vec<u8> {
    let mut text = format!("rdma-ping-{round}: ").into_bytes();
    text.extend((b'A'..=b'z').cycle().skip(round as usize % 58).take(size));
    text.truncate(size.saturating_sub(1));
    text.push(0);
    text
}

fn ask(arguments: &Arguments) -> Result<(), Error> {
    let channel = Channel::open()?;
    let id = channel.id()?;
    id.resolve_address(None, arguments.address, TIMEOUT)?;
    expect(&channel, &[EventKind::ADDRESS_RESOLVED])?;
    id.resolve_route(TIMEOUT)?;
    expect(&channel, &[EventKind::ROUTE_RESOLVED])?;
    let size = arguments.size;
    let (mut end, pair) = End::new(id, &channel, size, 2)?;
    let mut pair = pair.init_for(&end.id)?;
    pair.post_receive(&[ReceiveRequest { id: RECEIVED, to: &end.message() }])?;
    end.id.connect(&end.parameters(pair.number()))?;
    let event = expect(&channel, &[EventKind::CONNECT_RESPONSE, EventKind::ESTABLISHED])?;
    let mut pair = pair.ready_to_receive_for(&end.id)?.ready_to_send_for(&end.id)?;
    if event.kind == EventKind::CONNECT_RESPONSE {
        end.id.ready()?;
    }
    let ended = "the other side has ended the connection";
    for round in 0..arguments.rounds {
        let sent = text(round, size);
        end.memory.write(DATA, &sent);
        end.advertise(&mut pair, DATA)?;
        end.receive(&mut pair)?.ok_or(ended)?;
        end.advertise(&mut pair, DATA + size)?;
        end.receive(&mut pair)?.ok_or(ended)?;
        let mut back = vec![0; size];
        end.memory.read(DATA + size, &mut back);
        if back != sent {
            return Err(format!("round {round} came back as something else").into());
        }
        if arguments.is_verbose {
            println!("ping data: {}", String::from_utf8_lossy(&back).trim_end_matches('\0'));
        }
    }
    end.id.disconnect()?;
    Ok(())
}

fn serve(arguments: &Arguments) -> Result<(), Error> {
    let channel = Channel::open()?;
    let listener = channel.id()?;
    listener.bind(arguments.address)?;
    listener.listen(1)?;
    let request = expect(&channel, &[EventKind::CONNECT_REQUEST])?.request;
    let (mut end, pair) =
        End::new(request.ok_or("a request without an id")?, &channel, arguments.size, 1)?;
    let pair = pair.init_for(&end.id)?.ready_to_receive_for(&end.id)?;
    let mut pair = pair.ready_to_send_for(&end.id)?;
    pair.post_receive(&[ReceiveRequest { id: RECEIVED, to: &end.message() }])?;
    end.id.accept(&end.parameters(pair.number()))?;
    expect(&channel, &[EventKind::ESTABLISHED])?;
    while let Some((address, rkey, length)) = end.receive(&mut pair)? {
        let data = [end.memory.sge(DATA, length.min(u32::try_from(end.size)?))];
        end.post(&mut pair, DONE, Operation::Read { address, rkey }, &data)?;
        end.done()?;
        if arguments.is_verbose {
            let mut read = vec![0; end.size];
            end.memory.read(DATA, &mut read);
            println!("server ping data: {}", String::from_utf8_lossy(&read).trim_end_matches('\0'));
        }
        end.advertise(&mut pair, DATA)?;
        let Some((address, rkey, _)) = end.receive(&mut pair)? else { break };
        end.post(&mut pair, DONE, Operation::Write { address, rkey, immediate: None }, &data)?;
        end.done()?;
        end.advertise(&mut pair, DATA)?;
    }
    Ok(())
}
