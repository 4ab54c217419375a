// SPDX-License-Identifier: MIT OR Apache-2.0
//! siw's queues: arrays in memory that the driver has mapped, in which each element says itself whose it is (`siw-abi.h`).
//!
//! Both sides go round and round, each by its own count. An element with the flag VALID is the consumer's, one without is the
//! producer's. Flags, opcode and number of elements are one word, which is stored last and loaded first. The kernel takes the
//! flag back when it fetches a request, not when it has done it.
//!
//! Who posts rings the doorbell only when the kernel may be asleep: when the element before the first new one is not VALID any
//! more, the kernel has been there. That it looks at the next one before it sleeps, and that this side looks at the one before
//! after it has stored, needs one order of all these stores and loads: they are sequentially consistent.
//!
//! When the device has gone ([`super::life`]), what was polled while the mapping was replaced can be VALID in the copy: it comes
//! after all that can be new, so that one way round, from where this side was before, is the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::mapped::Slots;
use super::memory::Pages;
use super::provider::{Completions, Limits};
use super::work::{Completion, Data, Operation, ReceiveRequest, SendRequest, Sge, WorkStatus};
use super::{Error, Open};

const VALID: u16 = 1;
const INLINE: u16 = 2;
const SIGNALED: u16 = 4;
const SOLICITED: u16 = 8;
const FENCED: u16 = 16;

/// Where in each element the word is that has its flags.
const FLAGS: usize = 8;
/// Scatter/gather elements that a request has room for.
const SGE: usize = 6;
/// RDMA reads that are under way when their elements are free again.
const READS: usize = 128;

/// `struct siw_uresp_create_cq`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub(super) struct CompletionInfo {
    id: u32,
    entries: u32,
    key: u64,
}

/// `struct siw_uresp_create_qp`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub(super) struct PairInfo {
    id: u32,
    sends: u32,
    receives: u32,
    reserved: u32,
    send_key: u64,
    receive_key: u64,
}

/// `struct siw_uresp_create_srq`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
pub(super) struct SharedInfo {
    receives: u32,
    reserved: u32,
    key: u64,
}

/// `struct siw_sqe`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct SendElement {
    id: u64,
    word: u32,
    rkey: u32,
    remote_address: u64,
}

/// `struct siw_cqe`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct CompletionElement {
    id: u64,
    flags: u8,
    opcode: u8,
    status: u16,
    length: u32,
    immediate: u64,
    qpn: u64,
}

const SEND: usize = 120;
const RECEIVE: usize = 112;
const COMPLETION: usize = 32;
const _: () = assert!(size_of::<SendElement>() + SGE * size_of::<Sge>() == SEND);
const _: () = assert!(size_of::<CompletionElement>() == COMPLETION);

/// Elements, a power of two of them, and how many this side has come by.
#[derive(Debug)]
struct Array {
    pages: Arc<Pages>,
    element: usize,
    mask: u32,
    count: u32,
    /// The word of the next element, when the rest of that is written.
    next: u32,
}

impl Array {
    /// `more` bytes come after the elements.
    fn map(
        open: &Open,
        key: u64,
        elements: u32,
        element: usize,
        more: usize,
    ) -> Result<Self, Error> {
        let length = usize::try_from(elements).ok().and_then(|n| n.checked_mul(element));
        let length = length.and_then(|length| length.checked_add(more)).ok_or(Error::Garbage)?;
        // The kernel wants whole pages.
        let length = length.checked_next_multiple_of(4096).ok_or(Error::Garbage)?;
        Self::over(open.map(key, length)?, elements, element)
    }

    fn over(pages: Arc<Pages>, elements: u32, element: usize) -> Result<Self, Error> {
        if !elements.is_power_of_two() || elements as usize * element > pages.len() {
            return Err(Error::Garbage);
        }
        Ok(Self { pages, element, mask: elements - 1, count: 0, next: 0 })
    }

    fn place(&self, count: u32) -> usize {
        (count & self.mask) as usize * self.element
    }

    /// Flags of an element, and the two bytes after them.
    fn word(&self, count: u32) -> (u16, [u8; 2]) {
        let word = self.pages.word(self.place(count) + FLAGS).load(Ordering::SeqCst);
        let [a, b, c, d] = word.to_ne_bytes();
        (u16::from_ne_bytes([a, b]), [c, d])
    }

    fn is_free(&self) -> bool {
        self.word(self.count).0 & VALID == 0
    }

