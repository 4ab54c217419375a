// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel asks and is told (`RDMA_NL_LS_OP_*`).

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, NetlinkBuffer, NetlinkHeader, NlasIterator};
use zerocopy::IntoBytes as _;

use crate::netlink::{framed, push};
use crate::sa::PathRecord;
use crate::{Gid, PortNum};

/// `RDMA_NL_LS`, as it stands in a message's type.
const LS: u16 = 4 << 10;
const RESOLVE: u16 = LS;
const IP_RESOLVE: u16 = LS + 2;
/// `RDMA_NL_LS_F_ERR`
const FAILED: u16 = 0x0100;
/// `RDMA_NLA_F_MANDATORY`: who does not know this attribute must not answer as if it were not there.
const MANDATORY: u16 = 1 << 13;
/// `struct rdma_ls_resolve_header`, filled up to four bytes.
const RESOLVE_HEADER: usize = 68;
const DEVICE_NAME: usize = 64;

/// `LS_NLA_TYPE_*`
mod attribute {
    pub(super) const PATH_RECORD: u16 = 1;
    pub(super) const SERVICE_ID: u16 = 3;
    pub(super) const DGID: u16 = 4;
    pub(super) const SGID: u16 = 5;
    pub(super) const TRAFFIC_CLASS: u16 = 6;
    pub(super) const PKEY: u16 = 7;
    pub(super) const QOS_CLASS: u16 = 8;
    pub(super) const IPV4: u16 = 9;
    pub(super) const IPV6: u16 = 10;
}

/// `struct ib_path_rec_data`: what a path is for (`IB_PATH_*`).
pub mod path_flags {
    /// For management datagrams.
    pub const GMP: u32 = 1;
    /// The one to use.
    pub const PRIMARY: u32 = 1 << 1;
    /// The one to use when that fails.
    pub const ALTERNATE: u32 = 1 << 2;
    /// From here to there.
    pub const OUTBOUND: u32 = 1 << 3;
    /// From there to here.
    pub const INBOUND: u32 = 1 << 4;
    /// From there to here, the outbound one turned round.
    pub const INBOUND_REVERSE: u32 = 1 << 5;
    /// Both ways.
    pub const BIDIRECTIONAL: u32 = OUTBOUND | INBOUND_REVERSE;
}

/// Which request an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    kind: u16,
    sequence: u32,
}

/// What a path is asked for (`LS_RESOLVE_PATH_USE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathUse {
    /// A connection.
    All,
    /// Datagrams that are not answered.
    Unidirectional,
    /// Management datagrams.
    Gmp,
}

impl PathUse {
    /// What the kernel takes a record for this use with ([`path_flags`]).
    #[must_use]
    pub fn flags(self) -> u32 {
        use path_flags::{BIDIRECTIONAL, GMP, OUTBOUND, PRIMARY};
        match self {
            Self::All | Self::Gmp => PRIMARY | GMP | BIDIRECTIONAL,
            Self::Unidirectional => PRIMARY | OUTBOUND,
        }
    }
}

/// What the kernel asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `RESOLVE`: a path.
    Path {
        /// What to answer with.
        ticket: Ticket,
        /// Name of the RDMA device that asks.
        device: String,
        /// Which of its ports.
        port: PortNum,
        /// What for.
        path_use: PathUse,
        /// Such a path.
        path: PathRecord,
        /// Those fields of it that are meant.
        components: u64,
    },
    /// `IP_RESOLVE`: the GID of whoever has an IP address.
    Ip {
        /// What to answer with.
        ticket: Ticket,
        /// The network interface that leads there.
        interface: u32,
        /// The address.
        address: IpAddr,
    },
    /// It makes no sense, or has an attribute that must be understood and is not. [`Reply::Failed`] is the answer.
    Malformed(Ticket),
}

/// What the kernel is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A path, and what it is for ([`path_flags`]).
    Path(u32, PathRecord),
    /// A GID.
    Gid(Gid),
    /// There is none: the kernel asks subnet administration itself.
    Failed,
}

