// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is made of a device: each keeps alive what it was made of, and is given back to the kernel when it is dropped.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::channel::CompletionChannel;
use super::memory::Pages;
use super::outstanding::{Joined, Joining};
use super::plain::CompletionCalls;
use super::provider::{Completions, Foreign, Made, Provider};
use super::rxe::{self, CompletionRing};
use super::siw::{self, CompletionArray};
use super::work::{Completion, Sge};
use super::{Context, Error, Open, command};

/// What an event can call a queue by.
pub(super) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An object of the kernel's, by its number.
#[derive(Debug)]
pub(super) struct Handle {
    /// Another library's, which gives it back then.
    foreign: Option<Box<dyn Foreign>>,
    pub(super) open: Arc<Open>,
    pub(super) number: u32,
    destroy: u32,
}

impl Handle {
    pub(super) fn new(open: &Arc<Open>, number: u32, destroy: u32) -> Self {
        Self { foreign: None, open: Arc::clone(open), number, destroy }
    }

    pub(super) fn made(open: &Arc<Open>, made: Made) -> Self {
        let Made { object, number } = made;
        Self { foreign: Some(object), open: Arc::clone(open), number, destroy: 0 }
    }

    /// What the library that has made it knows it by.
    pub(super) fn pointer(&self) -> *mut c_void {
        self.foreign.as_ref().map_or(std::ptr::null_mut(), |foreign| foreign.pointer())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.foreign.is_none() {
            self.open.destroy(self.destroy, self.number);
        }
    }
}

/// A protection domain: what queue pairs and memory regions have in common that may meet.
#[derive(Clone, Debug)]
pub struct ProtectionDomain(pub(super) Arc<Handle>);

/// What others may do with a memory region (`IB_ACCESS_*`); reading it here is always allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Access(pub u32);

impl Access {
    /// Received data may be written to it.
    pub const LOCAL_WRITE: Self = Self(1);
    /// The other side may write to it.
    pub const REMOTE_WRITE: Self = Self(2);
    /// The other side may read it.
    pub const REMOTE_READ: Self = Self(4);
    /// The other side may do atomics there.
    pub const REMOTE_ATOMIC: Self = Self(8);
    /// [Windows](super::MemoryWindow) may be bound to it.
    pub const MW_BIND: Self = Self(16);
    /// The other side may wait until all can see what it has written (Linux 6.3).
    pub const FLUSH_GLOBAL: Self = Self(1 << 8);
    /// The other side may wait until what it has written is persistent, of memory that can be.
    pub const FLUSH_PERSISTENT: Self = Self(1 << 9);
    /// Writes to it may overtake each other. A driver that does not know what that is may ignore it.
    pub const RELAXED_ORDERING: Self = Self(1 << 20);
}

impl std::ops::BitOr for Access {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Memory of its own that a device may use. As the device can write to it at any time, it is read and written by copying.
#[derive(Debug)]
pub struct MemoryRegion {
    // Given back before its pages are.
    handle: Handle,
    pages: Pages,
    pub(super) lkey: u32,
    rkey: u32,
    domain: ProtectionDomain,
}

impl MemoryRegion {
    /// How many bytes it has.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Where it begins, as the other side has to say it.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.pages.address()
    }

    /// What the other side needs to use it.
    #[must_use]
    pub fn rkey(&self) -> u32 {
        self.rkey
    }

    /// Changes what others may do with it, or which protection domain it is of; its keys may be others afterwards.
    ///
    /// # Errors
    /// See [`Error`]; `EOPNOTSUPP` where the driver cannot do that, after which it is as before.
    pub fn change(
        &mut self,
        access: Option<Access>,
        domain: Option<&ProtectionDomain>,
    ) -> Result<(), Error> {
        let to = domain.unwrap_or(&self.domain).clone();
        let flags = [(domain.is_some(), REREG_PD), (access.is_some(), REREG_ACCESS)];
        let flags = flags.iter().map(|(is_set, flag)| if *is_set { *flag } else { 0 }).sum();
        let (region, access) = (self.handle.number, access.map_or(0, |access| access.0));
        let (what, open) = ("change a memory region", &self.handle.open);
        if let Some(maker) = open.maker(what)? {
            let keys = maker.change_region(self.handle.pointer(), flags, to.0.pointer(), access);
            [self.lkey, self.rkey] = keys.map_err(|error| open.failed(what, error))?;
            self.domain = to;
            return Ok(());
        }
        let request = RegisterAgain {
            response: 0,
            region,
            flags,
            start: 0,
            length: 0,
            address: 0,
            domain: to.0.number,
            access,
        };
        let mut answer = [0_u32; 2];
        let (bytes, room) = (request.as_bytes(), answer.as_mut_bytes());
        open.command(what, command::REREG_MR, bytes, room, &mut [])?;
        [self.lkey, self.rkey] = answer;
        self.domain = to;
        Ok(())
    }

