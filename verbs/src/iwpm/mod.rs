// SPDX-License-Identifier: MIT OR Apache-2.0
//! The iWARP port mapper. An iWARP device has the addresses of its host, and its connections the port numbers of the
//! host's TCP: so a program reserves a TCP port for each, and the mappers of two hosts tell each other which.
//!
//! - [`Socket`]: the kernel's `iw_cm` asks, by RDMA netlink (client `RDMA_NL_IWCM`), in [`Request`]s; it is told
//!   [`Message`]s.
//! - [`Datagram`]: what mappers send each other, by UDP, port [`PORT`].

#[cfg(all(test, target_endian = "little"))]
mod captured;
mod kernel;
mod socket;
mod wire;

pub use kernel::{Connection, Failure, LIBRARY, Malformed, Message, Request, decode};
pub use socket::{Received, Socket};
pub use wire::{Datagram, Kind, MalformedDatagram, PORT};
