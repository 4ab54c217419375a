// SPDX-License-Identifier: MIT OR Apache-2.0
//! How requests get to a device and completions from it: the part that each driver has its own way of.

use std::fmt::Debug;

use super::Error;
use super::outstanding::Outstanding;
use super::work::{Completion, Data, ReceiveRequest, SendRequest};
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