    /// Writes to the next element: what it begins with, without the word, what comes at another place, and what the word is to be.
    fn write(&mut self, head: &[u8], at: usize, rest: &[u8], (flags, bytes): (u16, [u8; 2])) {
        let place = self.place(self.count);
        self.pages.write(place, &head[..FLAGS]);
        self.pages.write(place + FLAGS + 4, &head[FLAGS + 4..]);
        self.pages.write(place + at, rest);
        let [a, b] = flags.to_ne_bytes();
        self.next = u32::from_ne_bytes([a, b, bytes[0], bytes[1]]);
    }

    /// Gives it to the kernel.
    fn produce(&mut self) {
        let word = self.pages.word(self.place(self.count) + FLAGS);
        word.store(self.next, Ordering::SeqCst);
        self.count = self.count.wrapping_add(1);
    }
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct CompletionArray {
    open: Arc<Open>,
    array: Array,
    /// Where this side was when the device was last seen.
    seen: u32,
}

impl CompletionArray {
    pub(super) fn new(open: &Arc<Open>, info: &CompletionInfo) -> Result<Self, Error> {
        // A word after them says what there are to be events for.
        let array = Array::map(open, info.key, info.entries, COMPLETION, 8)?;
        Ok(Self { open: Arc::clone(open), array, seen: 0 })
    }
}

impl CompletionElement {
    fn of_kernel(&self) -> Completion {
        let status = match self.status {
            0 => 0,
            1 => 1,
            2 => 4,
            3 => 2,
            4 => 5,
            5 => 7,
            6 => 8,
            7 => 10,
            8 => 9,
            // IBV_WC_GENERAL_ERR
            _ => 21,
        };
        let opcode = match self.opcode {
            0 => 1,
            1 | 2 => 2,
            8 => 128,
            _ => 0,
        };
        let immediate = self.immediate.to_ne_bytes();
        let [a, b, c, d, ..] = immediate;
        Completion {
            id: self.id,
            status: WorkStatus(status),
            opcode,
            length: self.length,
            immediate: [a, b, c, d],
            // Of a number that has 64 bits.
            qpn: u32::try_from(self.qpn).unwrap_or(u32::MAX),
            ..zerocopy::FromZeros::new_zeroed()
        }
    }
}

impl Completions for CompletionArray {
    fn poll(&mut self, room: &mut [Completion]) -> Result<usize, Error> {
        if self.open.life.is_there() {
            self.seen = self.array.count;
        }
        let mut taken = 0;
        for completion in room {
            let array = &mut self.array;
            let is_round = array.count.wrapping_sub(self.seen) > array.mask;
            // The flags of a completion are one byte, the first.
            if is_round || array.word(array.count).0.to_ne_bytes()[0] & 1 == 0 {
                break;
            }
            let place = array.place(array.count);
            let mut bytes = [0; COMPLETION];
            array.pages.read(place, &mut bytes);
            let element: CompletionElement = zerocopy::transmute!(bytes);
            *completion = element.of_kernel();
            array.pages.word(place + FLAGS).store(0, Ordering::Release);
            array.count = array.count.wrapping_add(1);
            taken += 1;
        }
        Ok(taken)
    }

    /// For solicited ones alone there are no events of what is received, so that there are some of all.
    fn arm(&mut self, _solicited_only: bool) -> Result<(), Error> {
        self.open.check("ask for an event")?;
        let place = (self.array.mask as usize + 1) * COMPLETION;
        self.array.pages.word(place).store(3, Ordering::SeqCst);
        Ok(())
    }
}

/// A queue of send requests.
#[derive(Debug)]
pub(super) struct SendArray {
    array: Array,
    limits: Limits,
}

impl SendArray {
    pub(super) fn new(open: &Open, info: &PairInfo, limits: Limits) -> Result<Self, Error> {
        Ok(Self::over(Array::map(open, info.send_key, info.sends, SEND, 0)?, limits))
    }

