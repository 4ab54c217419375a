// SPDX-License-Identifier: MIT OR Apache-2.0
//! Management datagrams (IBTA volume 1, chapter 13) and those of subnet management (14). Everything is big-endian on the
//! wire; a layout reads and writes the bytes where they are. Those of subnet administration are in [`crate::sa`], those of
//! device management in [`crate::dm`].
#![expect(missing_debug_implementations, reason = "zerocopy derives types that have none")]

use zerocopy::FromBytes as _;
use zerocopy::big_endian::{U16, U32, U64};

use crate::Gid;

/// The size of a datagram.
pub const MAD_SIZE: usize = 256;

/// Management classes.
pub mod class {
    /// Subn, routed by LID
    pub const SUBN: u8 = 0x01;
    /// Subn, by directed route
    pub const SUBN_DIRECTED: u8 = 0x81;
    /// SubnAdm
    pub const SUBN_ADM: u8 = 0x03;
    /// DevMgt
    pub const DEV_MGT: u8 = 0x06;
}

/// Methods.
pub mod method {
    /// Get
    pub const GET: u8 = 0x01;
    /// Set
    pub const SET: u8 = 0x02;
    /// Report: a notice for who has asked for such.
    pub const REPORT: u8 = 0x06;
    /// SubnAdmGetTable
    pub const GET_TABLE: u8 = 0x12;
    /// SubnAdmDelete
    pub const DELETE: u8 = 0x15;
    /// The bit that makes an answer of a request.
    pub const RESPONSE: u8 = 0x80;
}

/// Attributes that every class has, and those of subnet management.
pub mod attribute {
    /// ClassPortInfo, of every class.
    pub const CLASS_PORT_INFO: u16 = 0x0001;
    /// Notice, of every class.
    pub const NOTICE: u16 = 0x0002;
    /// InformInfo, of every class.
    pub const INFORM_INFO: u16 = 0x0003;
    /// Subn: NodeDescription
    pub const NODE_DESCRIPTION: u16 = 0x0010;
    /// Subn: NodeInfo
    pub const NODE_INFO: u16 = 0x0011;
    /// Subn: PortInfo, of the port that the modifier says
    pub const PORT_INFO: u16 = 0x0015;
}

macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident $size:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes,
                zerocopy::Immutable,
            )]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            const _: () = assert!(size_of::<$name>() == $size);

            impl Default for $name {
                fn default() -> Self {
                    zerocopy::FromZeros::new_zeroed()
                }
            }
        )*
    };
}

pub(crate) use layouts;

