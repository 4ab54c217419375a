// SPDX-License-Identifier: MIT OR Apache-2.0
//! How requests get to a device and completions from it: the part that each driver has its own way of.

use std::ffi::c_void;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use super::channel::CompletionChannel;
use super::outstanding::Outstanding;
use super::path::PathAttributes;
use super::qp::{Capacity, Modify, Queues};
use super::work::{Completion, Data, ReceiveRequest, SendRequest};
use super::{Error, Open};
use crate::driver_name;

/// Which way a driver has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provider {
    /// Rings in memory.
    Rxe,
    /// Arrays in memory.
    Siw,
    /// System calls.
    Plain,
}

impl Provider {
    /// That of a driver.
    pub(super) fn of(driver: u32) -> Result<Self, Error> {
        match driver_name(driver) {
            Some("rxe") => Ok(Self::Rxe),
            Some("siw") => Ok(Self::Siw),
            // Their kernel halves take everything by system call; and who does not say who he is may do so.
            Some("qib" | "hfi1") | None => Ok(Self::Plain),
            Some(name) => Err(Error::NoProvider(name.to_owned())),
        }
    }
}

/// Where completions come from.
pub(super) trait Completions: Debug + Send {
    /// Takes those that are there, as many as there is room for: how many.
    fn poll(&mut self, room: &mut [Completion]) -> Result<usize, Error>;
    /// Has the next one be told of by an event.
    fn arm(&mut self, solicited_only: bool) -> Result<(), Error>;
}

/// What a queue takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Requests.
    pub(super) requests: usize,
    /// Scatter/gather elements of one.
    pub(super) sge: usize,
    /// Bytes that stand in one.
    pub(super) inline: usize,
}

impl Limits {
    /// As the kernel says them.
    pub(super) fn new(requests: u32, sge: u32, inline: u32) -> Self {
        let [requests, sge, inline] =
            [requests, sge, inline].map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Self { requests, sge, inline }
    }

    /// Whether a request is short enough.
    pub(super) fn allow_send(&self, request: &SendRequest<'_>) -> Result<(), Error> {
        let (length, most) = match request.data {
            Data::Regions(regions) => (regions.len(), self.sge),
            Data::Inline(bytes) => (bytes.len(), self.inline),
        };
        if length > most { Err(Error::TooLong(length, most)) } else { Ok(()) }
    }

    /// The same.
    pub(super) fn allow_receive(&self, request: &ReceiveRequest<'_>) -> Result<(), Error> {
        let (length, most) = (request.to.len(), self.sge);
        if length > most { Err(Error::TooLong(length, most)) } else { Ok(()) }
    }
}

/// Where send requests go. Of several those before the first that is refused are posted.
pub(super) trait Sends: Debug + Send {
    fn limits(&self) -> Limits;
    fn send(&mut self, posted: &Outstanding, requests: &[SendRequest<'_>]) -> Result<(), Error>;
}

/// Where receive requests go, in the same way. Those of a shared queue are not remembered: nobody says which queue pair they are of.
pub(super) trait Receives: Debug + Send {
    fn limits(&self) -> Limits;
    fn receive(
        &mut self,
        posted: Option<&Outstanding>,
        requests: &[ReceiveRequest<'_>],
    ) -> Result<(), Error>;
}

/// Another library's object, which it gives back when it is dropped.
pub(super) trait Foreign: Debug + Send + Sync {
    /// What the library knows it by.
    fn pointer(&self) -> *mut c_void;
}

/// What another library has made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) object: Box<dyn Foreign>,
    /// The kernel's number of it.
    pub(super) number: u32,
}

/// Another library, which gives the kernel the commands that a driver has something to add to, and has the queues as well. The
/// pointers are those of its own [`Foreign`] objects.
pub(super) trait Maker: Debug + Send + Sync {
    fn domain(&self) -> io::Result<Made>;
    /// With both keys.
    fn region(
        &self,
        domain: *mut c_void,
        address: u64,
        length: usize,
        access: u32,
    ) -> io::Result<(Made, [u32; 2])>;
    /// Both keys.
    fn change_region(
        &self,
        region: *mut c_void,
        flags: u32,
        domain: *mut c_void,
        access: u32,
    ) -> io::Result<[u32; 2]>;
    /// With how many entries it has.
    fn completion_queue(
        &self,
        entries: u32,
        channel: Option<(&CompletionChannel, u64)>,
    ) -> io::Result<(Made, u32, Box<dyn Completions>)>;
    fn resize(&self, queue: *mut c_void, entries: u32) -> io::Result<u32>;
    fn shared_queue(
        &self,
        open: &Arc<Open>,
        domain: *mut c_void,
        requests: u32,
        sge: u32,
    ) -> io::Result<(Made, Box<dyn Receives>)>;
    fn set_limit(&self, queue: *mut c_void, limit: u32) -> io::Result<()>;
    /// `queues` are those of send and of receive completions.
    fn pair(
        &self,
        open: &Arc<Open>,
        kind: u8,
        domain: *mut c_void,
        queues: [*mut c_void; 2],
        capacity: &Capacity<'_>,
    ) -> io::Result<Queues>;
    fn change_pair(&self, pair: *mut c_void, change: &Modify) -> io::Result<()>;
    fn path(&self, domain: *mut c_void, path: &PathAttributes) -> io::Result<Made>;
}
