// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a queue pair is, as its driver says.

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::qp::{Destination, QueuePair};
use super::{Access, Error, command};

/// `enum ib_qp_state`
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct PairState(pub u8);

impl PairState {
    /// Just made.
    pub const RESET: Self = Self(0);
    /// Takes receive requests.
    pub const INIT: Self = Self(1);
    /// Receives.
    pub const READY_TO_RECEIVE: Self = Self(2);
    /// Receives and sends.
    pub const READY_TO_SEND: Self = Self(3);
    /// Has failed: everything is flushed.
    pub const ERROR: Self = Self(6);
}

/// How a queue pair is (`struct ib_uverbs_query_qp_resp`). What its transport or its state does not have says nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub struct PairAttributes {
    destination: Destination,
    alternate: Destination,
    /// Room for send requests.
    pub send_requests: u32,
    /// Room for receive requests.
    pub receive_requests: u32,
    /// Scatter/gather elements of a send request.
    pub send_sge: u32,
    /// Scatter/gather elements of a receive request.
    pub receive_sge: u32,
    /// Bytes that can stand in a send request.
    pub inline: u32,
    /// That datagrams have to say.
    pub qkey: u32,
    /// Packet sequence number that is expected, of 24 bits.
    pub receive_psn: u32,
    /// Packet sequence number of what is sent.
    pub send_psn: u32,
    /// Of the other side.
    pub destination_qpn: u32,
    /// What the other side may do.
    pub access: Access,
    /// Place of the P_Key.
    pub pkey_index: u16,
    alternate_pkey_index: u16,
    /// Also where the type says another: a connection that fails brings it to [`PairState::ERROR`].
    pub state: PairState,
    current_state: u8,
    /// 1 to 5: packets of 256, 512, 1024, 2048, 4096 bytes.
    pub mtu: u8,
    migration: u8,
    is_draining: u8,
    /// How many RDMA reads and atomics are asked for at a time.
    pub reads: u8,
    /// How many of the other side's are answered at a time.
    pub destination_reads: u8,
    /// IBTA's RNR timer.
    pub rnr_timer: u8,
    /// Where it is, from 1.
    pub port: u8,
    /// 4.096 µs times two to this.
    pub timeout: u8,
    /// How often something is sent again.
    pub retries: u8,
    /// How often while the other side has no receive request.
    pub rnr_retries: u8,
    alternate_port: u8,
    alternate_timeout: u8,
    all_signaled: u8,
    reserved: [u8; 5],
}

/// `struct ib_uverbs_query_qp`
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Query {
    response: u64,
    handle: u32,
    mask: u32,
}

const _: () = assert!(size_of::<Query>() == 16 && size_of::<PairAttributes>() == 128);

/// All of `enum ib_qp_attr_mask` that this kernel interface can say.
const ALL: u32 = 0x1f_ffff;

impl<T, State> QueuePair<T, State> {
    /// Asks the driver how it is.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn attributes(&self) -> Result<PairAttributes, Error> {
        let request = Query { response: 0, handle: self.pair().handle, mask: ALL };
        let mut attributes = PairAttributes::new_zeroed();
        let (bytes, room) = (request.as_bytes(), attributes.as_mut_bytes());
        let what = "ask how a queue pair is";
        self.open().command(what, command::QUERY_QP, bytes, room, &mut [])?;
        Ok(attributes)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn offsets_of_the_kernel() {
        for (is, should_be) in [
            (offset_of!(PairAttributes, send_requests), 64),
            (offset_of!(PairAttributes, qkey), 84),
            (offset_of!(PairAttributes, destination_qpn), 96),
            (offset_of!(PairAttributes, pkey_index), 104),
            (offset_of!(PairAttributes, state), 108),
            (offset_of!(PairAttributes, reads), 113),
            (offset_of!(PairAttributes, port), 116),
            (offset_of!(PairAttributes, all_signaled), 122),
        ] {
            assert_eq!(is, should_be);
        }
    }
}
