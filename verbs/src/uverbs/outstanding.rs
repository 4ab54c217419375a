// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was posted and has not been completed: for the day on which the device does not complete it any more.
//!
//! A queue is completed in its order, and each of its signaled requests has one completion as long as nothing fails. So it is
//! enough to count these, and to know of each request behind which signaled one it is done. No more requests than the queue has
//! room for can be unfinished: only the last ones are remembered.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::multicast::Attachment;
use super::work::{Completion, WorkStatus};

/// The bit of what is received in [`Completion::opcode`].
const RECEIVE: u32 = 128;

/// One queue. One thread posts, another one polls.
#[derive(Debug)]
pub(super) struct Outstanding {
    last: Box<[Request]>,
    /// How many were posted, of all and of the signaled ones.
    posted: AtomicU32,
    signaled: AtomicU32,
    /// How many signaled ones have succeeded.
    succeeded: AtomicU32,
    /// The first that has not failed, and was not flushed here.
    next: AtomicU32,
}

#[derive(Debug, Default)]
struct Request {
    id: AtomicU64,
    /// It is done when so many signaled ones have succeeded.
    done_at: AtomicU32,
}

/// Whether a number, of those that count on and on, comes before another.
fn is_before(number: u32, other: u32) -> bool {
    number.wrapping_sub(other) > u32::MAX / 2
}

impl Outstanding {
    /// Of a queue with room for so many.
    pub(super) fn new(room: usize) -> Self {
        let last = std::iter::repeat_with(Request::default);
        Self {
            last: last.take(room.next_power_of_two()).collect(),
            posted: AtomicU32::new(0),
            signaled: AtomicU32::new(0),
            succeeded: AtomicU32::new(0),
            next: AtomicU32::new(0),
        }
    }

    fn request(&self, number: u32) -> Option<&Request> {
        self.last.get(number as usize & self.last.len().wrapping_sub(1))
    }

    /// One more is posted.
    pub(super) fn post(&self, id: u64, is_signaled: bool) {
        let posted = self.posted.load(Ordering::Relaxed);
        let signaled = self.signaled.load(Ordering::Relaxed);
        if let Some(request) = self.request(posted) {
            request.id.store(id, Ordering::Relaxed);
            request.done_at.store(signaled.wrapping_add(1), Ordering::Relaxed);
        }
        self.signaled.store(signaled.wrapping_add(is_signaled.into()), Ordering::Relaxed);
        self.posted.store(posted.wrapping_add(1), Ordering::Release);
    }

    /// The last ones, of which so many were signaled, were not posted after all.
    pub(super) fn take_back(&self, requests: usize, signaled: usize) {
        for (count, less) in [(&self.posted, requests), (&self.signaled, signaled)] {
            let less = u32::try_from(less).unwrap_or(u32::MAX);
            count.store(count.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Release);
        }
    }

    fn succeed(&self) {
        let succeeded = self.succeeded.load(Ordering::Relaxed).wrapping_add(1);
        self.succeeded.store(succeeded, Ordering::Relaxed);
    }

    /// The numbers of those that are unfinished.
    fn unfinished(&self) -> impl Iterator<Item = (u32, &Request)> {
        let posted = self.posted.load(Ordering::Acquire);
        let succeeded = self.succeeded.load(Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        let length = u32::try_from(self.last.len()).unwrap_or(u32::MAX);
        let remembered = posted.wrapping_sub(length);
        let first = if is_before(next, remembered) { remembered } else { next };
        (0..posted.wrapping_sub(first)).filter_map(move |place| {
            let number = first.wrapping_add(place);
            let request = self.request(number)?;
            let done_at = request.done_at.load(Ordering::Relaxed);
            is_before(succeeded, done_at).then_some((number, request))
        })
    }

    /// A request has failed, and with it those before it are done: whether it is the next one (or, if that does not matter, any).
    fn fail(&self, id: u64, must_be_next: bool) -> bool {
        let mut unfinished = self.unfinished().take(if must_be_next { 1 } else { usize::MAX });
        let failed = unfinished.find(|(_, request)| request.id.load(Ordering::Relaxed) == id);
        if let Some((number, _)) = failed {
            self.next.store(number.wrapping_add(1), Ordering::Relaxed);
        }
        failed.is_some()
    }

    /// The first that is unfinished, which is the caller's to complete.
    fn take(&self) -> Option<u64> {
        let (number, request) = self.unfinished().next()?;
        self.next.store(number.wrapping_add(1), Ordering::Relaxed);
        Some(request.id.load(Ordering::Relaxed))
    }
}

/// The two queues of a queue pair, as far as it takes to complete them.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) handle: u32,
    pub(super) number: u32,
    pub(super) send: Outstanding,
    pub(super) receive: Outstanding,
    /// The queue pair is no more, and nothing of it is completed.
    pub(super) is_destroyed: AtomicBool,
    /// Multicast groups that it is attached to.
    pub(super) groups: Mutex<Vec<Attachment>>,
}

