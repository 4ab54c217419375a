// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work requests and completions.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::AddressHandle;
use super::window::Binding;

/// Some bytes of a memory region.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Sge {
    /// Where they are.
    pub address: u64,
    /// How many.
    pub length: u32,
    /// Of the region.
    pub lkey: u32,
}

/// Has bytes be received.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveRequest<'a> {
    /// What its completion says of it.
    pub id: u64,
    /// Where they go.
    pub to: &'a [Sge],
}

/// What a send request sends.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// What is in memory when it is sent.
    Regions(&'a [Sge]),
    /// These bytes, which are copied now.
    Inline(&'a [u8]),
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Sends, to a receive request of the other side; with 32 bits beside the data.
    Send(Option<u32>),
    /// The same for datagrams (UD), each of which says where it goes.
    SendTo {
        /// The way there.
        path: &'a AddressHandle,
        /// Number of the queue pair there.
        qpn: u32,
        /// That it takes.
        qkey: u32,
        /// In the order of this machine.
        immediate: Option<u32>,
    },
    /// Writes to memory of the other side; with 32 bits it takes a receive request there.
    Write {
        /// Where.
        address: u64,
        /// Of the region there.
        rkey: u32,
        /// In the order of this machine.
        immediate: Option<u32>,
    },
    /// Reads from memory of the other side.
    Read {
        /// Where.
        address: u64,
        /// Of the region there.
        rkey: u32,
    },
    /// Replaces eight bytes of the other side if they are what is expected, and reads what they were.
    CompareSwap {
        /// Where, a multiple of eight.
        address: u64,
        /// Of the region there.
        rkey: u32,
        /// What is expected.
        compare: u64,
        /// What they become.
        swap: u64,
    },
    /// Adds to eight bytes of the other side, and reads what they were.
    FetchAdd {
        /// Where, a multiple of eight.
        address: u64,
        /// Of the region there.
        rkey: u32,
        /// How much.
        add: u64,
    },
    /// Replaces eight bytes of the other side in one step (Linux 6.3). There are no other data.
    AtomicWrite {
        /// Where, a multiple of eight.
        address: u64,
        /// Of the region there.
        rkey: u32,
        /// What they become, as they are to stand there.
        value: [u8; 8],
    },
    /// Is done when what was written there before is where it is to be, for which the region allows
    /// [`FLUSH_GLOBAL`](super::Access::FLUSH_GLOBAL) or [`FLUSH_PERSISTENT`](super::Access::FLUSH_PERSISTENT). There are no data.
    Flush {
        /// Where.
        address: u64,
        /// How many bytes; None for the whole region.
        length: Option<u32>,
        /// Of the region there.
        rkey: u32,
        /// Where what was written is to be.
        placement: Placement,
    },
    /// Binds a memory window: see [`MemoryWindow::bind`](super::MemoryWindow::bind). There are no data.
    Bind(Binding),
    /// Has a key of this side's (of a window) be nobody's any more. There are no data.
    Invalidate {
        /// It.
        rkey: u32,
    },
    /// Sends, and has a key of the other side's be nobody's any more.
    SendInvalidate {
        /// It.
        rkey: u32,
    },
}

/// Where what was written to the other side is (IBTA, memory placement extensions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Whoever looks there sees it.
    Visible = 1,
    /// It is there when the power has failed.
    Persistent = 2,
}

