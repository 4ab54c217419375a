// SPDX-License-Identifier: MIT OR Apache-2.0
//! RDMA netlink: `NETLINK_RDMA`, client `RDMA_NL_NLDEV`.
//!
//! [`Attribute`] and [`Message`] are the codec: bytes in, values out, and back, nothing lost.
//! [`Device`], [`Port`], [`Chardev`], [`System`] and [`Event`] give the values names. [`Socket`] asks,
//! [`Monitor`] listens.

mod attribute;
#[cfg(all(test, target_endian = "little"))]
mod captured;
mod error;
mod message;
mod model;
mod monitor;
mod socket;

pub use attribute::Attribute;
pub(crate) use attribute::push;
pub use error::{Error, Reason};
pub(crate) use message::framed;
pub use message::{Command, Frame, Message, decode};
pub use model::{
    Chardev, Device, Event, HwCounter, NameAssign, Netdev, NodeType, PhysicalState, Port,
    PortState, System,
};
pub use monitor::{Monitor, Notice};
pub use socket::Socket;
pub(crate) use socket::{NETLINK_RDMA, adopt, cannot, error_of, port, receive};
