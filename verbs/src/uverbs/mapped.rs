// SPDX-License-Identifier: MIT OR Apache-2.0
//! Posting to queues in memory: what is the same whatever their elements look like.

use std::fmt::Debug;
use std::sync::Arc;

use super::outstanding::Outstanding;
use super::provider::{Limits, Receives, Sends};
use super::work::{ReceiveRequest, SendRequest};
use super::{Error, Open};

/// A queue of elements, each for one request.
pub(super) trait Slots<Request>: Debug + Send {
    fn limits(&self) -> Limits;
    /// Whether the next element is this side's.
    fn has_room(&mut self) -> bool;
    /// Writes a request, which the limits allow, to the next element.
    fn write(&mut self, request: &Request) -> Result<(), Error>;
    /// Gives that to the kernel.
    fn produce(&mut self);
    /// Whether the kernel has to be told of the last so many.
    fn is_to_be_told(&self, _count: usize) -> bool {
        true
    }
}

/// A queue of send requests, of a queue pair.
#[derive(Debug)]
pub(super) struct SendQueue<Q> {
    open: Arc<Open>,
    handle: u32,
    pub(super) slots: Q,
}

impl<Q: for<'a> Slots<SendRequest<'a>> + 'static> SendQueue<Q> {
    pub(super) fn boxed(open: &Arc<Open>, handle: u32, slots: Q) -> Box<dyn Sends> {
        Box::new(Self::new(open, handle, slots))
    }
}

impl<Q> SendQueue<Q> {
    pub(super) fn new(open: &Arc<Open>, handle: u32, slots: Q) -> Self {
        Self { open: Arc::clone(open), handle, slots }
    }
}

impl<Q: for<'a> Slots<SendRequest<'a>>> Sends for SendQueue<Q> {
    fn limits(&self) -> Limits {
        self.slots.limits()
    }

    fn send(&mut self, posted: &Outstanding, requests: &[SendRequest<'_>]) -> Result<(), Error> {
        self.open.check("send")?;
        let limits = self.slots.limits();
        let mut count = 0;
        let outcome = requests.iter().try_for_each(|request| {
            limits.allow_send(request)?;
            if !self.slots.has_room() {
                return Err(Error::Full(count));
            }
            self.slots.write(request)?;
            posted.post(request.id, request.signaled);
            self.slots.produce();
            count += 1;
            Ok(())
        });
        // Once for all of them.
        if count > 0 && self.slots.is_to_be_told(count) {
            match self.open.ring_doorbell(self.handle) {
                // They were posted while it went, and are flushed.
                Ok(()) | Err(Error::Gone(_)) => {}
                Err(error) => return Err(error),
            }
        }
        outcome
    }
}

/// A queue of receive requests, of a queue pair or shared. Nobody has to be told of them.
#[derive(Debug)]
pub(super) struct ReceiveQueue<Q> {
    open: Arc<Open>,
    pub(super) slots: Q,
}

impl<Q: for<'a> Slots<ReceiveRequest<'a>> + 'static> ReceiveQueue<Q> {
    pub(super) fn boxed(open: &Arc<Open>, slots: Q) -> Box<dyn Receives> {
        Box::new(Self::new(open, slots))
    }
}

impl<Q> ReceiveQueue<Q> {
    pub(super) fn new(open: &Arc<Open>, slots: Q) -> Self {
        Self { open: Arc::clone(open), slots }
    }
}

impl<Q: for<'a> Slots<ReceiveRequest<'a>>> Receives for ReceiveQueue<Q> {
    fn limits(&self) -> Limits {
        self.slots.limits()
    }

    fn receive(
        &mut self,
        posted: Option<&Outstanding>,
        requests: &[ReceiveRequest<'_>],
    ) -> Result<(), Error> {
        self.open.check("receive")?;
        let limits = self.slots.limits();
        for (count, request) in requests.iter().enumerate() {
            limits.allow_receive(request)?;
            if !self.slots.has_room() {
                return Err(Error::Full(count));
            }
            self.slots.write(request)?;
            if let Some(posted) = posted {
                posted.post(request.id, true);
            }
            self.slots.produce();
        }
        Ok(())
    }
}
