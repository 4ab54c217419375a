// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs. The state of one is part of its type: what cannot be done in a state cannot be written down.

use std::marker::PhantomData;
use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::objects::{Access, CompletionQueue, Handle, ProtectionDomain};
use super::outstanding::{Outstanding, Own, Pair, Sides};
use super::plain::WorkCalls;
use super::provider::{Limits, Provider, Work};
use super::rxe::{MappingInfo, WorkRings};
use super::work::{ReceiveRequest, SendRequest};
use super::{Context, Error, command};
use crate::{Gid, PortNum};

/// Just made: nothing can be posted.
#[derive(Debug)]
pub enum Reset {}
/// Receive requests can be posted.
#[derive(Debug)]
pub enum Init {}
/// Receives.
#[derive(Debug)]
pub enum ReadyToReceive {}
/// Receives and sends.
#[derive(Debug)]
pub enum ReadyToSend {}

/// States in which receive requests are taken.
pub trait CanPostReceive {}
impl CanPostReceive for Init {}
impl CanPostReceive for ReadyToReceive {}
impl CanPostReceive for ReadyToSend {}

/// How much a queue pair has room for; the driver may round up.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Send requests.
    pub send_requests: u32,
    /// Receive requests.
    pub receive_requests: u32,
    /// Scatter/gather elements of one.
    pub sge: u32,
    /// Bytes that stand in a send request.
    pub inline: u32,
}

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

/// What has to be known to receive from the other side.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Number of its queue pair.
    pub qpn: u32,
    /// Its first packet sequence number, of 24 bits.
    pub psn: u32,
    /// 1 to 5: packets of 256, 512, 1024, 2048, 4096 bytes.
    pub mtu: u8,
    /// How to get there.
    pub path: Path,
    /// How many RDMA reads of its are answered at a time.
    pub reads: u8,
    /// How long it is to wait when there is no receive request: IBTA's RNR timer, 12 for 0.64 ms.
    pub rnr_timer: u8,
}

/// How the other side is sent to.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// The own first packet sequence number, of 24 bits.
    pub psn: u32,
    /// How long an answer is waited for: 4.096 µs times two to this; 0 for ever.
    pub timeout: u8,
    /// How often it is sent again, at most 7.
    pub retries: u8,
    /// How often while the other side has no receive request; 7 for ever.
    pub rnr_retries: u8,
    /// How many RDMA reads are asked for at a time.
    pub reads: u8,
}

/// A reliable connection (RC).
///
/// ```compile_fail
/// use rdma_verbs::uverbs::{Init, QueuePair};
/// fn too_early(mut pair: QueuePair<Init>) {
///     pair.post_send(&[]).ok();
/// }
/// ```
///
/// ```compile_fail
/// use rdma_verbs::uverbs::{QueuePair, Reset};
/// fn far_too_early(mut pair: QueuePair<Reset>) {
///     pair.post_receive(&[]).ok();
/// }
/// ```
#[derive(Debug)]
pub struct QueuePair<State> {
    work: Box<dyn Work>,
    pair: Own,
    handle: Handle,
    number: u32,
    port: PortNum,
    limits: Limits,
    // What it is made of stays as long as it does.
    _of: (ProtectionDomain, Arc<Handle>, Arc<Handle>),
    state: PhantomData<State>,
}

/// `struct ib_uverbs_create_qp`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct Create {
    response: u64,
    user_handle: u64,
    domain: u32,
    send_cq: u32,
    receive_cq: u32,
    srq: u32,
    send_requests: u32,
    receive_requests: u32,
    send_sge: u32,
    receive_sge: u32,
    inline: u32,
    all_signaled: u8,
    kind: u8,
    has_srq: u8,
    reserved: u8,
}

/// `struct ib_uverbs_qp_dest`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Destination {
    gid: [u8; 16],
    flow_label: u32,
    lid: u16,
    reserved: u16,
    sgid_index: u8,
    hop_limit: u8,
    traffic_class: u8,
    sl: u8,
    path_bits: u8,
    static_rate: u8,
    is_global: u8,
    port: u8,
}

