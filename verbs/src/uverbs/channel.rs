// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where events come from: of completion queues, and of the device with all that is made of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::epoll;
use rustix::fs::OFlags;
use zerocopy::IntoBytes as _;

use super::call::Call;
use super::life::Taken;
use super::{Context, Error, Open, command};
use crate::umad::wait_any;
use crate::{AsyncEvent, EventType, Source};

/// A file of events.
#[derive(Debug)]
struct Channel {
    file: Arc<Taken>,
    open: Arc<Open>,
    /// Of the file and the bell, as the file goes away.
    epoll: OwnedFd,
}

impl Channel {
    /// Of the file that the kernel has made, while [`super::life::Life::held`] is held.
    fn new(open: &Arc<Open>, file: &Arc<Taken>) -> io::Result<Self> {
        rustix::fs::fcntl_setfl(file, OFlags::NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for source in [file.as_fd(), open.life.bell()] {
            epoll::add(&epoll, source, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(Self { file: Arc::clone(file), open: Arc::clone(open), epoll })
    }

    /// Makes one; `make` has the kernel hand out the number of the file.
    fn make(
        open: &Arc<Open>,
        what: &'static str,
        make: impl FnOnce() -> io::Result<u64>,
    ) -> Result<Self, Error> {
        // So that it is let go, or not made.
        let mut held = open.life.held().ok_or(Error::Gone(what))?;
        let fd = match make() {
            Ok(fd) => fd,
            Err(error) => {
                drop(held);
                return Err(open.failed(what, error));
            }
        };
        let fd = RawFd::try_from(fd).map_err(|_| Error::Garbage)?;
        #[expect(unsafe_code, reason = "the kernel hands the file out as a number")]
        // SAFETY: the kernel has made it in this call, so it is open and nobody else's.
        let file = Arc::new(Taken(File::from(unsafe { OwnedFd::from_raw_fd(fd) })));
        held.files.push(Arc::downgrade(&file));
        Self::new(open, &file).map_err(|error| Error::of(what, error))
    }

    /// Takes an event; false when there is none at the moment.
    fn take(&self, what: &'static str, event: &mut [u8]) -> Result<bool, Error> {
        loop {
            return match (&self.file.0).read(event) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.open.check(what).map(|()| false)
                }
                Err(error) => Err(self.open.failed(what, error)),
            };
        }
    }

    fn wait(&self, what: &'static str, deadline: Option<Instant>) -> Result<bool, Error> {
        // Without the way around by epoll.
        let files = [self.file.as_fd(), self.open.life.bell()];
        wait_any(files, deadline).map_err(|error| Error::of(what, error))
    }
}

/// Where events of completion queues come from. Readable when there is one, and when the device has gone: for poll(2), epoll and
/// whatever is built on them.
#[derive(Clone, Debug)]
pub struct CompletionChannel(Arc<Channel>, Arc<Mutex<Foreign>>);

/// Queues that another library has made, by what it has the kernel call them.
type Foreign = BTreeMap<u64, Counted>;

#[derive(Debug)]
struct Counted {
    /// What its user calls it.
    number: u64,
    /// How many events of it were taken.
    events: u32,
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.epoll.as_fd()
    }
}

impl CompletionChannel {
    const TAKE: &str = "take a completion event";

    pub(super) fn as_raw(&self) -> RawFd {
        self.0.file.0.as_raw_fd()
    }

    /// Takes an event: the number that its completion queue was made with. None when there is none at the moment.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Gone`] when nothing more will come: what completion queues still have is to be polled then.
    pub fn take(&self) -> Result<Option<u64>, Error> {
        let mut number = [0; 8];
        let mut foreign = self.foreign();
        let is_there = self.0.take(Self::TAKE, &mut number)?;
        let mut number = is_there.then(|| u64::from_ne_bytes(number));
        if let Some(counted) = number.and_then(|number| foreign.as_mut()?.get_mut(&number)) {
            counted.events = counted.events.wrapping_add(1);
            number = Some(counted.number);
        }
        Ok(number)
    }

