// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests and completions by system calls, for drivers whose kernel half takes them.

use std::sync::Arc;

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::command::{self, Post};
use super::outstanding::Outstanding;
use super::provider::{Completions, Limits, Receives, Sends};
use super::work::{Completion, Data, Operation, ReceiveRequest, SIGNALED, SendRequest, Sge, Told};
use super::{Error, Open};

/// How many completions are taken at a time.
const AT_ONCE: usize = 32;
/// How long one call may be, in bytes: an attribute has 16 bits for that.
const LONGEST: usize = 60_000;

/// `struct ib_uverbs_poll_cq`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct Poll {
    response: u64,
    handle: u32,
    entries: u32,
}

/// `struct ib_uverbs_poll_cq_resp`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct Polled {
    count: u32,
    reserved: u32,
    completions: [Completion; AT_ONCE],
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct CompletionCalls {
    open: Arc<Open>,
    handle: u32,
}

impl CompletionCalls {
    pub(super) fn new(open: &Arc<Open>, handle: u32) -> Self {
        Self { open: Arc::clone(open), handle }
    }
}

impl Completions for CompletionCalls {
    fn poll(&mut self, room: &mut [Completion]) -> Result<usize, Error> {
        let entries = room.len().min(AT_ONCE);
        let wanted = u32::try_from(entries).unwrap_or(0);
        let request = Poll { response: 0, handle: self.handle, entries: wanted };
        let mut answer = <Polled as zerocopy::FromZeros>::new_zeroed();
        let length = 8 + entries * size_of::<Completion>();
        let bytes = answer.as_mut_bytes().get_mut(..length).ok_or(Error::Garbage)?;
        self.open.command("poll", command::POLL_CQ, request.as_bytes(), bytes, &mut [])?;
        let taken = usize::try_from(answer.count).unwrap_or(usize::MAX).min(entries);
        for (place, completion) in room.iter_mut().zip(&answer.completions).take(taken) {
            *place = *completion;
        }
        Ok(taken)
    }

    fn arm(&mut self, solicited_only: bool) -> Result<(), Error> {
        self.open.arm(self.handle, solicited_only)
    }
}

/// `struct ib_uverbs_send_wr`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Send {
    id: u64,
    elements: u32,
    opcode: u32,
    flags: u32,
    immediate: [u8; 4],
    union: [u32; 8],
}

/// `struct ib_uverbs_recv_wr`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Receive {
    id: u64,
    elements: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Send>() == 56 && size_of::<Receive>() == 16);

/// A queue of send or of receive requests, by what it is posted to with.
#[derive(Debug)]
pub(super) struct WorkCalls {
    open: Arc<Open>,
    handle: u32,
    post: u32,
    limits: Limits,
}

impl WorkCalls {
    pub(super) fn new(open: &Arc<Open>, handle: u32, post: u32, limits: Limits) -> Self {
        Self { open: Arc::clone(open), handle, post, limits }
    }

    /// Posts requests that fit into one call; the error of the first that is refused.
    fn post(
        &self,
        posted: Option<&Outstanding>,
        requests: &[impl Head],
        elements: &[Sge],
    ) -> Result<(), Error> {
        // The kernel refuses to be given nothing.
        if requests.is_empty() {
            return Ok(());
        }
        let post = Post {
            response: 0,
            handle: self.handle,
            requests: count(requests.len()),
            elements: count(elements.len()),
            element_size: count(size_of_val(requests) / requests.len()),
        };
        let request = [post.as_bytes(), requests.as_bytes(), elements.as_bytes()].concat();
        // They can be completed before the call ends.
        if let Some(posted) = posted {
            requests.iter().for_each(|request| posted.post(request.id(), request.is_signaled()));
        }
        // Which request was refused, from 1.
        let mut bad = 0_u32;
        let outcome = self.open.command("post", self.post, &request, bad.as_mut_bytes(), &mut []);
        let error = match outcome {
            // They were posted while it went, and are flushed.
            Ok(()) | Err(Error::Gone(_)) => return Ok(()),
            Err(error) => error,
        };
        let done = usize::try_from(bad.saturating_sub(1)).unwrap_or(0);
        let left = requests.get(done..).unwrap_or_default();
        if let Some(posted) = posted {
            let signaled = left.iter().filter(|request| request.is_signaled());
            posted.take_back(left.len(), signaled.count());
        }
        Err(match error {
            Error::Kernel { source, .. }
                if source.raw_os_error() == Some(Errno::NOMEM.raw_os_error()) =>
            {
                Error::Full(done)
            }
            error => error,
        })
    }
}

