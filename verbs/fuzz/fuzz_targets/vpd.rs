// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a card says of itself: a serial number that can stand in a line, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rdma_verbs::sysfs::serial_number;

fuzz_target!(|bytes: &[u8]| {
    if let Some(serial) = serial_number(bytes) {
        assert!(!serial.is_empty() && !serial.contains(char::is_control));
    }
});
