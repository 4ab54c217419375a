// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way to another port: of a connection, or, as an address handle, of datagrams.

use std::net::Ipv4Addr;

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::objects::{Handle, ProtectionDomain};
use super::provider::Provider;
use super::work::Completion;
use super::{Context, Error, command};
use crate::{Gid, PortNum};

/// The way to the other side's port.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Of the other side; 0 on Ethernet.
    pub lid: u16,
    /// Service level.
    pub sl: u8,
    /// Its GID and the place of ours: on Ethernet always, else where it is in another subnet.
    pub global: Option<Global>,
}

/// What a global route header has.
#[derive(Clone, Copy, Debug)]
pub struct Global {
    /// Of the other side.
    pub gid: Gid,
    /// Place of the own GID in the port's table.
    pub sgid_index: u8,
    /// How many routers it may pass.
    pub hop_limit: u8,
}

/// `struct ib_uverbs_ah_attr`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub(crate) struct PathAttributes {
    pub(crate) gid: [u8; 16],
    pub(crate) flow_label: u32,
    pub(crate) sgid_index: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) reserved: u8,
    pub(crate) lid: u16,
    pub(crate) sl: u8,
    pub(crate) path_bits: u8,
    pub(crate) static_rate: u8,
    pub(crate) is_global: u8,
    pub(crate) port: u8,
    pub(crate) reserved_2: u8,
}

impl Path {
    /// From this port.
    pub(super) fn attributes(&self, port: PortNum) -> PathAttributes {
        let global = self.global;
        PathAttributes {
            gid: global.map_or([0; 16], |global| global.gid.0.to_be_bytes()),
            sgid_index: global.map_or(0, |global| global.sgid_index),
            hop_limit: global.map_or(0, |global| global.hop_limit),
            lid: self.lid,
            sl: self.sl,
            is_global: u8::from(global.is_some()),
            port: port.of_kernel(),
            ..PathAttributes::new_zeroed()
        }
    }
}

/// What stands before each datagram that is received: a global route header, or of RoCE over IPv4 20 bytes of nothing and the
/// header of that.
pub const DATAGRAM_HEADER: usize = 40;

/// Who has sent a datagram, to which GID of the own, and of which kind that is where the port has Ethernet (`GidEntry::kind`).
fn ends(header: &[u8; DATAGRAM_HEADER]) -> Option<(Gid, Gid, u32)> {
    const UDP: u8 = 17;
    let gid = |at: usize| Some(Gid(u128::from_be_bytes(*header.get(at..)?.first_chunk()?)));
    let mapped = |at: usize| {
        let address = Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?);
        Some(Gid(address.to_ipv6_mapped().to_bits()))
    };
    match (header[0] >> 4, header[20] >> 4) {
        (6, _) => Some((gid(8)?, gid(24)?, if header[6] == UDP { 2 } else { 1 })),
        (_, 4) => Some((mapped(32)?, mapped(36)?, 2)),
        _ => None,
    }
}

impl Context {
    /// The way back to who has sent a datagram to this port: of its completion, and the [`DATAGRAM_HEADER`] that was received
    /// before it.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Garbage`] for a header that is none, or that was not to this port.
    pub fn path_back(
        &self,
        port: PortNum,
        completion: &Completion,
        header: &[u8; DATAGRAM_HEADER],
    ) -> Result<Path, Error> {
        let (lid, sl) = (completion.source_lid, completion.sl);
        if completion.flags & GLOBAL == 0 {
            return Ok(Path { lid, sl, global: None });
        }
        let (gid, own, kind) = ends(header).ok_or(Error::Garbage)?;
        // On InfiniBand all are of kind 0.
        let own = self.gids_of(port)?.into_iter().find(|entry| {
            let is_kind = entry.kind == 0 || entry.kind == kind;
            is_kind && u128::from_be_bytes(entry.gid) == own.0
        });
        let sgid_index = own.and_then(|entry| u8::try_from(entry.index).ok());
        let sgid_index = sgid_index.ok_or(Error::Garbage)?;
        Ok(Path { lid, sl, global: Some(Global { gid, sgid_index, hop_limit: u8::MAX }) })
    }
}

