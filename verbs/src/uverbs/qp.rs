// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs. Transport and state of one are parts of its type: what cannot be done in a state cannot be written down.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::mapped::{ReceiveQueue, SendQueue};
use super::objects::{Access, CompletionQueue, Handle, ProtectionDomain, unique};
use super::outstanding::{Joining, Outstanding, Pair, Sides};
use super::path::{Path, PathAttributes};
use super::plain::WorkCalls;
use super::provider::{Limits, Provider, Receives, Sends};
use super::query::PairState;
use super::rxe::{MappingInfo, ReceiveRing, SendRing};
use super::siw::{PairInfo, ReceiveArray, SendArray};
use super::srq::SharedReceiveQueue;
use super::work::{ReceiveRequest, SendRequest};
use super::{Context, Error, Open, command};
use crate::PortNum;
use crate::cm::{Id, QueuePairAttributes};

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

/// Reliable connection (RC): everything arrives, in order.
#[derive(Debug)]
pub enum Reliable {}
/// Unreliable connection (UC): what is lost is lost.
#[derive(Debug)]
pub enum Unreliable {}
/// Datagrams (UD), each to whom it says.
#[derive(Debug)]
pub enum Datagram {}

/// How a queue pair speaks to others.
pub trait Transport: sealed::Kind {}
impl<T: sealed::Kind> Transport for T {}

/// One other queue pair is spoken to.
pub trait Connected: Transport {}
impl Connected for Reliable {}
impl Connected for Unreliable {}

mod sealed {
    /// `enum ib_uverbs_qp_type`
    pub trait Kind {
        const KIND: u8;
    }

    impl Kind for super::Reliable {
        const KIND: u8 = 2;
    }
    impl Kind for super::Unreliable {
        const KIND: u8 = 3;
    }
    impl Kind for super::Datagram {
        const KIND: u8 = 4;
    }
}

/// How much a queue pair has room for; the driver may round up.
#[derive(Clone, Copy, Debug)]
pub struct Capacity<'a> {
    /// Send requests.
    pub send_requests: u32,
    /// Where receive requests are.
    pub receive: Receiving<'a>,
    /// Scatter/gather elements of one.
    pub sge: u32,
    /// Bytes that stand in a send request.
    pub inline: u32,
}

/// Where a queue pair has its receive requests.
#[derive(Clone, Copy, Debug)]
pub enum Receiving<'a> {
    /// In a queue of its own, with room for so many.
    Own(u32),
    /// In one that it shares.
    Shared(&'a SharedReceiveQueue),
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
}

/// How the other side is answered, of a reliable connection.
#[derive(Clone, Copy, Debug)]
pub struct Answering {
    /// How many RDMA reads and atomics of its are answered at a time.
    pub reads: u8,
    /// How long it is to wait when there is no receive request: IBTA's RNR timer, 12 for 0.64 ms.
    pub rnr_timer: u8,
}

/// How the other side is asked, of a reliable connection.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// How long an answer is waited for: 4.096 µs times two to this; 0 for ever.
    pub timeout: u8,
    /// How often it is sent again, at most 7.
    pub retries: u8,
    /// How often while the other side has no receive request; 7 for ever.
    pub rnr_retries: u8,
    /// How many RDMA reads and atomics are asked for at a time.
    pub reads: u8,
}

/// A queue pair.
///
/// ```compile_fail
/// use rdma_verbs::uverbs::{Init, QueuePair, Reliable};
/// fn too_early(mut pair: QueuePair<Reliable, Init>) {
///     pair.post_send(&[]).ok();
/// }
/// ```
///
/// ```compile_fail
/// use rdma_verbs::uverbs::{QueuePair, Reliable, Reset};
/// fn far_too_early(mut pair: QueuePair<Reliable, Reset>) {
///     pair.post_receive(&[]).ok();
/// }
/// ```
///
/// ```compile_fail
/// use rdma_verbs::uverbs::{Datagram, Init, Peer, QueuePair};
/// fn datagrams_have_no_other_side(pair: QueuePair<Datagram, Init>, peer: &Peer) {
///     pair.ready_to_receive(peer).ok();
/// }
/// ```
#[derive(Debug)]
pub struct QueuePair<T, State> {
    send: Box<dyn Sends>,
    /// None where it is shared.
    receive: Option<Box<dyn Receives>>,
    pair: Own,
    id: u64,
    handle: Handle,
    port: PortNum,
    // What it is made of stays as long as it does.
    _of: (ProtectionDomain, Vec<Arc<Handle>>),
    kind: PhantomData<(T, State)>,
}

