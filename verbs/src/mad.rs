// SPDX-License-Identifier: MIT OR Apache-2.0
//! Management datagrams (IBTA volume 1, chapter 13) and those of subnet administration (15) and device management (16.3).
//! Everything is big-endian on the wire; a layout reads and writes the bytes where they are.
#![expect(missing_debug_implementations, reason = "zerocopy derives types that have none")]

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, Unaligned};

use crate::Gid;

/// The size of a datagram.
pub const MAD_SIZE: usize = 256;

/// Management classes.
pub mod class {
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
    /// The bit that makes an answer of a request.
    pub const RESPONSE: u8 = 0x80;
}

/// Attributes, by class.
pub mod attribute {
    /// ClassPortInfo, of every class.
    pub const CLASS_PORT_INFO: u16 = 0x0001;
    /// Notice, of every class.
    pub const NOTICE: u16 = 0x0002;
    /// InformInfo, of every class.
    pub const INFORM_INFO: u16 = 0x0003;
    /// DevMgt: IOUnitInfo
    pub const IO_UNIT_INFO: u16 = 0x0010;
    /// DevMgt: IOControllerProfile, of the controller in the slot that the modifier says
    pub const IO_CONTROLLER_PROFILE: u16 = 0x0011;
    /// DevMgt: ServiceEntries, four of them
    pub const SERVICE_ENTRIES: u16 = 0x0012;
    /// SubnAdm: NodeRecord
    pub const NODE_RECORD: u16 = 0x0011;
    /// SubnAdm: PortInfoRecord
    pub const PORT_INFO_RECORD: u16 = 0x0012;
    /// SubnAdm: PathRecord
    pub const PATH_RECORD: u16 = 0x0035;
}

macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident $size:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, Unaligned,
            )]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            const _: () = assert!(size_of::<$name>() == $size);

            impl Default for $name {
                fn default() -> Self {
                    Self::new_zeroed()
                }
            }
        )*
    };
}

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

    /// The header of subnet administration: the common one, RMPP, and what selects records.
    SaHeader 56 {
        /// The common header.
        mad: MadHeader,
        /// 1 where RMPP is used.
        rmpp_version: u8,
        /// RMPPType: 1 DATA.
        rmpp_type: u8,
        /// Response time and flags: 1 active, 2 first, 4 last.
        rmpp_flags: u8,
        /// RMPPStatus
        rmpp_status: u8,
        /// Number of the segment.
        segment: U32,
        /// Length of the payload.
        payload_length: U32,
        /// SM_Key
        sm_key: U64,
        /// From one record to the next, in units of eight bytes; 0 without records.
        attribute_offset: U16,
        /// Reserved.
        reserved: U16,
        /// Which components of the record that is sent are looked at.
        component_mask: U64,
    }

    /// SubnAdm: NodeRecord, of which the first bytes are NodeInfo's.
    NodeRecord 108 {
        /// Of the port that is told of.
        lid: U16,
        /// Reserved.
        reserved: U16,
        /// NodeInfo:BaseVersion
        base_version: u8,
        /// NodeInfo:ClassVersion
        class_version: u8,
        /// NodeInfo:NodeType: 1 channel adapter, 2 switch, 3 router.
        node_type: u8,
        /// NodeInfo:NumPorts
        ports: u8,
        /// NodeInfo:SystemImageGUID
        system_image_guid: U64,
        /// NodeInfo:NodeGUID
        node_guid: U64,
        /// NodeInfo:PortGUID
        port_guid: U64,
        /// NodeInfo:PartitionCap
        partition_cap: U16,
        /// NodeInfo:DeviceID
        device_id: U16,
        /// NodeInfo:Revision
        revision: U32,
        /// NodeInfo:LocalPortNum, and VendorID in the lower three bytes.
        port_and_vendor: U32,
        /// NodeDescription
        description: [u8; 64],
    }

    /// SubnAdm: PortInfoRecord, as far as every subnet manager sends it; records may be longer.
    PortInfoRecord 58 {
        /// EndportLID
        endport_lid: U16,
        /// PortNum
        port: u8,
        /// Options
        options: u8,
        /// PortInfo:M_Key
        m_key: U64,
        /// PortInfo:GidPrefix
        gid_prefix: U64,
        /// PortInfo:LID
        lid: U16,
        /// PortInfo:MasterSMLID
        sm_lid: U16,
        /// PortInfo:CapabilityMask
        capabilities: U32,
        /// The rest of PortInfo.
        rest: [u8; 30],
    }

    /// SubnAdm: PathRecord
    PathRecord 64 {
        /// ServiceID
        service_id: U64,
        /// DGID
        dgid: [u8; 16],
        /// SGID
        sgid: [u8; 16],
        /// DLID
        dlid: U16,
        /// SLID
        slid: U16,
        /// RawTraffic, FlowLabel, HopLimit
        flow: U32,
        /// TClass
        traffic_class: u8,
        /// Reversible in the top bit, NumbPath
        reversible_and_paths: u8,
        /// P_Key
        pkey: U16,
        /// QoSClass, and SL in the lowest four bits
        qos_and_sl: U16,
        /// Selector and MTU
        mtu: u8,
        /// Selector and rate
        rate: u8,
        /// Selector and packet lifetime
        lifetime: u8,
        /// Preference
        preference: u8,
        /// Reserved.
        reserved: [u8; 6],
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

    /// DevMgt: a datagram, whose data begin at byte 64.
    DmMad 256 {
        /// The common header.
        mad: MadHeader,
        /// Reserved.
        reserved: [u8; 40],
        /// The attribute.
        data: [u8; 192],
    }

    /// DevMgt: IOUnitInfo
    IoUnitInfo 132 {
        /// Another number than before says that something is not as it was.
        change_id: U16,
        /// How many slots there are.
        max_controllers: u8,
        /// Diagnostics, option ROM
        options: u8,
        /// Four bits a slot, the upper half of a byte first: 0 nothing, 1 a controller, 15 no slot.
        controllers: [u8; 128],
    }

    /// DevMgt: IOControllerProfile
    IoControllerProfile 128 {
        /// GUID of the controller.
        guid: U64,
        /// VendorID in the upper three bytes.
        vendor_id: U32,
        /// DeviceID
        device_id: U32,
        /// DeviceVersion
        device_version: U16,
        /// Reserved.
        reserved: U16,
        /// SubsystemVendorID
        subsystem_vendor_id: U32,
        /// SubsystemID
        subsystem_id: U32,
        /// IOClass: 0x0100 SRP, 0xff00 SRP of revision 10.
        io_class: U16,
        /// IOSubclass
        io_subclass: U16,
        /// Protocol
        protocol: U16,
        /// ProtocolVersion
        protocol_version: U16,
        /// Reserved.
        reserved_2: U32,
        /// SendMessageDepth
        send_depth: U16,
        /// Reserved.
        reserved_3: u8,
        /// RDMAReadDepth
        read_depth: u8,
        /// SendMessageSize, in bytes.
        send_size: U32,
        /// RDMATransferSize, in bytes.
        transfer_size: U32,
        /// ControllerOperationsMask
        operations: u8,
        /// Reserved.
        reserved_4: u8,
        /// How many ServiceEntries there are.
        services: u8,
        /// Reserved.
        reserved_5: [u8; 9],
        /// IDString, UTF-8, filled up with NUL.
        id: [u8; 64],
    }

    /// DevMgt: one of the four entries of ServiceEntries.
    ServiceEntry 48 {
        /// ServiceName, filled up with NUL.
        name: [u8; 40],
        /// ServiceID
        id: U64,
    }
}

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

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
            status if status & 1 != 0 => Some("busy"),
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

/// The records in an answer of subnet administration: each as long as the answer says, which may be longer than `T` is, or
/// shorter by what older managers do not send. None where there are none.
pub fn records<T: FromBytes + IntoBytes>(mad: &[u8]) -> Vec<T> {
    let Ok((header, data)) = SaHeader::read_from_prefix(mad) else { return Vec::new() };
    let stride = usize::from(header.attribute_offset.get()) * 8;
    if stride == 0 {
        return Vec::new();
    }
    let read = |bytes: &[u8]| {
        let mut record = T::new_zeroed();
        let length = size_of::<T>().min(bytes.len());
        record.as_mut_bytes().get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
        Some(record)
    };
    data.chunks_exact(stride).filter_map(read).collect()
}

