// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way to devices whose queues nothing here knows: by the C library and its providers, where these are installed.
//!
//! The library opens the device, and makes what a driver has something to add to; everything else goes to the same file as ever.

mod abi;
mod maker;
mod work;

use std::ffi::{CStr, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::io::Errno;

use self::abi::{Functions, functions};
use self::work::Posted;
use super::channel::CompletionChannel;
use super::provider::{Foreign, Limits, Made};
use super::{Context, Error, Open, guard};
use crate::netlink::{Device, Socket};

/// What a function says that returns an errno.
fn done(errno: c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno.abs())) }
}

/// What a function says that returns a pointer, or none and sets errno.
fn made<T>(pointer: *mut T) -> io::Result<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(io::Error::last_os_error)
}

/// One of the library's, which was made of a context of its.
fn its<T>(pointer: *mut c_void) -> io::Result<*mut T> {
    if pointer.is_null() { Err(Errno::INVAL.into()) } else { Ok(pointer.cast()) }
}

fn signed(number: u32) -> c_int {
    c_int::try_from(number).unwrap_or(c_int::MAX)
}

/// An object, by what gives it back.
#[derive(Debug)]
struct Object<T> {
    pointer: NonNull<T>,
    give_back: unsafe extern "C" fn(*mut T) -> c_int,
}

#[expect(unsafe_code, reason = "a raw pointer")]
// SAFETY: the library's objects may be used and given back by any thread.
unsafe impl<T> Send for Object<T> {}
#[expect(unsafe_code, reason = "a raw pointer")]
// SAFETY: the pointer is only read.
unsafe impl<T> Sync for Object<T> {}

impl<T: std::fmt::Debug> Foreign for Object<T> {
    fn pointer(&self) -> *mut c_void {
        self.pointer.as_ptr().cast()
    }
}

impl<T> Drop for Object<T> {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "ibv_dealloc_pd and the like")]
        // SAFETY: it was made, is given back once, and everything that is made of it has been before: see `Handle`. When that
        // fails there is nothing to be done; closing the device ends the rest.
        unsafe {
            (self.give_back)(self.pointer.as_ptr());
        }
    }
}

/// A completion queue. The library does not give it back before it knows of all its events that were taken.
#[derive(Debug)]
struct QueueObject {
    queue: NonNull<abi::Queue>,
    functions: &'static Functions,
    channel: CompletionChannel,
    /// What the library takes for the channel, which uses it until the queue is given back.
    of_library: NonNull<abi::Channel>,
}

#[expect(unsafe_code, reason = "a raw pointer")]
// SAFETY: this value alone frees what it points to, and does nothing else with it.
unsafe impl Send for QueueObject {}
#[expect(unsafe_code, reason = "a raw pointer")]
// SAFETY: as above.
unsafe impl Sync for QueueObject {}

impl Foreign for QueueObject {
    fn pointer(&self) -> *mut c_void {
        self.queue.as_ptr().cast()
    }
}

impl Drop for QueueObject {
    fn drop(&mut self) {
        let queue = self.queue;
        self.channel.end(queue.as_ptr().expose_provenance() as u64, |events| {
            #[expect(unsafe_code, reason = "ibv_ack_cq_events")]
            // SAFETY: the queue is there, and so many events of it were taken.
            unsafe {
                (self.functions.ibv_ack_cq_events)(queue.as_ptr(), events);
            }
            #[expect(unsafe_code, reason = "ibv_destroy_cq")]
            // SAFETY: see `Object`.
            unsafe {
                (self.functions.ibv_destroy_cq)(queue.as_ptr());
            }
        });
        #[expect(unsafe_code, reason = "what the library was lent")]
        // SAFETY: it was a box, and nobody uses it any more.
        drop(unsafe { Box::from_raw(self.of_library.as_ptr()) });
    }
}

/// A device that the library has open.
#[derive(Debug)]
struct Library {
    functions: &'static Functions,
    context: NonNull<abi::Context>,
}

#[expect(unsafe_code, reason = "a raw pointer")]
// SAFETY: the library's contexts may be used by any thread.
unsafe impl Send for Library {}
#[expect(unsafe_code, reason = "a raw pointer")]
// SAFETY: and by several at a time.
unsafe impl Sync for Library {}

impl Drop for Library {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "ibv_close_device")]
        // SAFETY: it was opened, is closed once, and all that was made of it is given back: that holds what this is part of.
        unsafe {
            (self.functions.ibv_close_device)(self.context.as_ptr());
        }
    }
}

