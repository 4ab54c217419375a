// SPDX-License-Identifier: MIT OR Apache-2.0
//! rxe's queues: rings in memory that the driver has mapped, with an index that each side moves (`rdma_user_rxe.h`).
//!
//! Who produces writes the element, then stores the index with release; who consumes loads that index with acquire, then
//! reads the element, then stores its own with release. So an element is whole before the other side can see its index,
//! and is not written again before the other side is done with it. Indices stand already masked. The size of a ring is
//! read once: it lies where the kernel's own view of it does not depend on it, but anybody with the mapping can change it.
//!
//! When the device has gone the mappings are copies ([`super::life`]): the kernel has destroyed the queue pairs by then, so a
//! copy of a completion queue has all there will ever be, and this side's index is not read from there. The others say nothing:
//! of a queue pair that is destroyed the kernel's index has gone to the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::mapped::Slots;
use super::memory::{Pages, Part};
use super::provider::{Completions, Limits};
use super::work::{Completion, Data, Operation, ReceiveRequest, SendRequest, Sge, Told};
use super::{Error, Open};

const PRODUCER: usize = 128;
const CONSUMER: usize = 256;
const ELEMENTS: usize = 384;

/// `struct mminfo`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
pub(super) struct MappingInfo {
    offset: u64,
    size: u32,
    reserved: u32,
}

#[derive(Debug)]
struct Ring {
    pages: Arc<Pages>,
    mask: u32,
    element: usize,
    /// Of the side that this program is.
    index: u32,
    /// How many elements were free when the other side's index was last looked at, less those written since.
    room: usize,
}

impl Ring {
    fn map(open: &Open, info: &MappingInfo) -> Result<Self, Error> {
        let length = usize::try_from(info.size).map_err(|_| Error::Garbage)?;
        Self::over(open.map(info.offset, length)?)
    }

    fn over(pages: Arc<Pages>) -> Result<Self, Error> {
        if pages.len() < ELEMENTS {
            return Err(Error::Garbage);
        }
        let word = |offset| pages.word(offset).load(Ordering::Acquire);
        let (log2, mask) = (word(0), word(4));
        let element = 1_usize.checked_shl(log2).ok_or(Error::Garbage)?;
        let count = usize::try_from(mask).ok().and_then(|mask| mask.checked_add(1));
        let count = count.filter(|count| count.is_power_of_two()).ok_or(Error::Garbage)?;
        let end = count.checked_mul(element).and_then(|bytes| bytes.checked_add(ELEMENTS));
        if end.is_none_or(|end| end > pages.len()) {
            return Err(Error::Garbage);
        }
        Ok(Self { pages, mask, element, index: 0, room: 0 })
    }

    /// Where an element lies.
    fn place(&self, index: u32) -> usize {
        ELEMENTS + (index & self.mask) as usize * self.element
    }

    fn has_room(&mut self) -> bool {
        if self.room == 0 {
            let consumer = self.pages.word(CONSUMER).load(Ordering::Acquire);
            self.room = (consumer.wrapping_sub(self.index).wrapping_sub(1) & self.mask) as usize;
        }
        self.room > 0
    }

    /// The next element, to be written.
    fn next(&self) -> Part<'_> {
        self.pages.part(self.place(self.index), self.element)
    }

    /// Lets the kernel see the next element.
    fn produce(&mut self) {
        self.room = self.room.saturating_sub(1);
        self.index = self.index.wrapping_add(1) & self.mask;
        self.pages.word(PRODUCER).store(self.index, Ordering::Release);
    }
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct CompletionRing {
    open: Arc<Open>,
    handle: u32,
    ring: Ring,
}

impl CompletionRing {
    pub(super) fn new(open: &Arc<Open>, handle: u32, info: &MappingInfo) -> Result<Self, Error> {
        Self::over(open, handle, Ring::map(open, info)?)
    }