/// A pair as the queue pair itself has it.
#[derive(Debug)]
struct Own(Arc<Open>, Arc<Pair>);

impl Drop for Own {
    fn drop(&mut self) {
        let Self(open, pair) = self;
        pair.is_destroyed.store(true, Ordering::Relaxed);
        open.leave_groups(pair);
    }
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
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub(super) struct Destination {
    pub(super) gid: [u8; 16],
    pub(super) flow_label: u32,
    pub(super) lid: u16,
    pub(super) reserved: u16,
    pub(super) sgid_index: u8,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
    pub(super) sl: u8,
    pub(super) path_bits: u8,
    pub(super) static_rate: u8,
    pub(super) is_global: u8,
    pub(super) port: u8,
}

/// `struct ib_uverbs_modify_qp`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
pub(super) struct Modify {
    pub(super) destination: Destination,
    pub(super) alternate: Destination,
    pub(super) handle: u32,
    pub(super) mask: u32,
    pub(super) qkey: u32,
    pub(super) receive_psn: u32,
    pub(super) send_psn: u32,
    pub(super) destination_qpn: u32,
    pub(super) access: u32,
    pub(super) pkey_index: u16,
    pub(super) alternate_pkey_index: u16,
    pub(super) state: u8,
    pub(super) current_state: u8,
    pub(super) mtu: u8,
    pub(super) migration: u8,
    pub(super) notify_drained: u8,
    pub(super) reads: u8,
    pub(super) destination_reads: u8,
    pub(super) rnr_timer: u8,
    pub(super) port: u8,
    pub(super) timeout: u8,
    pub(super) retries: u8,
    pub(super) rnr_retries: u8,
    pub(super) alternate_port: u8,
    pub(super) alternate_timeout: u8,
    pub(super) reserved: [u8; 2],
}

const _: () = assert!(size_of::<Create>() == 56 && size_of::<Modify>() == 112);

impl Modify {
    /// As the connection manager says.
    fn of(attributes: &QueuePairAttributes) -> Self {
        let QueuePairAttributes { path, alternate, .. } = attributes;
        // Of these the lower bits are all there is.
        let byte = |word: u32| word.to_le_bytes()[0];
        Self {
            destination: Destination::of(path),
            alternate: Destination::of(alternate),
            handle: 0,
            mask: attributes.mask,
            qkey: attributes.qkey,
            receive_psn: attributes.receive_psn,
            send_psn: attributes.send_psn,
            destination_qpn: attributes.destination_qpn,
            access: attributes.access,
            pkey_index: attributes.pkey_index,
            alternate_pkey_index: attributes.alternate_pkey_index,
            state: byte(attributes.state),
            current_state: byte(attributes.current_state),
            mtu: byte(attributes.mtu),
            migration: byte(attributes.migration),
            notify_drained: attributes.notify_drained,
            reads: attributes.reads,
            destination_reads: attributes.destination_reads,
            rnr_timer: attributes.rnr_timer,
            port: attributes.port,
            timeout: attributes.timeout,
            retries: attributes.retries,
            rnr_retries: attributes.rnr_retries,
            alternate_port: attributes.alternate_port,
            alternate_timeout: attributes.alternate_timeout,
            reserved: [0; 2],
        }
    }
}

impl Destination {
    pub(super) fn of(path: &PathAttributes) -> Self {
        Self {
            gid: path.gid,
            flow_label: path.flow_label,
            lid: path.lid,
            reserved: 0,
            sgid_index: path.sgid_index,
            hop_limit: path.hop_limit,
            traffic_class: path.traffic_class,
            sl: path.sl,
            path_bits: path.path_bits,
            static_rate: path.static_rate,
            is_global: path.is_global,
            port: path.port,
        }
    }
}

/// STATE | PKEY_INDEX | PORT, with ACCESS for connections, with QKEY for datagrams
const TO_INIT: u32 = 0x31;
const ACCESS: u32 = 0x8;
const QKEY: u32 = 0x40;
/// STATE
const STATE: u32 = 1;
/// STATE | AV | PATH_MTU | DEST_QPN | RQ_PSN, and of a reliable connection MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER
const TO_RECEIVE: u32 = 0x10_1181;
const ANSWERING: u32 = 0x2_8000;
/// STATE | SQ_PSN, and of a reliable connection TIMEOUT | RETRY_CNT | RNR_RETRY | MAX_QP_RD_ATOMIC
const TO_SEND: u32 = 0x1_0001;
const ASKING: u32 = 0x2e00;

impl Context {
    /// Makes a queue pair. Nothing but signaled requests, and those that fail, has completions.
    ///
    /// # Errors
    /// See [`Error`]; `EINVAL` or `ENOMEM` for more than the device can, `EOPNOTSUPP` for what it does not do at all.
    pub fn queue_pair<T: Transport>(
        &self,
        domain: &ProtectionDomain,
        (send_to, receive_to): (&CompletionQueue, &CompletionQueue),
        capacity: Capacity<'_>,
    ) -> Result<QueuePair<T, Reset>, Error> {
        let (what, open) = ("make a queue pair", &self.open);
        let id = unique();
        let (handle, number, send, receive) = match open.maker(what)? {
            None => self.pair(what, T::KIND, id, domain, [send_to, receive_to], capacity)?,
            Some(maker) => {
                let queues = [send_to, receive_to].map(|queue| queue.handle.pointer());
                let made = maker.pair(open, T::KIND, domain.0.pointer(), queues, &capacity);
                made.map_err(|error| open.failed(what, error))?
            }
        };
        let shared = match capacity.receive {
            Receiving::Own(_) => None,
            Receiving::Shared(queue) => Some(&queue.handle),
        };
        let pair = Arc::new(Pair {
            handle: handle.number,
            number,
            send: Outstanding::new(send.limits().requests),
            receive: Outstanding::new(receive.as_ref().map_or(0, |r| r.limits().requests)),
            is_destroyed: false.into(),
            groups: Mutex::default(),
        });
        join(&pair, &send_to.joining, &receive_to.joining);
        let pair = Own(Arc::clone(open), pair);
        open.life.held().ok_or(Error::Gone(what))?.pairs.push(Arc::downgrade(&pair.1));
        let queues = [&send_to.handle, &receive_to.handle].into_iter().chain(shared);
        let of = (domain.clone(), queues.cloned().collect());
        let port = PortNum(1);
        Ok(QueuePair { send, receive, pair, id, handle, port, _of: of, kind: PhantomData })
    }

