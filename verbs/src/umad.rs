// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/infiniband/umadN`: management datagrams through one port of an InfiniBand device.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{NoArg, Setter, Updater, ioctl, opcode};
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Gid;
use crate::mad::class;

/// `IB_IOCTL_MAGIC`
const MAGIC: u8 = 0x1b;
/// `struct ib_user_mad_hdr`, what stands before each datagram.
pub(crate) const HEADER: usize = 64;
/// `struct ib_user_mad_hdr_old`: the same without the place of the P_Key and what comes after.
const OLD_HEADER: usize = 56;
/// A management datagram that is not one of several segments.
const MAD: usize = 256;
const FLAGS: OFlags = OFlags::RDWR.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// The longest answer that is read: more than the table of any fabric there is.
const LONGEST: usize = 1 << 28;

/// Which datagrams come here: those that answer what was sent for this agent, and those of `methods` that nobody asked for.
#[derive(Clone, Copy, Debug)]
pub struct AgentRequest<'a> {
    /// Management class; 0x01 and 0x81 are QP 0's, all others QP 1's.
    pub class: u8,
    /// Of the class.
    pub version: u8,
    /// Methods to answer; one agent of a port has each.
    pub methods: &'a [u8],
    /// Whether the kernel cuts and joins answers of several datagrams (RMPP).
    pub rmpp: bool,
}

/// An agent of one open node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentId(pub u32);

/// `struct ib_user_mad_reg_req`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
struct Register1 {
    id: [u8; 4],
    methods: [u8; 16],
    qpn: u8,
    class: u8,
    version: u8,
    oui: [u8; 3],
    rmpp_version: u8,
    reserved: u8,
}

/// `struct ib_user_mad_reg_req2`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
struct Register2 {
    id: u32,
    qpn: u32,
    class: u8,
    version: u8,
    reserved: u16,
    flags: u32,
    methods: [u64; 2],
    oui: u32,
    rmpp_version: u8,
    reserved_end: [u8; 3],
}

/// `struct ib_user_mad_hdr`
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub(crate) struct Header {
    pub(crate) agent: u32,
    /// 0, or an errno: of a datagram that comes back as nobody has answered it.
    pub(crate) status: u32,
    pub(crate) timeout_ms: u32,
    pub(crate) retries: u32,
    /// Of header and datagram, on the way in.
    pub(crate) length: u32,
    pub(crate) qpn: U32,
    pub(crate) qkey: U32,
    pub(crate) lid: U16,
    pub(crate) sl: u8,
    pub(crate) path_bits: u8,
    pub(crate) grh_present: u8,
    pub(crate) gid_index: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) gid: [u8; 16],
    pub(crate) flow_label: U32,
    pub(crate) pkey_index: u16,
    pub(crate) reserved: [u8; 6],
}

/// Where a datagram goes, or comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Of the port; 0xffff for one that has none yet (directed route).
    pub lid: u16,
    /// 0 or 1.
    pub qpn: u32,
    /// Service level.
    pub sl: u8,
    /// Place of the P_Key in the port's table.
    pub pkey_index: u16,
    /// For one in another subnet.
    pub gid: Option<Gid>,
}

/// What comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A datagram; of an answer in several segments the header of the first, and the data of all.
    Datagram {
        /// Who it is for.
        agent: AgentId,
        /// Who has sent it.
        from: Address,
        /// As on the wire.
        mad: Vec<u8>,
    },
    /// Nobody has answered, or it could not be sent: an errno, `ETIMEDOUT` for the former.
    Failed {
        /// Who has sent it.
        agent: AgentId,
        /// The beginning of what was sent: at least its header of 24 bytes.
        mad: Vec<u8>,
        /// Why.
        errno: i32,
    },
}

