// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that others write to as well: a device, or the kernel on its behalf.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mremap_fixed, munmap};
use zerocopy::{Immutable, IntoBytes};

/// Pages of this process. What is in them can change at any time, so they are never a slice.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<c_void>,
    length: usize,
}

#[expect(unsafe_code, reason = "a raw pointer")]
// SAFETY: the pages belong to this value alone; every access says itself how it is safe.
unsafe impl Send for Pages {}
#[expect(unsafe_code, reason = "a raw pointer")]
// SAFETY: as above; what can be done with a shared reference are copies and atomics.
unsafe impl Sync for Pages {}

const BOTH: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Pages {
    /// New ones, zero.
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        let hint = std::ptr::null_mut();
        #[expect(unsafe_code, reason = "mmap")]
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe { mmap_anonymous(hint, length.max(1), BOTH, MapFlags::PRIVATE) }?;
        Self::at(start, length.max(1))
    }

    /// What a file has at this offset.
    pub(crate) fn of(file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<Self> {
        let hint = std::ptr::null_mut();
        #[expect(unsafe_code, reason = "mmap")]
        // SAFETY: a new mapping at a place that the kernel chooses; it is only used as `Pages` allows.
        let start = unsafe { mmap(hint, length, BOTH, MapFlags::SHARED, file, offset) }?;
        Self::at(start, length)
    }

    fn at(start: *mut c_void, length: usize) -> io::Result<Self> {
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }

    /// What is in them stays, and is this process's alone from now on: the device and the kernel do not see them any more, and
    /// the file that they were of is let go. Who uses them meanwhile does not notice, but what is written meanwhile may be lost.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let copy = Self::new(self.length)?;
        let mut bytes = vec![0; self.length];
        self.read(0, &mut bytes);
        copy.write(0, &bytes);
        let (from, to) = (copy.start.as_ptr(), self.start.as_ptr());
        #[expect(unsafe_code, reason = "mremap over these pages")]
        // SAFETY: both mappings have `length` bytes, rounded up to pages alike. The copy takes the place of this one in one
        // step: at no time is there nothing. It is this value's then, so that it must not be unmapped as the copy's.
        unsafe {
            mremap_fixed(from, self.length, self.length, MremapFlags::MAYMOVE, to)?;
        }
        std::mem::forget(copy);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// The place of `length` bytes.
    fn place(&self, offset: usize, length: usize) -> *mut u8 {
        let end = offset.saturating_add(length);
        assert!(end <= self.length, "beyond the end of shared memory");
        self.start.as_ptr().cast::<u8>().wrapping_add(offset)
    }

    /// Copies from there.
    ///
    /// # Panics
    /// Where it does not have so many.
    pub(crate) fn read(&self, offset: usize, room: &mut [u8]) {
        let place = self.place(offset, room.len());
        #[expect(unsafe_code, reason = "memory that a device writes to")]
        // SAFETY: `place` has as many bytes, and they are mapped as long as this value lives. A device that writes there
        // meanwhile makes some of the copied bytes old and others new, and all of them are bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(place, room.as_mut_ptr(), room.len());
        }
    }

    /// Copies to there.
    ///
    /// # Panics
    /// Where it does not have so many.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let place = self.place(offset, bytes.len());
        #[expect(unsafe_code, reason = "memory that a device reads")]
        // SAFETY: as for `read`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
        }
    }

    /// Some of it, to write several things to.
    ///
    /// # Panics
    /// Where it does not have so many bytes.
    pub(crate) fn part(&self, offset: usize, length: usize) -> Part<'_> {
        Part { start: self.place(offset, length), length, pages: PhantomData }
    }

    /// A word that the kernel and this program both use.
    ///
    /// # Panics
    /// Where there is none, or not at a multiple of four.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset % 4 == 0, "a word is at a multiple of four");
        let place = self.place(offset, 4).cast::<u32>();
        #[expect(unsafe_code, reason = "a word of shared memory")]
        // SAFETY: it is aligned (pages are, and the offset), mapped as long as the reference lives, and all who use it
        // meanwhile do so atomically.
        unsafe {
            AtomicU32::from_ptr(place)
        }
    }
}

/// Some of the pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    start: *mut u8,
    length: usize,
    pages: PhantomData<&'a Pages>,
}

impl Part<'_> {
    /// Copies to there.
    ///
    /// # Panics
    /// Where it does not have so many bytes.
    #[inline]
    pub(crate) fn write<T: IntoBytes + Immutable + ?Sized>(&self, offset: usize, value: &T) {
        let bytes = value.as_bytes();
        let end = offset.saturating_add(bytes.len());
        assert!(end <= self.length, "beyond the end of shared memory");
        let place = self.start.wrapping_add(offset);
        #[expect(unsafe_code, reason = "memory that a device reads")]
        // SAFETY: as for `Pages::write`: the pages that this is a part of are borrowed.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "munmap")]
        // SAFETY: the mapping is this value's, and every reference to it has ended.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.length) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn bytes_and_words() {
        let pages = Pages::new(4096).unwrap();
        pages.write(8, &[1, 2, 3, 4]);
        let mut read = [9; 6];
        pages.read(7, &mut read);
        assert_eq!(read, [0, 1, 2, 3, 4, 0]);
        assert_eq!(pages.word(8).load(Ordering::Relaxed).to_ne_bytes(), [1, 2, 3, 4]);
        let beyond =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pages.write(4095, &[0, 0])));
        assert!(beyond.is_err());
    }

    #[test]
    fn kept() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(5000).unwrap();
        let pages = Pages::of(std::os::fd::AsFd::as_fd(&file), 0, 5000).unwrap();
        pages.write(4990, &[1, 2, 3, 4]);
        pages.keep().unwrap();
        let mut read = [0; 4];
        pages.read(4990, &mut read);
        assert_eq!(read, [1, 2, 3, 4]);
        pages.write(4990, &[5]);
        let mut of_file = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut of_file, 4990).unwrap();
        assert_eq!(of_file, [1]);
    }
}