    /// By a command of its own.
    fn pair(
        &self,
        what: &'static str,
        kind: u8,
        id: u64,
        domain: &ProtectionDomain,
        [send_to, receive_to]: [&CompletionQueue; 2],
        capacity: Capacity<'_>,
    ) -> Result<Queues, Error> {
        let provider = Provider::of(self.open.driver)?;
        let (receive_requests, shared) = match capacity.receive {
            Receiving::Own(requests) => (requests, None),
            Receiving::Shared(queue) => (0, Some(&queue.handle)),
        };
        let request = Create {
            user_handle: id,
            domain: domain.0.number,
            send_cq: send_to.handle.number,
            receive_cq: receive_to.handle.number,
            srq: shared.map_or(0, |handle| handle.number),
            send_requests: capacity.send_requests,
            receive_requests,
            send_sge: capacity.sge,
            receive_sge: if shared.is_some() { 0 } else { capacity.sge },
            inline: capacity.inline,
            kind,
            has_srq: u8::from(shared.is_some()),
            ..Create::new_zeroed()
        };
        let mut answer = [0_u32; 8];
        let mut of_rxe = <[MappingInfo; 2]>::new_zeroed();
        let mut of_siw = PairInfo::new_zeroed();
        let from_driver = match provider {
            Provider::Rxe => of_rxe.as_mut_bytes(),
            Provider::Siw => of_siw.as_mut_bytes(),
            Provider::Plain => &mut [],
        };
        let (bytes, room) = (request.as_bytes(), answer.as_mut_bytes());
        self.open.command(what, command::CREATE_QP, bytes, room, from_driver)?;
        let [handle, number, sends, receives, send_sge, receive_sge, inline, _] = answer;
        let handle = Handle::new(&self.open, handle, command::DESTROY_QP);
        let send = Limits::new(sends, send_sge, inline);
        let receive = shared.is_none().then(|| Limits::new(receives, receive_sge, 0));
        let open = &self.open;
        let [of_receive, of_send] = &of_rxe;
        let send: Box<dyn Sends> = match provider {
            Provider::Rxe => {
                SendQueue::boxed(open, handle.number, SendRing::new(open, of_send, send)?)
            }
            Provider::Siw => {
                SendQueue::boxed(open, handle.number, SendArray::new(open, &of_siw, send)?)
            }
            Provider::Plain => {
                Box::new(WorkCalls::new(open, handle.number, command::POST_SEND, send))
            }
        };
        let receive = receive.map(|limits| -> Result<Box<dyn Receives>, Error> {
            Ok(match provider {
                Provider::Rxe => {
                    ReceiveQueue::boxed(open, ReceiveRing::new(open, of_receive, limits)?)
                }
                Provider::Siw => {
                    ReceiveQueue::boxed(open, ReceiveArray::new(open, &of_siw, limits)?)
                }
                Provider::Plain => {
                    Box::new(WorkCalls::new(open, handle.number, command::POST_RECV, limits))
                }
            })
        });
        let receive = receive.transpose()?;
        Ok((handle, number, send, receive))
    }
}

/// A queue pair's: its number on the wire, where requests go, which of the receive queue is None where it is shared.
pub(super) type Queues = (Handle, u32, Box<dyn Sends>, Option<Box<dyn Receives>>);

/// Has its requests be completed to these.
fn join(pair: &Arc<Pair>, send_to: &Arc<Joining>, receive_to: &Arc<Joining>) {
    if Arc::ptr_eq(send_to, receive_to) {
        send_to.add(pair, Sides { send: true, receive: true });
    } else {
        send_to.add(pair, Sides { send: true, receive: false });
        receive_to.add(pair, Sides { send: false, receive: true });
    }
}

impl<T, State> QueuePair<T, State> {
    /// What the other side calls it.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.pair().number
    }

