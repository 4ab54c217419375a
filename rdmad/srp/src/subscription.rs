// SPDX-License-Identifier: MIT OR Apache-2.0
//! Subscriptions (IBTA InformInfo) to what subnet administration tells of ports. It forgets them when it starts anew.

use std::collections::BTreeMap;
use std::time::Instant;

use rdma_verbs::mad::{InformInfo, attribute, method};
use rdma_verbs::requests::{Failure, RequestId};

use crate::plan::until_again;
use crate::port::LocalPort;
use crate::scan::{Node, Patience, sa_mad};

/// Trap, Type, ProducerType: a port can be reached now, its capabilities have changed.
const TRAPS: [(u16, u16, u32); 2] = [(64, 3, 4), (144, 4, 1)];
/// The components LIDRangeBegin, IsGeneric, Subscribe, Type, TrapNumber, ProducerType; QPN.
const COMPONENTS: u64 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 12;
const QPN: u64 = 1 << 8;

/// Both subscriptions.
#[derive(Debug, Default)]
pub struct Subscription {
    asked: BTreeMap<RequestId, u16>,
    failures: u32,
    again: Option<Instant>,
}

impl Subscription {
    /// Subscribes, whatever was before.
    pub fn begin(&mut self, node: &mut Node, port: &LocalPort, patience: Patience) {
        self.again = None;
        self.ask(node, port, patience, true);
    }

    /// Takes them back.
    pub fn end(&mut self, node: &mut Node, port: &LocalPort, patience: Patience) {
        self.again = None;
        self.ask(node, port, patience, false);
    }

    fn ask(&mut self, node: &mut Node, port: &LocalPort, patience: Patience, subscribe: bool) {
        for id in std::mem::take(&mut self.asked).into_keys() {
            node.requests.cancel(id);
        }
        for (trap, kind, producer) in TRAPS {
            let mad = inform_info(trap, kind, producer, subscribe);
            let request = patience.request(node.sa, port.sa(), mad);
            self.asked.insert(node.requests.ask(request), trap);
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

    /// Takes the end of a request, if it is one of these: what is to be said of it. Gives it back if it is not.
    ///
    /// # Errors
    /// It is another's.
    pub fn take(
        &mut self,
        id: RequestId,
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

fn inform_info(trap: u16, kind: u16, producer: u32, subscribe: bool) -> Vec<u8> {
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
    let components = if subscribe { COMPONENTS } else { COMPONENTS | QPN };
    sa_mad(method::SET, attribute::INFORM_INFO, 0, components, &info)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(inform_info(64, 3, 4, true), expected);
        // e4a5e387c: to take it back needs the queue pair.
        expected[54..56].copy_from_slice(&[0x11, 0xf2]);
        expected[79] = 0;
        expected[86] = 1;
        assert_eq!(inform_info(64, 3, 4, false), expected);
    }
}
