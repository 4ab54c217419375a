// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listens for devices that go, for all that this process has open: the kernel announces the `remove` of a node before it waits
//! for those who have it open, and tells these nothing where the driver cannot take the device back.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{fstat, major, minor};

use super::Open;
use crate::uevent::{KERNEL, Uevents};
use crate::umad::wait_readable;

/// What is open, and the process whose thread listens: one that was forked has none yet.
static OPEN: Mutex<(u32, Vec<Weak<Open>>)> = Mutex::new((0, Vec::new()));

/// Lets go of a device when it goes, or if it has gone already.
pub(super) fn watch(open: &Arc<Open>) -> io::Result<()> {
    let (listener, all) = &mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if *listener != process {
        let uevents = Uevents::open(&[KERNEL])?;
        let thread = std::thread::Builder::new().name("rdma-guard".to_owned());
        thread.stack_size(64 << 10).spawn(move || listen(&uevents))?;
        *listener = process;
    }
    all.retain(|open| open.strong_count() > 0);
    all.push(Arc::downgrade(open));
    // It may have gone before anybody listened.
    if is_unlinked(open) {
        open.end()?;
    }
    Ok(())
}

fn listen(uevents: &Uevents) {
    loop {
        let gone = match uevents.next() {
            Ok(Some(event)) if event.action() != "remove" => continue,
            Ok(Some(event)) if event.subsystem() != "infiniband_verbs" => continue,
            Ok(Some(event)) => {
                let number = |key| event.property(key).parse().ok();
                number("MAJOR").zip(number("MINOR"))
            }
            Ok(None) => {
                // It can only be interrupted.
                wait_readable(uevents.as_fd(), None).ok();
                continue;
            }
            // Some were lost.
            Err(_) => None,
        };
        let all = OPEN.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        for open in all.iter().filter_map(Weak::upgrade) {
            let is_it = match gone {
                Some(numbers) => has(&open, numbers),
                None => is_unlinked(&open),
            };
            if is_it {
                // What the kernel does not let go ends with this process.
                open.end().ok();
            }
        }
    }
}

fn has(open: &Open, (of_major, of_minor): (u32, u32)) -> bool {
    fstat(open.fd())
        .is_ok_and(|stat| (major(stat.st_rdev), minor(stat.st_rdev)) == (of_major, of_minor))
}

/// Whether the node has gone from where it was opened.
fn is_unlinked(open: &Open) -> bool {
    fstat(open.fd()).is_ok_and(|stat| stat.st_nlink == 0)
}