layouts! {
    /// The common header of every datagram.
    MadHeader 24 {
        /// 1
        base_version: u8,
        /// Management class.
        class: u8,
        /// Of the class.
        class_version: u8,
        /// What is asked or answered.
        method: u8,
        /// 0 in requests; see [`Status`].
        status: U16,
        /// Of the class's own.
        class_specific: U16,
        /// TransactionID; the kernel has the upper half of a request's.
        transaction: U64,
        /// AttributeID
        attribute: U16,
        /// Reserved.
        reserved: U16,
        /// AttributeModifier
        modifier: U32,
    }

    /// Subn: a datagram, whose data begin at byte 64. With a directed route its status has the direction in the top bit.
    Smp 256 {
        /// The common header; of a directed route `class_specific` has hop pointer and hop count.
        mad: MadHeader,
        /// M_Key
        m_key: U64,
        /// DrSLID
        directed_slid: U16,
        /// DrDLID
        directed_dlid: U16,
        /// Reserved.
        reserved: [u8; 28],
        /// The attribute.
        data: [u8; 64],
        /// InitialPath: from index 1, the port to leave by at each hop.
        initial_path: [u8; 64],
        /// ReturnPath
        return_path: [u8; 64],
    }

    /// NodeInfo
    NodeInfo 40 {
        /// BaseVersion
        base_version: u8,
        /// ClassVersion
        class_version: u8,
        /// NodeType: 1 channel adapter, 2 switch, 3 router.
        node_type: u8,
        /// NumPorts
        ports: u8,
        /// SystemImageGUID
        system_image_guid: U64,
        /// NodeGUID
        node_guid: U64,
        /// PortGUID
        port_guid: U64,
        /// PartitionCap
        partition_cap: U16,
        /// DeviceID
        device_id: U16,
        /// Revision
        revision: U32,
        /// LocalPortNum in the top byte, and VendorID.
        port_and_vendor: U32,
    }

    /// PortInfo
    PortInfo 64 {
        /// M_Key
        m_key: U64,
        /// GidPrefix
        gid_prefix: U64,
        /// LID
        lid: U16,
        /// MasterSMLID
        sm_lid: U16,
        /// CapabilityMask
        capabilities: U32,
        /// DiagCode
        diag_code: U16,
        /// M_KeyLeasePeriod, in seconds.
        m_key_lease: U16,
        /// LocalPortNum
        local_port: u8,
        /// LinkWidthEnabled
        width_enabled: u8,
        /// LinkWidthSupported
        width_supported: u8,
        /// LinkWidthActive
        width_active: u8,
        /// LinkSpeedSupported, and PortState in the lower half.
        speed_and_state: u8,
        /// PortPhysicalState, and LinkDownDefaultState
        physical_state: u8,
        /// M_KeyProtectBits, and LMC in the lowest three bits.
        protection_and_lmc: u8,
        /// LinkSpeedActive, and LinkSpeedEnabled
        speeds: u8,
        /// NeighborMTU, and MasterSMSL in the lower half.
        mtu_and_sm_sl: u8,
        /// VLCap, and InitType
        vl_cap: u8,
        /// VLHighLimit
        vl_high_limit: u8,
        /// VLArbitrationHighCap
        vl_arbitration_high: u8,
        /// VLArbitrationLowCap
        vl_arbitration_low: u8,
        /// InitTypeReply, and MTUCap in the lower half.
        mtu_cap: u8,
        /// VLStallCount, and HOQLife
        hoq_life: u8,
        /// OperationalVLs, and what is enforced.
        operational_vls: u8,
        /// M_KeyViolations
        m_key_violations: U16,
        /// P_KeyViolations
        pkey_violations: U16,
        /// Q_KeyViolations
        qkey_violations: U16,
        /// GUIDCap
        guid_cap: u8,
        /// ClientReregister in the top bit, and SubnetTimeOut in the lowest five.
        subnet_timeout: u8,
        /// RespTimeValue in the lowest five bits.
        response_time: u8,
        /// LocalPhyErrors, and OverrunErrors
        error_thresholds: u8,
        /// What newer revisions have put behind it.
        rest: [u8; 10],
    }

    /// ClassPortInfo
    ClassPortInfo 72 {
        /// BaseVersion
        base_version: u8,
        /// ClassVersion
        class_version: u8,
        /// CapabilityMask
        capabilities: U16,
        /// CapabilityMask2, and RespTimeValue in the lowest five bits
        capabilities_2: U32,
        /// Where to ask instead, and where traps go.
        rest: [u8; 64],
    }

    /// InformInfo: which notices are to be reported.
    InformInfo 36 {
        /// Of whom; zero for all.
        gid: [u8; 16],
        /// LIDRangeBegin: of whom; 0xffff for all.
        lid_range_begin: U16,
        /// LIDRangeEnd
        lid_range_end: U16,
        /// Reserved.
        reserved: U16,
        /// IsGeneric
        is_generic: u8,
        /// 1 to have them reported, 0 to have them reported no more.
        subscribe: u8,
        /// Type
        kind: U16,
        /// TrapNumber
        trap: U16,
        /// QPN in the upper three bytes, and RespTimeValue.
        qpn: U32,
        /// ProducerType in the lower three bytes.
        producer: U32,
    }

    /// Notice: what has happened.
    Notice 80 {
        /// IsGeneric in the top bit, and Type.
        kind: u8,
        /// ProducerType
        producer: [u8; 3],
        /// TrapNumber
        trap: U16,
        /// Who tells of it.
        issuer_lid: U16,
        /// NoticeToggle in the top bit, and NoticeCount.
        toggle_and_count: U16,
        /// DataDetails, of the trap's own.
        details: [u8; 54],
        /// Who tells of it.
        issuer_gid: [u8; 16],
    }
}

