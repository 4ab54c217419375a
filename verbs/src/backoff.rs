// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long to wait before something that has failed is tried again.

use std::time::Duration;

/// The shortest and the longest.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(32);

/// A time about as long (three to five quarters), so that the nodes of a fabric do not all ask at the same moment.
#[must_use]
pub fn about(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// How long until something is tried again that has failed so often in a row: about one second, twice that each time, and
/// half a minute at most.
#[must_use]
pub fn until_again(failures: u32) -> Duration {
    about((SOON * 2_u32.saturating_pow(failures.saturating_sub(1).min(8))).min(LATE))
}
