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

/// What a program asks ibacm: the path from 10.7.0.1 to 10.7.0.2, with these eight bytes to be said in the answer.
#[must_use]
pub fn path_question(transaction: [u8; 8]) -> Vec<u8> {
    let mut bytes = vec![1, 1, 0, 0, 0, 0];
    bytes.extend(160_u16.to_ne_bytes());
    bytes.extend(transaction);
    for (flags, last) in [(1_u32, 1), (2, 2)] {
        let end = bytes.len() + 72;
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(2_u16.to_ne_bytes());
        bytes.extend([0, 0, 10, 7, 0, last]);
        bytes.resize(end, 0);
    }
    bytes
}