/// `struct ib_uverbs_modify_qp`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Modify {
    destination: Destination,
    alternate: Destination,
    handle: u32,
    mask: u32,
    qkey: u32,
    receive_psn: u32,
    send_psn: u32,
    destination_qpn: u32,
    access: u32,
    pkey_index: u16,
    alternate_pkey_index: u16,
    state: u8,
    current_state: u8,
    mtu: u8,
    migration: u8,
    notify_drained: u8,
    reads: u8,
    destination_reads: u8,
    rnr_timer: u8,
    port: u8,
    timeout: u8,
    retries: u8,
    rnr_retries: u8,
    alternate_port: u8,
    alternate_timeout: u8,
    reserved: [u8; 2],
}

const _: () = assert!(size_of::<Create>() == 56 && size_of::<Modify>() == 112);

/// STATE | PKEY_INDEX | PORT | ACCESS
const TO_INIT: u32 = 0x39;
/// STATE | AV | PATH_MTU | DEST_QPN | RQ_PSN | MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER
const TO_RECEIVE: u32 = 0x12_9181;
/// STATE | SQ_PSN | TIMEOUT | RETRY_CNT | RNR_RETRY | MAX_QP_RD_ATOMIC
const TO_SEND: u32 = 0x1_2e01;

impl Context {
    /// Makes a queue pair for a reliable connection. Nothing but signaled requests, and those that fail, has completions.
    ///
    /// # Errors
    /// See [`Error`]; `EINVAL` or `ENOMEM` for more than the device can.
    pub fn reliable_connection(
        &self,
        domain: &ProtectionDomain,
        (send, receive): (&CompletionQueue, &CompletionQueue),
        capacity: Capacity,
    ) -> Result<QueuePair<Reset>, Error> {
        let provider = Provider::of(self.open.driver)?;
        let request = Create {
            domain: domain.0.number,
            send_cq: send.handle.number,
            receive_cq: receive.handle.number,
            send_requests: capacity.send_requests,
            receive_requests: capacity.receive_requests,
            send_sge: capacity.sge,
            receive_sge: capacity.sge,
            inline: capacity.inline,
            // RC
            kind: 2,
            ..Create::new_zeroed()
        };
        let mut answer = [0_u32; 8];
        let mut mappings = <[MappingInfo; 2]>::new_zeroed();
        let from_driver = match provider {
            Provider::Rxe => mappings.as_mut_bytes(),
            Provider::Plain => &mut [],
        };
        let (bytes, room) = (request.as_bytes(), answer.as_mut_bytes());
        let what = "make a queue pair";
        self.open.command(what, command::CREATE_QP, bytes, room, from_driver)?;
        let [handle, number, send_requests, receive_requests, send_sge, receive_sge, inline, _] =
            answer;
        let handle = Handle::new(&self.open, handle, command::DESTROY_QP);
        let size = |size: u32| usize::try_from(size).unwrap_or(usize::MAX);
        let limits = Limits {
            inline: size(inline),
            send_sge: size(send_sge),
            receive_sge: size(receive_sge),
        };
        let number_here = handle.number;
        let work: Box<dyn Work> = match provider {
            Provider::Rxe => Box::new(WorkRings::new(&self.open, number_here, &mappings, limits)?),
            Provider::Plain => {
                let room = (size(send_requests), size(receive_requests));
                Box::new(WorkCalls::new(&self.open, number_here, limits, room))
            }
        };
        let room = work.room();
        let (sends, receives) = (Outstanding::new(room.0), Outstanding::new(room.1));
        let pair = Own(Arc::new(Pair {
            handle: handle.number,
            number,
            send: sends,
            receive: receives,
            is_destroyed: false.into(),
        }));
        if Arc::ptr_eq(&send.joining, &receive.joining) {
            send.joining.add(&pair.0, Sides { send: true, receive: true });
        } else {
            send.joining.add(&pair.0, Sides { send: true, receive: false });
            receive.joining.add(&pair.0, Sides { send: false, receive: true });
        }
        self.open.life.held().ok_or(Error::Gone(what))?.pairs.push(Arc::downgrade(&pair.0));
        let of = (domain.clone(), Arc::clone(&send.handle), Arc::clone(&receive.handle));
        let (port, state) = (PortNum(1), PhantomData);
        Ok(QueuePair { work, pair, handle, number, port, limits, _of: of, state })
    }
}

impl<State> QueuePair<State> {
    /// What the other side calls it.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many bytes can stand in a send request.
    #[must_use]
    pub fn inline(&self) -> usize {
        self.limits.inline
    }

