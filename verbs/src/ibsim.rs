// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port of a fabric that ibsim simulates, on a machine without any RDMA. The part of the kernel's umad is played by a
//! thread: it sends again what nobody has answered, and gives answers to who has asked.
//!
//! ibsim cuts what is longer than one datagram (no RMPP), so a table has no more than its first records.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use crate::mad::{MAD_SIZE, MadHeader, class, method};
use crate::umad::{Address, AgentId, AgentRequest, Carrier, HEADER, Header, Received, Umad};

/// A request to the simulator itself; numbers are in the machine's order.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Control {
    magic: u32,
    client: u32,
    kind: u32,
    length: u32,
    data: [u8; 64],
}

const MAGIC: u32 = 0xdead_beef;
const CONNECT: u32 = 1;
const DISCONNECT: u32 = 2;

/// What is sent to connect, and comes back with the number of the client.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Connect {
    id: u32,
    qp: u32,
    takes_requests: u32,
    node: [u8; 32],
}

/// A datagram on its way.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Packet {
    dlid: U16,
    reserved_1: U16,
    slid: U16,
    reserved_2: U16,
    dqp: U32,
    sqp: U32,
    status: U32,
    reserved_3: u32,
    length: U64,
    mad: [u8; MAD_SIZE],
}

/// The first port of a simulated node.
#[derive(Debug)]
pub struct Port {
    umad: Umad,
    agents: Agents,
}

/// Class and methods of each agent, by number.
type Agents = Arc<Mutex<Vec<(u8, Vec<u8>)>>>;

impl Port {
    /// Connects to the node called `node` of the simulator whose sockets are called `base` (`sim` unless `IBSIM_SOCKNAME`
    /// said something else).
    ///
    /// # Errors
    /// `ECONNREFUSED` where no simulator runs; `NotFound` where it has no such node, or too many clients already.
    pub fn connect(base: &str, node: &str) -> io::Result<Self> {
        static CONNECTED: AtomicU32 = AtomicU32::new(0);
        // Its word for the sockets of this client; process ids are below 2^22.
        let number = CONNECTED.fetch_add(1, Ordering::Relaxed) << 22 | std::process::id();
        let socket = |own: &str| UnixDatagram::bind_addr(&name(base, &format!("{own}{number}"))?);
        let control = socket("ctl")?;
        control.connect_addr(&name(base, "ctl")?)?;
        let data = socket("in")?;
        let mut asked = Connect { id: number, qp: 0, takes_requests: 1, node: [0; 32] };
        let room = asked.node.get_mut(..node.len()).filter(|_| node.len() < 32);
        room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(node.as_bytes());
        let mut request =
            Control { magic: MAGIC, client: 0, kind: CONNECT, ..Control::new_zeroed() };
        request.length = u32::try_from(size_of::<Connect>()).unwrap_or(0);
        asked.write_to_prefix(&mut request.data).ok();
        control.send(request.as_bytes())?;
        control.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reply = Control::new_zeroed();
        control.recv(reply.as_mut_bytes())?;
        let connected = Connect::read_from_prefix(&reply.data).ok().map(|(connected, _)| connected);
        let client = connected.filter(|_| reply.kind == CONNECT).ok_or(io::ErrorKind::NotFound)?.id;
        data.connect_addr(&name(base, &format!("out{client}"))?)?;
        data.set_nonblocking(true)?;

        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let agents = Agents::default();
        let mut kernel = Kernel {
            user: theirs,
            data,
            agents: Arc::clone(&agents),
            out: VecDeque::new(),
            up: VecDeque::new(),
            pending: BTreeMap::new(),
        };
        std::thread::Builder::new().name("ibsim".into()).spawn(move || {
            // Whoever has the other end is told by its end.
            kernel.run().ok();
            drop(kernel);
            let bye = Control { magic: MAGIC, client, kind: DISCONNECT, ..Control::new_zeroed() };
            control.send(bye.as_bytes()).ok();
        })?;
        Ok(Self { umad: Umad::over(File::from(ours)), agents })
    }
}

/// The abstract name of a socket, which ends in a NUL.
fn name(base: &str, what: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{base}:{what}\0"))
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.umad.as_fd()
    }
}

impl Carrier for Port {
    fn register(&mut self, request: &AgentRequest<'_>) -> io::Result<AgentId> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = |method: &u8| {
            agents
                .iter()
                .any(|(class, methods)| *class == request.class && methods.contains(method))
        };
        if request.methods.iter().any(is_taken) {
            return Err(Errno::PERM.into());
        }
        agents.push((request.class, request.methods.to_vec()));
        let number = u32::try_from(agents.len()).map_err(|_| Errno::NOMEM)?;
        Ok(AgentId(number))
    }

    fn send(
        &mut self,
        agent: AgentId,
        to: Address,
        mad: &[u8],
        timeout: Option<Duration>,
        retries: u32,
    ) -> io::Result<()> {
        loop {
            match self.umad.send(agent, to, mad, timeout, retries) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The thread takes all that comes.
                    let mut files = [PollFd::new(&self.umad, PollFlags::OUT)];
                    poll(&mut files, None)?;
                }
                outcome => return outcome,
            }
        }
    }

    fn receive(&mut self) -> io::Result<Option<Received>> {
        self.umad.receive()
    }
}

/// A request that waits for its answer.
struct Pending {
    header: Header,
    packet: Packet,
    transaction: U64,
    again: Instant,
    retries: u32,
}

struct Kernel {
    user: OwnedFd,
    data: UnixDatagram,
    agents: Agents,
    /// On the way to the simulator, and to the user.
    out: VecDeque<Packet>,
    up: VecDeque<Vec<u8>>,
    /// By class and the lower half of the transaction id.
    pending: BTreeMap<(u8, u32), Pending>,
}

