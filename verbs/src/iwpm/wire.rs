// SPDX-License-Identifier: MIT OR Apache-2.0
//! What port mappers send each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::big_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The UDP port that a mapper is asked at.
pub const PORT: u16 = 3935;

/// What a [`Datagram`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who connects asks for the port behind the one it knows.
    Request,
    /// This is it.
    Accept,
    /// The answer has come.
    Ack,
    /// There is none.
    Reject,
}

/// One datagram: 64 bytes for a request, 48 for all others. The scope of an IPv6 address is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What it says.
    pub kind: Kind,
    /// Chosen by who connects, the same in all that follows from its request.
    pub handle: u64,
    /// Who connects, as its application has it.
    pub connecting: SocketAddr,
    /// Who is connected to, as the application has it; in an [`Kind::Accept`] what it is mapped to.
    pub accepting: SocketAddr,
    /// What who connects is mapped to: in a [`Kind::Request`], and nowhere else.
    pub mapped: Option<SocketAddr>,
}

/// Why bytes are no [`Datagram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedDatagram {
    /// Neither 48 nor 64; or 48 of a request.
    #[error("it has {0} bytes")]
    Length(usize),
    /// Not 0.
    #[error("it is of version {0} of the protocol")]
    Version(u8),
    /// Neither 4 nor 6.
    #[error("its addresses are of IP version {0}")]
    IpVersion(u8),
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Common {
    /// Version (2 bits), kind (2), IP version (4).
    what: u8,
    /// Always 0.
    pm_time: u8,
    mapped_port: U16,
    accepting_port: U16,
    connecting_port: U16,
    handle: U64,
    connecting: [u8; 16],
    accepting: [u8; 16],
}

impl Datagram {
    /// Reads one.
    ///
    /// # Errors
    /// See [`MalformedDatagram`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedDatagram> {
        let length = MalformedDatagram::Length(bytes.len());
        let (common, rest) = Common::read_from_prefix(bytes).map_err(|_| length)?;
        let (version, ip_version) = (common.what >> 6, common.what & 15);
        if version != 0 {
            return Err(MalformedDatagram::Version(version));
        }
        let kind = match common.what >> 4 & 3 {
            0 => Kind::Request,
            1 => Kind::Accept,
            2 => Kind::Ack,
            _ => Kind::Reject,
        };
        let mapped = match (kind, rest.len()) {
            (_, 16) => rest.first_chunk(),
            (Kind::Accept | Kind::Ack | Kind::Reject, 0) => None,
            _ => return Err(length),
        };
        let address = |ip: &[u8; 16], port: U16| {
            let [a, b, c, d, ..] = *ip;
            let ip = match ip_version {
                4 => IpAddr::from(Ipv4Addr::new(a, b, c, d)),
                6 => IpAddr::from(Ipv6Addr::from(*ip)),
                other => return Err(MalformedDatagram::IpVersion(other)),
            };
            Ok(SocketAddr::from((ip, port.get())))
        };
        Ok(Self {
            kind,
            handle: common.handle.get(),
            connecting: address(&common.connecting, common.connecting_port)?,
            accepting: address(&common.accepting, common.accepting_port)?,
            mapped: match (kind, mapped) {
                (Kind::Request, Some(ip)) => Some(address(ip, common.mapped_port)?),
                _ => None,
            },
        })
    }

    /// The bytes of it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind: u8 = match self.kind {
            Kind::Request => 0,
            Kind::Accept => 1,
            Kind::Ack => 2,
            Kind::Reject => 3,
        };
        let ip = |address: SocketAddr| {
            let mut bytes = [0; 16];
            match address.ip() {
                IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes = ip.octets(),
            }
            bytes
        };
        let common = Common {
            what: kind << 4 | if self.connecting.is_ipv4() { 4 } else { 6 },
            pm_time: 0,
            mapped_port: self.mapped.map_or(0, |address| address.port()).into(),
            accepting_port: self.accepting.port().into(),
            connecting_port: self.connecting.port().into(),
            handle: self.handle.into(),
            connecting: ip(self.connecting),
            accepting: ip(self.accepting),
        };
        let mut bytes = common.as_bytes().to_vec();
        bytes.extend(self.mapped.map(ip).into_iter().flatten());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_request_as_on_the_wire() {
        let request = Datagram {
            kind: Kind::Request,
            handle: 0x1122_3344_5566_7788,
            connecting: address("10.0.0.1:50000"),
            accepting: address("10.0.0.2:5000"),
            mapped: Some(address("10.0.0.1:40001")),
        };
        let mut bytes = [0; 64];
        bytes[..20].copy_from_slice(
            b"\x04\0\x9c\x41\x13\x88\xc3\x50\x11\x22\x33\x44\x55\x66\x77\x88\x0a\0\0\x01",
        );
        bytes[32..36].copy_from_slice(b"\x0a\0\0\x02");
        bytes[48..52].copy_from_slice(b"\x0a\0\0\x01");
        assert_eq!(request.encode(), bytes);
        assert_eq!(Datagram::decode(&bytes), Ok(request));
    }

    #[test]
    fn all_kinds_and_both_families() {
        for (kind, first) in [(Kind::Accept, 0x16), (Kind::Ack, 0x26), (Kind::Reject, 0x36)] {
            let datagram = Datagram {
                kind,
                handle: 7,
                connecting: address("[fe80::1]:1"),
                accepting: address("[fe80::2]:2"),
                mapped: None,
            };
            let mut bytes = datagram.encode();
            assert_eq!((bytes.len(), bytes[0]), (48, first));
            assert_eq!(Datagram::decode(&bytes), Ok(datagram));
            // Some send all as long as a request.
            bytes.resize(64, 0xff);
            assert_eq!(Datagram::decode(&bytes), Ok(datagram));
        }
    }

    /// I2: 48 bytes of a request have no mapped address.
    #[test]
    fn bad_datagrams() {
        let mut bytes = [0; 65];
        bytes[0] = 4;
        for length in (0..64).chain([65]) {
            let refused = Err(MalformedDatagram::Length(length));
            assert_eq!(Datagram::decode(&bytes[..length]), refused);
        }
        bytes[0] = 0x44;
        assert_eq!(Datagram::decode(&bytes[..64]), Err(MalformedDatagram::Version(1)));
        bytes[0] = 0x15;
        assert_eq!(Datagram::decode(&bytes[..48]), Err(MalformedDatagram::IpVersion(5)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(0u8.., 0..70)) {
            if let Ok(datagram) = Datagram::decode(&bytes) {
                proptest::prop_assert_eq!(Datagram::decode(&datagram.encode()), Ok(datagram));
            }
        }
    }
}
