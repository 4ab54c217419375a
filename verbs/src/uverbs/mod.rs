// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/infiniband/uverbsN`: what user space does with a device itself. Of the kernel's two ways in only the ioctl is used:
//! write(2) is refused to processes that were forked, or have other rights than who has opened the file.
//!
//! Waits for a datagram, and answers it:
//!
//! ```no_run
//! use rdma_verbs::{PortNum, netlink, uverbs::*};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! const QKEY: u32 = 0x1111_1111;
//! let mut socket = netlink::Socket::open()?;
//! let device = socket.devices()?.into_iter().next().ok_or("there is no RDMA device")?;
//! let context = Context::of(&mut socket, &device)?;
//! let domain = context.protection_domain()?;
//! let memory = domain.memory_region(4096, Access::LOCAL_WRITE)?;
//! let channel = context.completion_channel()?;
//! let mut queue = context.completion_queue(16, Some((&channel, 0)))?;
//! let capacity = Capacity { send_requests: 4, receive: Receiving::Own(4), sge: 1, inline: 16 };
//! let pair = context.queue_pair::<Datagram>(&domain, (&queue, &queue), capacity)?;
//! let mut pair = pair.init(PortNum(1), 0, QKEY)?.ready_to_receive()?.ready_to_send(0)?;
//! pair.post_receive(&[ReceiveRequest { id: 1, to: &[memory.sge(0, 4096)] }])?;
//! println!("queue pair {} waits", pair.number());
//!
//! let mut room = [Completion::default(); 4];
//! while queue.poll(&mut room)? == 0 {
//!     queue.arm(false)?;
//!     // What came before that is not told of.
//!     if queue.poll(&mut room)? > 0 {
//!         break;
//!     }
//!     channel.wait(None)?;
//! }
//! let [come, ..] = room;
//! println!("{} bytes have come: {}", come.length, come.status);
//! let mut header = [0; DATAGRAM_HEADER];
//! memory.read(0, &mut header);
//! let path = context.path_back(PortNum(1), &come, &header)?;
//! let path = &domain.address_handle(PortNum(1), &path)?;
//! let (qpn, data) = (come.source_qpn, Data::Inline(b"thank you"));
//! let operation = Operation::SendTo { path, qpn, qkey: QKEY, immediate: None };
//! pair.post_send(&[SendRequest::new(2, operation, data)])?;
//! while queue.poll(&mut room)? == 0 {}
//! # Ok(())
//! # }
//! ```

mod attributes;
mod call;
mod channel;
mod command;
mod error;
mod guard;
#[cfg(feature = "libibverbs")]
mod libibverbs;
mod life;
mod mapped;
mod memory;
mod multicast;
mod objects;
mod outstanding;
mod path;
mod plain;
mod provider;
mod qp;
mod query;
mod rxe;
mod siw;
mod srq;
mod window;
mod work;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path as FilePath;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zerocopy::{FromZeros as _, IntoBytes as _};

pub use attributes::{DeviceAttributes, GidEntry, PortAttributes};
pub use channel::{CompletionChannel, DeviceChannel};
pub use error::Error;
pub use objects::{Access, CompletionQueue, MemoryRegion, ProtectionDomain};
pub(crate) use path::PathAttributes;
pub use path::{AddressHandle, DATAGRAM_HEADER, Global, Path};
pub use qp::{
    Answering, Asking, CanPostReceive, Capacity, Connected, Datagram, Init, Peer, QueuePair,
    ReadyToReceive, ReadyToSend, Receiving, Reliable, Reset, Transport, Unreliable,
};
pub use query::{PairAttributes, PairState};
pub use srq::SharedReceiveQueue;
pub use window::{Binding, MemoryWindow, WindowKind};
pub use work::{
    Completion, Data, Operation, Placement, ReceiveRequest, SendRequest, Sge, WorkStatus,
};

use crate::async_events::driver_request;
use crate::netlink::{Device, Socket};
use crate::{PortNum, driver_name};
use call::{Call, DRIVER_IN, DRIVER_OUT};
use life::{Life, Taken};
use memory::Pages;
use provider::Maker;

/// `UVERBS_OBJECT_DEVICE` and its methods.
mod device {
    pub(super) const OBJECT: u16 = 0;
    pub(super) const INVOKE_WRITE: u16 = 0;
    pub(super) const QUERY_PORT: u16 = 2;
    pub(super) const GET_CONTEXT: u16 = 3;
    pub(super) const QUERY_GID_TABLE: u16 = 5;
}