    /// What events of the device call it; no other queue of this process has the same.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn open(&self) -> &Open {
        &self.handle.open
    }

    pub(super) fn pair(&self) -> &Pair {
        &self.pair.1
    }

    /// Has everything that is posted be flushed, and everything that will be: the end of a connection from this side.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn fail(&mut self) -> Result<(), Error> {
        let change = Modify { mask: STATE, state: PairState::ERROR.0, ..Modify::new_zeroed() };
        self.change("bring a queue pair to ERR", change)
    }

    /// How many bytes can stand in a send request.
    #[must_use]
    pub fn inline(&self) -> usize {
        self.send.limits().inline
    }

    fn change(&self, what: &'static str, change: Modify) -> Result<(), Error> {
        let change = Modify { handle: self.handle.number, ..change };
        if let Some(maker) = self.open().maker(what)? {
            let outcome = maker.change_pair(self.handle.pointer(), &change);
            return outcome.map_err(|error| self.open().failed(what, error));
        }
        self.open().command(what, command::MODIFY_QP, change.as_bytes(), &mut [], &mut [])
    }

    fn modify<Next>(self, what: &'static str, change: Modify) -> Result<QueuePair<T, Next>, Error> {
        self.change(what, change)?;
        let Self { send, receive, pair, id, handle, port, _of, .. } = self;
        Ok(QueuePair { send, receive, pair, id, handle, port, _of, kind: PhantomData })
    }

    /// As the connection manager says.
    fn modify_for<Next>(
        self,
        id: &Id,
        what: &'static str,
        state: PairState,
    ) -> Result<QueuePair<T, Next>, Error> {
        let change = Modify::of(&id.attributes(state.0.into())?);
        self.modify(what, change)
    }

    fn init_with(
        mut self,
        port: PortNum,
        pkey_index: u16,
        mask: u32,
        change: Modify,
    ) -> Result<QueuePair<T, Init>, Error> {
        self.port = port;
        let mask = TO_INIT | mask;
        let port = port.of_kernel();
        let change = Modify { mask, state: PairState::INIT.0, port, pkey_index, ..change };
        self.modify("bring a queue pair to INIT", change)
    }

    fn receive_with(
        self,
        mask: u32,
        change: Modify,
    ) -> Result<QueuePair<T, ReadyToReceive>, Error> {
        let change = Modify { mask, state: PairState::READY_TO_RECEIVE.0, ..change };
        self.modify("bring a queue pair to RTR", change)
    }

    fn send_with(
        self,
        psn: u32,
        mask: u32,
        change: Modify,
    ) -> Result<QueuePair<T, ReadyToSend>, Error> {
        let mask = TO_SEND | mask;
        let change = Modify { mask, state: PairState::READY_TO_SEND.0, send_psn: psn, ..change };
        self.modify("bring a queue pair to RTS", change)
    }

    fn to(&self, peer: &Peer) -> Modify {
        Modify {
            destination: Destination::of(&peer.path.attributes(self.port)),
            mtu: peer.mtu,
            destination_qpn: peer.qpn,
            receive_psn: peer.psn,
            ..Modify::new_zeroed()
        }
    }
}