/// What the kernel is given of a request.
trait Head: IntoBytes + Immutable + Sized {
    fn id(&self) -> u64;
    fn is_signaled(&self) -> bool;
}

impl Head for Send {
    fn id(&self) -> u64 {
        self.id
    }

    fn is_signaled(&self) -> bool {
        self.flags & SIGNALED != 0
    }
}

impl Head for Receive {
    fn id(&self) -> u64 {
        self.id
    }

    fn is_signaled(&self) -> bool {
        true
    }
}

/// A list in pieces that each fit into one call.
fn pieces<T>(requests: &[T], each: usize, length: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (place, request) in requests.iter().enumerate() {
        let more = each + length(request) * size_of::<Sge>();
        if bytes + more > LONGEST && place > start {
            pieces.extend(requests.get(start..place));
            (start, bytes) = (place, 0);
        }
        bytes += more;
    }
    pieces.extend(requests.get(start..).filter(|rest| !rest.is_empty()));
    pieces
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Sends for WorkCalls {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn send(&mut self, posted: &Outstanding, requests: &[SendRequest<'_>]) -> Result<(), Error> {
        let regions = |request: &SendRequest<'_>| match request.data {
            Data::Regions(regions) => regions.len(),
            Data::Inline(_) => 1,
        };
        self.open.check("send")?;
        for piece in pieces(requests, size_of::<Send>(), regions) {
            let (mut heads, mut all) = (Vec::new(), Vec::new());
            for request in piece {
                let allowed = match request.operation {
                    // The kernel does not take them this way.
                    Operation::Bind(_)
                    | Operation::Invalidate { .. }
                    | Operation::Flush { .. }
                    | Operation::AtomicWrite { .. } => {
                        Err(Error::Unsupported(request.operation.word()))
                    }
                    _ => self.limits.allow_send(request),
                };
                if let Err(error) = allowed {
                    self.post(Some(posted), &heads, &all)?;
                    return Err(error);
                }
                let is_inline = matches!(request.data, Data::Inline(_));
                let mut union = request.operation.remote();
                if let Operation::SendTo { path, qpn, qkey, .. } = request.operation {
                    union[..3].copy_from_slice(&[path.handle(), qpn, qkey]);
                }
                let Told { opcode, beside, .. } = request.operation.told();
                heads.push(Send {
                    id: request.id,
                    elements: count(regions(request)),
                    opcode,
                    flags: request.flags(is_inline),
                    immediate: beside,
                    union,
                });
                match request.data {
                    Data::Regions(regions) => all.extend(regions),
                    // The kernel takes the bytes from here before the call ends.
                    Data::Inline(bytes) => all.push(Sge {
                        address: bytes.as_ptr().expose_provenance() as u64,
                        length: count(bytes.len()),
                        lkey: 0,
                    }),
                }
            }
            self.post(Some(posted), &heads, &all)?;
        }
        Ok(())
    }
}

impl Receives for WorkCalls {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn receive(
        &mut self,
        posted: Option<&Outstanding>,
        requests: &[ReceiveRequest<'_>],
    ) -> Result<(), Error> {
        self.open.check("receive")?;
        for piece in pieces(requests, size_of::<Receive>(), |request| request.to.len()) {
            let (mut heads, mut all) = (Vec::new(), Vec::new());
            for request in piece {
                if let Err(error) = self.limits.allow_receive(request) {
                    self.post(posted, &heads, &all)?;
                    return Err(error);
                }
                let elements = count(request.to.len());
                heads.push(Receive { id: request.id, elements, reserved: 0 });
                all.extend(request.to);
            }
            self.post(posted, &heads, &all)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_is_too_long() {
        let sge = [Sge::default(); 30];
        let requests = vec![ReceiveRequest { id: 0, to: &sge }; 1000];
        let of = |requests: &[ReceiveRequest<'static>]| -> Vec<usize> {
            pieces(requests, 16, |request| request.to.len()).iter().map(|p| p.len()).collect()
        };
        let lengths: Vec<usize> =
            pieces(&requests, 16, |request| request.to.len()).iter().map(|p| p.len()).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 1000);
        assert!(lengths.iter().all(|length| length * (16 + 480) <= LONGEST), "{lengths:?}");
        assert_eq!(of(&[]), [0; 0]);
        assert_eq!(of(&[ReceiveRequest { id: 0, to: &[] }]), [1]);
    }
}
