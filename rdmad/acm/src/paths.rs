// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of the paths through one port.

use std::num::NonZeroUsize;
use std::time::Instant;

use lru::LruCache;
use rdma_verbs::sa::PathRecord;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::wire::Status;

/// How many are kept for one port; of more those go first that nobody has asked for the longest.
pub const MOST: NonZeroUsize = NonZeroUsize::new(1 << 17).expect("it is not 0");

/// A path as it is asked for: what is the same is asked once. rdma-core A17: every field that is meant counts, also for the
/// hash: programs choose them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    components: u64,
    record: [u8; 64],
}

impl Wanted {
    /// These fields of a record.
    #[must_use]
    pub fn new(path: &PathRecord, components: u64) -> Self {
        let mut record = [0; 64];
        record.copy_from_slice(path.as_bytes());
        Self { components, record }
    }

    /// All fields of a record that are not 0.
    #[must_use]
    pub fn like(path: &PathRecord) -> Self {
        let mut components = 0;
        for (is_there, component) in [
            (path.service_id.get() != 0, PathRecord::SERVICE_ID),
            (path.dgid != [0; 16], PathRecord::DGID),
            (path.sgid != [0; 16], PathRecord::SGID),
            (path.dlid.get() != 0, PathRecord::DLID),
            (path.slid.get() != 0, PathRecord::SLID),
            (path.flow.get() >> 8 & 0xf_ffff != 0, PathRecord::FLOW_LABEL),
            (path.flow.get() & 0xff != 0, PathRecord::HOP_LIMIT),
            (path.traffic_class != 0, PathRecord::TRAFFIC_CLASS),
            (path.reversible_and_paths & 0x80 != 0, PathRecord::REVERSIBLE),
            (path.reversible_and_paths & 0x7f != 0, PathRecord::PATHS),
            (path.pkey.get() != 0, PathRecord::PKEY),
            (path.qos_and_sl.get() >> 4 != 0, PathRecord::QOS_CLASS),
            (path.qos_and_sl.get() & 0xf != 0, PathRecord::SL),
            (path.mtu & 0x3f != 0, PathRecord::MTU_SELECTOR | PathRecord::MTU),
            (path.rate & 0x3f != 0, PathRecord::RATE_SELECTOR | PathRecord::RATE),
            (path.lifetime & 0x3f != 0, PathRecord::LIFETIME_SELECTOR | PathRecord::LIFETIME),
        ] {
            components |= if is_there { component } else { 0 };
        }
        Self::new(path, components)
    }

    /// The record and its components.
    #[must_use]
    pub fn path(&self) -> (PathRecord, u64) {
        // It is as long as one.
        (PathRecord::read_from_bytes(&self.record).unwrap_or_default(), self.components)
    }
}

/// What was answered, and when it is of no use any more.
#[derive(Debug)]
struct Known {
    answer: Result<PathRecord, Status>,
    until: Option<Instant>,
}

/// The answers of one port.
#[derive(Debug)]
pub struct Paths(LruCache<Wanted, Known>);

impl Default for Paths {
    fn default() -> Self {
        // It grows to that; new() would make room for all at once.
        let mut cache = LruCache::unbounded();
        cache.resize(MOST);
        Self(cache)
    }
}

impl Paths {
    /// What was answered to this.
    pub fn get(&mut self, wanted: &Wanted, now: Instant) -> Option<&Result<PathRecord, Status>> {
        let known = self.0.get(wanted)?;
        // One that is over is replaced by the next answer.
        known.until.is_none_or(|until| until > now).then_some(&known.answer)
    }

    /// Keeps an answer, for ever or until then.
    pub fn put(
        &mut self,
        wanted: Wanted,
        answer: Result<PathRecord, Status>,
        until: Option<Instant>,
    ) {
        self.0.put(wanted, Known { answer, until });
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
