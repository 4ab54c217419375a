// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages for the journal.
//!
//! udev throws away what its programs write to standard error, so what an administrator must know
//! goes to the journal's own socket, or to the kernel's log where journald does not run yet.

use std::fmt::Display;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::{fs, io};

use rdma_verbs::netlink::{Error, Reason};

const JOURNAL: &str = "/run/systemd/journal/socket";

/// Something that cannot be used or done; the device works on.
pub fn warning(what: impl Display) {
    write(4, &what.to_string());
}

/// Something that fails the program.
pub fn error(what: impl Display) {
    write(3, &what.to_string());
}

/// What nobody needs to read, as it happens in normal operation: only for a person who runs the program.
pub fn note(what: impl Display) {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    eprintln!("{program}: {what}");
}

/// The exit status of a program that ends with this error: 77 without permission, else 1.
#[must_use]
pub fn exit_status(error: &anyhow::Error) -> u8 {
    let denied = error.chain().any(|cause| {
        let netlink = cause.downcast_ref::<Error>();
        let io = cause.downcast_ref::<io::Error>();
        netlink.is_some_and(|e| matches!(e.reason, Reason::Permission(_)))
            || io.is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    });
    if denied { 77 } else { 1 }
}

fn write(priority: u8, what: &str) {
    // Set by systemd for its services: a line can say how bad it is.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        eprintln!("<{priority}>{}", what.replace('\n', " "));
        return;
    }
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
