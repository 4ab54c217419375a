// SPDX-License-Identifier: MIT OR Apache-2.0
//! What subnet administration keeps: a record of each node, port, path, group and service.
#![expect(missing_debug_implementations, reason = "zerocopy derives types that have none")]

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::mad::{ClassPortInfo, InformInfo, MadHeader, NodeInfo, PortInfo, attribute, layouts};

/// What can be asked for. The constants of each are its components: bits of the mask that says which fields of the record
/// that is sent are looked at.
pub trait Record: FromBytes + IntoBytes + Immutable + Default {
    /// AttributeID
    const ATTRIBUTE: u16;
}

macro_rules! records {
    ($($name:ident $attribute:expr, { $($component:ident $bit:literal)* })*) => {
        $(
            impl Record for $name {
                const ATTRIBUTE: u16 = $attribute;
            }

            #[doc = concat!("Components of ", stringify!($name), ".")]
            impl $name {
                $(
                    #[doc = concat!("Component ", stringify!($bit), ".")]
                    pub const $component: u64 = 1 << $bit;
                )*
            }
        )*
    };
}

records! {
    ClassPortInfo attribute::CLASS_PORT_INFO, {}
    InformInfo attribute::INFORM_INFO, {
        GID 0 LID_RANGE_BEGIN 1 LID_RANGE_END 2 IS_GENERIC 4 SUBSCRIBE 5 TYPE 6 TRAP 7 QPN 8 RESPONSE_TIME 9 PRODUCER 12
    }
    NodeRecord 0x0011, {
        LID 0 BASE_VERSION 2 CLASS_VERSION 3 NODE_TYPE 4 PORTS 5 SYSTEM_IMAGE_GUID 6 NODE_GUID 7 PORT_GUID 8
    }
    PortInfoRecord 0x0012, {
        ENDPORT_LID 0 PORT 1 OPTIONS 2 M_KEY 3 GID_PREFIX 4 LID 5 SM_LID 6 CAPABILITIES 7
    }
    PathRecord 0x0035, {
        DGID 2 SGID 3 DLID 4 SLID 5 RAW_TRAFFIC 6 FLOW_LABEL 8 HOP_LIMIT 9 TRAFFIC_CLASS 10 REVERSIBLE 11 PATHS 12
        PKEY 13 QOS_CLASS 14 SL 15 MTU_SELECTOR 16 MTU 17 RATE_SELECTOR 18 RATE 19 LIFETIME_SELECTOR 20 LIFETIME 21
        PREFERENCE 22
    }
    McMemberRecord 0x0038, {
        MGID 0 PORT_GID 1 QKEY 2 MLID 3 MTU_SELECTOR 4 MTU 5 TRAFFIC_CLASS 6 PKEY 7 RATE_SELECTOR 8 RATE 9
        LIFETIME_SELECTOR 10 LIFETIME 11 SL 12 FLOW_LABEL 13 HOP_LIMIT 14 SCOPE 15 JOIN_STATE 16 PROXY_JOIN 17
    }
    ServiceRecord 0x0031, {
        ID 0 GID 1 PKEY 2 LEASE 4 KEY 5 NAME 6
    }
}

layouts! {
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

    /// NodeRecord
    NodeRecord 108 {
        /// Of the port that is told of.
        lid: U16,
        /// Reserved.
        reserved: U16,
        /// NodeInfo
        info: NodeInfo,
        /// NodeDescription
        description: [u8; 64],
    }

    /// PortInfoRecord
    PortInfoRecord 68 {
        /// EndportLID
        endport_lid: U16,
        /// PortNum
        port: u8,
        /// Options
        options: u8,
        /// PortInfo
        info: PortInfo,
    }

    /// PathRecord
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

    /// MCMemberRecord
    McMemberRecord 52 {
        /// MGID
        mgid: [u8; 16],
        /// PortGID
        port_gid: [u8; 16],
        /// Q_Key
        qkey: U32,
        /// MLID
        mlid: U16,
        /// Selector and MTU
        mtu: u8,
        /// TClass
        traffic_class: u8,
        /// P_Key
        pkey: U16,
        /// Selector and rate
        rate: u8,
        /// Selector and packet lifetime
        lifetime: u8,
        /// SL in the top four bits, FlowLabel, HopLimit
        sl_flow_hops: U32,
        /// Scope, and JoinState in the lower half: 1 full, 2 non-member, 4 send-only, 8 send-only full member.
        scope_and_join_state: u8,
        /// ProxyJoin in the top bit.
        proxy_join: u8,
        /// Reserved.
        reserved: U16,
    }

    /// ServiceRecord
    ServiceRecord 176 {
        /// ServiceID
        id: U64,
        /// ServiceGID
        gid: [u8; 16],
        /// ServiceP_Key
        pkey: U16,
        /// Reserved.
        reserved: U16,
        /// ServiceLease, in seconds; all ones for ever.
        lease: U32,
        /// ServiceKey
        key: [u8; 16],
        /// ServiceName, filled up with NUL.
        name: [u8; 64],
        /// ServiceData8, 16, 32 and 64.
        data: [u8; 64],
    }
}

impl PathRecord {
    /// Both components of ServiceID.
    pub const SERVICE_ID: u64 = 3;
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
    use crate::mad::{MAD_SIZE, class, method};

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
        assert_eq!(header.mad.attribute.get(), PortInfoRecord::ATTRIBUTE);
        assert_eq!(header.mad.modifier.get(), 1 << 31);
        assert_eq!((header.attribute_offset.get(), header.component_mask.get()), (8, 0x2000));
        assert_eq!(header.as_bytes(), &bytes[..56]);
    }

    #[test]
    fn offsets() {
        use std::mem::offset_of;
        for (is, should_be) in [
            (offset_of!(NodeRecord, info), 4),
            (offset_of!(NodeRecord, description), 44),
            (offset_of!(PortInfoRecord, info), 4),
            (offset_of!(PathRecord, dlid), 40),
            (offset_of!(PathRecord, pkey), 50),
            (offset_of!(PathRecord, preference), 57),
            (offset_of!(McMemberRecord, mlid), 36),
            (offset_of!(McMemberRecord, pkey), 40),
            (offset_of!(McMemberRecord, sl_flow_hops), 44),
            (offset_of!(McMemberRecord, scope_and_join_state), 48),
            (offset_of!(ServiceRecord, lease), 28),
            (offset_of!(ServiceRecord, name), 48),
            (offset_of!(ServiceRecord, data), 112),
        ] {
            assert_eq!(is, should_be);
        }
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

    proptest::proptest! {
        #[test]
        fn any_answer(bytes: Vec<u8>) {
            proptest::prop_assert!(records::<NodeRecord>(&bytes).len() <= bytes.len() / 8);
            let _ = record::<PathRecord>(&bytes);
        }
    }
}
