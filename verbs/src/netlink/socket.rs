// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions to the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use netlink_sys::SocketAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{
    Attribute, Chardev, Command, Device, Error, Frame, HwCounter, Message, Port, Reason, System,
    message,
};
use crate::{DevIndex, PortNum};

/// `NETLINK_RDMA`.
pub(crate) const NETLINK_RDMA: isize = 20;
/// The kernel answers at once, except that GET_CHARDEV and NEWLINK may load a module first.
const DEADLINE: Duration = Duration::from_secs(30);
/// A device that appears while a dump is read makes it start again.
const DUMP_TRIES: u32 = 10;
/// The longest datagram of a dump is 32 KiB.
const DATAGRAM: usize = 1 << 16;

/// A NETLINK_RDMA socket for requests.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Socket {
    /// Opens a socket; the kernel loads ib_core for it.
    ///
    /// # Errors
    /// [`Reason::NoRdma`] on a kernel without RDMA.
    pub fn open() -> Result<Self, Error> {
        let open = || {
            let mut inner = netlink_sys::Socket::new(NETLINK_RDMA)?;
            inner.bind_auto()?;
            inner.connect(&SocketAddr::new(0, 0))?;
            Ok(inner)
        };
        let inner =
            open().map_err(|error: io::Error| error_of("open an RDMA netlink socket", error))?;
        // Better messages where the kernel has them; without, there is still the errno.
        inner.set_ext_ack(true).ok();
        inner.set_cap_ack(true).ok();
        Ok(Self { inner, sequence: 0 })
    }

    /// `GET`, dump: all devices of this network namespace. Entries without index or name are passed over.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn devices(&mut self) -> Result<Vec<Device>, Error> {
        let answers = self.dump("cannot list RDMA devices", Command::GET, &[])?;
        Ok(answers.into_iter().filter_map(Device::read).collect())
    }

    /// `GET`: one device; None when there is none of this index.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn device(&mut self, index: DevIndex) -> Result<Option<Device>, Error> {
        let what = format!("cannot read RDMA device {index}");
        match self.ask(&what, Command::GET, vec![Attribute::DevIndex(index.0)]) {
            Ok(answers) => Ok(answers.into_iter().find_map(Device::read)),
            Err(error) if unknown_index(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `PORT_GET`, dump: the ports of a device.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn ports(&mut self, index: DevIndex) -> Result<Vec<Port>, Error> {
        let what = format!("cannot list the ports of RDMA device {index}");
        let answers = self.dump(&what, Command::PORT_GET, &[Attribute::DevIndex(index.0)]);
        let answers = answers.map_err(|error| match unknown_index(&error) {
            true => Error { reason: Reason::Gone(None), ..error },
            false => error,
        })?;
        Ok(answers.into_iter().filter_map(Port::read).collect())
    }

    /// `SET`: renames a device. An equal name is success.
    ///
    /// # Errors
    /// [`Reason::Exists`] when another device has the name, [`Reason::Permission`] without
    /// `CAP_NET_ADMIN`, others.
    pub fn rename(&mut self, index: DevIndex, name: &str) -> Result<(), Error> {
        let what = format!("cannot rename RDMA device {index} to '{name}'");
        let attributes = vec![Attribute::DevIndex(index.0), Attribute::DevName(name.into())];
        self.ask(&what, Command::SET, attributes).map(drop)
    }

    /// `SET`: moves a device to the network namespace of an open file.
    ///
    /// # Errors
    /// See [`Reason`]; the driver must support disassociation and the system be in exclusive mode.
    pub fn set_netns(&mut self, index: DevIndex, netns: BorrowedFd<'_>) -> Result<(), Error> {
        let what = format!("cannot move RDMA device {index} to another network namespace");
        let fd = u32::try_from(netns.as_raw_fd()).unwrap_or(u32::MAX);
        let attributes = vec![Attribute::DevIndex(index.0), Attribute::NetNsFd(fd)];
        self.ask(&what, Command::SET, attributes).map(drop)
    }

    /// `SET`: adaptive interrupt moderation for completion queues made from now on.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn set_adaptive_moderation(&mut self, index: DevIndex, on: bool) -> Result<(), Error> {
        let what = format!("cannot set adaptive moderation of RDMA device {index}");
        let attributes = vec![Attribute::DevIndex(index.0), Attribute::DevDim(on.into())];
        self.ask(&what, Command::SET, attributes).map(drop)
    }

    /// `STAT_GET_STATUS`: the counters of a port.
    ///
    /// # Errors
    /// See [`Reason`]; `EINVAL` from a driver that counts nothing.
    pub fn hw_counters(&mut self, index: DevIndex, port: PortNum) -> Result<Vec<HwCounter>, Error> {
        let what = format!("cannot list the counters of port {port} of RDMA device {index}");
        let attributes = vec![Attribute::DevIndex(index.0), Attribute::PortIndex(port.0)];
        let answers = self.ask(&what, Command::STAT_GET_STATUS, attributes)?;
        let attributes = answers.iter().flat_map(|answer| &answer.attributes);
        let entries = attributes.flat_map(Attribute::hw_counter_entries);
        Ok(entries.filter_map(HwCounter::read).collect())
    }

    /// `STAT_SET`: has these optional counters of a port count, and no other.
    ///
    /// # Errors
    /// See [`Reason`]; `EINVAL` for a counter that is not optional.
    pub fn set_hw_counters(
        &mut self,
        index: DevIndex,
        port: PortNum,
        counters: &[u32],
    ) -> Result<(), Error> {
        let what = format!("cannot choose the counters of port {port} of RDMA device {index}");
        let attributes = vec![
            Attribute::DevIndex(index.0),
            Attribute::PortIndex(port.0),
            Attribute::hw_counters(counters),
        ];
        self.ask(&what, Command::STAT_SET, attributes).map(drop)
    }

    /// `NEWLINK`: makes a software device of `kind` (`rxe`, `siw`) on a network interface; the kernel
    /// loads the driver.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn new_link(&mut self, name: &str, kind: &str, netdev: &str) -> Result<(), Error> {
        let what = format!("cannot make the {kind} device '{name}' on '{netdev}'");
        let attributes = vec![
            Attribute::DevName(name.into()),
            Attribute::LinkType(kind.into()),
            Attribute::NdevName(netdev.into()),
        ];
        self.ask(&what, Command::NEWLINK, attributes).map(drop)
    }

    /// `DELLINK`: removes a software device.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn delete_link(&mut self, index: DevIndex) -> Result<(), Error> {
        let what = format!("cannot remove RDMA device {index}");
        self.ask(&what, Command::DELLINK, vec![Attribute::DevIndex(index.0)]).map(drop)
    }

    /// `GET_CHARDEV`: the character device of `kind` (`uverbs`, `umad`, `issm`, `rdma_cm`) of a device
    /// or a port. The kernel loads `rdma-client-<kind>` for it. None when there is none.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn chardev(
        &mut self,
        kind: &str,
        device: Option<DevIndex>,
        port: Option<PortNum>,
    ) -> Result<Option<Chardev>, Error> {
        let what = device.map_or_else(
            || format!("cannot find the {kind} character device"),
            |index| format!("cannot find the {kind} character device of RDMA device {index}"),
        );
        let mut attributes = vec![Attribute::ChardevType(kind.into())];
        attributes.extend(device.map(|index| Attribute::DevIndex(index.0)));
        attributes.extend(port.map(|port| Attribute::PortIndex(port.0)));
        match self.ask(&what, Command::GET_CHARDEV, attributes) {
            Ok(answers) => Ok(answers.into_iter().find_map(Chardev::read)),
            Err(error) if error.reason.errno() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
            Err(error) if device.is_some() && unknown_index(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `SYS_GET`: settings of the system.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn system(&mut self) -> Result<System, Error> {
        let what = "cannot read the RDMA system settings";
        let answers = self.ask(what, Command::SYS_GET, Vec::new())?;
        Ok(answers.first().map(System::read).unwrap_or_default())
    }

    /// `SYS_SET`: whether devices are seen from every network namespace.
    ///
    /// # Errors
    /// `EBUSY` while other network namespaces exist.
    pub fn set_netns_shared(&mut self, shared: bool) -> Result<(), Error> {
        let what = "cannot set the RDMA network namespace mode";
        self.ask(what, Command::SYS_SET, vec![Attribute::NetnsMode(shared.into())]).map(drop)
    }

    /// `SYS_SET`: whether a privileged Q_Key may be used without privilege.
    ///
    /// # Errors
    /// See [`Reason`].
    pub fn set_privileged_qkey(&mut self, on: bool) -> Result<(), Error> {
        let what = "cannot set the RDMA privileged Q_Key mode";
        self.ask(what, Command::SYS_SET, vec![Attribute::PrivilegedQkey(on.into())]).map(drop)
    }

    /// One request that is acknowledged; the messages that came before the acknowledgement.
    fn ask(
        &mut self,
        what: &str,
        command: Command,
        attributes: Vec<Attribute>,
    ) -> Result<Vec<Message>, Error> {
        let (messages, _) = self
            .exchange(&Message { command, attributes }, false)
            .map_err(|reason| Error { what: what.to_owned(), reason })?;
        Ok(messages)
    }

    /// One request for all objects, repeated while the kernel says that they changed meanwhile.
    fn dump(
        &mut self,
        what: &str,
        command: Command,
        attributes: &[Attribute],
    ) -> Result<Vec<Message>, Error> {
        let request = Message { command, attributes: attributes.to_vec() };
        for _ in 0..DUMP_TRIES {
            let (messages, interrupted) = self
                .exchange(&request, true)
                .map_err(|reason| Error { what: what.to_owned(), reason })?;
            if !interrupted {
                return Ok(messages);
            }
        }
        Err(Error { what: what.to_owned(), reason: Reason::Unstable })
    }

    fn exchange(&mut self, request: &Message, dump: bool) -> Result<(Vec<Message>, bool), Reason> {
        self.sequence = self.sequence.wrapping_add(1);
        let errno =
            |error: io::Error| Reason::from_errno(error.raw_os_error().unwrap_or_default(), None);
        self.inner.send(&request.encode(self.sequence, dump), 0).map_err(errno)?;
        let deadline = Instant::now() + DEADLINE;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let datagram = receive(&self.inner, Some(deadline))?;
            for (sequence, changed, frame) in
                message::decode(&datagram).map_err(|e| Reason::Garbage(e.to_string()))?
            {
                if sequence != self.sequence {
                    continue;
                }
                interrupted |= changed;
                match frame {
                    Frame::Message(answer) => answers.push(answer),
                    Frame::Done { code: 0, .. } => return Ok((answers, interrupted)),
                    Frame::Done { code, explanation } => {
                        return Err(Reason::from_errno(code.saturating_neg(), explanation));
                    }
                    Frame::Foreign => {}
                }
            }
        }
    }
}

/// The kernel answers `EINVAL` when it does not know an index.
fn unknown_index(error: &Error) -> bool {
    matches!(error.reason, Reason::Gone(_))
        || error.reason.errno() == Some(Errno::INVAL.raw_os_error())
}

/// One datagram from the kernel; those of other senders are thrown away.
pub(crate) fn receive(
    socket: &netlink_sys::Socket,
    deadline: Option<Instant>,
) -> Result<Vec<u8>, Reason> {
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|_| Reason::Timeout)?;
            match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(Reason::Timeout),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Reason::Errno(errno.into(), None)),
            }
        }
        let mut datagram = Vec::with_capacity(DATAGRAM);
        match socket.recv_from(&mut datagram, 0) {
            Ok((_, sender)) if sender.port_number() == 0 => return Ok(datagram),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Reason::Errno(error, None)),
        }
    }
}

/// The number that the kernel sends to.
pub(crate) fn port(socket: &netlink_sys::Socket) -> io::Result<u32> {
    let mut address = SocketAddr::new(0, 0);
    socket.get_address(&mut address)?;
    Ok(address.port_number())
}

/// A socket that was opened by somebody else. One that is no netlink socket fails at its first use.
pub(crate) fn adopt(socket: OwnedFd) -> netlink_sys::Socket {
    #[expect(unsafe_code, reason = "netlink-sys takes sockets as numbers")]
    // SAFETY: the file is open, and nobody else's.
    unsafe {
        netlink_sys::Socket::from_raw_fd(socket.into_raw_fd())
    }
}

pub(crate) fn cannot(what: &str, reason: Reason) -> Error {
    Error { what: format!("cannot {what}"), reason }
}

pub(crate) fn error_of(what: &str, error: io::Error) -> Error {
    let unsupported = error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error());
    cannot(what, if unsupported { Reason::NoRdma } else { Reason::Errno(error, None) })
}