    /// None where this library makes the queues.
    fn foreign(&self) -> Option<MutexGuard<'_, Foreign>> {
        self.0.open.maker.as_ref()?;
        Some(self.1.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Events of this queue are its user's.
    #[cfg(feature = "libibverbs")]
    pub(super) fn begin(&self, queue: u64, number: u64) {
        if let Some(mut foreign) = self.foreign() {
            foreign.insert(queue, Counted { number, events: 0 });
        }
    }

    /// No more events of this queue are taken while it is given back, to which belongs how many there were.
    #[cfg(feature = "libibverbs")]
    pub(super) fn end(&self, queue: u64, give_back: impl FnOnce(u32)) {
        let mut foreign = self.foreign();
        let counted = foreign.as_mut().and_then(|foreign| foreign.remove(&queue));
        give_back(counted.map_or(0, |counted| counted.events));
    }

    /// Waits for an event, at most until then: see [`CompletionChannel::take`].
    ///
    /// # Errors
    /// The same.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<Option<u64>, Error> {
        if self.0.wait(Self::TAKE, deadline)? { self.take() } else { Ok(None) }
    }
}

/// Where a device tells of itself, of its ports and of what is made of it. Readable like a [`CompletionChannel`].
#[derive(Debug)]
pub struct DeviceChannel {
    channel: Channel,
    is_fatal_told: bool,
}

impl AsFd for DeviceChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.epoll.as_fd()
    }
}

impl DeviceChannel {
    const TAKE: &str = "take an event";

    /// Takes an event; None when there is none at the moment. The last is [`EventType::DEVICE_FATAL`], also where the driver does
    /// not tell it.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Gone`] after the last.
    pub fn take(&mut self) -> Result<Option<AsyncEvent>, Error> {
        if self.is_fatal_told {
            return Err(Error::Gone(Self::TAKE));
        }
        let mut bytes = [0; 16];
        let event = match self.channel.take(Self::TAKE, &mut bytes) {
            Ok(false) => return Ok(None),
            Ok(true) => AsyncEvent::decode(&bytes).ok_or(Error::Garbage)?,
            Err(Error::Gone(_)) => AsyncEvent { kind: EventType::DEVICE_FATAL, of: Source::Device },
            Err(error) => return Err(error),
        };
        self.is_fatal_told = event.kind == EventType::DEVICE_FATAL;
        Ok(Some(event))
    }

    /// Waits for an event, at most until then: see [`DeviceChannel::take`].
    ///
    /// # Errors
    /// The same.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Result<Option<AsyncEvent>, Error> {
        if self.channel.wait(Self::TAKE, deadline)? { self.take() } else { Ok(None) }
    }
}

/// `UVERBS_OBJECT_ASYNC_EVENT`, `UVERBS_METHOD_ASYNC_EVENT_ALLOC`
const ASYNC_EVENT: u16 = 16;
const ALLOC: u16 = 0;

impl Context {
    /// Makes a channel for events of completion queues.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn completion_channel(&self) -> Result<CompletionChannel, Error> {
        let what = "make a completion channel";
        let channel = Channel::make(&self.open, what, || {
            let (request, mut number) = (0_u64, u32::MAX);
            let (bytes, room) = (request.as_bytes(), number.as_mut_bytes());
            self.open.give(command::CREATE_COMP_CHANNEL, bytes, room, (&[], &mut []))?;
            Ok(number.into())
        })?;
        Ok(CompletionChannel(Arc::new(channel), Arc::default()))
    }

    /// Makes a channel for events of the device; each of several is told all that is of the device and its ports. The first is
    /// told what happens to the queues that were made after it as well.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn device_channel(&self) -> Result<DeviceChannel, Error> {
        let what = "listen to the device";
        let channel = Channel::make(&self.open, what, || {
            Call::new(self.open.driver, ASYNC_EVENT, ALLOC).make_object(0, self.open.fd())
        })?;
        Ok(DeviceChannel { channel, is_fatal_told: false })
    }
}