/// The queue pairs that are completed to a completion queue, where they are added.
#[derive(Debug, Default)]
pub(super) struct Joining {
    pairs: Mutex<Vec<(Arc<Pair>, Sides)>>,
    /// How often there were other ones.
    changes: AtomicUsize,
}

/// Which queues of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sides {
    pub(super) send: bool,
    pub(super) receive: bool,
}

impl Joining {
    pub(super) fn add(&self, pair: &Arc<Pair>, sides: Sides) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.retain(|(pair, _)| !pair.is_destroyed.load(Ordering::Relaxed));
        // The kernel gives numbers anew.
        let place = pairs.partition_point(|(other, _)| other.number < pair.number);
        pairs.insert(place, (Arc::clone(pair), sides));
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// The same where it is polled: without a lock as long as there are no other ones.
#[derive(Debug)]
pub(super) struct Joined {
    joining: Arc<Joining>,
    changes: usize,
    /// In the order of their numbers.
    pairs: Vec<(Arc<Pair>, Sides)>,
    /// Which of them was found last.
    last: usize,
}

impl Joined {
    pub(super) fn new(joining: &Arc<Joining>) -> Self {
        Self { joining: Arc::clone(joining), changes: 0, pairs: Vec::new(), last: 0 }
    }

    fn refresh(&mut self) {
        let changes = self.joining.changes.load(Ordering::Acquire);
        if self.changes != changes {
            let pairs = self.joining.pairs.lock().unwrap_or_else(PoisonError::into_inner);
            self.pairs.clone_from(&pairs);
            (self.changes, self.last) = (changes, 0);
        }
    }

    /// These were polled.
    pub(super) fn complete(&mut self, completions: &[Completion]) {
        self.refresh();
        for completion in completions {
            if self.pairs.get(self.last).is_none_or(|(pair, _)| pair.number != completion.qpn) {
                let number = |(pair, _): &(Arc<Pair>, Sides)| pair.number;
                match self.pairs.binary_search_by_key(&completion.qpn, number) {
                    Ok(place) => self.last = place,
                    Err(_) => continue,
                }
            }
            let Some((pair, sides)) = self.pairs.get(self.last) else { continue };
            if completion.status == WorkStatus::SUCCESS {
                let is_receive = completion.opcode & RECEIVE != 0;
                if is_receive { pair.receive.succeed() } else { pair.send.succeed() }
            } else {
                fail(pair, *sides, completion.id);
            }
        }
    }