impl Kernel {
    /// Until one of the ends is closed.
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = [0; HEADER + MAD_SIZE];
        loop {
            self.expire(Instant::now());
            flush(&mut self.out, |packet| self.data.send(packet.as_bytes()))?;
            flush(&mut self.up, |bytes| Ok(rustix::io::write(&self.user, bytes)?))?;
            self.wait()?;
            loop {
                match rustix::io::read(&self.user, &mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(length) => self.sent(buffer.get(..length).unwrap_or_default()),
                    Err(Errno::AGAIN) => break,
                    Err(errno) => return Err(errno.into()),
                }
            }
            let mut packet = Packet::new_zeroed();
            loop {
                match self.data.recv(packet.as_mut_bytes()) {
                    Ok(length) if length == size_of::<Packet>() => self.received(&packet),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let next = self.pending.values().map(|pending| pending.again).min();
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let flags = |is_full: bool| match is_full {
            true => PollFlags::IN | PollFlags::OUT,
            false => PollFlags::IN,
        };
        let mut files = [
            PollFd::new(&self.user, flags(!self.up.is_empty())),
            PollFd::new(&self.data, flags(!self.out.is_empty())),
        ];
        match poll(&mut files, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The user has sent something.
    fn sent(&mut self, bytes: &[u8]) {
        let Ok((header, data)) = Header::read_from_prefix(bytes) else { return };
        let Some(mut mad_header) = MadHeader::of(data) else { return };
        let transaction = mad_header.transaction;
        let is_request = mad_header.method & method::RESPONSE == 0;
        if is_request {
            // The top sixteen bits are the simulator's.
            let low = transaction.get() & u64::from(u32::MAX);
            mad_header.transaction = (low | u64::from(header.agent & 0xffff) << 32).into();
        }
        let mut mad = [0; MAD_SIZE];
        let length = data.len().min(MAD_SIZE);
        mad[..length].copy_from_slice(&data[..length]);
        mad_header.write_to_prefix(&mut mad).ok();
        let packet = Packet {
            dlid: header.lid,
            // That of the port where it is 0; an answer by a directed route goes to none.
            slid: if mad_header.class == class::SUBN_DIRECTED { 0xffff } else { 0 }.into(),
            dqp: header.qpn,
            sqp: header.qpn,
            length: u64::try_from(MAD_SIZE).unwrap_or(0).into(),
            mad,
            ..Packet::new_zeroed()
        };
        self.out.push_back(packet);
        if is_request && header.timeout_ms != 0 {
            let again = Instant::now() + Duration::from_millis(header.timeout_ms.into());
            let pending = Pending { header, packet, transaction, again, retries: header.retries };
            self.pending.insert((mad_header.class, low_half(transaction)), pending);
        }
    }

    /// Something has come from the fabric.
    fn received(&mut self, packet: &Packet) {
        let Some(mut mad_header) = MadHeader::of(&packet.mad) else { return };
        let key = (mad_header.class, low_half(mad_header.transaction));
        // It could not be delivered and comes back at once; on a real fabric nobody would tell.
        if packet.status.get() != 0 {
            return;
        }
        let agent = if mad_header.method & method::RESPONSE != 0 {
            let Some(pending) = self.pending.remove(&key) else { return };
            mad_header.transaction = pending.transaction;
            pending.header.agent
        } else {
            let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
            let wants = |(class, methods): &(u8, Vec<u8>)| {
                *class == mad_header.class && methods.contains(&mad_header.method)
            };
            let Some(place) = agents.iter().position(wants) else { return };
            u32::try_from(place + 1).unwrap_or(0)
        };
        let from = Address { lid: packet.slid.get(), qpn: packet.sqp.get(), ..Address::default() };
        let header = Header { agent, ..Header::of(from) };
        let mut bytes = [header.as_bytes(), packet.mad.as_slice()].concat();
        if let Some(mad) = bytes.get_mut(HEADER..) {
            mad_header.write_to_prefix(mad).ok();
        }
        self.up.push_back(bytes);
    }

    /// Sends again, or gives up, what nobody has answered in time.
    fn expire(&mut self, now: Instant) {
        let late = self.pending.iter().filter(|(_, pending)| pending.again <= now);
        for key in late.map(|(key, _)| *key).collect::<Vec<_>>() {
            let Some(mut pending) = self.pending.remove(&key) else { continue };
            if pending.retries == 0 {
                self.give_up(pending);
                continue;
            }
            pending.retries -= 1;
            pending.again = now + Duration::from_millis(pending.header.timeout_ms.into());
            self.out.push_back(pending.packet);
            self.pending.insert(key, pending);
        }
    }

    /// As the kernel does: the header of the request comes back.
    fn give_up(&mut self, pending: Pending) {
        let status = Errno::TIMEDOUT.raw_os_error().unsigned_abs();
        let header = Header { status, ..pending.header };
        let Some(mut mad) = MadHeader::of(&pending.packet.mad) else { return };
        mad.transaction = pending.transaction;
        self.up.push_back([header.as_bytes(), mad.as_bytes()].concat());
    }
}

fn low_half(transaction: U64) -> u32 {
    u32::try_from(transaction.get() & u64::from(u32::MAX)).unwrap_or(0)
}

/// Sends what there is room for.
fn flush<T>(
    queue: &mut VecDeque<T>,
    mut send: impl FnMut(&T) -> io::Result<usize>,
) -> io::Result<()> {
    while let Some(first) = queue.front() {
        match send(first) {
            Ok(_) => queue.pop_front(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!((size_of::<Control>(), size_of::<Connect>()), (80, 44));
        assert_eq!(size_of::<Packet>(), 288);
    }
}