/// Room for what a driver has to say; the longest has less than half of this.
const DRIVER_ROOM: usize = 512;

/// An open device.
///
/// When it is pulled out, or its driver is, everything that is made of it is let go at once, so that nobody has to wait for this
/// process: what is done with it afterwards is [`Error::Gone`], whoever sleeps in a [`CompletionChannel`] wakes up with that,
/// and completion queues have what was completed and then, as [flushed](WorkStatus::FLUSHED), each request that was not, once.
/// Dropping things works as ever, in any order. One thread in the process listens for that; the node's `remove` is announced
/// to the network namespaces of the initial user namespace, and where it is not heard only a driver that can take a device
/// back ends this.
///
/// A process that was forked has the device open too, and holds it until it ends or calls execve(2).
#[derive(Debug)]
pub struct Context {
    open: Arc<Open>,
    completion_vectors: u32,
}

/// The file, which everything that is made of the device keeps open.
#[derive(Debug)]
struct Open {
    file: Taken,
    driver: u32,
    life: Life,
    /// The library that makes things instead of this one.
    maker: Option<Box<dyn Maker>>,
}

impl Open {
    fn new(file: File, driver: u32) -> io::Result<Self> {
        Ok(Self { file: Taken(file), driver, life: Life::new()?, maker: None })
    }

