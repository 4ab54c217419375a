// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any text as a state file, and as the value of a property.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rdma_udev_helper::properties::Properties;
use rdma_udev_helper::state::State;

fuzz_target!(|text: &str| {
    if let Some(state) = State::parse(text) {
        assert_eq!(State::parse(&state.text()), Some(state));
    }
    let mut properties = Properties::default();
    properties.set("K", text);
    assert_eq!(properties.as_str().lines().count(), 1);
});
