// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs ask over a stream socket, and are answered: messages of a header and records. A program that is answered
//! reads once and takes what it gets for the whole answer: so each is sent in one piece.

use rdma_verbs::local_service::path_flags::{BIDIRECTIONAL, GMP, PRIMARY};
use rdma_verbs::sa::PathRecord;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::address::{Address, BYTES};

/// The longest message: a header and eight records.
pub const LONGEST: usize = HEADER + 8 * RECORD;
const HEADER: usize = 16;
const RECORD: usize = 8 + BYTES;
const VERSION: u8 = 1;

/// Bit 7 of the opcode.
const ANSWER: u8 = 0x80;
const RESOLVE: u8 = 1;
const COUNTERS: u8 = 2;
const ENDPOINT: u8 = 3;

/// What a record is (`ACM_EP_FLAG_*`).
mod flag {
    pub(super) const SOURCE: u32 = 1;
    pub(super) const DESTINATION: u32 = 1 << 1;
    pub(super) const NO_DELAY: u32 = 1 << 30;
    pub(super) const QUERY_SA: u32 = 1 << 31;
}
/// The kind of a record that is a path.
const PATH: u16 = 0x10;

/// How a question ends (`ACM_STATUS_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It is answered.
    Success = 0,
    /// Subnet administration has no room for it.
    NoMemory = 1,
    /// It makes no sense.
    Invalid = 2,
    /// There is no such path, or nobody of this name.
    NoData = 3,
    /// The port cannot be used.
    NotConnected = 5,
    /// Nobody has answered.
    TimedOut = 6,
    /// Nothing here has the address that is said to ask.
    SourceAddress = 7,
    /// Who asks is called something that is no address.
    SourceType = 8,
    /// There is no way to this address.
    DestinationAddress = 9,
    /// Who is asked for is called something that is no address.
    DestinationType = 10,
}

/// What a program asks.
#[derive(Clone, Debug)]
pub struct Request {
    /// To be said in the answer.
    pub transaction: [u8; 8],
    /// The question; or what is wrong with it.
    pub question: Result<Question, Status>,
    opcode: u8,
}

/// `ACM_OP_*`
#[derive(Clone, Debug)]
pub enum Question {
    /// `RESOLVE`: the path to this address.
    Destination {
        /// From this one of this host; else from whichever leads there.
        source: Option<Address>,
        /// Whom it leads to.
        destination: Address,
        /// Only if it is known already.
        no_delay: bool,
    },
    /// `RESOLVE`: such a path; fields that are 0 do not matter.
    Path {
        /// Such a one.
        path: PathRecord,
        /// Only if it is known already.
        no_delay: bool,
    },
    /// `RESOLVE`: what subnet administration says now; fields that are 0 do not matter.
    SubnetAdministration {
        /// Such a path.
        path: PathRecord,
        /// To be said in the answer.
        flags: u32,
    },
    /// `PERF_QUERY`: how much was asked.
    Counters(Whose),
    /// `EP_QUERY`: what a port is called.
    Endpoint {
        /// From 1.
        number: u8,
        /// Of those of ports of this number; 0 for all.
        port: u8,
    },
}

/// Of which endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of all together.
    All,
    /// The one of this number, from 1.
    Number(u8),
    /// The one of this address.
    Of(Address),
}

/// What [`Request::endpoint`] tells.
#[derive(Clone, Debug)]
pub struct EndpointFacts<'a> {
    /// Node GUID of the RDMA device.
    pub guid: u64,
    /// Which of its ports.
    pub port: u8,
    /// How many it has.
    pub ports: u8,
    /// Partition.
    pub pkey: u16,
    /// What it is called.
    pub names: Vec<&'a str>,
}

/// What makes it impossible to say where the next message begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The first byte is not 1.
    #[error("version {0}, not {VERSION}")]
    Version(u8),
    /// It is shorter than a header, or longer than any question.
    #[error("a message of {0} bytes")]
    Length(u16),
}

/// Messages out of a stream, in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Messages(Vec<u8>);