    fn call<'a>(&self, method: u16) -> Call<'a> {
        Call::new(self.driver, device::OBJECT, method)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Nothing is begun when the device has gone.
    fn check(&self, what: &'static str) -> Result<(), Error> {
        if self.life.is_over() { Err(Error::Gone(what)) } else { Ok(()) }
    }

    /// Who makes things instead of this library, as long as the device is there.
    fn maker(&self, what: &'static str) -> Result<Option<&dyn Maker>, Error> {
        if self.maker.is_some() {
            self.check(what)?;
        }
        Ok(self.maker.as_deref())
    }

    /// What an error of a call means.
    fn failed(&self, what: &'static str, error: io::Error) -> Error {
        if is_eio(&error) && !self.answers() {
            // What the kernel does not let go it will not let go the next time either; it ends with this process.
            self.end().ok();
        }
        if self.life.is_over() { Error::Gone(what) } else { Error::of(what, error) }
    }

    /// Whether there is still a driver, which can say `EIO` as well: the kernel answers this one itself.
    fn answers(&self) -> bool {
        let mut answer = DeviceAttributes::default();
        let (answer, none) = (answer.as_mut_bytes(), (&[][..], &mut [][..]));
        let outcome = self.give(command::EX_QUERY_DEVICE, &[0; 8], answer, none);
        !outcome.is_err_and(|error| is_eio(&error))
    }

    /// Lets go of everything.
    fn end(&self) -> io::Result<()> {
        self.life.end(&self.file, |pair| {
            // What another library has made only it can destroy, when nobody uses it.
            if self.maker.is_none() {
                self.destroy_pair(pair);
            }
        })
    }

    /// Maps what belongs to something that was made of the device.
    fn map(&self, offset: u64, length: usize) -> Result<Arc<Pages>, Error> {
        let what = "map a queue";
        let mut held = self.life.held().ok_or(Error::Gone(what))?;
        let pages = Pages::of(self.fd(), offset, length).map_err(|error| Error::of(what, error))?;
        let pages = Arc::new(pages);
        held.pages.push(Arc::downgrade(&pages));
        Ok(pages)
    }
}

fn is_eio(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

impl Context {
    /// Opens a device that RDMA netlink has told of.
    ///
    /// # Errors
    /// [`Error::NoNode`] where it cannot be opened, and as for [`Context::open`].
    pub fn of(socket: &mut Socket, device: &Device) -> Result<Self, Error> {
        let node = socket.chardev("uverbs", Some(device.index), None)?;
        let node = node.ok_or_else(|| Error::NoNode(device.name.clone()))?;
        let path = FilePath::new("/dev/infiniband").join(node.name);
        Self::open(&path, node.driver.unwrap_or(0))
    }

    /// Opens a node (`/dev/infiniband/uverbs0`) of the driver with this number: see
    /// [`crate::netlink::Chardev::driver`], 0 where the kernel does not tell it.
    ///
    /// # Errors
    /// What open(2) says; what the driver says to a context that is made like this.
    pub fn open(node: &FilePath, driver: u32) -> Result<Self, Error> {
        let what = "open the device";
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(node, flags, Mode::empty());
        let file = File::from(file.map_err(|errno| Error::of(what, errno.into()))?);
        let for_driver = driver_request(driver_name(driver));
        let (mut vectors, mut support) = (0_u32, 0_u64);
        let mut from_driver = [0; DRIVER_ROOM];
        let mut call = Call::new(driver, device::OBJECT, device::GET_CONTEXT)
            .output(0, vectors.as_mut_bytes())
            .output(1, support.as_mut_bytes())
            .optional_output(DRIVER_OUT, &mut from_driver);
        if !for_driver.is_empty() {
            call = call.input(DRIVER_IN, &for_driver);
        }
        call.make(file.as_fd()).map_err(|error| Error::of(what, error))?;
        let open = Open::new(file, driver).map_err(|error| Error::of(what, error))?;
        let open = Arc::new(open);
        guard::watch(&open).map_err(|error| Error::of("listen for devices that go", error))?;
        Ok(Self { open, completion_vectors: vectors })
    }

    /// Whether the device has gone, or was let go. It does not come back: a device that is plugged in again has another
    /// [`crate::DevIndex`], and is to be opened anew.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.open.life.is_gone()
    }

    /// Lets go of the device with everything that is made of it, as if it were pulled out: what waits for it goes on, nothing
    /// can be posted, and what was posted and is not completed is [flushed](WorkStatus::FLUSHED). This happens by itself when
    /// the kernel says that the device goes.
    ///
    /// # Errors
    /// What the kernel does not let go: `ENOMEM`.
    pub fn let_go(&self) -> io::Result<()> {
        self.open.end()
    }

    /// How many interrupts completion queues can be spread over.
    #[must_use]
    pub fn completion_vectors(&self) -> u32 {
        self.completion_vectors
    }

    /// What the device can do.
    ///
    /// # Errors
    /// See [`Context`].
    pub fn device(&self) -> Result<DeviceAttributes, Error> {
        let mut attributes = DeviceAttributes::default();
        let (what, number) = ("ask what the device can do", command::EX_QUERY_DEVICE);
        self.open.command(what, number, &[0; 8], attributes.as_mut_bytes(), &mut [])?;
        Ok(attributes)
    }

    /// How one of its ports is.
    ///
    /// # Errors
    /// See [`Context`]; `EINVAL` for a port that it does not have.
    pub fn port(&self, port: PortNum) -> Result<PortAttributes, Error> {
        let mut attributes = PortAttributes::default();
        (self.open.call(device::QUERY_PORT))
            .constant(0, port.0.into())
            .output(1, attributes.as_mut_bytes())
            .make(self.open.fd())
            .map_err(|error| self.open.failed("ask how a port is", error))?;
        Ok(attributes)
    }

    /// The entries of the GID tables of all ports, which have at most `most` together.
    ///
    /// # Errors
    /// See [`Context`]; `EINVAL` where there are more.
    pub fn gids(&self, most: usize) -> Result<Vec<GidEntry>, Error> {
        let mut entries = vec![GidEntry::new_zeroed(); most];
        let (size, mut count) = (size_of::<GidEntry>() as u64, 0_u64);
        (self.open.call(device::QUERY_GID_TABLE))
            .constant(0, size)
            .constant(1, 0)
            .output(2, entries.as_mut_bytes())
            .output(3, count.as_mut_bytes())
            .make(self.open.fd())
            .map_err(|error| self.open.failed("read the GID table", error))?;
        entries.truncate(usize::try_from(count).unwrap_or(most));
        Ok(entries)
    }

    /// The entries of a port's GID table.
    ///
    /// # Errors
    /// See [`Context`].
    pub fn gids_of(&self, port: PortNum) -> Result<Vec<GidEntry>, Error> {
        let mut most = 0;
        for port in 1..=self.device()?.ports {
            most += usize::try_from(self.port(PortNum(port.into()))?.gids).unwrap_or(0);
        }
        let mut entries = self.gids(most)?;
        entries.retain(|entry| entry.port == port.0);
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for driver in [0, 1, 14] {
            let error = Context::open(file.path(), driver).unwrap_err();
            assert!(error.to_string().starts_with("cannot open the device: Inappropriate ioctl"));
        }
        let error = Context::open(FilePath::new("/nonexistent"), 0).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[test]
    fn without_a_provider() {
        let file = File::open("/dev/null").unwrap();
        let open = Arc::new(Open::new(file, 1).unwrap());
        let context = Context { open, completion_vectors: 1 };
        let error = context.completion_queue(1, None).unwrap_err();
        assert_eq!(error.to_string(), "there is no user-space provider for mlx5");
    }
}