impl<T, State: CanPostReceive> QueuePair<T, State> {
    /// Posts receive requests.
    ///
    /// # Errors
    /// See [`Error`]; those before the one that is refused are posted. [`Error::Shared`] where they go to a shared queue.
    #[inline]
    pub fn post_receive(&mut self, requests: &[ReceiveRequest<'_>]) -> Result<(), Error> {
        let receive = self.receive.as_mut().ok_or(Error::Shared)?;
        receive.receive(Some(&self.pair.1.receive), requests)
    }
}

impl<T: Connected> QueuePair<T, Reset> {
    /// Gives it a port, and says what the other side may do.
    ///
    /// # Errors
    /// See [`Error`]; the kernel says `EINVAL` for a port or a P_Key that there is not.
    pub fn init(
        self,
        port: PortNum,
        pkey_index: u16,
        access: Access,
    ) -> Result<QueuePair<T, Init>, Error> {
        let change = Modify { access: access.0, ..Modify::new_zeroed() };
        self.init_with(port, pkey_index, ACCESS, change)
    }
}

impl QueuePair<Datagram, Reset> {
    /// Gives it a port, and the Q_Key that others have to say.
    ///
    /// # Errors
    /// See [`Error`]; the kernel says `EINVAL` for a port or a P_Key that there is not, `EPERM` for a privileged Q_Key.
    pub fn init(
        self,
        port: PortNum,
        pkey_index: u16,
        qkey: u32,
    ) -> Result<QueuePair<Datagram, Init>, Error> {
        self.init_with(port, pkey_index, QKEY, Modify { qkey, ..Modify::new_zeroed() })
    }
}

impl QueuePair<Reliable, Init> {
    /// Says who the other side is.
    ///
    /// # Errors
    /// See [`Error`]; the kernel says `EINVAL` for a GID that the port does not have, or an MTU that is too long.
    pub fn ready_to_receive(
        self,
        peer: &Peer,
        answering: &Answering,
    ) -> Result<QueuePair<Reliable, ReadyToReceive>, Error> {
        let Answering { reads, rnr_timer } = *answering;
        let change = Modify { destination_reads: reads, rnr_timer, ..self.to(peer) };
        self.receive_with(TO_RECEIVE | ANSWERING, change)
    }
}

impl QueuePair<Reliable, Reset> {
    /// Prepares it for a connection: see [`crate::cm`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn init_for(self, id: &Id) -> Result<QueuePair<Reliable, Init>, Error> {
        self.modify_for(id, "bring a queue pair to INIT", PairState::INIT)
    }
}