/// `IB_WC_GRH`
const GLOBAL: u32 = 1;

/// A path for datagrams.
#[derive(Debug)]
pub struct AddressHandle {
    handle: Handle,
    /// What rxe's queues know it by.
    pub(super) number: u32,
    _domain: ProtectionDomain,
}

/// `struct ib_uverbs_create_ah`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct Create {
    response: u64,
    user_handle: u64,
    domain: u32,
    reserved: u32,
    path: PathAttributes,
}

const _: () = assert!(size_of::<PathAttributes>() == 32 && size_of::<Create>() == 56);

impl AddressHandle {
    pub(super) fn new(domain: &ProtectionDomain, handle: u32, number: u32) -> Self {
        let handle = Handle::new(&domain.0.open, handle, command::DESTROY_AH);
        Self { handle, number, _domain: domain.clone() }
    }

    pub(super) fn handle(&self) -> u32 {
        self.handle.number
    }

    /// What the library that has made it knows it by.
    #[cfg(feature = "libibverbs")]
    pub(super) fn pointer(&self) -> *mut std::ffi::c_void {
        self.handle.pointer()
    }
}

impl ProtectionDomain {
    /// Makes an address handle: where datagrams go that leave by this port.
    ///
    /// # Errors
    /// See [`Error`]; on Ethernet the kernel looks for the way there, and says so when there is none.
    pub fn address_handle(&self, port: PortNum, path: &Path) -> Result<AddressHandle, Error> {
        self.address_handle_with(path.attributes(port))
    }

    pub(crate) fn address_handle_with(&self, path: PathAttributes) -> Result<AddressHandle, Error> {
        let (what, open) = ("make an address handle", &self.0.open);
        if let Some(maker) = open.maker(what)? {
            let made = maker.path(self.0.pointer(), &path);
            let made = made.map_err(|error| open.failed(what, error))?;
            let handle = Handle::made(open, made);
            return Ok(AddressHandle { handle, number: 0, _domain: self.clone() });
        }
        let request =
            Create { response: 0, user_handle: 0, domain: self.0.number, reserved: 0, path };
        let (mut handle, mut from_driver) = (0_u32, [0_u32; 2]);
        let from_driver = match Provider::of(open.driver)? {
            Provider::Rxe => from_driver.as_mut_bytes(),
            Provider::Siw | Provider::Plain => &mut [],
        };
        let (bytes, room) = (request.as_bytes(), handle.as_mut_bytes());
        open.command(what, command::CREATE_AH, bytes, room, from_driver)?;
        let number = from_driver.first_chunk().map_or(0, |number| u32::from_ne_bytes(*number));
        Ok(AddressHandle::new(self, handle, number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers() {
        let mut header = [0; DATAGRAM_HEADER];
        assert!(ends(&header).is_none());
        header[0] = 0x60;
        header[8..].copy_from_slice(&[[0xfe; 16], [0xfd; 16]].concat());
        let [source, own] = [0xfe, 0xfd].map(|byte| Gid(u128::from_be_bytes([byte; 16])));
        assert_eq!(ends(&header), Some((source, own, 1)));
        header[6] = 17;
        assert_eq!(ends(&header), Some((source, own, 2)));
        header = [0; DATAGRAM_HEADER];
        header[20] = 0x45;
        header[32..].copy_from_slice(&[10, 9, 0, 1, 10, 9, 0, 2]);
        let [source, own] = [1, 2].map(|last| Gid(0xffff_0a09_0000 | last));
        assert_eq!(ends(&header), Some((source, own, 2)));
    }

    proptest! {
        #[test]
        fn any_header(header: [u8; DATAGRAM_HEADER]) {
            let _ = ends(&header);
        }
    }
}