    /// Copies from it.
    ///
    /// # Panics
    /// Where it does not have so many bytes.
    pub fn read(&self, offset: usize, room: &mut [u8]) {
        self.pages.read(offset, room);
    }

    /// Copies to it.
    ///
    /// # Panics
    /// Where it does not have so many bytes.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.pages.write(offset, bytes);
    }

    /// Some of it, for a work request.
    ///
    /// # Panics
    /// Where it does not have so many bytes.
    #[must_use]
    pub fn sge(&self, offset: usize, length: u32) -> Sge {
        let end = u64::try_from(offset).ok().and_then(|offset| offset.checked_add(length.into()));
        assert!(end.is_some_and(|end| end <= self.len() as u64), "beyond the end of the region");
        Sge { address: self.address() + offset as u64, length, lkey: self.lkey }
    }
}

/// A completion queue.
#[derive(Debug)]
pub struct CompletionQueue {
    completions: Box<dyn Completions>,
    pub(super) joining: Arc<Joining>,
    joined: Joined,
    pub(super) handle: Arc<Handle>,
    entries: u32,
    _channel: Option<CompletionChannel>,
}

impl CompletionQueue {
    /// How many completions it has room for.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Takes the completions that are there, as many as there is room for: how many. No system call with mapped queues. When the
    /// device has gone, those of the requests that it has left: with none any more, everything was completed.
    ///
    /// # Errors
    /// See [`Error`].
    #[inline]
    pub fn poll(&mut self, room: &mut [Completion]) -> Result<usize, Error> {
        let was_gone = self.handle.open.life.is_gone();
        match self.completions.poll(room) {
            Ok(0) if !was_gone => Ok(0),
            outcome => self.polled(outcome, was_gone, room),
        }
    }

    #[inline(never)]
    fn polled(
        &mut self,
        outcome: Result<usize, Error>,
        was_gone: bool,
        room: &mut [Completion],
    ) -> Result<usize, Error> {
        let taken = match outcome {
            Ok(taken) => taken,
            Err(Error::Gone(_)) => 0,
            Err(error) => return Err(error),
        };
        // What was completed at last comes first.
        if taken == 0 && was_gone {
            return Ok(self.joined.flush(room));
        }
        if taken > 0 {
            self.joined.complete(room.get(..taken).unwrap_or_default());
        }
        Ok(taken)
    }

    /// Gives it room for at least `entries`; what is in it stays there.
    ///
    /// # Errors
    /// See [`Error`]; `EINVAL` for less than is in it, `EOPNOTSUPP` where the driver cannot do that.
    pub fn resize(&mut self, entries: u32) -> Result<(), Error> {
        let (what, open) = ("change the room of a completion queue", &self.handle.open);
        if let Some(maker) = open.maker(what)? {
            let entries = maker.resize(self.handle.pointer(), entries);
            self.entries = entries.map_err(|error| open.failed(what, error))?;
            return Ok(());
        }
        let provider = Provider::of(open.driver)?;
        let request = [0, 0, self.handle.number, entries];
        let mut answer = [0_u32; 2];
        let mut of_rxe = rxe::MappingInfo::new_zeroed();
        let from_driver = match provider {
            Provider::Rxe => of_rxe.as_mut_bytes(),
            Provider::Siw | Provider::Plain => &mut [],
        };
        let (bytes, room) = (request.as_bytes(), answer.as_mut_bytes());
        open.command(what, command::RESIZE_CQ, bytes, room, from_driver)?;
        if provider == Provider::Rxe {
            self.completions = Box::new(CompletionRing::new(open, self.handle.number, &of_rxe)?);
        }
        [self.entries, _] = answer;
        Ok(())
    }

    /// Has the next completion be told of by an event, once; with `solicited_only` the next that its sender has asked for.
    /// What was there before is not told of: poll after this.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn arm(&mut self, solicited_only: bool) -> Result<(), Error> {
        self.completions.arm(solicited_only)
    }
}

/// `struct ib_uverbs_reg_mr`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct RegisterMemory {
    response: u64,
    start: u64,
    length: u64,
    address: u64,
    domain: u32,
    access: u32,
}

/// `struct ib_uverbs_rereg_mr`
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct RegisterAgain {
    response: u64,
    region: u32,
    flags: u32,
    start: u64,
    length: u64,
    address: u64,
    domain: u32,
    access: u32,
}

/// `IB_MR_REREG_PD`, `IB_MR_REREG_ACCESS`
const REREG_PD: u32 = 2;
const REREG_ACCESS: u32 = 4;

/// `struct ib_uverbs_create_cq`
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct CreateCompletionQueue {
    response: u64,
    user_handle: u64,
    entries: u32,
    vector: u32,
    channel: i32,
    reserved: u32,
}

