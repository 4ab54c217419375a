// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a port can be called.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rdma_verbs::Gid;

/// The bytes of an address as it is asked for: shorter ones are filled up with zeros.
pub const BYTES: usize = 64;

/// A name of a port, in one of five kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A word, of which case does not matter.
    Name(String),
    /// An address of an IPoIB interface of it, or one that is written in `ibacm_hosts.data`.
    Ip(IpAddr),
    /// One of its GIDs.
    Gid(u128),
    /// One of its LIDs.
    Lid(u16),
}

impl Address {
    /// A name; None when it is empty, or too long to be asked for.
    #[must_use]
    pub fn name(text: &str) -> Option<Self> {
        (1..BYTES).contains(&text.len()).then(|| Self::Name(text.to_ascii_lowercase()))
    }

    /// An IP address, or else a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().map(Self::Ip).ok().or_else(|| Self::name(text))
    }

    /// As it stands in a question; None for what is of no kind, or is nothing.
    #[must_use]
    pub fn decode(kind: u16, bytes: &[u8; BYTES]) -> Option<Self> {
        match kind {
            1 => {
                let name = bytes.split(|byte| *byte == 0).next()?;
                Self::name(std::str::from_utf8(name).ok()?)
            }
            2 => Some(Self::Ip(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into())),
            3 => Some(Self::Ip(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into())),
            4 => Some(Self::Gid(u128::from_be_bytes(*bytes.first_chunk()?))),
            5 => Some(Self::Lid(u16::from_be_bytes(*bytes.first_chunk()?))),
            _ => None,
        }
    }

    /// The kind and the bytes of [`Address::decode`].
    #[must_use]
    pub fn encode(&self) -> (u16, [u8; BYTES]) {
        let filled = |kind, value: &[u8]| {
            let mut bytes = [0; BYTES];
            // A name is shorter.
            bytes.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
            (kind, bytes)
        };
        match self {
            Self::Name(name) => filled(1, name.as_bytes()),
            Self::Ip(IpAddr::V4(address)) => filled(2, &address.octets()),
            Self::Ip(IpAddr::V6(address)) => filled(3, &address.octets()),
            Self::Gid(gid) => filled(4, &gid.to_be_bytes()),
            Self::Lid(lid) => filled(5, &lid.to_be_bytes()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(address) => address.fmt(f),
            Self::Gid(gid) => Gid(*gid).fmt(f),
            Self::Lid(lid) => lid.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for text in ["10.0.0.1", "fe80::1", "Node-1"] {
            let address = Address::parse(text).unwrap();
            let (kind, bytes) = address.encode();
            assert_eq!(Address::decode(kind, &bytes), Some(address.clone()));
            assert_eq!(address.to_string(), text.to_lowercase());
        }
        for address in [Address::Gid(0xfe80 << 112 | 5), Address::Lid(7)] {
            let (kind, bytes) = address.encode();
            assert_eq!(Address::decode(kind, &bytes), Some(address));
        }
        let filled = |kind, value: &[u8]| {
            let mut bytes = [0; BYTES];
            bytes[..value.len()].copy_from_slice(value);
            Address::decode(kind, &bytes)
        };
        // 224b03cc9 of rdma-core: what comes after the end of a name is no part of it.
        assert_eq!(filled(1, b"HOST\0garbage"), Some(Address::Name("host".into())));
        assert_eq!(filled(5, &[0x12, 0x34]), Some(Address::Lid(0x1234)));
        for (kind, value) in [(0, &b"x"[..]), (6, b"x"), (1, b""), (1, b"\xff"), (1, &[b'x'; 64])] {
            assert_eq!(filled(kind, value), None);
        }
    }
}