    fn over(array: Array, limits: Limits) -> Self {
        let limits = Limits {
            requests: array.mask as usize + 1 + READS,
            sge: limits.sge.min(SGE),
            // All but the first scatter/gather element.
            inline: limits.inline.min((SGE - 1) * size_of::<Sge>()),
        };
        Self { array, limits }
    }
}

impl Slots<SendRequest<'_>> for SendArray {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn has_room(&mut self) -> bool {
        self.array.is_free()
    }

    fn write(&mut self, request: &SendRequest<'_>) -> Result<(), Error> {
        let (opcode, rkey, remote_address) = match request.operation {
            Operation::Write { address, rkey, immediate: None } => (0, rkey, address),
            Operation::Read { address, rkey } => (1, rkey, address),
            Operation::Send(None) => (3, 0, 0),
            _ => return Err(Error::Unsupported(request.operation.word())),
        };
        let flags = [
            (request.signaled, SIGNALED),
            (request.solicited, SOLICITED),
            (request.fenced, FENCED),
        ];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
        let flags = flags.fold(VALID, |all, (_, flag)| all | flag);
        let head = SendElement { id: request.id, word: 0, rkey, remote_address };
        match request.data {
            Data::Regions(regions) => {
                let elements = u8::try_from(regions.len()).unwrap_or(u8::MAX);
                let word = (flags, [elements, opcode]);
                self.array.write(head.as_bytes(), 24, regions.as_bytes(), word);
            }
            Data::Inline(data) => {
                // The first scatter/gather element has the length, the others the data.
                let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
                let first = Sge { address: 0, length, lkey: 0 };
                let place = self.array.place(self.array.count);
                self.array.pages.write(place + 24, first.as_bytes());
                self.array.write(head.as_bytes(), 40, data, (flags | INLINE, [1, opcode]));
            }
        }
        Ok(())
    }

    fn produce(&mut self) {
        self.array.produce();
    }

    /// Not when the one before them has not been fetched yet: the kernel is there.
    fn is_to_be_told(&self, count: usize) -> bool {
        let is_all_round = count > self.array.mask as usize;
        let before = u32::try_from(count).ok().and_then(|count| count.checked_add(1));
        let before = before.map(|count| self.array.count.wrapping_sub(count));
        is_all_round || before.is_none_or(|before| self.array.word(before).0 & VALID == 0)
    }
}

/// A queue of receive requests, also a shared one.
#[derive(Debug)]
pub(super) struct ReceiveArray {
    array: Array,
    limits: Limits,
}

impl ReceiveArray {
    pub(super) fn new(open: &Open, info: &PairInfo, limits: Limits) -> Result<Self, Error> {
        Self::map(open, info.receive_key, info.receives, limits)
    }

    pub(super) fn shared(open: &Open, info: &SharedInfo, limits: Limits) -> Result<Self, Error> {
        Self::map(open, info.key, info.receives, limits)
    }

    fn map(open: &Open, key: u64, elements: u32, limits: Limits) -> Result<Self, Error> {
        Ok(Self::over(Array::map(open, key, elements, RECEIVE, 0)?, limits))
    }

    fn over(array: Array, limits: Limits) -> Self {
        // One more is being received to when its element is free again.
        let requests = array.mask as usize + 2;
        let limits = Limits { requests, sge: limits.sge.min(SGE), inline: 0 };
        Self { array, limits }
    }
}

impl Slots<ReceiveRequest<'_>> for ReceiveArray {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn has_room(&mut self) -> bool {
        self.array.is_free()
    }

    fn write(&mut self, request: &ReceiveRequest<'_>) -> Result<(), Error> {
        let mut head = [0; 16];
        head[..8].copy_from_slice(&request.id.to_ne_bytes());
        let elements = u8::try_from(request.to.len()).unwrap_or(u8::MAX);
        let word = (VALID, [elements, OF_RECEIVE]);
        self.array.write(&head, head.len(), request.to.as_bytes(), word);
        Ok(())
    }

    fn produce(&mut self) {
        self.array.produce();
    }
}

