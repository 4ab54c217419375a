// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever comes to a port mapper, from the kernel's side and from other hosts'.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rdma_verbs::iwpm::{Datagram, decode};

fuzz_target!(|bytes: &[u8]| {
    assert!(decode(bytes).unwrap_or_default().len() <= bytes.len() / 16 + 1);
    if let Ok(datagram) = Datagram::decode(bytes) {
        assert_eq!(Datagram::decode(&datagram.encode()), Ok(datagram));
    }
});
