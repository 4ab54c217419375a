// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any datagram decodes or is refused; what decodes can be encoded and decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rdma_verbs::local_service;
use rdma_verbs::netlink::{Frame, decode};

fuzz_target!(|bytes: &[u8]| {
    assert!(local_service::decode(bytes).unwrap_or_default().len() <= bytes.len() / 16 + 1);
    for (_, _, frame) in decode(bytes).unwrap_or_default() {
        if let Frame::Message(message) = frame {
            let again = decode(&message.encode(1, false)).expect("what was encoded decodes");
            assert!(matches!(&again[..], [(1, false, Frame::Message(same))] if *same == message));
        }
    }
});
