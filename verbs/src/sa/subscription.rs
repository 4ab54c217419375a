// SPDX-License-Identifier: MIT OR Apache-2.0
//! Subscriptions (IBTA InformInfo) to what subnet administration tells of ports. It forgets them when it starts anew.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Client, Id, Query};
use crate::backoff::until_again;
use crate::mad::InformInfo;
use crate::requests::Failure;

/// What is subscribed to: trap number, Type, ProducerType. A port can be reached now, and its capabilities have changed.
pub const TRAPS: [(u16, u16, u32); 2] = [(64, 3, 4), (144, 4, 1)];

/// Subscriptions to all [`TRAPS`]; the notices come to the agent of the [`Client`].
#[derive(Debug, Default)]
pub struct Subscription {
    asked: BTreeMap<Id, u16>,
    failures: u32,
    again: Option<Instant>,
}

impl Subscription {
    /// Subscribes, whatever was before: when the subnet manager is another, or wants to be told again, and when it is
    /// [time to](Subscription::again).
    pub fn begin(&mut self, client: &mut Client) {
        self.again = None;
        self.ask(client, true);
    }

    /// Takes them back.
    pub fn end(&mut self, client: &mut Client) {
        self.again = None;
        self.ask(client, false);
    }

    fn ask(&mut self, client: &mut Client, subscribe: bool) {
        for id in std::mem::take(&mut self.asked).into_keys() {
            client.cancel(id);
        }
        for (trap, kind, producer) in TRAPS {
            self.asked.insert(client.ask(inform_info(trap, kind, producer, subscribe)), trap);
        }
    }

    /// Whether everything that was asked has been answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.asked.is_empty()
    }

    /// When it is to begin again, as it was refused or not answered.
    #[must_use]
    pub fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Takes the end of a question, if it is one of these: what is to be said of it.
    ///
    /// # Errors
    /// It is another's, and given back.
    pub fn take(
        &mut self,
        id: Id,
        outcome: Result<Vec<u8>, Failure>,
        now: Instant,
    ) -> Result<Option<String>, Result<Vec<u8>, Failure>> {
        let Some(trap) = self.asked.remove(&id) else { return Err(outcome) };
        match outcome {
            Ok(_) => {
                if self.asked.is_empty() && self.again.is_none() {
                    self.failures = 0;
                }
                Ok(None)
            }
            // It begins again when there is one.
            Err(Failure::NoManager) => Ok(None),
            Err(failure) => {
                let is_first = self.again.is_none();
                if is_first {
                    self.failures += 1;
                    self.again = Some(now + until_again(self.failures));
                }
                // Once for each row of failures.
                let told = is_first && self.failures == 1;
                Ok(told
                    .then(|| format!("cannot subscribe to trap {trap}: {failure}; trying again")))
            }
        }
    }
}

fn inform_info(trap: u16, kind: u16, producer: u32, subscribe: bool) -> Query {
    let info = InformInfo {
        lid_range_begin: 0xffff.into(),
        is_generic: 1,
        subscribe: u8::from(subscribe),
        kind: kind.into(),
        trap: trap.into(),
        // Only to take one back; else it is where the question comes from.
        qpn: if subscribe { 0 } else { 1 << 8 }.into(),
        producer: producer.into(),
        ..InformInfo::default()
    };
    let components = InformInfo::LID_RANGE_BEGIN
        | InformInfo::IS_GENERIC
        | InformInfo::SUBSCRIBE
        | InformInfo::TYPE
        | InformInfo::TRAP
        | InformInfo::PRODUCER;
    Query::set(&info, if subscribe { components } else { components | InformInfo::QPN })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::requests::tests::{answer, pair, sent};
    use crate::sa::Patience;
    use crate::umad::Address;

    /// rdma-core S2: a refusal is one, and success at the third try is success.
    #[test]
    fn refused_lost_and_taken() {
        let (requests, agent, kernel) = pair(8);
        let patience = Patience { timeout: Duration::from_secs(7), retries: 2 };
        let mut client = Client::new(requests, agent, patience);
        client.set_manager(Some(Address { lid: 2, qpn: 1, ..Address::default() }));
        let now = Instant::now();
        let mut subscription = Subscription::default();
        // Answers all that is asked; what is said of it.
        let mut answered = |subscription: &mut Subscription, errno, status| {
            let mut said = Vec::new();
            let mut take = |client: &mut Client, subscription: &mut Subscription| {
                while let Some((id, outcome)) = client.advance(now) {
                    said.extend(subscription.take(id, outcome, now).unwrap());
                }
            };
            take(&mut client, subscription);
            sent(&kernel).iter().for_each(|packet| answer(&kernel, packet, errno, status));
            take(&mut client, subscription);
            if subscription.is_done() {
                subscription.begin(&mut client);
            }
            said
        };
        assert!(answered(&mut subscription, 0, 0).is_empty());
        let said = answered(&mut subscription, 0, 0x0700);
        assert_eq!(said, ["cannot subscribe to trap 64: denied (status 0x0700); trying again"]);
        assert!(answered(&mut subscription, 0, 0x0700).is_empty());
        assert_eq!(subscription.failures, 2);
        for errno in [110, 110, 0] {
            assert_eq!(subscription.failures, 2);
            assert!(answered(&mut subscription, errno, 0).is_empty());
        }
        assert_eq!(subscription.failures, 0);
    }

    /// rdma-core's own, but for the transaction id.
    #[test]
    fn on_the_wire() {
        let mut expected = [0; 256];
        expected[..4].copy_from_slice(&[1, 3, 2, 2]);
        expected[17] = 3;
        expected[54..56].copy_from_slice(&[0x10, 0xf2]);
        expected[72..74].copy_from_slice(&[0xff, 0xff]);
        expected[78..84].copy_from_slice(&[1, 1, 0, 3, 0, 64]);
        expected[91] = 4;
        assert_eq!(inform_info(64, 3, 4, true).mad(), expected);
        // e4a5e387c: to take it back needs the queue pair.
        expected[54..56].copy_from_slice(&[0x11, 0xf2]);
        expected[79] = 0;
        expected[86] = 1;
        assert_eq!(inform_info(64, 3, 4, false).mad(), expected);
    }
}