    fn over(open: &Arc<Open>, handle: u32, ring: Ring) -> Result<Self, Error> {
        if ring.element < size_of::<Completion>() {
            return Err(Error::Garbage);
        }
        Ok(Self { open: Arc::clone(open), handle, ring })
    }
}

impl CompletionRing {
    /// Takes what is there before this index.
    #[inline(never)]
    fn take(&mut self, producer: u32, room: &mut [Completion]) -> usize {
        let ring = &mut self.ring;
        let there = producer.wrapping_sub(ring.index) & ring.mask;
        let mut taken = 0;
        for completion in room.iter_mut().take(there as usize) {
            ring.pages.read(ring.place(ring.index), completion.as_mut_bytes());
            ring.index = ring.index.wrapping_add(1) & ring.mask;
            taken += 1;
        }
        ring.pages.word(CONSUMER).store(ring.index, Ordering::Release);
        taken
    }
}

impl Completions for CompletionRing {
    fn poll(&mut self, room: &mut [Completion]) -> Result<usize, Error> {
        let producer = self.ring.pages.word(PRODUCER).load(Ordering::Acquire) & self.ring.mask;
        // Mostly there is nothing.
        Ok(if self.ring.index == producer { 0 } else { self.take(producer, room) })
    }

    fn arm(&mut self, solicited_only: bool) -> Result<(), Error> {
        self.open.arm(self.handle, solicited_only)
    }
}

/// How long the head of a send element is, and that of a receive element; scatter/gather elements come next, or inline data.
const SEND_HEAD: usize = 208;
const RECEIVE_HEAD: usize = 40;
/// Where the kernel's own part of a send element's head begins: all of it is given anew.
const PROGRESS: usize = 144;

/// A queue of send requests.
#[derive(Debug)]
pub(super) struct SendRing {
    ring: Ring,
    limits: Limits,
}

impl SendRing {
    pub(super) fn new(open: &Open, info: &MappingInfo, limits: Limits) -> Result<Self, Error> {
        Self::over(Ring::map(open, info)?, limits)
    }

    fn over(ring: Ring, limits: Limits) -> Result<Self, Error> {
        let room = ring.element.checked_sub(SEND_HEAD).ok_or(Error::Garbage)?;
        let limits = Limits {
            requests: ring.mask as usize,
            sge: limits.sge.min(room / size_of::<Sge>()),
            inline: limits.inline.min(room),
        };
        Ok(Self { ring, limits })
    }
}

impl Slots<SendRequest<'_>> for SendRing {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn has_room(&mut self) -> bool {
        self.ring.has_room()
    }

    fn write(&mut self, request: &SendRequest<'_>) -> Result<(), Error> {
        let element = self.ring.next();
        let (is_inline, dma) = match request.data {
            Data::Regions(regions) => (false, Dma::written(element, SEND_HEAD, regions)),
            Data::Inline(bytes) => {
                element.write(SEND_HEAD, bytes);
                (true, Dma::of(u32::try_from(bytes.len()).unwrap_or(u32::MAX), 0))
            }
        };
        let dma = match &request.operation {
            Operation::AtomicWrite { .. } if self.ring.element < SEND_HEAD + 8 => {
                return Err(Error::TooLong(8, self.ring.element - SEND_HEAD));
            }
            Operation::AtomicWrite { value, .. } => {
                element.write(SEND_HEAD, value);
                Dma::of(8, 0)
            }
            _ => dma,
        };
        let Told { opcode, beside, address } = request.operation.told();
        let (id, flags) = (request.id, request.flags(is_inline));
        let head = SendHead { id, reserved: 0, opcode, flags, beside };
        element.write(0, &head);
        match &request.operation {
            Operation::Send(_)
            | Operation::Invalidate { .. }
            | Operation::SendInvalidate { .. } => {}
            // Number, Q_Key, place of the P_Key (that of the queue pair is taken), address handle.
            Operation::SendTo { path, qpn, qkey, .. } => {
                element.write(UNION, &[*qpn, *qkey, 0, path.number]);
            }
            operation => element.write(UNION, &operation.remote()),
        }
        let progress = Progress { state: [0; 2], iova: address, ours: [0; 24], dma };
        element.write(PROGRESS, &progress);
        Ok(())
    }

    fn produce(&mut self) {
        self.ring.produce();
    }
}

