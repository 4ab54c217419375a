// SPDX-License-Identifier: MIT OR Apache-2.0
//! How an open device ends when it is pulled out.
//!
//! A driver that can take a device back (mlx5, vhca) does so, and everything done with it afterwards is an error. Others (rxe,
//! siw) wait until nobody has anything of it: the file, the files of events, and each mapping of a queue. So all of these are
//! let go here, under the feet of whoever uses them:
//!
//! - Files are replaced by one that cannot be used, at the same number: a call that is under way ends with its own file, the
//!   next one is an error, and the number is nobody else's.
//! - Mappings are replaced by a copy, at the same place: what was completed can still be polled.
//! - Before that the kernel destroys the queue pairs, after which no device touches queues or memory. What each of them has not
//!   completed by then is said to be flushed, when the completions that came in time have been polled.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};
use rustix::io::DupFlags;

use super::memory::Pages;
use super::outstanding::Pair;

/// A file that can be taken away from those who use it.
#[derive(Debug)]
pub(super) struct Taken(pub(super) File);

impl AsFd for Taken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Taken {
    /// Puts a file in its place that can be neither read, written nor mapped.
    fn take_away(&self, nothing: &OwnedFd) -> io::Result<()> {
        #[expect(unsafe_code, reason = "the number is given another file while it is in use")]
        // SAFETY: `self` owns the number before and after; it is open all the time, and not closed here.
        let mut number = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(self.0.as_raw_fd()) });
        Ok(rustix::io::dup3(nothing, &mut number, DupFlags::CLOEXEC)?)
    }
}

const THERE: u8 = 0;
/// Nothing new is begun.
const GOING: u8 = 1;
/// Nothing of it is left.
const GONE: u8 = 2;

/// Whether the device is there, and what would hold it.
#[derive(Debug)]
pub(super) struct Life {
    state: AtomicU8,
    /// Readable when it has gone.
    bell: OwnedFd,
    /// A file of nothing.
    nothing: OwnedFd,
    held: Mutex<Held>,
}

/// What is to be let go. Whoever has made one of these keeps it; what he has dropped is gone from here as well.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) files: Vec<Weak<Taken>>,
    pub(super) pages: Vec<Weak<Pages>>,
    pub(super) pairs: Vec<Weak<Pair>>,
}

impl Life {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            state: AtomicU8::new(THERE),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            nothing: rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
            held: Mutex::default(),
        })
    }

    /// Readable when the device has gone, for ever.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Whether nothing of it has been let go yet.
    pub(super) fn is_there(&self) -> bool {
        self.state.load(Ordering::Acquire) == THERE
    }

    /// Whether nothing new can be done. Who is told so finds all of it gone.
    pub(super) fn is_over(&self) -> bool {
        !self.is_there() && self.held().is_none()
    }

    /// Whether everything that will ever be completed is.
    pub(super) fn is_gone(&self) -> bool {
        self.state.load(Ordering::Acquire) == GONE
    }

    /// What is held; nothing is let go as long as this is looked at, so that what is made meanwhile can be added. None when it
    /// is too late for that. [`Open::failed`](super::Open::failed) may want it too: not to be called meanwhile.
    pub(super) fn held(&self) -> Option<MutexGuard<'_, Held>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.files.retain(|weak| weak.strong_count() > 0);
        held.pages.retain(|weak| weak.strong_count() > 0);
        held.pairs.retain(|weak| weak.strong_count() > 0);
        self.is_there().then_some(held)
    }

    /// Lets go of everything, the device's own file last; `destroy` has the kernel end a queue pair. Once: who comes second
    /// waits until it is done.
    ///
    /// # Errors
    /// What the kernel says to the first thing that it does not let go; the rest is let go nevertheless.
    pub(super) fn end(&self, device: &Taken, destroy: impl Fn(&Pair)) -> io::Result<()> {
        let Some(held) = self.held() else { return Ok(()) };
        self.state.store(GOING, Ordering::Release);
        held.pairs.iter().filter_map(Weak::upgrade).for_each(|pair| destroy(&pair));
        let pages = held.pages.iter().filter_map(Weak::upgrade).map(|pages| pages.keep());
        let files: Vec<Arc<Taken>> = held.files.iter().filter_map(Weak::upgrade).collect();
        let files = files.iter().map(|file| &**file).chain([device]);
        let files = files.map(|file| file.take_away(&self.nothing));
        let outcome = pages.chain(files).fold(Ok(()), io::Result::and);
        self.state.store(GONE, Ordering::Release);
        let rung = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        outcome.and(rung.map(drop).map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn everything_is_let_go_once() {
        let life = Life::new().unwrap();
        let (device, other) = (Taken(tempfile::tempfile().unwrap()), tempfile::tempfile().unwrap());
        let other = Arc::new(Taken(other));
        let dropped = Arc::new(Taken(tempfile::tempfile().unwrap()));
        {
            let mut held = life.held().unwrap();
            held.files.extend([Arc::downgrade(&other), Arc::downgrade(&dropped)]);
        }
        drop(dropped);
        assert_eq!(life.held().unwrap().files.len(), 1);
        (&device.0).write_all(&[1]).unwrap();
        assert!(!life.is_over());
        life.end(&device, |_| ()).unwrap();
        life.end(&device, |_| ()).unwrap();
        assert!(life.is_gone() && life.is_over());
        for file in [&device.0, &other.0] {
            let bad = Some(rustix::io::Errno::BADF.raw_os_error());
            assert_eq!((&*file).write(&[1]).unwrap_err().raw_os_error(), bad);
            assert_eq!((&*file).read(&mut [0]).unwrap_err().raw_os_error(), bad);
        }
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&life.bell, &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