impl Messages {
    /// More has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// Whether all that has come was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next message that is whole.
    ///
    /// # Errors
    /// The rest of the stream means nothing.
    pub fn take(&mut self) -> Result<Option<Request>, Broken> {
        let Some(header) = self.0.first_chunk::<HEADER>() else { return Ok(None) };
        let [version, opcode, _, _, _, _, low, high, transaction @ ..] = *header;
        if version != VERSION {
            return Err(Broken::Version(version));
        }
        let length = [low, high];
        let length =
            if opcode == RESOLVE { u16::from_ne_bytes(length) } else { u16::from_be_bytes(length) };
        let end = usize::from(length);
        if !(HEADER..=LONGEST).contains(&end) {
            return Err(Broken::Length(length));
        }
        let Some(message) = self.0.get(..end) else { return Ok(None) };
        let question = question(message, opcode & 0x0f);
        self.0.drain(..end);
        Ok(Some(Request { transaction, question, opcode }))
    }
}

fn question(message: &[u8], opcode: u8) -> Result<Question, Status> {
    let (header, body) = message.split_at_checked(HEADER).ok_or(Status::Invalid)?;
    let &[_, _, _, first, second, _, ..] = header else { return Err(Status::Invalid) };
    let records = body.chunks_exact(RECORD);
    let is_whole = records.remainder().is_empty();
    let records: Vec<Record<'_>> = records.filter_map(Record::read).collect();
    match opcode {
        RESOLVE if is_whole => resolve(&records),
        COUNTERS => match records.first() {
            None if second == 0 => Ok(Question::Counters(Whose::All)),
            None => Ok(Question::Counters(Whose::Number(second))),
            Some(record) => {
                let address = record.address().ok_or(Status::SourceType)?;
                Ok(Question::Counters(Whose::Of(address)))
            }
        },
        ENDPOINT => Ok(Question::Endpoint { number: first, port: second }),
        _ => Err(Status::Invalid),
    }
}

fn resolve(records: &[Record<'_>]) -> Result<Question, Status> {
    if let Some(record) = records.first().filter(|record| record.kind == PATH) {
        let path = PathRecord::read_from_bytes(record.bytes).map_err(|_| Status::Invalid)?;
        if record.flags & flag::QUERY_SA != 0 {
            return match records {
                [_] => Ok(Question::SubnetAdministration { path, flags: record.flags }),
                _ => Err(Status::Invalid),
            };
        }
        if path.dlid.get() == 0 && path.dgid == [0; 16] {
            return Err(Status::DestinationAddress);
        }
        return Ok(Question::Path { path, no_delay: record.flags & flag::NO_DELAY != 0 });
    }
    let (mut source, mut destination, mut no_delay) = (None, None, false);
    for record in records {
        match record.flags & (flag::SOURCE | flag::DESTINATION) {
            flag::SOURCE => {
                let address = record.address().ok_or(Status::SourceType)?;
                if source.replace(address).is_some() {
                    return Err(Status::SourceAddress);
                }
            }
            flag::DESTINATION => {
                let address = record.address().ok_or(Status::DestinationType)?;
                if destination.replace(address).is_some() {
                    return Err(Status::DestinationAddress);
                }
                no_delay = record.flags & flag::NO_DELAY != 0;
            }
            // librdmacm puts a path after the addresses: a wish that nobody has ever looked at.
            _ => {}
        }
    }
    let destination = destination.ok_or(Status::DestinationType)?;
    Ok(Question::Destination { source, destination, no_delay })
}

struct Record<'a> {
    flags: u32,
    kind: u16,
    bytes: &'a [u8; BYTES],
}

impl<'a> Record<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (flags, rest) = bytes.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        Some(Self {
            flags: u32::from_ne_bytes(*flags),
            kind: u16::from_ne_bytes(*kind),
            bytes: rest.get(2..)?.try_into().ok()?,
        })
    }

    fn address(&self) -> Option<Address> {
        Address::decode(self.kind, self.bytes)
    }
}

/// A message that is being written.
struct Draft(Vec<u8>);

