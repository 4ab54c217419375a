// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests to the library's queues, and completions from them.

use std::ffi::c_void;
use std::io;
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

use rustix::io::Errno;

use super::super::outstanding::Outstanding;
use super::super::provider::{Completions, Limits, Receives, Sends};
use super::super::work::{Completion, Data, Operation, ReceiveRequest, SendRequest, Sge, Told};
use super::super::{Error, Open};
use super::abi::{self, Notify, Poll, Post, Receiver, Remote};

/// Where completions come from.
#[derive(Debug)]
pub(super) struct Polled {
    pub(super) queue: NonNull<abi::Queue>,
    pub(super) poll: Poll,
    pub(super) notify: Notify,
}

#[expect(unsafe_code, reason = "a raw pointer")]
// SAFETY: the library has locks of its own: what it has made may be used by any thread.
unsafe impl Send for Polled {}

/// `IBV_WC_WITH_INV` of the library, and that of the kernel. What the library says with the latter is not told.
const INVALIDATED: [u32; 2] = [8, 4];

impl Completions for Polled {
    fn poll(&mut self, room: &mut [Completion]) -> Result<usize, Error> {
        let wanted = i32::try_from(room.len()).unwrap_or(i32::MAX);
        #[expect(unsafe_code, reason = "ibv_poll_cq")]
        // SAFETY: the queue lives as long as this does, and there is room for so many: `struct ibv_wc` begins as `Completion`
        // does, and is as long.
        let taken = unsafe { (self.poll)(self.queue.as_ptr(), wanted, room.as_mut_ptr()) };
        let taken = usize::try_from(taken).map_err(|_| Error::of("poll", Errno::IO.into()))?;
        for completion in room.iter_mut().take(taken) {
            let is_invalidated = completion.flags & INVALIDATED[0] != 0;
            completion.flags &= 3;
            completion.flags |= if is_invalidated { INVALIDATED[1] } else { 0 };
        }
        Ok(taken)
    }

    fn arm(&mut self, solicited_only: bool) -> Result<(), Error> {
        #[expect(unsafe_code, reason = "ibv_req_notify_cq")]
        // SAFETY: the queue lives as long as this does.
        let errno = unsafe { (self.notify)(self.queue.as_ptr(), solicited_only.into()) };
        super::done(errno).map_err(|error| Error::of("ask for an event", error))
    }
}

/// A list of requests, as the library takes one.
pub(super) trait Linked {
    fn link(&mut self, next: *mut Self);
}

impl Linked for abi::Send {
    fn link(&mut self, next: *mut Self) {
        self.next = next;
    }
}

impl Linked for abi::Receive {
    fn link(&mut self, next: *mut Self) {
        self.next = next;
    }
}

/// A queue of send or of receive requests.
#[derive(Debug)]
pub(super) struct Posted<Request> {
    pub(super) open: Arc<Open>,
    /// Of the queue pair, or of the shared queue.
    pub(super) queue: NonNull<c_void>,
    pub(super) post: Post<Request>,
    pub(super) limits: Limits,
    /// The list of the last call, whose memory the next one uses.
    pub(super) list: Vec<Request>,
    /// What stands in requests, in their order.
    pub(super) inline: Vec<Sge>,
}

#[expect(unsafe_code, reason = "raw pointers")]
// SAFETY: the library's queues may be used by any thread, and the pointers in the list mean nothing after the call.
unsafe impl<Request> Send for Posted<Request> {}

impl<Request: Linked> Posted<Request> {
    /// Posts the list; in an error, how many of it were posted.
    fn post(&mut self) -> Result<(), (usize, io::Error)> {
        let mut first = null_mut();
        for request in self.list.iter_mut().rev() {
            request.link(first);
            first = request;
        }
        if first.is_null() {
            return Ok(());
        }
        let mut bad = null_mut();
        #[expect(unsafe_code, reason = "ibv_post_send, ibv_post_recv, ibv_post_srq_recv")]
        // SAFETY: the queue lives as long as this does. The list is linked, its last request to nothing, and what its elements
        // point to is borrowed by the caller; the library keeps none of it. Memory that they name by key is checked by the
        // device.
        let errno = unsafe { (self.post)(self.queue.as_ptr(), first, &raw mut bad) };
        super::done(errno).map_err(|error| {
            let done = bad.addr().saturating_sub(first.addr()) / size_of::<Request>();
            (done.min(self.list.len()), error)
        })
    }
}