impl Operation<'_> {
    /// What every driver is told.
    #[inline]
    pub(super) fn told(&self) -> Told {
        let of = |opcode, immediate: Option<u32>, address| {
            let opcode = opcode + u32::from(immediate.is_some());
            Told { opcode, beside: immediate.unwrap_or(0).to_be_bytes(), address }
        };
        let of_key = |opcode, rkey: u32| Told { opcode, beside: rkey.to_ne_bytes(), address: 0 };
        match *self {
            Self::Write { address, immediate, .. } => of(0, immediate, address),
            Self::Send(immediate) | Self::SendTo { immediate, .. } => of(2, immediate, 0),
            Self::Read { address, .. } => of(4, None, address),
            Self::CompareSwap { address, .. } => of(5, None, address),
            Self::FetchAdd { address, .. } => of(6, None, address),
            Self::Invalidate { rkey } => of_key(7, rkey),
            Self::Bind(_) => of(8, None, 0),
            Self::SendInvalidate { rkey } => of_key(9, rkey),
            Self::Flush { address, .. } => of(14, None, address),
            Self::AtomicWrite { address, .. } => of(15, None, address),
        }
    }

    /// What it is called where it is not done.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Send(None) => "sends",
            Self::Read { .. } => "RDMA reads",
            Self::Write { immediate: None, .. } => "RDMA writes",
            Self::Send(_) | Self::Write { .. } => "immediate data",
            Self::SendTo { .. } => "datagrams",
            Self::CompareSwap { .. } | Self::FetchAdd { .. } | Self::AtomicWrite { .. } => {
                "atomics"
            }
            Self::Flush { .. } => "flushes of memory",
            Self::Bind(_) => "memory windows",
            Self::Invalidate { .. } | Self::SendInvalidate { .. } => "invalidation of keys",
        }
    }

    /// What drivers have in one union: words of it, from its beginning. Of a datagram that is the driver's own.
    pub(super) fn remote(self) -> [u32; 8] {
        let ([address, compare, swap], rkey, rkey_at) = match self {
            Self::Bind(binding) => return zerocopy::transmute!(binding),
            Self::Send(_)
            | Self::SendTo { .. }
            | Self::Invalidate { .. }
            | Self::SendInvalidate { .. } => return [0; 8],
            Self::Write { address, rkey, .. }
            | Self::Read { address, rkey }
            | Self::AtomicWrite { address, rkey, .. } => ([address, 0, 0], rkey, 2),
            Self::Flush { address, length, rkey, placement } => {
                let is_all = u8::from(length.is_none());
                let how = u32::from_ne_bytes([placement as u8, is_all, 0, 0]);
                let [low, high] = zerocopy::transmute!(address);
                return [low, high, length.unwrap_or(0), rkey, how, 0, 0, 0];
            }
            Self::CompareSwap { address, rkey, compare, swap } => {
                ([address, compare, swap], rkey, 6)
            }
            Self::FetchAdd { address, rkey, add } => ([address, add, 0], rkey, 6),
        };
        let mut words: [u32; 8] = zerocopy::transmute!([address, compare, swap, 0]);
        words[rkey_at] = rkey;
        words
    }
}

/// What every driver is told of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// `enum ib_uverbs_wr_opcode`
    pub(super) opcode: u32,
    /// The 32 bits beside the data, or the key that becomes invalid.
    pub(super) beside: [u8; 4],
    /// Where on the other side.
    pub(super) address: u64,
}

/// `IB_SEND_SIGNALED`
pub(super) const SIGNALED: u32 = 2;

/// Has something be sent, written or read.
#[derive(Clone, Copy, Debug)]
pub struct SendRequest<'a> {
    /// What its completion says of it.
    pub id: u64,
    /// What is done.
    pub operation: Operation<'a>,
    /// With what.
    pub data: Data<'a>,
    /// Whether there is a completion also when it has succeeded.
    pub signaled: bool,
    /// Whether the other side is told by an event, where it has asked for such.
    pub solicited: bool,
    /// Whether it is begun only when all reads and atomics before it are done, so that it can have what they have read.
    pub fenced: bool,
}

impl<'a> SendRequest<'a> {
    /// A signaled one.
    #[must_use]
    pub fn new(id: u64, operation: Operation<'a>, data: Data<'a>) -> Self {
        Self { id, operation, data, signaled: true, solicited: false, fenced: false }
    }
}