/// What carries datagrams: a [`Umad`] node, or a port of a simulated fabric ([`crate::ibsim`]). Readable when there is
/// something to receive.
pub trait Carrier: AsFd + std::fmt::Debug {
    /// Has datagrams come here.
    ///
    /// # Errors
    /// `EPERM` where another has one of the methods; a file has 32 agents at most (`ENOMEM`).
    fn register(&mut self, request: &AgentRequest<'_>) -> io::Result<AgentId>;

    /// Sends a datagram. With a timeout an answer is waited for, and it is sent again `retries` times; the upper half of the
    /// transaction id of a request is not the caller's.
    ///
    /// # Errors
    /// `EINVAL` for a datagram that is shorter than its headers, or has the transaction id of one that waits.
    fn send(
        &mut self,
        agent: AgentId,
        to: Address,
        mad: &[u8],
        timeout: Option<Duration>,
        retries: u32,
    ) -> io::Result<()>;

    /// What has come in; None when there is nothing at the moment.
    ///
    /// # Errors
    /// Nothing more will come.
    fn receive(&mut self) -> io::Result<Option<Received>>;
}

/// Waits until something can be received; false when the deadline has passed.
///
/// # Errors
/// What poll(2) says. That the device has gone is said by the next [`Carrier::receive`].
pub fn wait_readable(file: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<bool> {
    wait_any([file], deadline)
}

/// The same of several files: for any of them.
pub(crate) fn wait_any<const N: usize>(
    files: [BorrowedFd<'_>; N],
    deadline: Option<Instant>,
) -> io::Result<bool> {
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut files = files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
        match poll(&mut files, timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// One open node. When its device goes, every call is an error that [`is_gone`] knows.
#[derive(Debug)]
pub struct Umad {
    file: File,
    buffer: Vec<u8>,
    /// How long the header is.
    header: usize,
    /// How many were registered.
    agents: u32,
}

impl AsFd for Umad {
    /// Readable when [`Umad::receive`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether an error of [`Umad`] says that the device has gone.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    [Errno::IO, Errno::NODEV].iter().any(|gone| error.raw_os_error() == Some(gone.raw_os_error()))
}

impl Umad {
    /// Opens a node (`/dev/infiniband/umad0`).
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open(node: &Path) -> io::Result<Self> {
        Ok(Self::over(File::from(rustix::fs::open(node, FLAGS, Mode::empty())?)))
    }

    /// An open node, or something else that speaks as one.
    #[must_use]
    pub fn over(file: File) -> Self {
        Self { file, buffer: vec![0; HEADER + MAD], header: HEADER, agents: 0 }
    }

    /// `UNREGISTER_AGENT`
    ///
    /// # Errors
    /// What ioctl(2) says.
    pub fn unregister(&self, agent: AgentId) -> io::Result<()> {
        const NUMBER: u32 = opcode::write::<u32>(MAGIC, 2);
        #[expect(unsafe_code, reason = "an ioctl of the umad device")]
        // SAFETY: the number has the size of the value in it, which the kernel only reads.
        let set = unsafe { Setter::<NUMBER, u32>::new(agent.0) };
        #[expect(unsafe_code, reason = "an ioctl of the umad device")]
        // SAFETY: as above.
        Ok(unsafe { ioctl(&self.file, set) }?)
    }

    /// `REGISTER_AGENT2`, which has headers carry the place of the P_Key.
    fn register_2(&self, request: &AgentRequest<'_>) -> Result<AgentId, Errno> {
        let mut register = Register2 {
            id: 0,
            qpn: request.qpn().into(),
            class: request.class,
            version: request.version,
            reserved: 0,
            flags: 0,
            methods: request.method_mask(),
            oui: 0,
            rmpp_version: u8::from(request.rmpp),
            reserved_end: [0; 3],
        };
        const NUMBER: u32 = opcode::read_write::<Register2>(MAGIC, 4);
        #[expect(unsafe_code, reason = "an ioctl of the umad device")]
        // SAFETY: the number has the size of the structure in it, which is the kernel's.
        let update = unsafe { Updater::<NUMBER, Register2>::new(&mut register) };
        #[expect(unsafe_code, reason = "an ioctl of the umad device")]
        // SAFETY: the kernel reads and writes the structure, and nothing else.
        unsafe { ioctl(&self.file, update) }?;
        Ok(AgentId(register.id))
    }

    /// `REGISTER_AGENT`, of kernels before 3.18. Which header there is depends on `ENABLE_PKEY`, before the first agent.
    fn register_1(&mut self, request: &AgentRequest<'_>) -> Result<AgentId, Errno> {
        if self.agents == 0 {
            self.header = if self.enable_pkey().is_ok() { HEADER } else { OLD_HEADER };
        }
        let [low, high] = request.method_mask().map(u64::to_ne_bytes);
        let mut methods = [0; 16];
        methods[..8].copy_from_slice(&low);
        methods[8..].copy_from_slice(&high);
        let mut register = Register1 {
            id: [0; 4],
            methods,
            qpn: request.qpn(),
            class: request.class,
            version: request.version,
            oui: [0; 3],
            rmpp_version: u8::from(request.rmpp),
            reserved: 0,
        };
        const NUMBER: u32 = opcode::read_write::<Register1>(MAGIC, 1);
        #[expect(unsafe_code, reason = "an ioctl of the umad device")]
        // SAFETY: the number has the size of the structure in it, which is the kernel's.
        let update = unsafe { Updater::<NUMBER, Register1>::new(&mut register) };
        #[expect(unsafe_code, reason = "an ioctl of the umad device")]
        // SAFETY: the kernel reads and writes the structure, and nothing else.
        unsafe { ioctl(&self.file, update) }?;
        Ok(AgentId(u32::from_ne_bytes(register.id)))
    }

    fn enable_pkey(&self) -> Result<(), Errno> {
        const NUMBER: u32 = opcode::none(MAGIC, 3);
        #[expect(unsafe_code, reason = "an ioctl of the umad device")]
        // SAFETY: it takes no argument.
        let set = unsafe { NoArg::<NUMBER>::new() };
        #[expect(unsafe_code, reason = "an ioctl of the umad device")]
        // SAFETY: as above.
        unsafe {
            ioctl(&self.file, set)
        }
    }
}

impl Carrier for Umad {
    fn register(&mut self, request: &AgentRequest<'_>) -> io::Result<AgentId> {
        let agent = match self.register_2(request) {
            Err(Errno::NOTTY | Errno::INVAL) => self.register_1(request)?,
            registered => {
                let agent = registered?;
                self.header = HEADER;
                agent
            }
        };
        self.agents += 1;
        Ok(agent)
    }

    fn send(
        &mut self,
        agent: AgentId,
        to: Address,
        mad: &[u8],
        timeout: Option<Duration>,
        retries: u32,
    ) -> io::Result<()> {
        let milliseconds = timeout.map_or(0, |timeout| timeout.as_millis().max(1));
        let header = Header {
            agent: agent.0,
            status: 0,
            timeout_ms: u32::try_from(milliseconds).unwrap_or(i32::MAX.unsigned_abs()),
            retries,
            length: 0,
            ..Header::of(to)
        };
        let header = header.as_bytes().get(..self.header).unwrap_or_default();
        let bytes = [header, mad].concat();
        let written = self.file.write(&bytes)?;
        if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive(&mut self) -> io::Result<Option<Received>> {
        loop {
            match self.file.read(&mut self.buffer) {
                // The kernel has no such end; whatever it is, nothing more will come.
                Ok(0) => return Err(Errno::NODEV.into()),
                Ok(length) => {
                    let received = self.buffer.get(..length);
                    let received = received.and_then(|bytes| decode(bytes, self.header));
                    // The room for a long answer is given back.
                    self.buffer.truncate(HEADER + MAD);
                    self.buffer.shrink_to_fit();
                    // What is not understood is thrown away; the kernel makes no such thing.
                    match received {
                        Some(received) => return Ok(Some(received)),
                        None => continue,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel has told how long it is, and keeps it until there is room.
                Err(error) if error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) => {
                    let header = Header::read_from_prefix(&self.buffer).ok();
                    let length = header.and_then(|(header, _)| usize::try_from(header.length).ok());
                    match length.filter(|l| (self.buffer.len() + 1..=LONGEST).contains(l)) {
                        Some(length) => self.buffer.resize(length, 0),
                        None => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// `/dev/infiniband/issmN`, held open: the port says that a subnet manager runs on it (PortInfo:CapabilityMask.IsSM).
#[derive(Debug)]
pub struct IsSm(#[expect(dead_code, reason = "it is closed when this is dropped")] File);

impl IsSm {
    /// Says so until this is dropped.
    ///
    /// # Errors
    /// What open(2) says; `EAGAIN` while another says so.
    pub fn hold(node: &Path) -> io::Result<Self> {
        Ok(Self(File::from(rustix::fs::open(node, FLAGS, Mode::empty())?)))
    }
}

impl AgentRequest<'_> {
    fn qpn(&self) -> u8 {
        u8::from(!matches!(self.class, class::SUBN | class::SUBN_DIRECTED))
    }

    fn method_mask(&self) -> [u64; 2] {
        let mut mask = [0_u64; 2];
        for method in self.methods {
            if let Some(word) = mask.get_mut(usize::from(method / 64)) {
                *word |= 1 << (method % 64);
            }
        }
        mask
    }
}

impl Header {
    pub(crate) fn of(to: Address) -> Self {
        Self {
            agent: 0,
            status: 0,
            timeout_ms: 0,
            retries: 0,
            length: 0,
            qpn: to.qpn.into(),
            // The kernel has QP 1's own, whatever is said here.
            qkey: if to.qpn == 0 { 0 } else { 0x8001_0000 }.into(),
            lid: to.lid.into(),
            sl: to.sl,
            path_bits: 0,
            grh_present: u8::from(to.gid.is_some()),
            gid_index: 0,
            hop_limit: if to.gid.is_some() { 64 } else { 0 },
            traffic_class: 0,
            gid: to.gid.map_or([0; 16], |gid| gid.0.to_be_bytes()),
            flow_label: 0.into(),
            pkey_index: to.pkey_index,
            reserved: [0; 6],
        }
    }

    fn address(&self) -> Address {
        Address {
            lid: self.lid.get(),
            qpn: self.qpn.get(),
            sl: self.sl,
            pkey_index: self.pkey_index,
            gid: (self.grh_present != 0).then(|| Gid(u128::from_be_bytes(self.gid))),
        }
    }
}

/// What a read has brought; None when it is shorter than its headers.
fn decode(bytes: &[u8], header_length: usize) -> Option<Received> {
    let (header, mad) = bytes.split_at_checked(header_length)?;
    let mut whole = Header::of(Address::default());
    whole.as_mut_bytes().get_mut(..header_length)?.copy_from_slice(header);
    let header = whole;
    // IBTA: the common header.
    if mad.len() < 24 {
        return None;
    }
    let (agent, mad) = (AgentId(header.agent), mad.to_vec());
    Some(match i32::try_from(header.status) {
        Ok(0) => Received::Datagram { agent, from: header.address(), mad },
        errno => Received::Failed { agent, mad, errno: errno.unwrap_or(i32::MAX) },
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// How long the answer to what is sent is waited for, in milliseconds.
    pub(crate) fn timeout_of(packet: &[u8]) -> u32 {
        Header::read_from_prefix(packet).unwrap().0.timeout_ms
    }

    #[test]
    fn sizes_and_numbers_of_the_kernel() {
        assert_eq!(size_of::<Header>(), HEADER);
        assert_eq!(opcode::read_write::<Register1>(MAGIC, 1), 0xc01c_1b01);
        assert_eq!(opcode::none(MAGIC, 3), 0x1b03);
        assert_eq!(opcode::read_write::<Register2>(MAGIC, 4), 0xc028_1b04);
        assert_eq!(opcode::write::<u32>(MAGIC, 2), 0x4004_1b02);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn header_on_the_wire() {
        let to = Address { lid: 0x0102, qpn: 1, sl: 3, pkey_index: 4, gid: Some(Gid(5)) };
        let header = Header { agent: 7, timeout_ms: 8, ..Header::of(to) };
        let mut expected = [0; HEADER];
        expected[0] = 7;
        expected[8] = 8;
        expected[23] = 1;
        expected[24..28].copy_from_slice(&[0x80, 1, 0, 0]);
        expected[28..31].copy_from_slice(&[1, 2, 3]);
        expected[32] = 1;
        expected[34] = 64;
        expected[51] = 5;
        expected[56] = 4;
        assert_eq!(header.as_bytes(), expected);
        assert_eq!(header.address(), to);
    }

    #[test]
    fn answers_and_failures() {
        let packet = |status: u32, length: usize| {
            let header = Header { agent: 3, status, ..Header::of(Address::default()) };
            decode(&[header.as_bytes(), &vec![9; length]].concat(), HEADER)
        };
        let (agent, from) = (AgentId(3), Address::default());
        let answer = Received::Datagram { agent, from, mad: vec![9; 256] };
        assert_eq!(packet(0, 256), Some(answer));
        let failed = Received::Failed { agent, mad: vec![9; 24], errno: 110 };
        assert_eq!(packet(110, 24), Some(failed));
        assert_eq!(packet(0, 23), None);
        assert_eq!(decode(&[0; 63], HEADER), None);
        // Without the place of the P_Key.
        let header = Header { agent: 3, ..Header::of(Address { lid: 5, ..from }) };
        let old = [&header.as_bytes()[..OLD_HEADER], &[9; 256]].concat();
        let from = Address { lid: 5, ..from };
        assert_eq!(
            decode(&old, OLD_HEADER),
            Some(Received::Datagram { agent, from, mad: vec![9; 256] })
        );
        assert_eq!(decode(&[0; OLD_HEADER + 23], OLD_HEADER), None);
    }

    #[test]
    fn a_file_that_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut umad = Umad::open(file.path()).unwrap();
        let request = AgentRequest { class: 3, version: 2, methods: &[], rmpp: true };
        let error = umad.register(&request).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOTTY.raw_os_error()));
        assert!(!is_gone(&error));
        // libibumad U8: programs that are started do not have it.
        let flags = rustix::io::fcntl_getfd(&umad).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(
            Umad::open(Path::new("/nonexistent")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    proptest::proptest! {
        /// Of either header, whatever is read is understood or left out.
        #[test]
        fn any_packet(bytes: Vec<u8>) {
            for header in [HEADER, OLD_HEADER] {
                let is_long = bytes.len() >= header + 24;
                proptest::prop_assert_eq!(decode(&bytes, header).is_some(), is_long);
            }
        }
    }
}
