// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that outlive the daemon: librdmacm connects once in the life of its program.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;

/// How many go with one message; the kernel's `SCM_MAX_FD` is 253.
const AT_ONCE: usize = 200;
/// How long systemd may take to take them.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Has systemd hold these for the one that is started next; it lets them go when none is.
pub(crate) fn keep<'a>(connections: impl Iterator<Item = BorrowedFd<'a>>) -> Result<()> {
    let connections: Vec<BorrowedFd<'_>> = connections.collect();
    let states = [NotifyState::FdStore, NotifyState::FdName("connection")];
    for some in connections.chunks(AT_ONCE) {
        sd_notify::notify_with_fds(false, &states, some).context("systemd does not take them")?;
    }
    // It closes this when it has read all that, whose sender must not have gone by then.
    let (done, mark) = pipe_with(PipeFlags::CLOEXEC)?;
    sd_notify::notify_with_fds(false, &[NotifyState::Custom("BARRIER=1")], &[mark.as_fd()])?;
    drop(mark);
    poll(&mut [PollFd::new(&done, PollFlags::IN)], Some(&PATIENCE))?;
    Ok(())
}