impl SendRequest<'_> {
    /// `enum ib_send_flags`
    pub(super) fn flags(&self, inline: bool) -> u32 {
        let [fenced, signaled, solicited, inline] =
            [self.fenced, self.signaled, self.solicited, inline].map(u32::from);
        fenced | (signaled * SIGNALED) | (solicited << 2) | (inline << 3)
    }
}

/// `IBV_WC_*`: how a work request has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct WorkStatus(pub u32);

impl WorkStatus {
    /// It was done.
    pub const SUCCESS: Self = Self(0);
    /// The queue pair is in the error state, and nothing was done.
    pub const FLUSHED: Self = Self(5);
    /// The other side has not answered.
    pub const RETRIES_EXCEEDED: Self = Self(12);
    /// The other side had no receive request.
    pub const RNR_RETRIES_EXCEEDED: Self = Self(13);
}

impl std::fmt::Display for WorkStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [
            "success",
            "local length error",
            "local queue pair operation error",
            "local EE context operation error",
            "local protection error",
            "flushed",
            "memory window bind error",
            "bad response",
            "local access error",
            "remote invalid request",
            "remote access error",
            "remote operation error",
            "no answer in spite of all retries",
            "the other side was not ready in spite of all retries",
        ];
        let word = usize::try_from(self.0).ok().and_then(|n| words.get(n));
        write!(f, "{} (status {})", word.unwrap_or(&"failed"), self.0)
    }
}

/// `struct ib_uverbs_wc`: a work request that has ended. Of one that has failed only `id`, `status`, `vendor_error` and
/// `qpn` mean something.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Completion {
    /// The request's.
    pub id: u64,
    /// How it has ended.
    pub status: WorkStatus,
    /// 0 send, 1 write, 2 read, 3 compare and swap, 4 fetch and add, 5 bind, 6 invalidation, 8 flush, 9 atomic write, 128 receive, 129 receive of a
    /// write's 32 bits.
    pub opcode: u32,
    /// The vendor's.
    pub vendor_error: u32,
    /// Bytes that were received.
    pub length: u32,
    /// The 32 bits beside the data, in network order; or the key that was invalidated, in that of this machine.
    pub immediate: [u8; 4],
    /// Of the queue pair.
    pub qpn: u32,
    /// Of who has sent (UD).
    pub source_qpn: u32,
    /// `IB_WC_*` of the kernel: 1 global route header, 2 there are 32 bits beside the data, 4 a key was invalidated.
    pub flags: u32,
    /// Place of the P_Key.
    pub pkey_index: u16,
    /// LID of who has sent (UD).
    pub source_lid: u16,
    /// Service level.
    pub sl: u8,
    /// Of the own LID, the bits that the port has to itself.
    pub path_bits: u8,
    /// From 1.
    pub port: u8,
    /// Reserved.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Completion>() == 48 && size_of::<Sge>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_union() {
        let (address, rkey) = (0x1_0000_0002_u64.to_le(), 7);
        let [low, high] = [2_u32.to_le(), 1_u32.to_le()];
        let of = |operation: Operation<'_>| (operation.told().opcode, operation.remote());
        let write = Operation::Write { address, rkey, immediate: None };
        assert_eq!(of(write), (0, [low, high, rkey, 0, 0, 0, 0, 0]));
        let (compare, swap) = (3_u64.to_le(), 4_u64.to_le());
        let atomic = Operation::CompareSwap { address, rkey, compare, swap };
        assert_eq!(of(atomic), (5, [low, high, 3_u32.to_le(), 0, 4_u32.to_le(), 0, rkey, 0]));
        assert_eq!(of(Operation::Send(Some(1))), (3, [0; 8]));
        let flush =
            |length| of(Operation::Flush { address, length, rkey, placement: Placement::Visible });
        let how = |is_all| u32::from_ne_bytes([1, is_all, 0, 0]);
        assert_eq!(flush(Some(9)), (14, [low, high, 9, rkey, how(0), 0, 0, 0]));
        assert_eq!(flush(None), (14, [low, high, 0, rkey, how(1), 0, 0, 0]));
    }
}
