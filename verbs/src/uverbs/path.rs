// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way to another port: of a connection, or, as an address handle, of datagrams.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::objects::{Handle, ProtectionDomain};
use super::provider::Provider;
use super::{Error, Open, command};
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

/// A path for datagrams.
#[derive(Debug)]
pub struct AddressHandle {
    handle: Handle,
    /// What rxe's queues know it by.
    pub(super) number: u32,
    _domain: Option<ProtectionDomain>,
}

/// `struct ib_uverbs_create_ah`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct Create {
    response: u64,
    user_handle: u64,
    domain: u32,
    reserved: u32,
    gid: [u8; 16],
    flow_label: u32,
    sgid_index: u8,
    hop_limit: u8,
    traffic_class: u8,
    reserved_2: u8,
    lid: u16,
    sl: u8,
    path_bits: u8,
    static_rate: u8,
    is_global: u8,
    port: u8,
    reserved_3: u8,
}

const _: () = assert!(size_of::<Create>() == 56);

impl AddressHandle {
    pub(super) fn new(open: &Arc<Open>, handle: u32, number: u32) -> Self {
        let handle = Handle::new(open, handle, command::DESTROY_AH);
        Self { handle, number, _domain: None }
    }

    pub(super) fn handle(&self) -> u32 {
        self.handle.number
    }
}

impl ProtectionDomain {
    /// Makes an address handle: where datagrams go that leave by this port.
    ///
    /// # Errors
    /// See [`Error`]; on Ethernet the kernel looks for the way there, and says so when there is none.
    pub fn address_handle(&self, port: PortNum, path: &Path) -> Result<AddressHandle, Error> {
        let open = &self.0.open;
        let global = path.global;
        let request = Create {
            response: 0,
            user_handle: 0,
            domain: self.0.number,
            reserved: 0,
            gid: global.map_or([0; 16], |global| global.gid.0.to_be_bytes()),
            flow_label: 0,
            sgid_index: global.map_or(0, |global| global.sgid_index),
            hop_limit: global.map_or(0, |global| global.hop_limit),
            traffic_class: 0,
            reserved_2: 0,
            lid: path.lid,
            sl: path.sl,
            path_bits: 0,
            static_rate: 0,
            is_global: u8::from(global.is_some()),
            port: port.of_kernel(),
            reserved_3: 0,
        };
        let (mut handle, mut from_driver) = (0_u32, [0_u32; 2]);
        let from_driver = match Provider::of(open.driver)? {
            Provider::Rxe => from_driver.as_mut_bytes(),
            Provider::Siw | Provider::Plain => &mut [],
        };
        let (bytes, room) = (request.as_bytes(), handle.as_mut_bytes());
        open.command("make an address handle", command::CREATE_AH, bytes, room, from_driver)?;
        let number = from_driver.first_chunk().map_or(0, |number| u32::from_ne_bytes(*number));
        Ok(AddressHandle {
            _domain: Some(self.clone()),
            ..AddressHandle::new(open, handle, number)
        })
    }
}