/// The head of a send element, as far as a program says what is to be done. A union of 120 bytes ends it, of which nothing after
/// the first 32 is read, and that only by some operations; nor is anything up to [`PROGRESS`].
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct SendHead {
    id: u64,
    reserved: u32,
    opcode: u32,
    flags: u32,
    beside: [u8; 4],
}

const UNION: usize = size_of::<SendHead>();

/// How far it is done.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Progress {
    state: [u32; 2],
    iova: u64,
    ours: [u8; 24],
    dma: Dma,
}

/// The head of a receive element.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct ReceiveHead {
    id: u64,
    reserved: u64,
    dma: Dma,
}

const _: () = assert!(PROGRESS + size_of::<Progress>() == SEND_HEAD);
const _: () = assert!(size_of::<ReceiveHead>() == RECEIVE_HEAD);

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Dma {
    length: u32,
    left: u32,
    current: u32,
    elements: u32,
    offset: u32,
    reserved: u32,
}

impl Dma {
    /// Of these, which are written to an element.
    fn written(element: Part<'_>, offset: usize, regions: &[Sge]) -> Self {
        let mut length = 0_u32;
        for (place, sge) in regions.iter().enumerate() {
            element.write(offset + place * size_of::<Sge>(), sge);
            length = length.saturating_add(sge.length);
        }
        Self::of(length, regions.len())
    }

    fn of(length: u32, elements: usize) -> Self {
        let elements = u32::try_from(elements).unwrap_or(u32::MAX);
        Self { length, left: length, current: 0, elements, offset: 0, reserved: 0 }
    }
}

/// A queue of receive requests, also a shared one.
#[derive(Debug)]
pub(super) struct ReceiveRing {
    ring: Ring,
    limits: Limits,
}

impl ReceiveRing {
    pub(super) fn new(open: &Open, info: &MappingInfo, limits: Limits) -> Result<Self, Error> {
        Self::over(Ring::map(open, info)?, limits)
    }

    fn over(ring: Ring, limits: Limits) -> Result<Self, Error> {
        let room = ring.element.checked_sub(RECEIVE_HEAD).ok_or(Error::Garbage)?;
        let sge = limits.sge.min(room / size_of::<Sge>());
        let limits = Limits { requests: ring.mask as usize, sge, inline: 0 };
        Ok(Self { ring, limits })
    }
}

