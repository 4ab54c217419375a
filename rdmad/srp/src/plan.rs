// SPDX-License-Identifier: MIT OR Apache-2.0
//! When whom is asked. The clock is the caller's.

use std::time::{Duration, Instant};

use rdma_verbs::Gid;
use rdma_verbs::backoff::{about, until_again};

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Every port that has device management.
    All,
    /// The port with this LID, if it has.
    Lid(u16),
    /// The port with this GID, if it has.
    Gid(Gid),
}

/// How many ports may wait to be asked one by one: with more, all are asked.
const SOME: usize = 64;
/// The least time between all being asked and all being asked again, and from one port to the next, whatever happens
/// and whoever says so: the fabric is not flooded.
const REST: Duration = Duration::from_secs(2);
const REST_OF_ONE: Duration = Duration::from_millis(20);

/// What is to be asked, and when.
#[derive(Debug)]
pub struct Plan {
    period: Option<Duration>,
    all: Option<Instant>,
    some: Vec<(Instant, Whom)>,
    failures: u32,
    /// Until when all, or one, are left alone.
    rest: Option<Instant>,
    rest_of_one: Option<Instant>,
}

impl Plan {
    /// All are asked again after each period, or never.
    #[must_use]
    pub fn new(period: Option<Duration>) -> Self {
        Self { period, all: None, some: Vec::new(), failures: 0, rest: None, rest_of_one: None }
    }

    /// Asks somebody at that time, or earlier where that was planned.
    pub fn ask(&mut self, whom: Whom, at: Instant) {
        if whom == Whom::All || self.some.len() >= SOME {
            self.all = Some(self.all.map_or(at, |all| all.min(at)));
            self.some.retain(|(other, _)| *other > at);
        } else if let Some((planned, _)) = self.some.iter_mut().find(|(_, other)| *other == whom) {
            *planned = at.min(*planned);
        } else if self.all.is_none_or(|all| all > at) {
            self.some.push((at, whom));
        }
    }

    /// Nobody can be asked now.
    pub fn clear(&mut self) {
        (self.all, self.failures) = (None, 0);
        self.some.clear();
    }

    /// When there is something to be asked.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let one = self.some.iter().map(|(at, _)| *at).min();
        one.max(self.rest_of_one.filter(|_| one.is_some())).into_iter().chain(self.next_all()).min()
    }

    fn next_all(&self) -> Option<Instant> {
        self.all.max(self.rest.filter(|_| self.all.is_some()))
    }

    /// Who is to be asked now.
    pub fn take(&mut self, now: Instant) -> Option<Whom> {
        if self.next_all().is_some_and(|all| all <= now) {
            self.all = None;
            self.some.retain(|(at, _)| *at > now);
            return Some(Whom::All);
        }
        if self.rest_of_one.is_some_and(|rest| rest > now) {
            return None;
        }
        let place = self.some.iter().position(|(at, _)| *at <= now)?;
        Some(self.some.remove(place).1)
    }

    /// They were asked; what subnet administration does not answer is asked again, ever later.
    pub fn done(&mut self, whom: Whom, is_good: bool, now: Instant) {
        match whom {
            Whom::All => self.rest = Some(now + REST),
            Whom::Lid(_) | Whom::Gid(_) => self.rest_of_one = Some(now + REST_OF_ONE),
        }
        if !is_good {
            self.failures += 1;
            self.ask(Whom::All, now + until_again(self.failures));
            return;
        }
        self.failures = 0;
        if let (Whom::All, Some(period)) = (whom, self.period) {
            self.ask(Whom::All, now + about(period));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_asked_when() {
        let start = Instant::now();
        let mut plan = Plan::new(Some(PERIOD));
        assert_eq!((plan.next(), plan.take(start)), (None, None));
        plan.ask(Whom::Lid(7), start + SECOND * 3);
        plan.ask(Whom::Lid(7), start + SECOND * 2);
        plan.ask(Whom::Lid(8), start + SECOND * 5);
        assert_eq!(plan.next(), Some(start + SECOND * 2));
        assert_eq!(plan.take(start + SECOND), None);
        assert_eq!(plan.take(start + SECOND * 4), Some(Whom::Lid(7)));
        assert_eq!(plan.take(start + SECOND * 4), None);
        // All at once is all of those; what is to be looked at later stays.
        plan.ask(Whom::Gid(Gid(1)), start + SECOND * 20);
        plan.ask(Whom::All, start + SECOND * 6);
        plan.ask(Whom::Lid(9), start + SECOND * 7);
        assert_eq!(plan.take(start + SECOND * 6), Some(Whom::All));
        assert_eq!(plan.next(), Some(start + SECOND * 20));
        plan.clear();
        assert_eq!(plan.next(), None);
    }

    #[test]
    fn again_after_a_period_that_is_never_the_same() {
        let now = Instant::now();
        let next = |period: Option<Duration>| {
            let mut plan = Plan::new(period);
            plan.done(Whom::Lid(1), true, now);
            assert_eq!(plan.next(), None);
            plan.done(Whom::All, true, now);
            plan.next()
        };
        assert_eq!(next(None), None);
        let times: Vec<Duration> = (0..8).map(|_| next(Some(PERIOD)).unwrap() - now).collect();
        assert!(times.iter().all(|t| *t >= PERIOD * 3 / 4 && *t <= PERIOD * 5 / 4), "{times:?}");
        assert!(times.iter().any(|t| *t != times[0]), "{times:?}");
    }

    /// Somebody sends more traps than there are ports.
    #[test]
    fn a_flood_does_not_become_one() {
        let start = Instant::now();
        let mut plan = Plan::new(None);
        let mut asked = (0, 0);
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            for lid in 0..100 {
                plan.ask(Whom::Lid(lid), now);
            }
            assert!(plan.next().is_some());
            let Some(whom) = plan.take(now) else { continue };
            plan.done(whom, true, now);
            match whom {
                Whom::All => asked.0 += 1,
                Whom::Lid(_) | Whom::Gid(_) => asked.1 += 1,
            }
        }
        assert!(asked.0 <= 6 && asked.1 <= 500, "{asked:?}");
    }

    /// rdma-core's daemon ends, or spins (S4, S6).
    #[test]
    fn ever_later_while_nobody_answers() {
        let now = Instant::now();
        let mut plan = Plan::new(None);
        let waits: Vec<Duration> = (0..40)
            .map(|_| {
                plan.done(Whom::All, false, now);
                let at = plan.all.unwrap();
                assert_eq!(plan.take(at + REST), Some(Whom::All));
                at - now
            })
            .collect();
        let seconds = Duration::from_secs;
        assert!(waits[0] <= seconds(2) && waits[0] >= seconds(1) / 2, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= seconds(64)), "{waits:?}");
        assert!(waits[39] >= seconds(16), "{waits:?}");
        plan.done(Whom::All, true, now);
        assert_eq!(plan.next(), None);
    }

    /// rdma-core b0e315364: a queue that overflows.
    #[test]
    fn so_many_that_all_are_asked() {
        let now = Instant::now();
        let mut plan = Plan::new(None);
        for lid in 0..1000 {
            plan.ask(Whom::Lid(lid), now);
        }
        assert!(plan.some.len() <= SOME, "{}", plan.some.len());
        assert_eq!(plan.take(now), Some(Whom::All));
        assert_eq!(plan.take(now), None);
    }
}