/// The requests in one datagram of the kernel.
///
/// # Errors
/// Lengths that do not fit.
pub fn decode(mut datagram: &[u8]) -> Result<Vec<Request>, DecodeError> {
    let mut requests = Vec::new();
    while !datagram.is_empty() {
        let buffer = NetlinkBuffer::new_checked(datagram)?;
        let (kind, sequence) = (buffer.message_type(), buffer.sequence_number());
        let ticket = Ticket { kind, sequence };
        let request = match kind {
            RESOLVE => Some(path(ticket, buffer.payload())),
            IP_RESOLVE => Some(ip(ticket, buffer.payload())),
            // Nothing of other clients.
            _ if kind & !0x3ff != LS => None,
            _ => Some(None),
        };
        requests.extend(request.map(|request| request.unwrap_or(Request::Malformed(ticket))));
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(requests)
}

fn path(ticket: Ticket, payload: &[u8]) -> Option<Request> {
    let (header, attributes) = payload.split_at_checked(RESOLVE_HEADER)?;
    let (name, rest) = header.split_at_checked(DEVICE_NAME)?;
    let device = std::str::from_utf8(name.split(|byte| *byte == 0).next()?).ok()?.to_owned();
    let path_use = match rest.get(1)? {
        0 => PathUse::All,
        1 => PathUse::Unidirectional,
        2 => PathUse::Gmp,
        _ => return None,
    };
    let mut path = PathRecord { reversible_and_paths: 1, ..PathRecord::default() };
    let mut components = PathRecord::PATHS;
    if path_use != PathUse::Unidirectional {
        path.reversible_and_paths |= 0x80;
        components |= PathRecord::REVERSIBLE;
    }
    for (kind, value) in attributes_of(attributes) {
        components |= match kind & !MANDATORY {
            attribute::SERVICE_ID => {
                path.service_id = u64::from_ne_bytes(value.try_into().ok()?).into();
                PathRecord::SERVICE_ID
            }
            attribute::DGID => {
                path.dgid = value.try_into().ok()?;
                PathRecord::DGID
            }
            attribute::SGID => {
                path.sgid = value.try_into().ok()?;
                PathRecord::SGID
            }
            attribute::TRAFFIC_CLASS => {
                path.traffic_class = u8::from_ne_bytes(value.try_into().ok()?);
                PathRecord::TRAFFIC_CLASS
            }
            attribute::PKEY => {
                path.pkey = u16::from_ne_bytes(value.try_into().ok()?).into();
                PathRecord::PKEY
            }
            // rdma-core A22: 12 bits, above the service level.
            attribute::QOS_CLASS => {
                path.qos_and_sl = (u16::from_ne_bytes(value.try_into().ok()?) << 4).into();
                PathRecord::QOS_CLASS
            }
            _ if kind & MANDATORY != 0 => return None,
            _ => 0,
        };
    }
    let port = PortNum((*rest.first()?).into());
    Some(Request::Path { ticket, device, port, path_use, path, components })
}

fn ip(ticket: Ticket, payload: &[u8]) -> Option<Request> {
    let (interface, attributes) = payload.split_first_chunk::<4>()?;
    let mut address = None;
    for (kind, value) in attributes_of(attributes) {
        match kind & !MANDATORY {
            attribute::IPV4 => address = Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
            attribute::IPV6 => address = Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
            _ if kind & MANDATORY != 0 => return None,
            _ => {}
        }
    }
    Some(Request::Ip { ticket, interface: u32::from_ne_bytes(*interface), address: address? })
}

fn attributes_of(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|nla| {
        let (kind, end) = (nla.kind(), nla.length().into());
        // What it was made from lives as long as the bytes.
        (kind, nla.into_inner().get(4..end).unwrap_or_default())
    })
}

