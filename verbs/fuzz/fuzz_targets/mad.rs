// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a fabric answers: records that are in it, and no more of them than fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rdma_verbs::dm::IoControllerProfile;
use rdma_verbs::mad::{Notice, text};
use rdma_verbs::sa::{
    McMemberRecord, NodeRecord, PathRecord, PortInfoRecord, ServiceRecord, record, records,
};

fuzz_target!(|bytes: &[u8]| {
    assert!(records::<NodeRecord>(bytes).len() <= bytes.len() / 8);
    assert!(records::<PortInfoRecord>(bytes).len() <= bytes.len() / 8);
    assert!(records::<ServiceRecord>(bytes).len() <= bytes.len() / 8);
    let _ = (record::<PathRecord>(bytes), record::<IoControllerProfile>(bytes));
    let _ = record::<McMemberRecord>(bytes);
    let _ = record::<Notice>(bytes).and_then(|notice| notice.event());
    assert!(!text(bytes).contains(char::is_control));
});
