// SPDX-License-Identifier: MIT OR Apache-2.0
//! `RDMA_NLDEV_ATTR_*`: one attribute, decoded and encoded.

use netlink_packet_core::{
    DecodeError, NLA_F_NESTED, NLA_F_NET_BYTEORDER, NlaBuffer, NlasIterator,
};

/// A type that an attribute can carry, in host byte order.
trait Value: Sized {
    fn read(bytes: &[u8]) -> Option<Self>;
    fn bytes(&self) -> Vec<u8>;
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_ne_bytes)
            }
            fn bytes(&self) -> Vec<u8> {
                self.to_ne_bytes().to_vec()
            }
        }
    )*};
}
integer!(u8, u32, u64);

impl Value for String {
    /// Text that ends in its only NUL.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (last, text) = bytes.split_last()?;
        let whole = *last == 0 && !text.contains(&0);
        whole.then(|| std::str::from_utf8(text).ok().map(str::to_owned)).flatten()
    }
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.as_bytes().to_vec();
        bytes.push(0);
        bytes
    }
}

macro_rules! attributes {
    ($($(#[$doc:meta])* $number:literal $name:ident $type:ty;)*) => {
        /// One attribute of a message. Numbers are the kernel's, integers in host byte order.
        #[non_exhaustive]
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Attribute {
            $($(#[$doc])* $name($type),)*
            /// One that has no name here, or whose value does not have the form its name asks for.
            Other {
                /// Its number, and the flags `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
                kind: u16,
                /// As it came.
                value: Vec<u8>,
            },
        }

        impl Attribute {
            fn decode(nla: &NlaBuffer<&[u8]>) -> Self {
                let flag = |set, bit| if set { bit } else { 0 };
                let kind = nla.kind()
                    | flag(nla.nested_flag(), NLA_F_NESTED)
                    | flag(nla.network_byte_order_flag(), NLA_F_NET_BYTEORDER);
                let known = match kind {
                    $($number => <$type>::read(nla.value()).map(Self::$name),)*
                    _ => None,
                };
                known.unwrap_or_else(|| Self::Other { kind, value: nla.value().to_vec() })
            }

            fn parts(&self) -> (u16, Vec<u8>) {
                match self {
                    $(Self::$name(value) => ($number, value.bytes()),)*
                    Self::Other { kind, value } => (*kind, value.clone()),
                }
            }
        }
    };
}

attributes! {
    /// `DEV_INDEX`
    1 DevIndex u32;
    /// `DEV_NAME`, 63 bytes at most
    2 DevName String;
    /// `PORT_INDEX`; of a device: how many ports it has
    3 PortIndex u32;
    /// `CAP_FLAGS`
    4 CapFlags u64;
    /// `FW_VERSION`
    5 FwVersion String;
    /// `NODE_GUID`
    6 NodeGuid u64;
    /// `SYS_IMAGE_GUID`
    7 SysImageGuid u64;
    /// `SUBNET_PREFIX`
    8 SubnetPrefix u64;
    /// `LID`
    9 Lid u32;
    /// `SM_LID`
    10 SmLid u32;
    /// `LMC`
    11 Lmc u8;
    /// `PORT_STATE`, IBTA PortInfo:PortState
    12 PortState u8;
    /// `PORT_PHYS_STATE`, IBTA PortInfo:PortPhysicalState
    13 PortPhysState u8;
    /// `DEV_NODE_TYPE`, `enum rdma_node_type`
    14 DevNodeType u8;
    /// `NDEV_INDEX`, an ifindex
    50 NdevIndex u32;
    /// `NDEV_NAME`
    51 NdevName String;
    /// `LINK_TYPE` of NEWLINK: `rxe`, `siw`
    65 LinkType String;
    /// `SYS_ATTR_NETNS_MODE`: 1 is shared
    66 NetnsMode u8;
    /// `DEV_PROTOCOL`
    67 DevProtocol String;
    /// `NET_NS_FD`
    68 NetNsFd u32;
    /// `CHARDEV_TYPE`: `uverbs`, `umad`, `issm`, `rdma_cm`
    69 ChardevType String;
    /// `CHARDEV_NAME`: name below `/dev/infiniband`
    70 ChardevName String;
    /// `CHARDEV_ABI`
    71 ChardevAbi u64;
    /// `CHARDEV`: device number in the kernel's "huge" encoding
    72 Chardev u64;
    /// `UVERBS_DRIVER_ID`, `enum rdma_driver_id`
    73 UverbsDriverId u32;
    /// `STAT_HWCOUNTER_ENTRY_NAME`
    82 HwCounterName String;
    /// `DEV_DIM`: adaptive interrupt moderation
    84 DevDim u8;
    /// `SYS_ATTR_COPY_ON_FORK`
    93 CopyOnFork u8;
    /// `STAT_HWCOUNTER_INDEX`
    94 HwCounterIndex u32;
    /// `STAT_HWCOUNTER_DYNAMIC`: whether an optional counter counts
    95 HwCounterDynamic u8;
    /// `SYS_ATTR_PRIVILEGED_QKEY_MODE`
    96 PrivilegedQkey u8;
    /// `DEV_TYPE`: 1 is an SMI device
    99 DevType u8;
    /// `PARENT_NAME`
    100 ParentName String;
    /// `NAME_ASSIGN_TYPE`: 1 when the device was given its name by whoever made it
    101 NameAssignType u8;
    /// `EVENT_TYPE`, `enum rdma_nl_notify_event_type`
    102 EventType u8;
    /// `SYS_ATTR_MONITOR_MODE`
    103 MonitorMode u8;
}

/// `STAT_HWCOUNTERS`, nested: the counters of a port.
const HW_COUNTERS: u16 = 80;
/// `STAT_HWCOUNTER_ENTRY`, nested: one of them.
const HW_COUNTER_ENTRY: u16 = 81;

impl Attribute {
    /// `STAT_HWCOUNTERS` with the numbers of counters.
    pub(super) fn hw_counters(indexes: &[u32]) -> Self {
        let indexes: Vec<Self> = indexes.iter().map(|n| Self::HwCounterIndex(*n)).collect();
        Self::Other { kind: HW_COUNTERS | NLA_F_NESTED, value: encode_all(&indexes) }
    }

    /// The attributes of each counter, where this is `STAT_HWCOUNTERS`.
    pub(super) fn hw_counter_entries(&self) -> Vec<Vec<Self>> {
        let nested = |attribute: &Self, number: u16| match attribute {
            Self::Other { kind, value } if kind & !NLA_F_NESTED == number => decode_all(value).ok(),
            _ => None,
        };
        let entries = nested(self, HW_COUNTERS).unwrap_or_default();
        entries.iter().filter_map(|entry| nested(entry, HW_COUNTER_ENTRY)).collect()
    }
}

/// All attributes of a message's payload.
pub(super) fn decode_all(bytes: &[u8]) -> Result<Vec<Attribute>, DecodeError> {
    NlasIterator::new(bytes).map(|nla| Ok(Attribute::decode(&nla?))).collect()
}

/// A message's payload: length, number and value of each, filled up to four bytes. Not by the `Nla` trait
/// of netlink-packet-core, which loses one of the two flags where both are set.
pub(super) fn encode_all(attributes: &[Attribute]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in attributes.iter().map(Attribute::parts) {
        push(&mut bytes, kind, &value);
    }
    bytes
}

/// One attribute more.
pub(crate) fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Ours are short; what came from the kernel had a length that fits.
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn number_and_text_as_on_the_wire() {
        let attributes = [Attribute::DevIndex(7), Attribute::DevName("rxe0".into())];
        let bytes = b"\x08\0\x01\0\x07\0\0\0\x09\0\x02\0rxe0\0\0\0\0";
        assert_eq!(encode_all(&attributes), bytes);
        assert_eq!(decode_all(bytes).unwrap(), attributes);
    }

    #[test]
    fn counters() {
        let entry = vec![
            Attribute::HwCounterName("cc_rx_ce_pkts".into()),
            Attribute::HwCounterIndex(7),
            Attribute::HwCounterDynamic(1),
        ];
        for flag in [0, NLA_F_NESTED] {
            let nest = |kind, value| Attribute::Other { kind: kind | flag, value };
            let entries = encode_all(&[nest(HW_COUNTER_ENTRY, encode_all(&entry))]);
            let read = nest(HW_COUNTERS, entries).hw_counter_entries();
            assert_eq!(read, std::slice::from_ref(&entry));
        }
        assert_eq!(Attribute::DevIndex(1).hw_counter_entries(), [[]; 0]);
        let (kind, value) = (HW_COUNTERS | NLA_F_NESTED, encode_all(&entry[1..2]));
        assert_eq!(Attribute::hw_counters(&[7]), Attribute::Other { kind, value });
    }

    #[test]
    fn unknown_and_misshapen_attributes_are_kept() {
        // Number 9999; a u32 of three bytes; text without NUL; a nested attribute; both flags.
        let odd: [(u16, &[u8]); 5] =
            [(9999, &[1, 2]), (1, &[1, 2, 3]), (2, b"rxe0"), (0x8002, b"rxe0\0"), (0xc002, b"")];
        let attributes =
            odd.map(|(kind, value)| Attribute::Other { kind, value: value.to_vec() }).to_vec();
        assert_eq!(decode_all(&encode_all(&attributes)).unwrap(), attributes);
    }

    #[test]
    fn cut_off_attributes_are_errors() {
        for bytes in [&b"\x08\0\x01"[..], b"\x08\0\x01\0\x07", b"\x03\0\x01\0"] {
            assert!(decode_all(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Ok(attributes) = decode_all(&bytes) {
                let again = decode_all(&encode_all(&attributes)).unwrap();
                proptest::prop_assert_eq!(again, attributes);
            }
        }

        #[test]
        fn any_attribute_survives(kind: u16, value in proptest::collection::vec(0u8.., 0..300)) {
            let bytes = encode_all(&[Attribute::Other { kind, value }]);
            proptest::prop_assert_eq!(encode_all(&decode_all(&bytes).unwrap()), bytes);
        }
    }
}
