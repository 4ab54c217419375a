// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel's `iw_cm` and a port mapper say to each other (`RDMA_NL_IWPM_*`).

use std::net::SocketAddr;

use netlink_packet_core::{DecodeError, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NlasIterator};

use crate::netlink::{framed, push};
use crate::sockaddr::{sockaddr, socket_address};

/// `RDMA_NL_IWCM`, as it stands in a message's type.
const IWCM: u16 = 2 << 10;
/// `IWPM_FLAGS_NO_PORT_MAP`: the driver's connections are the host's own.
const NO_PORT_MAP: u32 = 1;

/// What a port mapper has to call itself.
pub const LIBRARY: &str = "iWarpPortMapperUser";

/// The version of this protocol that has flags: Linux 5.1 and newer.
pub(super) const VERSION: u16 = 4;
/// The one before; it has no `HELLO` either.
pub(super) const VERSION_BEFORE: u16 = 3;

/// `RDMA_NL_IWPM_*`
mod op {
    pub(super) const REG_PID: u16 = 0;
    pub(super) const ADD_MAPPING: u16 = 1;
    pub(super) const QUERY_MAPPING: u16 = 2;
    pub(super) const REMOVE_MAPPING: u16 = 3;
    pub(super) const REMOTE_INFO: u16 = 4;
    pub(super) const HANDLE_ERR: u16 = 5;
    pub(super) const MAPINFO: u16 = 6;
    pub(super) const MAPINFO_NUM: u16 = 7;
    pub(super) const HELLO: u16 = 8;
}

/// What the kernel asks and tells. `sequence` is what its answer has to name; without `reserve` the driver's connections
/// are the host's own, and an address is its own mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `REG_PID`, to all port mappers: who is there?
    Register {
        /// Of this request.
        sequence: u32,
        /// Of the RDMA device that a connection is made by.
        device: String,
        /// [`LIBRARY`], where this is meant.
        library: String,
    },
    /// `ADD_MAPPING`: somebody listens.
    Add {
        /// Of this request.
        sequence: u32,
        /// There.
        local: SocketAddr,
        /// Whether a port is to be reserved.
        reserve: bool,
    },
    /// `QUERY_MAPPING`: somebody connects.
    Query {
        /// Of this request.
        sequence: u32,
        /// From there.
        local: SocketAddr,
        /// To there.
        remote: SocketAddr,
        /// Whether a port is to be reserved.
        reserve: bool,
    },
    /// `REMOVE_MAPPING`: one of those is done. Nobody waits for an answer.
    Remove {
        /// Where it was.
        local: SocketAddr,
    },
    /// `MAPINFO`: what there is already, one of many.
    Mapping {
        /// Where somebody listens, or connects from.
        local: SocketAddr,
        /// What that is mapped to.
        mapped: SocketAddr,
        /// Whether a port is to be reserved.
        reserve: bool,
    },
    /// `MAPINFO_NUM`: that was all.
    Mappings {
        /// Of this request.
        sequence: u32,
        /// How many there were.
        sent: u32,
    },
    /// `HELLO`
    Hello {
        /// The version that the kernel goes by.
        version: u16,
    },
}

/// A request that lacks what it must have, or has it in another form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request {sequence} of the kernel's iw_cm, kind {operation}, makes no sense")]
pub struct Malformed {
    /// Of the request.
    pub sequence: u32,
    /// `RDMA_NL_IWPM_*`
    pub operation: u16,
}

/// Why a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Failure {
    /// `INVALID_NLMSG_ERR`: it makes no sense.
    Malformed = 10,
    /// `CREATE_MAPPING_ERR`: no port can be reserved.
    NoPort = 11,
    /// `DUPLICATE_MAPPING_ERR`: some other has the port of that address.
    Duplicate = 12,
    /// `USER_LIB_INFO_ERR`: it is for another program.
    OtherLibrary = 15,
}

