// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages for the journal.
//!
//! udev throws away what its programs write to standard error, so what an administrator must know
//! goes to the journal's own socket, or to the kernel's log where journald does not run yet.

use std::fmt::Display;
use std::fs;
use std::os::unix::net::UnixDatagram;

const JOURNAL: &str = "/run/systemd/journal/socket";

/// Something that cannot be used or done; the device works on.
pub(crate) fn warning(what: impl Display) {
    write(4, &what.to_string());
}

/// Something that fails the program.
pub(crate) fn error(what: impl Display) {
    write(3, &what.to_string());
}

/// What nobody needs to read, as it happens in normal operation: only for a person who runs the program.
pub(crate) fn note(what: impl Display) {
    eprintln!("rdma-udev-helper: {what}");
}

fn write(priority: u8, what: &str) {
    note(what);
    // Set by udev for its programs.
    if std::env::var_os("SEQNUM").is_none() {
        return;
    }
    let message = what.replace('\n', " ");
    let entry =
        format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=rdma-udev-helper\nMESSAGE={message}\n");
    let sent = UnixDatagram::unbound().and_then(|s| s.send_to(entry.as_bytes(), JOURNAL));
    if sent.is_err() {
        fs::write("/dev/kmsg", format!("<{priority}>rdma-udev-helper: {message}\n")).ok();
    }
}