impl Reply {
    /// The bytes of it, from the netlink address `port`.
    pub(super) fn encode(&self, ticket: Ticket, port: u32) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        // Not NLM_F_REQUEST: the kernel takes none with it.
        header.message_type = ticket.kind;
        header.sequence_number = ticket.sequence;
        header.port_number = port;
        let mut payload = Vec::new();
        match self {
            Self::Path(flags, path) => {
                let value = [&flags.to_ne_bytes(), &[0; 4], path.as_bytes()].concat();
                push(&mut payload, attribute::PATH_RECORD, &value);
            }
            Self::Gid(gid) => push(&mut payload, attribute::DGID, &gid.0.to_be_bytes()),
            Self::Failed => header.flags = FAILED,
        }
        framed(header, &payload)
    }
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    const DGID: &[u8] = b"\xfe\x80\0\0\0\0\0\0\0\x02\xc9\x03\0\0\x10\x02";
    const SGID: &[u8] = b"\xfe\x80\0\0\0\0\0\0\0\x02\xc9\x03\0\0\x10\x01";

    fn asked(path_use: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut payload = b"mlx5_0".to_vec();
        payload.resize(DEVICE_NAME, 0);
        payload.extend([1, path_use, 0, 0]);
        attributes.iter().for_each(|(kind, value)| push(&mut payload, *kind, value));
        let mut header = NetlinkHeader::default();
        (header.message_type, header.flags, header.sequence_number) = (RESOLVE, 1, 7);
        framed(header, &payload)
    }

    #[test]
    fn a_path_is_asked_for() {
        let common: [(u16, &[u8]); 3] = [(0x2004, DGID), (0x2005, SGID), (0x2007, b"\xff\xff")];
        let bytes = asked(0, &common);
        assert_eq!(bytes.len(), 132);
        assert_eq!(bytes[..16], *b"\x84\0\0\0\0\x10\x01\0\x07\0\0\0\0\0\0\0");
        let [Request::Path { ticket, device, port, path_use, path, components }] =
            &decode(&bytes).unwrap()[..]
        else {
            panic!("not a path");
        };
        assert_eq!(*ticket, Ticket { kind: 0x1000, sequence: 7 });
        assert_eq!((device.as_str(), *port, *path_use), ("mlx5_0", PortNum(1), PathUse::All));
        assert_eq!((&path.dgid[..], &path.sgid[..], path.pkey.get()), (DGID, SGID, 0xffff));
        assert_eq!(path.reversible_and_paths, 0x81);
        let dgid_sgid_reversible_paths_pkey = 1 << 2 | 1 << 3 | 1 << 11 | 1 << 12 | 1 << 13;
        assert_eq!(*components, dgid_sgid_reversible_paths_pkey);

        // rdma-core A17 and A22: nothing that is asked for is left out.
        let more: [(u16, &[u8]); 4] = [
            (0x2003, &0x0102_u64.to_ne_bytes()),
            (0x2006, b"\x20"),
            (0x2008, &0xabc_u16.to_ne_bytes()),
            (99, b"no matter"),
        ];
        let [Request::Path { path, components, .. }] = &decode(&asked(1, &more)).unwrap()[..]
        else {
            panic!("not a path");
        };
        assert_eq!((path.service_id.get(), path.traffic_class), (0x0102, 0x20));
        assert_eq!((path.qos_and_sl.get(), path.reversible_and_paths), (0xabc0, 1));
        assert_eq!(*components, 3 | 1 << 10 | 1 << 12 | 1 << 14);
    }

    #[test]
    fn what_is_not_understood_fails() {
        for bytes in [
            asked(3, &[]),
            asked(0, &[(0x2004, b"short")]),
            asked(0, &[(0x2000 | 99, b"must be understood")]),
            asked(0, &[])[..80].to_vec(),
        ] {
            let mut bytes = bytes;
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let requests = decode(&bytes).unwrap();
            assert!(matches!(requests[..], [Request::Malformed(Ticket { sequence: 7, .. })]));
        }
        assert!(decode(&[0; 15]).is_err());
    }

    #[test]
    fn an_address_is_asked_for() {
        let mut payload = 4_u32.to_ne_bytes().to_vec();
        push(&mut payload, 0x2009, &[10, 0, 0, 2]);
        let mut header = NetlinkHeader::default();
        (header.message_type, header.sequence_number) = (IP_RESOLVE, 9);
        let [Request::Ip { ticket, interface: 4, address }] =
            decode(&framed(header, &payload)).unwrap()[..]
        else {
            panic!("not an address");
        };
        assert_eq!(address, IpAddr::from([10, 0, 0, 2]));
        let gid = Gid(u128::from_be_bytes(DGID.try_into().unwrap()));
        let bytes = Reply::Gid(gid).encode(ticket, 0);
        assert_eq!(bytes[..16], *b"\x24\0\0\0\x02\x10\0\0\x09\0\0\0\0\0\0\0");
        assert_eq!(bytes[16..], [b"\x14\0\x04\0", DGID].concat());
    }

    #[test]
    fn replies() {
        let ticket = Ticket { kind: RESOLVE, sequence: 7 };
        let path = PathRecord {
            dgid: DGID.try_into().unwrap(),
            sgid: SGID.try_into().unwrap(),
            dlid: 2.into(),
            slid: 1.into(),
            reversible_and_paths: 0x80,
            pkey: 0xffff.into(),
            mtu: 0x84,
            rate: 0x83,
            lifetime: 0x92,
            ..PathRecord::default()
        };
        let bytes = Reply::Path(PathUse::Gmp.flags(), path).encode(ticket, 4242);
        let mut expected =
            b"\x5c\0\0\0\0\x10\0\0\x07\0\0\0\x92\x10\0\0\x4c\0\x01\0\x2b\0\0\0\0\0\0\0".to_vec();
        expected.extend([&[0; 8], DGID, SGID, b"\0\x02\0\x01\0\0\0\0\0\x80\xff\xff"].concat());
        expected.extend(b"\0\0\x84\x83\x92\0\0\0\0\0\0\0");
        assert_eq!(bytes, expected);
        assert_eq!(PathUse::Unidirectional.flags(), 0x0a);
        let failed = Reply::Failed.encode(ticket, 4242);
        assert_eq!(failed, b"\x10\0\0\0\0\x10\0\x01\x07\0\0\0\x92\x10\0\0");
    }

    proptest::proptest! {
        #[test]
        fn any_datagram(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