/// What the library says to a request that it does not take.
fn refused(what: &'static str, done: usize, error: io::Error) -> Error {
    if error.raw_os_error() == Some(Errno::NOMEM.raw_os_error()) {
        Error::Full(done)
    } else {
        Error::of(what, error)
    }
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

impl Posted<abi::Send> {
    /// Adds a request to the list.
    fn add(&mut self, request: &SendRequest<'_>) -> Result<(), Error> {
        self.limits.allow_send(request)?;
        let remote = match request.operation {
            // The first takes the library's own windows, the others are not posted this way.
            Operation::Bind(_) | Operation::Flush { .. } | Operation::AtomicWrite { .. } => {
                return Err(Error::Unsupported(request.operation.word()));
            }
            Operation::SendTo { path, qpn, qkey, .. } => {
                let path = path.pointer();
                if path.is_null() {
                    return Err(Error::of("send", Errno::INVAL.into()));
                }
                Remote { to: Receiver { path, qpn, qkey, rest: [0; 4] } }
            }
            operation => Remote { words: operation.remote() },
        };
        let is_inline = matches!(request.data, Data::Inline(_));
        let (elements, length) = match request.data {
            Data::Regions(regions) => (regions.as_ptr(), regions.len()),
            Data::Inline(bytes) => {
                let address = bytes.as_ptr().expose_provenance() as u64;
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                self.inline.push(Sge { address, length, lkey: 0 });
                (null(), 1)
            }
        };
        let Told { opcode, beside, .. } = request.operation.told();
        self.list.push(abi::Send {
            id: request.id,
            next: null_mut(),
            elements,
            count: count(length),
            opcode,
            flags: request.flags(is_inline),
            beside,
            remote,
            rest: [0; 7],
        });
        Ok(())
    }
}

impl Sends for Posted<abi::Send> {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn send(&mut self, posted: &Outstanding, requests: &[SendRequest<'_>]) -> Result<(), Error> {
        self.open.check("send")?;
        self.list.clear();
        self.inline.clear();
        let outcome = requests.iter().try_for_each(|request| self.add(request));
        // Those that stand in requests have their place only now that there are no more of them.
        let inline = self.list.iter_mut().filter(|request| request.elements.is_null());
        for (request, bytes) in inline.zip(&self.inline) {
            request.elements = bytes;
        }
        let taken = requests.get(..self.list.len()).unwrap_or_default();
        taken.iter().for_each(|request| posted.post(request.id, request.signaled));
        self.post().map_err(|(done, error)| {
            let left = taken.get(done..).unwrap_or_default();
            posted.take_back(left.len(), left.iter().filter(|request| request.signaled).count());
            refused("send", done, error)
        })?;
        outcome
    }
}

impl Receives for Posted<abi::Receive> {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn receive(
        &mut self,
        posted: Option<&Outstanding>,
        requests: &[ReceiveRequest<'_>],
    ) -> Result<(), Error> {
        self.open.check("receive")?;
        self.list.clear();
        let outcome = requests.iter().try_for_each(|request| {
            self.limits.allow_receive(request)?;
            let (elements, count) = (request.to.as_ptr(), count(request.to.len()));
            self.list.push(abi::Receive { id: request.id, next: null_mut(), elements, count });
            Ok(())
        });
        let taken = requests.get(..self.list.len()).unwrap_or_default();
        if let Some(posted) = posted {
            taken.iter().for_each(|request| posted.post(request.id, true));
        }
        self.post().map_err(|(done, error)| {
            let left = taken.len() - done;
            if let Some(posted) = posted {
                posted.take_back(left, left);
            }
            refused("receive", done, error)
        })?;
        outcome
    }
}