    /// Completes what the device has left.
    pub(super) fn flush(&mut self, room: &mut [Completion]) -> usize {
        self.refresh();
        let pairs = self.pairs.iter();
        let pairs = pairs.filter(|(pair, _)| !pair.is_destroyed.load(Ordering::Relaxed));
        let queues = pairs.flat_map(|(pair, sides)| {
            let send = sides.send.then_some((pair.number, &pair.send, 0));
            let receive = sides.receive.then_some((pair.number, &pair.receive, RECEIVE));
            send.into_iter().chain(receive)
        });
        let left = queues.flat_map(|(qpn, queue, opcode)| {
            std::iter::from_fn(move || Some((queue.take()?, qpn, opcode)))
        });
        let mut count = 0;
        // Room first: what is taken must be told.
        for (place, (id, qpn, opcode)) in room.iter_mut().zip(left) {
            let status = WorkStatus::FLUSHED;
            *place = Completion { id, status, qpn, opcode, ..Completion::default() };
            count += 1;
        }
        count
    }
}

/// Of a completion that says that something has failed nobody knows which queue it is of.
fn fail(pair: &Pair, sides: Sides, id: u64) {
    for must_be_next in [true, false] {
        let sent = sides.send && pair.send.fail(id, must_be_next);
        if sent || (sides.receive && pair.receive.fail(id, must_be_next)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(queue: &Outstanding) -> Vec<u64> {
        std::iter::from_fn(|| queue.take()).collect()
    }

    #[test]
    fn what_was_not_completed() {
        let queue = Outstanding::new(7);
        assert_eq!(all(&queue), [0; 0]);
        // More than it remembers, all but the last three completed.
        for id in 0..20 {
            queue.post(id, true);
            if id < 17 {
                queue.succeed();
            }
        }
        assert_eq!(all(&queue), [17, 18, 19]);
        // Came in while it was noted.
        queue.post(20, true);
        assert_eq!(all(&queue), [20]);
        assert_eq!(all(&queue), [0; 0]);
    }

    #[test]
    fn unsignaled_ones_are_done_with_the_next_signaled() {
        let queue = Outstanding::new(8);
        for (id, is_signaled) in
            [(1, false), (2, true), (3, false), (4, false), (5, true), (6, false)]
        {
            queue.post(id, is_signaled);
        }
        queue.succeed();
        assert_eq!(queue.unfinished().count(), 4);
        queue.succeed();
        assert_eq!(all(&queue), [6]);
    }

    #[test]
    fn failed_ones_are_done() {
        let queue = Outstanding::new(8);
        for id in [1, 2, 3, 3, 4] {
            queue.post(id, id != 2);
        }
        queue.succeed();
        // The next is 2, which has no completion unless it has failed.
        assert!(!queue.fail(3, true) && queue.fail(3, false));
        assert!(!queue.fail(9, false));
        assert_eq!(all(&queue), [3, 4]);
    }

    #[test]
    fn not_posted_after_all() {
        let queue = Outstanding::new(8);
        for id in 1..5 {
            queue.post(id, id % 2 == 0);
        }
        queue.take_back(2, 1);
        queue.post(7, true);
        queue.succeed();
        assert_eq!(all(&queue), [7]);
    }

    #[test]
    fn counts_go_round() {
        let queue = Outstanding::new(4);
        for count in [&queue.posted, &queue.signaled, &queue.succeeded, &queue.next] {
            count.store(u32::MAX - 1, Ordering::Relaxed);
        }
        (0..4).for_each(|id| queue.post(id, true));
        assert_eq!(queue.unfinished().count(), 4);
        queue.succeed();
        queue.succeed();
        assert!(queue.fail(2, true));
        assert_eq!(all(&queue), [3]);
    }

    fn pair(number: u32) -> Arc<Pair> {
        let [send, receive] = [(); 2].map(|()| Outstanding::new(4));
        let (is_destroyed, groups) = (false.into(), Mutex::default());
        Arc::new(Pair { handle: 0, number, send, receive, is_destroyed, groups })
    }

    #[test]
    fn each_is_told_once() {
        const BOTH: Sides = Sides { send: true, receive: true };
        let (joining, pairs) = (Arc::new(Joining::default()), [pair(17), pair(5), pair(9)]);
        let mut joined = Joined::new(&joining);
        pairs.iter().for_each(|pair| joining.add(pair, BOTH));
        pairs[0].send.post(1, true);
        (2..5).for_each(|id| pairs[0].receive.post(id, true));
        pairs[1].send.post(6, true);
        pairs[2].send.post(7, true);
        let of = |id, qpn, opcode, status| Completion {
            id,
            qpn,
            opcode,
            status: WorkStatus(status),
            ..Completion::default()
        };
        // Those of unknown ones are nobody's. That 3 has failed says that 2 is done.
        joined.complete(&[of(2, 17, 128, 0), of(6, 5, 0, 0), of(3, 17, 0, 5), of(1, 4, 0, 0)]);
        pairs[2].is_destroyed.store(true, Ordering::Relaxed);
        let mut room = [Completion::default(); 1];
        let mut told = Vec::new();
        while joined.flush(&mut room) == 1 {
            told.push((room[0].id, room[0].qpn, room[0].opcode, room[0].status.0));
        }
        assert_eq!(told, [(1, 17, 0, 5), (4, 17, 128, 5)]);
        // Its number is given anew.
        let again = pair(9);
        joining.add(&again, BOTH);
        again.send.post(8, true);
        assert_eq!((joined.flush(&mut room), room[0].id), (1, 8));
    }
}