    fn modify<Next>(self, what: &'static str, change: Modify) -> Result<QueuePair<Next>, Error> {
        let change = Modify { handle: self.handle.number, ..change };
        let command = command::MODIFY_QP;
        self.handle.open.command(what, command, change.as_bytes(), &mut [], &mut [])?;
        let Self { work, pair, handle, number, port, limits, _of, .. } = self;
        Ok(QueuePair { work, pair, handle, number, port, limits, _of, state: PhantomData })
    }
}

impl<State: CanPostReceive> QueuePair<State> {
    /// Posts receive requests.
    ///
    /// # Errors
    /// See [`Error`]; those before the one that is refused are posted.
    pub fn post_receive(&mut self, requests: &[ReceiveRequest<'_>]) -> Result<(), Error> {
        self.work.receive(&self.pair.0, requests)
    }
}

impl QueuePair<Reset> {
    /// Gives it a port, and says what the other side may do.
    ///
    /// # Errors
    /// See [`Error`]; the kernel says `EINVAL` for a port or a P_Key that there is not.
    pub fn init(
        mut self,
        port: PortNum,
        pkey_index: u16,
        access: Access,
    ) -> Result<QueuePair<Init>, Error> {
        self.port = port;
        let change = Modify {
            mask: TO_INIT,
            state: 1,
            port: u8::try_from(port.0).unwrap_or(0),
            pkey_index,
            access: access.0,
            ..Modify::new_zeroed()
        };
        self.modify("bring a queue pair to INIT", change)
    }
}

impl QueuePair<Init> {
    /// Says who the other side is.
    ///
    /// # Errors
    /// See [`Error`]; the kernel says `EINVAL` for a GID that the port does not have, or an MTU that is too long.
    pub fn ready_to_receive(self, peer: &Peer) -> Result<QueuePair<ReadyToReceive>, Error> {
        let global = peer.path.global;
        let destination = Destination {
            gid: global.map_or([0; 16], |global| global.gid.0.to_be_bytes()),
            lid: peer.path.lid,
            sgid_index: global.map_or(0, |global| global.sgid_index),
            hop_limit: global.map_or(0, |global| global.hop_limit),
            sl: peer.path.sl,
            is_global: u8::from(global.is_some()),
            port: u8::try_from(self.port.0).unwrap_or(0),
            ..Destination::new_zeroed()
        };
        let change = Modify {
            mask: TO_RECEIVE,
            state: 2,
            destination,
            mtu: peer.mtu,
            destination_qpn: peer.qpn,
            receive_psn: peer.psn,
            destination_reads: peer.reads,
            rnr_timer: peer.rnr_timer,
            ..Modify::new_zeroed()
        };
        self.modify("bring a queue pair to RTR", change)
    }
}

impl QueuePair<ReadyToReceive> {
    /// Says how the other side is sent to.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ready_to_send(self, sending: &Sending) -> Result<QueuePair<ReadyToSend>, Error> {
        let change = Modify {
            mask: TO_SEND,
            state: 3,
            send_psn: sending.psn,
            timeout: sending.timeout,
            retries: sending.retries,
            rnr_retries: sending.rnr_retries,
            reads: sending.reads,
            ..Modify::new_zeroed()
        };
        self.modify("bring a queue pair to RTS", change)
    }
}

impl QueuePair<ReadyToSend> {
    /// Posts send requests, and tells the device once for all of them.
    ///
    /// # Errors
    /// See [`Error`]; those before the one that is refused are posted.
    pub fn post_send(&mut self, requests: &[SendRequest<'_>]) -> Result<(), Error> {
        self.work.send(&self.pair.0, requests)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn offsets_of_the_kernel() {
        for (is, should_be) in [
            (offset_of!(Create, send_cq), 20),
            (offset_of!(Create, inline), 48),
            (offset_of!(Create, kind), 53),
            (offset_of!(Destination, lid), 20),
            (offset_of!(Destination, is_global), 30),
            (offset_of!(Modify, handle), 64),
            (offset_of!(Modify, access), 88),
            (offset_of!(Modify, state), 96),
            (offset_of!(Modify, reads), 101),
            (offset_of!(Modify, port), 104),
            (offset_of!(Modify, alternate_timeout), 109),
        ] {
            assert_eq!(is, should_be);
        }
    }
}
