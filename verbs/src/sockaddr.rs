// SPDX-License-Identifier: MIT OR Apache-2.0
//! `struct sockaddr_storage`, as RDMA connection management has it in its messages.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// `struct sockaddr_storage`, and how much of it is used.
pub(crate) fn sockaddr(address: Option<SocketAddr>) -> ([u8; 128], u16) {
    let mut storage = [0; 128];
    let Some(address) = address else { return (storage, 0) };
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    storage[..2].copy_from_slice(&family.to_ne_bytes());
    storage[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(address) => {
            storage[4..8].copy_from_slice(&address.ip().octets());
            (storage, 16)
        }
        SocketAddr::V6(address) => {
            storage[4..8].copy_from_slice(&address.flowinfo().to_ne_bytes());
            storage[8..24].copy_from_slice(&address.ip().octets());
            storage[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
            (storage, 28)
        }
    }
}

/// The address in a `struct sockaddr_storage`; None where it is of another family.
pub(crate) fn socket_address(storage: &[u8; 128]) -> Option<SocketAddr> {
    let word = |at: usize| storage.get(at..)?.first_chunk::<4>().copied();
    let port = u16::from_be_bytes([storage[2], storage[3]]);
    match u16::from_ne_bytes([storage[0], storage[1]]) {
        AF_INET => Some(SocketAddr::from((Ipv4Addr::from(word(4)?), port))),
        AF_INET6 => {
            let ip = Ipv6Addr::from(*storage.get(8..)?.first_chunk::<16>()?);
            let (flow, scope) = (u32::from_ne_bytes(word(4)?), u32::from_ne_bytes(word(24)?));
            Some(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for text in ["10.9.0.1:7174", "[fe80::1%3]:7174", "[::]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let (storage, length) = sockaddr(Some(address));
            assert_eq!(socket_address(&storage), Some(address));
            assert_eq!(length, if address.is_ipv4() { 16 } else { 28 });
            assert!(storage[length.into()..].iter().all(|byte| *byte == 0));
        }
        assert_eq!((sockaddr(None).1, socket_address(&[0; 128])), (0, None));
        assert_eq!(sockaddr("1.2.3.4:258".parse().ok()).0[2..8], [1, 2, 1, 2, 3, 4]);
    }
}