/// The one record of an answer to Get; None when it is shorter.
#[must_use]
pub fn record<T: FromBytes>(mad: &[u8]) -> Option<T> {
    let data = mad.get(size_of::<SaHeader>()..)?;
    Some(T::read_from_prefix(data).ok()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_they_are_on_the_wire() {
        let mut bytes = [0; MAD_SIZE];
        bytes[..24].copy_from_slice(
            b"\x01\x03\x02\x92\x04\x00\0\0\0\0\0\x07\0\0\0\x09\0\x12\0\0\x80\0\0\0",
        );
        bytes[44..46].copy_from_slice(&[0, 8]);
        bytes[54] = 0x20;
        let header = SaHeader::read_from_prefix(&bytes).unwrap().0;
        assert_eq!(
            (header.mad.class, header.mad.method),
            (class::SUBN_ADM, method::GET_TABLE | 0x80)
        );
        assert_eq!(header.mad.status.get(), 0x0400);
        assert_eq!(header.mad.transaction.get(), 7 << 32 | 9);
        assert_eq!(header.mad.attribute.get(), attribute::PORT_INFO_RECORD);
        assert_eq!(header.mad.modifier.get(), 1 << 31);
        assert_eq!((header.attribute_offset.get(), header.component_mask.get()), (8, 0x2000));
        assert_eq!(header.as_bytes(), &bytes[..56]);
    }

    #[test]
    fn offsets_of_records() {
        use std::mem::offset_of;
        for (is, should_be) in [
            (offset_of!(NodeRecord, system_image_guid), 8),
            (offset_of!(NodeRecord, port_guid), 24),
            (offset_of!(NodeRecord, port_and_vendor), 40),
            (offset_of!(NodeRecord, description), 44),
            (offset_of!(PortInfoRecord, gid_prefix), 12),
            (offset_of!(PortInfoRecord, lid), 20),
            (offset_of!(PortInfoRecord, capabilities), 24),
            (offset_of!(PathRecord, dlid), 40),
            (offset_of!(PathRecord, pkey), 50),
            (offset_of!(PathRecord, preference), 57),
            (offset_of!(InformInfo, trap), 26),
            (offset_of!(InformInfo, producer), 32),
            (offset_of!(Notice, trap), 4),
            (offset_of!(Notice, details), 10),
            (offset_of!(Notice, issuer_gid), 64),
            (offset_of!(DmMad, data), 64),
            (offset_of!(IoUnitInfo, controllers), 4),
            (offset_of!(IoControllerProfile, io_class), 28),
            (offset_of!(IoControllerProfile, send_size), 44),
            (offset_of!(IoControllerProfile, services), 54),
            (offset_of!(IoControllerProfile, id), 64),
        ] {
            assert_eq!(is, should_be);
        }
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

    /// Records may be longer than they are known here, or shorter; without an offset there are none.
    #[test]
    fn records_go_by_the_offset() {
        let answer = |offset: u16, data: &[u8]| {
            let header = SaHeader { attribute_offset: offset.into(), ..SaHeader::default() };
            [header.as_bytes(), data].concat()
        };
        let lids = |mad: &[u8]| -> Vec<u16> {
            records::<PortInfoRecord>(mad).iter().map(|r| r.endport_lid.get()).collect()
        };
        let mut data = [0; 3 * 64];
        (data[1], data[64 + 1], data[128 + 1]) = (1, 2, 3);
        assert_eq!(lids(&answer(8, &data)), [1, 2, 3]);
        assert_eq!(lids(&answer(8, &data[..100])), [1]);
        assert_eq!(lids(&answer(1, &data[..8])), [1]);
        assert_eq!(lids(&answer(0, &data)), [0; 0]);
        assert_eq!(lids(&[0; 55]), [0; 0]);
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
        fn any_answer(bytes: Vec<u8>) {
            proptest::prop_assert!(records::<NodeRecord>(&bytes).len() <= bytes.len() / 8);
            let _ = (record::<PathRecord>(&bytes), text(&bytes));
        }
    }
}