/// What the library has of an object, until the next call.
fn view<T>(pointer: &NonNull<T>) -> &T {
    #[expect(unsafe_code, reason = "structures of the library")]
    // SAFETY: the library has made it, it begins like this, and nobody else changes it while this reads it.
    unsafe {
        pointer.as_ref()
    }
}

impl Library {
    /// Opens the device of this name; None where the library does not know it.
    fn open(name: &str) -> Result<Option<Self>, Error> {
        let what = "open the device";
        let functions = functions().map_err(Error::NoLibrary)?;
        let mut count = 0;
        #[expect(unsafe_code, reason = "ibv_get_device_list")]
        // SAFETY: there is a place for the count.
        let list = unsafe { (functions.ibv_get_device_list)(&raw mut count) };
        let list = made(list).map_err(|error| Error::of(what, error))?;
        #[expect(unsafe_code, reason = "an array of the library's")]
        // SAFETY: it has that many devices, and nobody else has it.
        let devices = unsafe {
            std::slice::from_raw_parts(list.as_ptr(), usize::try_from(count).unwrap_or(0))
        };
        let found = devices.iter().copied().find(|device| {
            #[expect(unsafe_code, reason = "ibv_get_device_name")]
            // SAFETY: a device of the list, which is there.
            let pointer = unsafe { (functions.ibv_get_device_name)(*device) };
            #[expect(unsafe_code, reason = "a string of the library's")]
            // SAFETY: it ends with a zero, and lives as long as the device.
            let known = unsafe { CStr::from_ptr(pointer) };
            known.to_bytes() == name.as_bytes()
        });
        let context = found.map(|device| {
            #[expect(unsafe_code, reason = "ibv_open_device")]
            // SAFETY: a device of the list, which is there; it stays as long as it is open.
            made(unsafe { (functions.ibv_open_device)(device) })
        });
        #[expect(unsafe_code, reason = "ibv_free_device_list")]
        // SAFETY: the list, once.
        unsafe {
            (functions.ibv_free_device_list)(list.as_ptr());
        }
        let context = context.transpose().map_err(|error| Error::of(what, error))?;
        Ok(context.map(|context| Self { functions, context }))
    }

    fn object<T>(
        pointer: NonNull<T>,
        give_back: unsafe extern "C" fn(*mut T) -> c_int,
        number: u32,
    ) -> Made
    where
        T: std::fmt::Debug + 'static,
    {
        Made { object: Box::new(Object { pointer, give_back }), number }
    }

    fn posted<Request>(
        open: &Arc<Open>,
        queue: NonNull<c_void>,
        post: Option<abi::Post<Request>>,
        limits: Limits,
    ) -> io::Result<Box<Posted<Request>>> {
        let (open, post) = (Arc::clone(open), post.ok_or(Errno::OPNOTSUPP)?);
        let (list, inline) = (Vec::new(), Vec::new());
        Ok(Box::new(Posted { open, queue, post, limits, list, inline }))
    }
}

impl Context {
    /// Opens a device that RDMA netlink has told of by the C library: for drivers that have no provider here.
    ///
    /// What is different: there are no memory windows, a device channel does not tell of queues, and a driver that cannot take
    /// a device back (rxe, siw) waits until everything that was made of it is dropped.
    ///
    /// # Errors
    /// [`Error::NoLibrary`]; [`Error::NoNode`] where the device has no node, or the library knows nothing of it: its
    /// providers are in packages of their own; what open(2) says.
    pub fn by_libibverbs(socket: &mut Socket, device: &Device) -> Result<Self, Error> {
        let what = "open the device";
        let unknown = || Error::NoNode(device.name.clone());
        let node = socket.chardev("uverbs", Some(device.index), None)?.ok_or_else(unknown)?;
        let library = Library::open(&device.name)?.ok_or_else(unknown)?;
        let context = view(&library.context);
        let completion_vectors = u32::try_from(context.vectors).unwrap_or(1);
        #[expect(unsafe_code, reason = "a file that the library has by number")]
        // SAFETY: it is open as long as the context is.
        let file = unsafe { BorrowedFd::borrow_raw(context.file) };
        let file = rustix::io::fcntl_dupfd_cloexec(file, 0).map(File::from);
        let file = file.map_err(|errno| Error::of(what, errno.into()))?;
        let open = Open::new(file, node.driver.unwrap_or(0));
        let mut open = open.map_err(|error| Error::of(what, error))?;
        open.maker = Some(Box::new(library));
        let open = Arc::new(open);
        guard::watch(&open).map_err(|error| Error::of("listen for devices that go", error))?;
        Ok(Self { open, completion_vectors })
    }
}