impl Slots<ReceiveRequest<'_>> for ReceiveRing {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn has_room(&mut self) -> bool {
        self.ring.has_room()
    }

    fn write(&mut self, request: &ReceiveRequest<'_>) -> Result<(), Error> {
        let element = self.ring.next();
        let dma = Dma::written(element, RECEIVE_HEAD, request.to);
        element.write(0, &ReceiveHead { id: request.id, reserved: 0, dma });
        Ok(())
    }

    fn produce(&mut self) {
        self.ring.produce();
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::uverbs::mapped::{ReceiveQueue, SendQueue};
    use crate::uverbs::objects::Handle;
    use crate::uverbs::outstanding::Outstanding;
    use crate::uverbs::provider::{Receives as _, Sends as _};
    use crate::uverbs::{AddressHandle, ProtectionDomain};

    fn ring(log2: u32, count: u32) -> Ring {
        let pages = Pages::new(ELEMENTS + ((count as usize) << log2)).unwrap();
        pages.word(0).store(log2, Ordering::Relaxed);
        pages.word(4).store(count - 1, Ordering::Relaxed);
        Ring::over(Arc::new(pages)).unwrap()
    }

    fn open() -> Arc<Open> {
        Arc::new(
            Open::new(std::fs::File::options().write(true).open("/dev/null").unwrap(), 14).unwrap(),
        )
    }

    fn element(ring: &Ring, index: u32, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        ring.pages.read(ring.place(index), &mut bytes);
        bytes
    }

    const SGE: Sge = Sge { address: 0x1000, length: 7, lkey: 9 };

    #[test]
    fn receive_elements() {
        let (limits, posted) = (Limits { requests: 4, sge: 9, inline: 0 }, Outstanding::new(4));
        let receives = ReceiveRing::over(ring(6, 4), limits).unwrap();
        let mut receives = ReceiveQueue::new(&open(), receives);
        // 64 bytes have room for one.
        assert_eq!(receives.limits().sge, 1);
        let request = ReceiveRequest { id: 3, to: &[SGE] };
        receives.receive(Some(&posted), &[request, request]).unwrap();
        assert_eq!(receives.slots.ring.pages.word(PRODUCER).load(Ordering::Relaxed), 2);
        let bytes = element(&receives.slots.ring, 1, 56);
        let words: Vec<u32> = <[u32; 14]>::read_from_bytes(&bytes).unwrap().into();
        assert_eq!(words, [3, 0, 0, 0, 7, 7, 0, 1, 0, 0, 0x1000, 0, 7, 9]);
        // Three fit into a ring of four.
        let outcome = receives.receive(Some(&posted), &[request, request]);
        assert!(matches!(outcome, Err(Error::Full(1))));
        receives.slots.ring.pages.word(CONSUMER).store(3, Ordering::Relaxed);
        receives.receive(None, &[request]).unwrap();
        assert_eq!(receives.slots.ring.pages.word(PRODUCER).load(Ordering::Relaxed), 0);
        let long = ReceiveRequest { id: 3, to: &[SGE, SGE] };
        assert!(matches!(receives.receive(None, &[long]), Err(Error::TooLong(2, 1))));
    }

    #[test]
    fn send_elements() {
        let (limits, posted) = (Limits { requests: 4, sge: 3, inline: 64 }, Outstanding::new(4));
        // What is no device takes the doorbell for what it is.
        let sends = SendRing::over(ring(9, 4), limits).unwrap();
        let mut sends = SendQueue::new(&open(), 5, sends);
        let operation = Operation::Read { address: 0x2000, rkey: 8 };
        let read = SendRequest::new(3, operation, Data::Regions(&[SGE, SGE]));
        let inline = SendRequest {
            operation: Operation::Send(Some(0x0102_0304)),
            data: Data::Inline(b"hello"),
            signaled: false,
            solicited: true,
            ..read
        };
        sends.send(&posted, &[read, inline]).unwrap();
        let bytes = element(&sends.slots.ring, 0, 240);
        let word = |bytes: &[u8], at: usize| u32::read_from_prefix(&bytes[at..]).unwrap().0;
        assert_eq!(
            [0, 12, 16, 24, 32, 152].map(|at| word(&bytes, at)),
            [3, 4, 2, 0x2000, 8, 0x2000]
        );
        assert_eq!([184, 188, 192, 196, 200].map(|at| word(&bytes, at)), [14, 14, 0, 2, 0]);
        assert_eq!(&bytes[208..224], SGE.as_bytes());
        let bytes = element(&sends.slots.ring, 1, 213);
        assert_eq!([12, 16, 184, 196].map(|at| word(&bytes, at)), [3, 4 | 8, 5, 0]);
        assert_eq!((&bytes[20..24], &bytes[208..]), (&[1, 2, 3, 4][..], &b"hello"[..]));
        let long = SendRequest { data: Data::Inline(&[0; 65]), ..inline };
        assert!(matches!(sends.send(&posted, &[long]), Err(Error::TooLong(65, 64))));
        assert!(matches!(sends.send(&posted, &[read, read]), Err(Error::Full(1))));
    }

    #[test]
    fn datagrams() {
        let limits = Limits { requests: 4, sge: 3, inline: 64 };
        let sends = SendRing::over(ring(9, 4), limits).unwrap();
        let mut sends = SendQueue::new(&open(), 5, sends);
        let domain = ProtectionDomain(Arc::new(Handle::new(&open(), 0, 0)));
        let path = AddressHandle::new(&domain, 1, 77);
        let operation = Operation::SendTo { path: &path, qpn: 17, qkey: 18, immediate: None };
        let (data, id) = (Data::Regions(&[SGE]), 3);
        let request = SendRequest::new(id, operation, data);
        sends.send(&Outstanding::new(4), &[request]).unwrap();
        let words = <[u32; 11]>::read_from_bytes(&element(&sends.slots.ring, 0, 44)).unwrap();
        assert_eq!(words[3..], [2, 2, 0, 17, 18, 0, 77, 0]);
    }

    #[test]
    fn completions() {
        let mut queue = CompletionRing { open: open(), handle: 1, ring: ring(7, 4) };
        let mut room = [Completion::default(); 2];
        assert_eq!(queue.poll(&mut room).unwrap(), 0);
        for index in 0..3 {
            let completion = Completion { id: index.into(), qpn: 17, ..Completion::default() };
            queue.ring.pages.write(queue.ring.place(index), completion.as_bytes());
        }
        queue.ring.pages.word(PRODUCER).store(3, Ordering::Relaxed);
        assert_eq!(queue.poll(&mut room).unwrap(), 2);
        assert_eq!((room[0].id, room[1].id, room[1].qpn), (0, 1, 17));
        assert_eq!(queue.ring.pages.word(CONSUMER).load(Ordering::Relaxed), 2);
        assert_eq!(queue.poll(&mut room).unwrap(), 1);
        assert_eq!(queue.poll(&mut room).unwrap(), 0);
        // An index that is none is taken for one of the ring.
        queue.ring.pages.word(PRODUCER).store(u32::MAX, Ordering::Relaxed);
        assert_eq!(queue.poll(&mut room).unwrap(), 0);
    }

    #[test]
    fn what_is_no_ring() {
        for (log2, mask, length) in
            [(40, 3, 4096), (6, 2, 4096), (12, 3, 4096), (6, u32::MAX, 4096), (6, 3, 100)]
        {
            let pages = Pages::new(length).unwrap();
            pages.word(0).store(log2, Ordering::Relaxed);
            pages.word(4).store(mask, Ordering::Relaxed);
            assert!(matches!(Ring::over(Arc::new(pages)), Err(Error::Garbage)), "{log2} {mask}");
        }
    }

    proptest::proptest! {
        /// Whatever is mapped, nothing outside of it is touched.
        #[test]
        fn any_ring(bytes: Vec<u8>, log2 in 0_u32..12, mask: u16, producer: u32, consumer: u32) {
            let pages = Pages::new(8192).unwrap();
            pages.write(ELEMENTS, &bytes[..bytes.len().min(1000)]);
            let header = [(0, log2), (4, mask.into()), (PRODUCER, producer), (CONSUMER, consumer)];
            header.iter().for_each(|(at, word)| pages.word(*at).store(*word, Ordering::Relaxed));
            let pages = Arc::new(pages);
            let Ok(ring) = Ring::over(Arc::clone(&pages)) else { return Ok(()) };
            if let Ok(mut queue) = CompletionRing::over(&open(), 1, ring) {
                let taken = queue.poll(&mut [Completion::default(); 200]).unwrap();
                assert!(taken <= mask.into());
            }
            let limits = Limits { requests: 4, sge: 9, inline: 64 };
            if let Ok(receives) = ReceiveRing::over(Ring::over(pages).unwrap(), limits) {
                let mut receives = ReceiveQueue::new(&open(), receives);
                let sge = vec![SGE; receives.limits().sge];
                receives.receive(None, &[ReceiveRequest { id: 1, to: &sge }]).ok();
            }
        }
    }
}
