// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams by IP address: where one's queue pair is, and multicast groups.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Channel, Id, address, command, give};
use crate::Gid;
use crate::sockaddr::sockaddr;
use crate::uverbs::{AddressHandle, Error, PathAttributes, ProtectionDomain};

/// `RDMA_PS_UDP`, and its bit in [`Id::cookie`]: events of datagrams have a form of their own, and do not say so.
const PORT_SPACE: u16 = 0x0111;
pub(super) const COOKIE: u64 = 1 << 63;
/// `IBV_QPT_UD`
const KIND: u8 = 4;

/// Where datagrams are to be sent to: a queue pair that was found, or a multicast group.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// Number of the queue pair; of a group 0xffffff.
    pub qpn: u32,
    /// That it takes.
    pub qkey: u32,
    path: PathAttributes,
}

impl Datagrams {
    /// The group and its MLID, for [`QueuePair::attach`](crate::uverbs::QueuePair::attach).
    #[must_use]
    pub fn group(&self) -> (Gid, u16) {
        (Gid(u128::from_be_bytes(self.path.gid)), self.path.lid)
    }

    /// The way there.
    ///
    /// # Errors
    /// See [`ProtectionDomain::address_handle`].
    pub fn address_handle(&self, domain: &ProtectionDomain) -> Result<AddressHandle, Error> {
        domain.address_handle_with(self.path)
    }
}

/// `struct rdma_ucm_ud_param`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
pub(super) struct DatagramParameters {
    qpn: u32,
    qkey: u32,
    path: PathAttributes,
    pub(super) private: [u8; 256],
    pub(super) private_length: u8,
    reserved: [u8; 7],
}

const _: () = assert!(size_of::<DatagramParameters>() == 304);

impl DatagramParameters {
    /// As an event has them; None where what it is of has connections.
    pub(super) fn of(cookie: u64, bytes: &[u8; 304]) -> Option<Self> {
        (cookie & COOKIE != 0).then(|| zerocopy::transmute!(*bytes))
    }

    /// Where to, if that is said.
    pub(super) fn to(&self) -> Option<Datagrams> {
        let Self { qpn, qkey, path, .. } = *self;
        (path.port != 0).then_some(Datagrams { qpn, qkey, path })
    }
}

/// That a port is a member of a multicast group; dropping it ends that.
#[derive(Debug)]
pub struct Membership {
    file: Arc<File>,
    number: u32,
}

impl Channel {
    /// Makes an id for datagrams. It is used like one for connections; there are none, so that a client's request is answered by
    /// [`ESTABLISHED`], which says where they go: [`super::Event::datagrams`].
    ///
    /// [`ESTABLISHED`]: super::EventKind::ESTABLISHED
    ///
    /// # Errors
    /// See [`Error`].
    pub fn datagram_id(&self) -> Result<Id, Error> {
        self.make(PORT_SPACE, KIND, super::next_cookie() | COOKIE)
    }
}

impl Id {
    /// Makes the port that it is bound to a member of the group with this address: [`MULTICAST_JOIN`], or [`MULTICAST_ERROR`].
    /// What to attach queue pairs to and how to send there says [`super::Event::datagrams`].
    ///
    /// [`MULTICAST_JOIN`]: super::EventKind::MULTICAST_JOIN
    /// [`MULTICAST_ERROR`]: super::EventKind::MULTICAST_ERROR
    ///
    /// # Errors
    /// See [`Error`]; `EINVAL` where it is not bound.
    pub fn join(&self, group: SocketAddr) -> Result<Membership, Error> {
        let (storage, length) = sockaddr(Some(group));
        let mut number = 0_u32;
        let answer = number.as_mut_bytes();
        let lengths = [length, 0];
        let request = [
            &address(answer)[..],
            &self.cookie.to_ne_bytes(),
            &self.number.to_ne_bytes(),
            lengths.as_bytes(),
            &storage,
        ];
        give(&self.file, "join a multicast group", command::JOIN_MCAST, &request, answer)?;
        Ok(Membership { file: Arc::clone(&self.file), number })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut told = 0_u32;
        let answer = told.as_mut_bytes();
        let of = [self.number, 0];
        let request = [&address(answer)[..], of.as_bytes()];
        // It has ended with its id, if that was dropped before.
        give(&self.file, "leave a multicast group", command::LEAVE_MCAST, &request, answer).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let mut bytes = [0; 304];
        bytes[..8].copy_from_slice([0x1234_u32, 7].as_bytes());
        bytes[8] = 0xff;
        bytes[32..34].copy_from_slice(&0xc000_u16.to_ne_bytes());
        assert!(DatagramParameters::of(1, &bytes).is_none());
        let of =
            |bytes: &[u8; 304]| DatagramParameters::of(COOKIE | 1, bytes).and_then(|it| it.to());
        assert!(of(&bytes).is_none());
        bytes[38] = 1;
        let to = of(&bytes).unwrap();
        assert_eq!((to.qpn, to.qkey, to.group()), (0x1234, 7, (Gid(0xff << 120), 0xc000)));
    }
}
