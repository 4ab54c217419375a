// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues.

use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::mapped::ReceiveQueue;
use super::objects::{Handle, ProtectionDomain, unique};
use super::plain::WorkCalls;
use super::provider::{Limits, Provider, Receives};
use super::rxe::{MappingInfo, ReceiveRing};
use super::siw::{ReceiveArray, SharedInfo};
use super::work::ReceiveRequest;
use super::{Error, command};

/// Receive requests for several queue pairs: whichever something comes for takes the oldest. One that is not taken is never
/// completed, whatever becomes of a queue pair or the device.
#[derive(Debug)]
pub struct SharedReceiveQueue {
    receive: Box<dyn Receives>,
    id: u64,
    pub(super) handle: Arc<Handle>,
    _domain: ProtectionDomain,
}

/// `struct ib_uverbs_create_srq`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct Create {
    response: u64,
    user_handle: u64,
    domain: u32,
    requests: u32,
    sge: u32,
    limit: u32,
}

/// `struct ib_uverbs_modify_srq`
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Modify {
    handle: u32,
    mask: u32,
    requests: u32,
    limit: u32,
}

/// `IB_SRQ_LIMIT`
const LIMIT: u32 = 2;

/// `struct rxe_create_srq_resp`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct OfRxe {
    mapping: MappingInfo,
    number: u32,
    reserved: u32,
}

impl SharedReceiveQueue {
    /// How many requests it has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.receive.limits().requests
    }

    /// What events of the device call it; no other queue of this process has the same.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Has [`EventType::SRQ_LIMIT_REACHED`](crate::EventType::SRQ_LIMIT_REACHED) be told when there are fewer requests than this:
    /// once, and not at all when it is 0.
    ///
    /// # Errors
    /// See [`Error`]; `EINVAL` for more than there is room for.
    pub fn set_limit(&mut self, limit: u32) -> Result<(), Error> {
        let (what, open) = ("set the limit of a shared receive queue", &self.handle.open);
        if let Some(maker) = open.maker(what)? {
            let outcome = maker.set_limit(self.handle.pointer(), limit);
            return outcome.map_err(|error| open.failed(what, error));
        }
        let request = Modify { handle: self.handle.number, mask: LIMIT, requests: 0, limit };
        // rxe wants to know where to say what a queue of another length is mapped as.
        let to_driver: &[u8] = match Provider::of(open.driver)? {
            Provider::Rxe => &[0; 8],
            Provider::Siw | Provider::Plain => &[],
        };
        let outcome =
            open.give(command::MODIFY_SRQ, request.as_bytes(), &mut [], (to_driver, &mut []));
        outcome.map_err(|error| open.failed(what, error))
    }

    /// The limit; 0 where there is none, or it was told of.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn limit(&self) -> Result<u32, Error> {
        let mut answer = [0_u32; 4];
        let (request, room) = ([0, 0, self.handle.number, 0], answer.as_mut_bytes());
        let what = "ask for the limit of a shared receive queue";
        let open = &self.handle.open;
        open.command(what, command::QUERY_SRQ, request.as_bytes(), room, &mut [])?;
        Ok(answer[2])
    }

    /// Posts receive requests.
    ///
    /// # Errors
    /// See [`Error`]; those before the one that is refused are posted.
    pub fn post_receive(&mut self, requests: &[ReceiveRequest<'_>]) -> Result<(), Error> {
        self.receive.receive(None, requests)
    }
}

impl ProtectionDomain {
    /// Makes a shared receive queue with room for at least so many requests, each of so many scatter/gather elements.
    ///
    /// # Errors
    /// See [`Error`]; `EINVAL` for more than the device can.
    pub fn shared_receive_queue(
        &self,
        requests: u32,
        sge: u32,
    ) -> Result<SharedReceiveQueue, Error> {
        let (what, open) = ("make a shared receive queue", &self.0.open);
        let id = unique();
        if let Some(maker) = open.maker(what)? {
            let made = maker.shared_queue(open, self.0.pointer(), requests, sge);
            let (made, receive) = made.map_err(|error| open.failed(what, error))?;
            let handle = Arc::new(Handle::made(open, made));
            return Ok(SharedReceiveQueue { receive, id, handle, _domain: self.clone() });
        }
        let provider = Provider::of(open.driver)?;
        let domain = self.0.number;
        let request = Create { response: 0, user_handle: id, domain, requests, sge, limit: 0 };
        let mut answer = [0_u32; 4];
        let mut of_rxe = OfRxe::new_zeroed();
        let mut of_siw = SharedInfo::new_zeroed();
        let from_driver = match provider {
            Provider::Rxe => of_rxe.as_mut_bytes(),
            Provider::Siw => of_siw.as_mut_bytes(),
            Provider::Plain => &mut [],
        };
        let (bytes, room) = (request.as_bytes(), answer.as_mut_bytes());
        open.command(what, command::CREATE_SRQ, bytes, room, from_driver)?;
        let [number, requests, sge, _] = answer;
        let handle = Arc::new(Handle::new(open, number, command::DESTROY_SRQ));
        let limits = Limits::new(requests, sge, 0);
        let receive: Box<dyn Receives> = match provider {
            Provider::Rxe => {
                ReceiveQueue::boxed(open, ReceiveRing::new(open, &of_rxe.mapping, limits)?)
            }
            Provider::Siw => {
                ReceiveQueue::boxed(open, ReceiveArray::shared(open, &of_siw, limits)?)
            }
            Provider::Plain => {
                Box::new(WorkCalls::new(open, number, command::POST_SRQ_RECV, limits))
            }
        };
        Ok(SharedReceiveQueue { receive, id, handle, _domain: self.clone() })
    }
}