impl QueuePair<Datagram, Reset> {
    /// Prepares it for an id of datagrams: see [`crate::cm`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn init_for(self, id: &Id) -> Result<QueuePair<Datagram, Init>, Error> {
        self.modify_for(id, "bring a queue pair to INIT", PairState::INIT)
    }
}

impl QueuePair<Reliable, Init> {
    /// The same when the other side is known: with its request, or its response.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ready_to_receive_for(
        self,
        id: &Id,
    ) -> Result<QueuePair<Reliable, ReadyToReceive>, Error> {
        // What the other side may do is agreed on by now.
        let again: Self = self.modify_for(id, "change a queue pair in INIT", PairState::INIT)?;
        again.modify_for(id, "bring a queue pair to RTR", PairState::READY_TO_RECEIVE)
    }
}

impl QueuePair<Reliable, ReadyToReceive> {
    /// The same after that.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ready_to_send_for(self, id: &Id) -> Result<QueuePair<Reliable, ReadyToSend>, Error> {
        self.modify_for(id, "bring a queue pair to RTS", PairState::READY_TO_SEND)
    }
}

impl QueuePair<Unreliable, Init> {
    /// Says who the other side is.
    ///
    /// # Errors
    /// See [`Error`]; the kernel says `EINVAL` for a GID that the port does not have, or an MTU that is too long.
    pub fn ready_to_receive(
        self,
        peer: &Peer,
    ) -> Result<QueuePair<Unreliable, ReadyToReceive>, Error> {
        let change = self.to(peer);
        self.receive_with(TO_RECEIVE, change)
    }
}

impl QueuePair<Datagram, Init> {
    /// Has it receive.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ready_to_receive(self) -> Result<QueuePair<Datagram, ReadyToReceive>, Error> {
        self.receive_with(STATE, Modify::new_zeroed())
    }
}

impl QueuePair<Reliable, ReadyToReceive> {
    /// Says how the other side is sent to, from this packet sequence number (of 24 bits) on.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ready_to_send(
        self,
        psn: u32,
        asking: &Asking,
    ) -> Result<QueuePair<Reliable, ReadyToSend>, Error> {
        let Asking { timeout, retries, rnr_retries, reads } = *asking;
        let change = Modify { timeout, retries, rnr_retries, reads, ..Modify::new_zeroed() };
        self.send_with(psn, ASKING, change)
    }
}

impl QueuePair<Unreliable, ReadyToReceive> {
    /// Has it send, from this packet sequence number (of 24 bits) on.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ready_to_send(self, psn: u32) -> Result<QueuePair<Unreliable, ReadyToSend>, Error> {
        self.send_with(psn, 0, Modify::new_zeroed())
    }
}

impl QueuePair<Datagram, ReadyToReceive> {
    /// Has it send, from this packet sequence number (of 24 bits) on.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn ready_to_send(self, psn: u32) -> Result<QueuePair<Datagram, ReadyToSend>, Error> {
        self.send_with(psn, 0, Modify::new_zeroed())
    }
}

impl<T> QueuePair<T, ReadyToSend> {
    /// Posts send requests, and tells the device once for all of them.
    ///
    /// # Errors
    /// See [`Error`]; those before the one that is refused are posted.
    #[inline]
    pub fn post_send(&mut self, requests: &[SendRequest<'_>]) -> Result<(), Error> {
        self.send.send(&self.pair.1.send, requests)
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