/// What the kernel is told. `sequence` is that of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `REG_PID`
    Registered {
        /// Of the [`Request::Register`].
        sequence: u32,
        /// As it was asked with.
        device: String,
    },
    /// `ADD_MAPPING`
    Added {
        /// Of the [`Request::Add`].
        sequence: u32,
        /// As it was asked for.
        local: SocketAddr,
        /// Where to listen.
        mapped: SocketAddr,
    },
    /// `QUERY_MAPPING`
    Found {
        /// Of the [`Request::Query`].
        sequence: u32,
        /// Who connects to whom, and their mappings.
        connection: Connection,
    },
    /// `QUERY_MAPPING` with `IWPM_REMOTE_QUERY_REJECT`: the other host has no mapping, or no mapper. The kernel connects
    /// as it was asked to.
    NotFound {
        /// Of the [`Request::Query`].
        sequence: u32,
        /// Who connects to whom; what it is mapped to is not looked at.
        connection: Connection,
    },
    /// `REMOTE_INFO`: this connection is about to come.
    Remote(Connection),
    /// `HANDLE_ERR`
    Failed {
        /// Of the request.
        sequence: u32,
        /// Why.
        failure: Failure,
    },
    /// `MAPINFO`: tell what there is already.
    TellMappings,
    /// `MAPINFO_NUM`
    MappingsTaken {
        /// Of the [`Request::Mappings`].
        sequence: u32,
        /// As it was said.
        sent: u32,
        /// How many were understood.
        taken: u32,
    },
    /// `HELLO`: a port mapper is there.
    Hello,
}

/// A connection, and the ports behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Here, as the application has it.
    pub local: SocketAddr,
    /// There, as the application has it.
    pub remote: SocketAddr,
    /// Here, in TCP.
    pub mapped_local: SocketAddr,
    /// There, in TCP.
    pub mapped_remote: SocketAddr,
}

/// The requests in one datagram of the kernel. One that makes no sense does not spoil the others.
///
/// # Errors
/// Lengths that do not fit.
pub fn decode(mut datagram: &[u8]) -> Result<Vec<Result<Request, Malformed>>, DecodeError> {
    let mut requests = Vec::new();
    while !datagram.is_empty() {
        let buffer = NetlinkBuffer::new_checked(datagram)?;
        let kind = buffer.message_type();
        // Not ends of lists, which say nothing, and nothing of other clients.
        if kind & !0x3ff == IWCM {
            let (sequence, operation) = (buffer.sequence_number(), kind & 0x3ff);
            let request = request(sequence, operation, &Values::read(buffer.payload()));
            requests.push(request.ok_or(Malformed { sequence, operation }));
        }
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(requests)
}

fn request(sequence: u32, operation: u16, values: &Values<'_>) -> Option<Request> {
    let reserve = |number| Some(values.number(number).unwrap_or(0) & NO_PORT_MAP == 0);
    Some(match operation {
        op::REG_PID => {
            Request::Register { sequence, device: values.text(3)?, library: values.text(4)? }
        }
        op::ADD_MAPPING => {
            Request::Add { sequence, local: values.address(2)?, reserve: reserve(3)? }
        }
        op::QUERY_MAPPING => {
            let (local, remote) = (values.address(2)?, values.address(3)?);
            let same = local.is_ipv4() == remote.is_ipv4();
            same.then_some(Request::Query { sequence, local, remote, reserve: reserve(4)? })?
        }
        op::REMOVE_MAPPING => Request::Remove { local: values.address(2)? },
        op::MAPINFO => {
            let (local, mapped) = (values.address(1)?, values.address(2)?);
            let same = local.is_ipv4() == mapped.is_ipv4();
            same.then_some(Request::Mapping { local, mapped, reserve: reserve(3)? })?
        }
        op::MAPINFO_NUM => Request::Mappings { sequence, sent: values.number(2)? },
        op::HELLO => {
            Request::Hello { version: u16::from_ne_bytes(values.get(1)?.try_into().ok()?) }
        }
        _ => return None,
    })
}

/// The attributes of a message, by their numbers.
struct Values<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Values<'a> {
    fn read(payload: &'a [u8]) -> Self {
        let mut values = Vec::new();
        for nla in NlasIterator::new(payload).map_while(Result::ok) {
            let (kind, end) = (nla.kind(), nla.length().into());
            // What it was made from lives as long as the payload.
            values.push((kind, nla.into_inner().get(4..end).unwrap_or_default()));
        }
        Self(values)
    }

    fn get(&self, number: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|(kind, _)| *kind == number).map(|(_, value)| *value)
    }

    fn number(&self, number: u16) -> Option<u32> {
        self.get(number)?.try_into().ok().map(u32::from_ne_bytes)
    }

    fn address(&self, number: u16) -> Option<SocketAddr> {
        socket_address(self.get(number)?.try_into().ok()?)
    }

    /// Text in a field that is filled up with zeros.
    fn text(&self, number: u16) -> Option<String> {
        let text = self.get(number)?.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }
}

