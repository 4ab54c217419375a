// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any datagram is an announcement or none; any bytes are an event or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rdma_verbs::{AsyncEvent, Uevent};

fuzz_target!(|bytes: &[u8]| {
    if let Some(event) = Uevent::decode(bytes) {
        assert!(!event.action().is_empty());
        let _ = (event.subsystem(), event.name());
    }
    assert_eq!(AsyncEvent::decode(bytes).is_some(), bytes.len() >= 12);
});
