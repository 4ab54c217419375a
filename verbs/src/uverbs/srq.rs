// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues.

use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::mapped::ReceiveQueue;
use super::objects::{Handle, ProtectionDomain};
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
        let open = &self.0.open;
        let provider = Provider::of(open.driver)?;
        let domain = self.0.number;
        let request = Create { response: 0, user_handle: 0, domain, requests, sge, limit: 0 };
        let mut answer = [0_u32; 4];
        let mut of_rxe = OfRxe::new_zeroed();
        let mut of_siw = SharedInfo::new_zeroed();
        let from_driver = match provider {
            Provider::Rxe => of_rxe.as_mut_bytes(),
            Provider::Siw => of_siw.as_mut_bytes(),
            Provider::Plain => &mut [],
        };
        let (bytes, room) = (request.as_bytes(), answer.as_mut_bytes());
        let what = "make a shared receive queue";
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
        Ok(SharedReceiveQueue { receive, handle, _domain: self.clone() })
    }
}
