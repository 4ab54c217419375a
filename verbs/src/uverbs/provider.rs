// SPDX-License-Identifier: MIT OR Apache-2.0
//! How requests get to a device and completions from it: the part that each driver has its own way of.

use std::fmt::Debug;

use super::Error;
use super::outstanding::Pair;
use super::work::{Completion, ReceiveRequest, SendRequest};
use crate::driver_name;

/// Which way a driver has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provider {
    /// Rings in memory.
    Rxe,
    /// System calls.
    Plain,
}

impl Provider {
    /// That of a driver.
    pub(super) fn of(driver: u32) -> Result<Self, Error> {
        match driver_name(driver) {
            Some("rxe") => Ok(Self::Rxe),
            // Their kernel halves take everything by system call; and who does not say who he is may do so.
            Some("qib" | "hfi1") | None => Ok(Self::Plain),
            Some(name) => Err(Error::NoProvider(name.to_owned())),
        }
    }
}

/// How long a request may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes that stand in a send request.
    pub(super) inline: usize,
    /// Scatter/gather elements of a send request.
    pub(super) send_sge: usize,
    /// The same of a receive request.
    pub(super) receive_sge: usize,
}

/// Where completions come from.
pub(super) trait Completions: Debug + Send {
    /// Takes those that are there, as many as there is room for: how many.
    fn poll(&mut self, room: &mut [Completion]) -> Result<usize, Error>;
    /// Has the next one be told of by an event.
    fn arm(&mut self, solicited_only: bool) -> Result<(), Error>;
}

/// Where requests go, which also the pair is told of. Of several those before the first that is refused are posted.
pub(super) trait Work: Debug + Send {
    /// How many requests there can be in the two queues, sends first.
    fn room(&self) -> (usize, usize);
    fn send(&mut self, pair: &Pair, requests: &[SendRequest<'_>]) -> Result<(), Error>;
    fn receive(&mut self, pair: &Pair, requests: &[ReceiveRequest<'_>]) -> Result<(), Error>;
}
