// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the host and the guest of the lab say to each other.
#![forbid(unsafe_code)]

pub mod frame;
pub mod qmp;

use std::fs::{self, File, OpenOptions};
use std::io;

/// Opens a virtio-serial port of this guest by its name, without waiting for udev to make a link.
///
/// # Errors
/// `NotFound` outside of the lab's guest; what opening it reports.
pub fn open_port(name: &str) -> io::Result<File> {
    for port in fs::read_dir("/sys/class/virtio-ports")? {
        let port = port?;
        if fs::read_to_string(port.path().join("name"))?.trim() == name {
            let node = std::path::Path::new("/dev").join(port.file_name());
            return OpenOptions::new().read(true).write(true).open(node);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}