impl Message {
    /// The bytes of it: `sequence` is its own number, `port` the netlink address that the kernel is to send its requests
    /// to, `version` that of the protocol.
    pub(super) fn encode(&self, sequence: u32, port: u32, version: u16) -> Vec<u8> {
        let mut attributes = Attributes::default();
        let operation = match self {
            Self::Registered { sequence, device } => {
                attributes.number(*sequence).text(device).text(LIBRARY).short(version).short(0);
                op::REG_PID
            }
            Self::Added { sequence, local, mapped } => {
                attributes.number(*sequence).address(*local).address(*mapped).short(0);
                op::ADD_MAPPING
            }
            Self::Found { sequence, connection } => {
                attributes.number(*sequence).connection(connection).short(0);
                op::QUERY_MAPPING
            }
            Self::NotFound { sequence, connection } => {
                attributes.number(*sequence).connection(connection).short(REJECTED);
                op::QUERY_MAPPING
            }
            Self::Remote(connection) => {
                attributes.number(0).connection(connection).short(0);
                op::REMOTE_INFO
            }
            Self::Failed { sequence, failure } => {
                attributes.number(*sequence).short(*failure as u16);
                op::HANDLE_ERR
            }
            Self::TellMappings => {
                attributes.text(LIBRARY).short(version);
                op::MAPINFO
            }
            Self::MappingsTaken { sequence, sent, taken } => {
                attributes.number(*sequence).number(*sent).number(*taken);
                op::MAPINFO_NUM
            }
            Self::Hello => {
                attributes.short(version);
                op::HELLO
            }
        };
        let mut header = NetlinkHeader::default();
        header.message_type = IWCM | operation;
        header.flags = NLM_F_REQUEST;
        header.sequence_number = sequence;
        header.port_number = port;
        framed(header, &attributes.bytes)
    }
}

/// `IWPM_REMOTE_QUERY_REJECT`
const REJECTED: u16 = 16;

/// Attributes numbered as they come, from 1.
#[derive(Default)]
struct Attributes {
    bytes: Vec<u8>,
    last: u16,
}

impl Attributes {
    fn push(&mut self, value: &[u8]) -> &mut Self {
        self.last += 1;
        push(&mut self.bytes, self.last, value);
        self
    }

    fn number(&mut self, value: u32) -> &mut Self {
        self.push(&value.to_ne_bytes())
    }

    fn short(&mut self, value: u16) -> &mut Self {
        self.push(&value.to_ne_bytes())
    }

    fn text(&mut self, value: &str) -> &mut Self {
        self.push(&[value.as_bytes(), b"\0"].concat())
    }

    fn address(&mut self, value: SocketAddr) -> &mut Self {
        self.push(&sockaddr(Some(value)).0)
    }

    fn connection(&mut self, of: &Connection) -> &mut Self {
        let addresses = [of.local, of.remote, of.mapped_local, of.mapped_remote];
        addresses.into_iter().fold(self, Self::address)
    }
}
