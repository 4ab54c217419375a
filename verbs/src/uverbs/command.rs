// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands of write(2) (`enum ib_uverbs_write_cmds`), as the ioctl takes them too.

use std::io::{self, Write as _};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::call::{Call, DRIVER_IN, DRIVER_OUT};
use super::{Error, Open, device};

pub(super) const ALLOC_PD: u32 = 3;
pub(super) const DEALLOC_PD: u32 = 4;
pub(super) const CREATE_AH: u32 = 5;
pub(super) const DESTROY_AH: u32 = 8;
pub(super) const REG_MR: u32 = 9;
pub(super) const REREG_MR: u32 = 11;
pub(super) const DEREG_MR: u32 = 13;
pub(super) const ALLOC_MW: u32 = 14;
pub(super) const DEALLOC_MW: u32 = 16;
pub(super) const CREATE_COMP_CHANNEL: u32 = 17;
pub(super) const CREATE_CQ: u32 = 18;
pub(super) const RESIZE_CQ: u32 = 19;
pub(super) const DESTROY_CQ: u32 = 20;
pub(super) const POLL_CQ: u32 = 21;
pub(super) const REQ_NOTIFY_CQ: u32 = 23;
pub(super) const CREATE_QP: u32 = 24;
pub(super) const QUERY_QP: u32 = 25;
pub(super) const MODIFY_QP: u32 = 26;
pub(super) const DESTROY_QP: u32 = 27;
pub(super) const POST_SEND: u32 = 28;
pub(super) const POST_RECV: u32 = 29;
pub(super) const ATTACH_MCAST: u32 = 30;
pub(super) const DETACH_MCAST: u32 = 31;
pub(super) const CREATE_SRQ: u32 = 32;
pub(super) const MODIFY_SRQ: u32 = 33;
pub(super) const QUERY_SRQ: u32 = 34;
pub(super) const DESTROY_SRQ: u32 = 35;
pub(super) const POST_SRQ_RECV: u32 = 36;
/// The bit of the extended ones.
const EXTENDED: u32 = 0x8000_0000;
pub(super) const EX_QUERY_DEVICE: u32 = EXTENDED | 1;

/// `struct ib_uverbs_post_send`, before the requests; here without any, as those are in the ring.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
pub(super) struct Post {
    pub(super) response: u64,
    pub(super) handle: u32,
    pub(super) requests: u32,
    pub(super) elements: u32,
    pub(super) element_size: u32,
}

impl Open {
    /// Gives a command: see [`Open::give`].
    pub(super) fn command(
        &self,
        what: &'static str,
        number: u32,
        request: &[u8],
        response: &mut [u8],
        from_driver: &mut [u8],
    ) -> Result<(), Error> {
        let outcome = self.give(number, request, response, (&[], from_driver));
        outcome.map_err(|error| self.failed(what, error))
    }

    /// Gives a command. Of a request that begins with the address of its answer the ioctl does not read that.
    pub(super) fn give(
        &self,
        number: u32,
        request: &[u8],
        response: &mut [u8],
        (to_driver, from_driver): (&[u8], &mut [u8]),
    ) -> io::Result<()> {
        let mut call = Call::new(self.driver, device::OBJECT, device::INVOKE_WRITE)
            .input(0, request)
            .constant(2, number.into());
        if !response.is_empty() {
            call = call.output(1, response);
        }
        if !to_driver.is_empty() {
            call = call.input(DRIVER_IN, to_driver);
        }
        if !from_driver.is_empty() {
            call = call.output(DRIVER_OUT, from_driver);
        }
        call.make(self.fd())
    }

    /// Tells the kernel that there is something to send in the queue of a queue pair.
    pub(super) fn ring_doorbell(&self, handle: u32) -> Result<(), Error> {
        let mut answer = 0_u32;
        let response = (&raw mut answer).expose_provenance() as u64;
        let core = Post { response, handle, requests: 0, elements: 0, element_size: 56 };
        let header = [POST_SEND, 8 | 1 << 16];
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(header.as_bytes());
        bytes[8..].copy_from_slice(core.as_bytes());
        // The shorter way; not for a process that was forked.
        match (&self.file.0).write(&bytes) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.command("send", POST_SEND, core.as_bytes(), answer.as_mut_bytes(), &mut [])
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed("send", error)),
        }
    }

    /// Has the next completion of a queue be told of by an event.
    pub(super) fn arm(&self, handle: u32, solicited_only: bool) -> Result<(), Error> {
        let request = [handle, u32::from(solicited_only)];
        self.command("ask for an event", REQ_NOTIFY_CQ, request.as_bytes(), &mut [], &mut [])
    }

    /// Gives back what was made. There is nothing to be done when that fails: those made of it are gone by then, after the
    /// device has gone there is nothing left of it, and closing the device ends the rest.
    pub(super) fn destroy(&self, number: u32, handle: u32) {
        // An address for the answer before the handle, and a word after it.
        let with_answer = [0, 0, handle, 0];
        let mut answer = [0_u8; 8];
        let (request, length) = match number {
            DESTROY_CQ => (with_answer.as_slice(), 8),
            DESTROY_QP | DESTROY_SRQ => (with_answer.as_slice(), 4),
            _ => (std::slice::from_ref(&handle), 0),
        };
        let answer = answer.get_mut(..length).unwrap_or_default();
        self.give(number, request.as_bytes(), answer, (&[], &mut [])).ok();
    }
}