impl Smp {
    /// A question by a directed route, which lists the port to leave by at each hop; None where it has more than 63.
    #[must_use]
    pub fn directed(attribute: u16, modifier: u32, route: &[u8]) -> Option<Self> {
        /// The permissive LID: the route alone leads there, and back.
        const PERMISSIVE: u16 = 0xffff;
        let mut smp = Self {
            mad: MadHeader {
                attribute: attribute.into(),
                modifier: modifier.into(),
                // Hop pointer 0 and hop count.
                class_specific: u16::try_from(route.len()).ok()?.into(),
                ..MadHeader::request(class::SUBN_DIRECTED, 1, method::GET)
            },
            directed_slid: PERMISSIVE.into(),
            directed_dlid: PERMISSIVE.into(),
            ..Self::default()
        };
        smp.initial_path.get_mut(1..=route.len())?.copy_from_slice(route);
        Some(smp)
    }
}

impl MadHeader {
    /// Of a request.
    #[must_use]
    pub fn request(class: u8, class_version: u8, method: u8) -> Self {
        Self { base_version: 1, class, class_version, method, ..Self::default() }
    }

    /// How it was answered; the bit that only has the direction of a directed route is left out.
    #[must_use]
    pub fn status(&self) -> Status {
        let direction = if self.class == class::SUBN_DIRECTED { 1 << 15 } else { 0 };
        Status(self.status.get() & !direction)
    }

    /// That of a datagram; None where it is shorter.
    #[must_use]
    pub fn of(mad: &[u8]) -> Option<Self> {
        Some(Self::read_from_prefix(mad).ok()?.0)
    }
}

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// Whether the same question can be answered later.
    #[must_use]
    pub fn is_busy(self) -> bool {
        self.0 & 1 != 0
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let common = ["", "bad version", "unknown method", "unknown attribute"];
        let of_class = [
            "",
            "no resources",
            "invalid request",
            "no records",
            "too many records",
            "invalid GID",
            "insufficient components",
            "denied",
        ];
        let word = |words: &[&'static str], n: u16| {
            words.get(usize::from(n)).copied().filter(|word| !word.is_empty())
        };
        let said = match self.0 {
            0 => Some("success"),
            _ if self.is_busy() => Some("busy"),
            status if status & 2 != 0 => Some("to be asked elsewhere"),
            status if status >> 2 & 7 == 7 => Some("invalid value"),
            status => word(&common, status >> 2 & 7).or_else(|| word(&of_class, status >> 8)),
        };
        write!(f, "{} (status 0x{:04x})", said.unwrap_or("refused"), self.0)
    }
}

/// A notice that has a meaning here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Trap 64: a port can be reached now.
    InService(Gid),
    /// Trap 65: it cannot any more.
    OutOfService(Gid),
    /// Trap 144: a port has other capabilities than before.
    Capabilities {
        /// Which port.
        lid: u16,
        /// PortInfo:CapabilityMask
        mask: u32,
    },
}

impl Notice {
    /// What it says; None where it is of no interest, as a new node description.
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        /// OtherLocalChanges: what has changed is not the capabilities.
        const OTHER: u8 = 1;
        let gid = || Some(Gid(u128::from_be_bytes(*self.details.get(6..)?.first_chunk()?)));
        match self.trap.get() {
            64 => Some(Event::InService(gid()?)),
            65 => Some(Event::OutOfService(gid()?)),
            144 if self.details.get(5)? & OTHER == 0 => Some(Event::Capabilities {
                lid: u16::from_be_bytes(*self.details.get(2..)?.first_chunk()?),
                mask: u32::from_be_bytes(*self.details.get(6..)?.first_chunk()?),
            }),
            _ => None,
        }
    }
}