/// `SIW_OP_RECEIVE`
const OF_RECEIVE: u8 = 8;

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::uverbs::mapped::{ReceiveQueue, SendQueue};
    use crate::uverbs::outstanding::Outstanding;
    use crate::uverbs::provider::{Receives as _, Sends as _};

    fn open() -> Arc<Open> {
        let file = std::fs::File::options().write(true).open("/dev/null").unwrap();
        Arc::new(Open::new(file, 18).unwrap())
    }

    fn array(elements: u32, element: usize) -> Array {
        Array::over(Arc::new(Pages::new(4096).unwrap()), elements, element).unwrap()
    }

    fn bytes(array: &Array, count: u32, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        array.pages.read(array.place(count), &mut bytes);
        bytes
    }

    const LIMITS: Limits = Limits { requests: 4, sge: 9, inline: 200 };
    const PART: Sge = Sge { address: 0x1000, length: 7, lkey: 9 };

    #[test]
    fn send_elements() {
        let sends = SendArray::over(array(4, SEND), LIMITS);
        assert_eq!((sends.limits.sge, sends.limits.inline), (6, 80));
        let posted = Outstanding::new(sends.limits.requests);
        let mut sends = SendQueue::new(&open(), 5, sends);
        let operation = Operation::Read { address: 0x2000, rkey: 8 };
        let data = Data::Regions(&[PART]);
        let read = SendRequest::new(3, operation, data);
        let send = SendRequest {
            operation: Operation::Send(None),
            data: Data::Inline(b"hello"),
            signaled: false,
            solicited: true,
            ..read
        };
        sends.send(&posted, &[read, send]).unwrap();
        let word = |bytes: &[u8], at: usize| u32::read_from_prefix(&bytes[at..]).unwrap().0;
        let element = bytes(&sends.slots.array, 0, 40);
        assert_eq!(element[8..12], [5_u16.to_ne_bytes(), [1, 1]].concat());
        assert_eq!(
            [0, 12, 16, 24, 32, 36].map(|at| word(&element, at)),
            [3, 8, 0x2000, 0x1000, 7, 9]
        );
        let element = bytes(&sends.slots.array, 1, 45);
        assert_eq!(element[8..12], [11_u16.to_ne_bytes(), [1, 3]].concat());
        assert_eq!((word(&element, 32), &element[40..]), (5, &b"hello"[..]));
        sends.send(&posted, &[read, read]).unwrap();
        assert!(matches!(sends.send(&posted, &[read]), Err(Error::Full(0))));
        // The kernel has fetched one.
        sends.slots.array.pages.word(8).store(0, Ordering::Relaxed);
        let immediate = SendRequest { operation: Operation::Send(Some(1)), ..read };
        let outcome = sends.send(&posted, &[read, immediate]);
        assert!(matches!(outcome, Err(Error::Full(1))), "{outcome:?}");
        sends.slots.array.pages.word(SEND + 8).store(0, Ordering::Relaxed);
        let outcome = sends.send(&posted, &[immediate]).unwrap_err();
        assert!(outcome.to_string().contains("immediate"), "{outcome}");
    }

    #[test]
    fn receive_elements() {
        let receives = ReceiveArray::over(array(2, RECEIVE), LIMITS);
        let mut receives = ReceiveQueue::new(&open(), receives);
        let request = ReceiveRequest { id: 3, to: &[PART] };
        receives.receive(None, &[request, request]).unwrap();
        let element = bytes(&receives.slots.array, 1, 32);
        assert_eq!(element[8..12], [1_u16.to_ne_bytes(), [1, 8]].concat());
        assert_eq!(&element[16..], PART.as_bytes());
        assert!(matches!(receives.receive(None, &[request]), Err(Error::Full(0))));
    }

    fn complete(queue: &CompletionArray, count: u32, status: u16) {
        let element = CompletionElement {
            id: count.into(),
            flags: 1,
            opcode: 8,
            status,
            qpn: 17,
            ..CompletionElement::new_zeroed()
        };
        queue.array.pages.write(queue.array.place(count), element.as_bytes());
    }

    #[test]
    fn completions() {
        let mut queue = CompletionArray { open: open(), array: array(4, COMPLETION), seen: 0 };
        let mut room = [Completion::default(); 3];
        assert_eq!(queue.poll(&mut room).unwrap(), 0);
        (0..4).for_each(|count| complete(&queue, count, 0));
        assert_eq!(queue.poll(&mut room).unwrap(), 3);
        assert_eq!((room[2].id, room[2].opcode, room[2].qpn), (2, 128, 17));
        complete(&queue, 4, 4);
        assert_eq!(queue.poll(&mut room).unwrap(), 2);
        assert_eq!((room[1].id, room[1].status), (4, WorkStatus::FLUSHED));
        assert_eq!(queue.poll(&mut room).unwrap(), 0);
        queue.arm(true).unwrap();
        assert_eq!(queue.array.pages.word(4 * COMPLETION).load(Ordering::Relaxed), 3);
        // All of it is there again, one of which was polled before: as in a copy.
        (5..9).for_each(|count| complete(&queue, count, 0));
        assert_eq!(queue.poll(&mut room[..1]).unwrap(), 1);
        complete(&queue, 9, 0);
        queue.open.end().unwrap();
        assert_eq!(queue.poll(&mut room).unwrap(), 3);
        assert_eq!(queue.poll(&mut room).unwrap(), 0);
        assert!(queue.arm(false).is_err());
    }

    proptest::proptest! {
        /// Whatever is mapped, nothing outside of it is touched, and it ends.
        #[test]
        fn any_array(bytes: Vec<u8>, elements: u32, count: u32) {
            let pages = Pages::new(4096).unwrap();
            pages.write(0, &bytes[..bytes.len().min(4096)]);
            let pages = Arc::new(pages);
            if let Ok(mut array) = Array::over(Arc::clone(&pages), elements % 256, COMPLETION) {
                array.count = count;
                let mut queue = CompletionArray { open: open(), array, seen: count };
                queue.poll(&mut [Completion::default(); 300]).unwrap();
            }
            if let Ok(array) = Array::over(pages, elements % 64, SEND) {
                let mut sends = SendQueue::new(&open(), 5, SendArray::over(array, LIMITS));
                let (operation, data) = (Operation::Send(None), Data::Inline(&[7; 80]));
                let request = SendRequest::new(1, operation, data);
                sends.send(&Outstanding::new(4), &[request]).ok();
            }
        }
    }
}