impl Draft {
    fn new(opcode: u8, data: [u8; 3], status: Status, transaction: [u8; 8]) -> Self {
        let mut bytes = Vec::with_capacity(HEADER + 2 * RECORD);
        bytes.extend([VERSION, opcode, status as u8]);
        bytes.extend(data);
        bytes.extend([0; 2]);
        bytes.extend(transaction);
        Self(bytes)
    }

    fn record(mut self, flags: u32, kind: u16, value: &[u8]) -> Self {
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend([0; 2]);
        self.0.extend(value);
        self
    }

    /// With its length.
    fn done(mut self) -> Vec<u8> {
        // None is that long.
        let length = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        let in_host_order = self.0.get(1).is_some_and(|opcode| opcode & !ANSWER == RESOLVE);
        let length = if in_host_order { length.to_ne_bytes() } else { length.to_be_bytes() };
        self.0.iter_mut().skip(6).zip(length).for_each(|(to, from)| *to = from);
        self.0
    }
}

/// The answer with a path, to a question for one: with the address it is from, where that was not asked for.
#[must_use]
pub fn path(transaction: [u8; 8], path: &PathRecord, source: Option<&Address>) -> Vec<u8> {
    // Without the bit of an answer, as programs know it.
    let answer = Draft::new(RESOLVE, [0; 3], Status::Success, transaction);
    let answer = answer.record(GMP | PRIMARY | BIDIRECTIONAL, PATH, path.as_bytes());
    match source.map(Address::encode) {
        Some((kind, bytes)) => answer.record(flag::SOURCE, kind, &bytes).done(),
        None => answer.done(),
    }
}

/// The answer of subnet administration, with the `flags` of the question.
#[must_use]
pub fn from_subnet_administration(transaction: [u8; 8], path: &PathRecord, flags: u32) -> Vec<u8> {
    let answer = Draft::new(RESOLVE | ANSWER, [0; 3], Status::Success, transaction);
    answer.record(flags, PATH, path.as_bytes()).done()
}

/// The answer that a path cannot be said.
#[must_use]
pub fn no_path(transaction: [u8; 8], status: Status) -> Vec<u8> {
    Draft::new(RESOLVE | ANSWER, [0; 3], status, transaction).done()
}

impl Request {
    /// The answer that it cannot be answered.
    #[must_use]
    pub fn refused(&self, status: Status) -> Vec<u8> {
        Draft::new(self.opcode | ANSWER, [0; 3], status, self.transaction).done()
    }

    /// The answer to [`Question::Counters`].
    #[must_use]
    pub fn counters(&self, counters: &[u64; 7]) -> Vec<u8> {
        let data = [7, 0, 0];
        let mut answer = Draft::new(COUNTERS | ANSWER, data, Status::Success, self.transaction);
        counters.iter().for_each(|value| answer.0.extend(value.to_be_bytes()));
        answer.done()
    }

    /// The answer to [`Question::Endpoint`].
    #[must_use]
    pub fn endpoint(&self, facts: &EndpointFacts<'_>) -> Vec<u8> {
        /// What the one way of resolving is called that there has ever been.
        const PROVIDER: &[u8] = b"ibacmp";
        /// As many as have room in a message whose length has 16 bits.
        const MOST: usize = 1022;
        let names = facts.names.get(..MOST).unwrap_or(&facts.names);
        let mut answer = Draft::new(ENDPOINT | ANSWER, [0; 3], Status::Success, self.transaction);
        let bytes = &mut answer.0;
        bytes.extend(facts.guid.to_be_bytes());
        bytes.extend([facts.port, facts.ports, 0, 0]);
        bytes.extend(facts.pkey.to_be_bytes());
        bytes.extend(u16::try_from(names.len()).unwrap_or(u16::MAX).to_be_bytes());
        for text in std::iter::once(PROVIDER).chain(names.iter().map(|name| name.as_bytes())) {
            let end = bytes.len() + BYTES;
            bytes.extend(text.iter().take(BYTES - 1));
            bytes.resize(end, 0);
        }
        answer.done()
    }
}