/// Text of a fixed length that is filled up with NUL. What is not UTF-8, or a control character, is replaced.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    #[test]
    fn offsets() {
        use std::mem::offset_of;
        for (is, should_be) in [
            (offset_of!(Smp, m_key), 24),
            (offset_of!(Smp, directed_slid), 32),
            (offset_of!(Smp, data), 64),
            (offset_of!(Smp, return_path), 192),
            (offset_of!(NodeInfo, port_guid), 20),
            (offset_of!(NodeInfo, revision), 32),
            (offset_of!(PortInfo, capabilities), 20),
            (offset_of!(PortInfo, local_port), 28),
            (offset_of!(PortInfo, speed_and_state), 32),
            (offset_of!(PortInfo, mtu_and_sm_sl), 36),
            (offset_of!(PortInfo, m_key_violations), 44),
            (offset_of!(PortInfo, subnet_timeout), 51),
            (offset_of!(InformInfo, trap), 26),
            (offset_of!(InformInfo, producer), 32),
            (offset_of!(Notice, trap), 4),
            (offset_of!(Notice, details), 10),
            (offset_of!(Notice, issuer_gid), 64),
        ] {
            assert_eq!(is, should_be);
        }
    }

    #[test]
    fn directed_route() {
        let smp = Smp::directed(attribute::NODE_INFO, 0, &[1, 7]).unwrap();
        let bytes = smp.as_bytes();
        assert_eq!(&bytes[..8], [1, 0x81, 1, 1, 0, 0, 0, 2]);
        assert_eq!(&bytes[32..36], [0xff; 4]);
        assert_eq!(&bytes[128..132], [0, 1, 7, 0]);
        assert!(Smp::directed(0, 0, &[1; 63]).is_some());
        assert!(Smp::directed(0, 0, &[1; 64]).is_none());
    }

    #[test]
    fn notices() {
        let notice = |trap: u16, at: usize, bytes: &[u8]| {
            let mut notice = Notice { trap: trap.into(), ..Notice::default() };
            // Offsets are those in the notice.
            notice.details[at - 10..at - 10 + bytes.len()].copy_from_slice(bytes);
            notice.event()
        };
        let gid = Gid(0xfe80 << 112 | 7);
        assert_eq!(notice(64, 16, &gid.0.to_be_bytes()), Some(Event::InService(gid)));
        assert_eq!(notice(65, 16, &gid.0.to_be_bytes()), Some(Event::OutOfService(gid)));
        let changed = notice(144, 12, &[0, 9, 0, 0, 0, 8, 0, 0]);
        assert_eq!(changed, Some(Event::Capabilities { lid: 9, mask: 1 << 19 }));
        // A new node description (rdma-core S14).
        assert_eq!(notice(144, 12, &[0, 9, 0, 1, 0, 8, 0, 0, 0, 1]), None);
        assert_eq!(notice(128, 12, &[0, 9]), None);
    }

    #[test]
    fn words() {
        assert_eq!(Status(0x0300).to_string(), "no records (status 0x0300)");
        assert_eq!(Status(0x000c).to_string(), "unknown attribute (status 0x000c)");
        assert_eq!(Status(1).to_string(), "busy (status 0x0001)");
        assert_eq!(Status(0x7f00).to_string(), "refused (status 0x7f00)");
        assert_eq!(text(b"a\x07\xff\0b"), "a\u{fffd}\u{fffd}");
    }

    proptest::proptest! {
        #[test]
        fn any_text(bytes: Vec<u8>) {
            proptest::prop_assert!(!text(&bytes).contains('\0'));
        }
    }
}