impl Context {
    /// Makes a protection domain.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn protection_domain(&self) -> Result<ProtectionDomain, Error> {
        let what = "make a protection domain";
        if let Some(maker) = self.open.maker(what)? {
            let made = maker.domain().map_err(|error| self.open.failed(what, error))?;
            return Ok(ProtectionDomain(Arc::new(Handle::made(&self.open, made))));
        }
        let (request, mut handle) = (0_u64, 0_u32);
        let (bytes, room) = (request.as_bytes(), handle.as_mut_bytes());
        self.open.command(what, command::ALLOC_PD, bytes, room, &mut [])?;
        Ok(ProtectionDomain(Arc::new(Handle::new(&self.open, handle, command::DEALLOC_PD))))
    }

    /// Makes a completion queue with room for at least `entries`; events of it come to the channel, with `number`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn completion_queue(
        &self,
        entries: u32,
        channel: Option<(&CompletionChannel, u64)>,
    ) -> Result<CompletionQueue, Error> {
        let (handle, entries, completions) = self.queue(entries, channel)?;
        let channel = channel.map(|(channel, _)| channel.clone());
        let (handle, joining) = (Arc::new(handle), Arc::default());
        let joined = Joined::new(&joining);
        Ok(CompletionQueue { completions, joining, joined, handle, entries, _channel: channel })
    }

    fn queue(
        &self,
        entries: u32,
        channel: Option<(&CompletionChannel, u64)>,
    ) -> Result<(Handle, u32, Box<dyn Completions>), Error> {
        let what = "make a completion queue";
        if let Some(maker) = self.open.maker(what)? {
            let made = maker.completion_queue(entries, channel);
            let (made, entries, completions) =
                made.map_err(|error| self.open.failed(what, error))?;
            return Ok((Handle::made(&self.open, made), entries, completions));
        }
        let provider = Provider::of(self.open.driver)?;
        let request = CreateCompletionQueue {
            response: 0,
            user_handle: channel.map_or(0, |(_, number)| number),
            entries,
            vector: 0,
            channel: channel.map_or(-1, |(channel, _)| channel.as_raw()),
            reserved: 0,
        };
        let mut answer = [0_u32; 2];
        let mut of_rxe = rxe::MappingInfo::new_zeroed();
        let mut of_siw = siw::CompletionInfo::new_zeroed();
        let from_driver = match provider {
            Provider::Rxe => of_rxe.as_mut_bytes(),
            Provider::Siw => of_siw.as_mut_bytes(),
            Provider::Plain => &mut [],
        };
        let (bytes, room) = (request.as_bytes(), answer.as_mut_bytes());
        self.open.command(what, command::CREATE_CQ, bytes, room, from_driver)?;
        let [number, entries] = answer;
        let handle = Handle::new(&self.open, number, command::DESTROY_CQ);
        let completions: Box<dyn Completions> = match provider {
            Provider::Rxe => Box::new(CompletionRing::new(&self.open, number, &of_rxe)?),
            Provider::Siw => Box::new(CompletionArray::new(&self.open, &of_siw)?),
            Provider::Plain => Box::new(CompletionCalls::new(&self.open, number)),
        };
        Ok((handle, entries, completions))
    }
}

impl ProtectionDomain {
    /// Makes a memory region of so many bytes, all of them zero.
    ///
    /// # Errors
    /// See [`Error`]; `ENOMEM` where the memory that may be locked is used up (`LimitMEMLOCK=`).
    pub fn memory_region(&self, length: usize, access: Access) -> Result<MemoryRegion, Error> {
        let what = "register memory";
        let pages = Pages::new(length).map_err(|error| Error::of(what, error))?;
        let open = &self.0.open;
        if let Some(maker) = open.maker(what)? {
            let made = maker.region(self.0.pointer(), pages.address(), pages.len(), access.0);
            let (made, [lkey, rkey]) = made.map_err(|error| open.failed(what, error))?;
            let handle = Handle::made(open, made);
            return Ok(MemoryRegion { handle, pages, lkey, rkey, domain: self.clone() });
        }
        let request = RegisterMemory {
            response: 0,
            start: pages.address(),
            length: pages.len() as u64,
            address: pages.address(),
            domain: self.0.number,
            access: access.0,
        };
        let mut answer = [0_u32; 3];
        let (bytes, room) = (request.as_bytes(), answer.as_mut_bytes());
        let mut of_siw = [0; 8];
        // siw takes a part of the key, and says all of it once more.
        let for_siw: (&[u8], &mut [u8]) = match Provider::of(open.driver) {
            Ok(Provider::Siw) => (&[0; 8], &mut of_siw),
            _ => (&[], &mut []),
        };
        let outcome = open.give(command::REG_MR, bytes, room, for_siw);
        outcome.map_err(|error| open.failed(what, error))?;
        let [number, lkey, rkey] = answer;
        let handle = Handle::new(open, number, command::DEREG_MR);
        Ok(MemoryRegion { handle, pages, lkey, rkey, domain: self.clone() })
    }
}
