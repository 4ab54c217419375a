// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the attributes of an answer mean.

use std::fmt;

use super::{Attribute, Command, Message};
use crate::{DevIndex, Guid, PortNum, Protocol};

/// How a device came by the name it was registered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameAssign {
    /// The kernel counted, or is too old (before 6.10) to say.
    Unknown,
    /// Whoever made the device named it. A later rename does not change this.
    User,
}

/// `enum rdma_node_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeType(pub u8);

impl NodeType {
    /// `RDMA_NODE_RNIC`: iWARP.
    pub const RNIC: Self = Self(4);
}

/// `RDMA_NLDEV_CMD_GET`: a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device.
    pub index: DevIndex,
    /// What it is called at the moment.
    pub name: String,
    /// CA, switch, RNIC, ...
    pub node_type: Option<NodeType>,
    /// What its first port speaks.
    pub protocol: Option<Protocol>,
    /// None when the kernel does not tell, zero when none is set.
    pub node_guid: Option<Guid>,
    /// The same on every device of one board.
    pub sys_image_guid: Option<Guid>,
    /// The driver's text.
    pub fw_version: Option<String>,
    /// Number of ports.
    pub ports: u32,
    /// Device capabilities, `IB_DEVICE_*`.
    pub capabilities: Option<u64>,
    /// Who named it.
    pub name_assign: NameAssign,
    /// The device that an SMI device belongs to.
    pub parent: Option<String>,
    /// Adaptive interrupt moderation.
    pub adaptive_moderation: Option<bool>,
    /// Attributes that this crate has no name for.
    pub other: Vec<Attribute>,
}

impl Device {
    /// None without index or name.
    pub(super) fn read(message: Message) -> Option<Self> {
        let (mut index, mut name) = (None, None);
        let mut device = Self {
            index: DevIndex(0),
            name: String::new(),
            node_type: None,
            protocol: None,
            node_guid: None,
            sys_image_guid: None,
            fw_version: None,
            ports: 0,
            capabilities: None,
            name_assign: NameAssign::Unknown,
            parent: None,
            adaptive_moderation: None,
            other: Vec::new(),
        };
        for attribute in message.attributes {
            match attribute {
                Attribute::DevIndex(v) => index = Some(DevIndex(v)),
                Attribute::DevName(v) => name = Some(v),
                Attribute::DevNodeType(v) => device.node_type = Some(NodeType(v)),
                Attribute::DevProtocol(v) => device.protocol = Protocol::from_kernel(&v),
                Attribute::NodeGuid(v) => device.node_guid = Some(Guid(v)),
                Attribute::SysImageGuid(v) => device.sys_image_guid = Some(Guid(v)),
                Attribute::FwVersion(v) => device.fw_version = Some(v),
                Attribute::PortIndex(v) => device.ports = v,
                Attribute::CapFlags(v) => device.capabilities = Some(v),
                Attribute::NameAssignType(1) => device.name_assign = NameAssign::User,
                Attribute::NameAssignType(_) => {}
                Attribute::ParentName(v) => device.parent = Some(v),
                Attribute::DevDim(v) => device.adaptive_moderation = Some(v != 0),
                other => device.other.push(other),
            }
        }
        Some(Self { index: index?, name: name?, ..device })
    }
}

/// `RDMA_NLDEV_CMD_STAT_GET_STATUS`: a counter of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HwCounter {
    /// Its number at this port.
    pub index: u32,
    /// The driver's name for it.
    pub name: String,
    /// Whether it counts; None for one that always does.
    pub optional: Option<bool>,
}

impl HwCounter {
    /// None without number or name.
    pub(super) fn read(attributes: Vec<Attribute>) -> Option<Self> {
        let (mut index, mut name, mut optional) = (None, None, None);
        for attribute in attributes {
            match attribute {
                Attribute::HwCounterIndex(v) => index = Some(v),
                Attribute::HwCounterName(v) => name = Some(v),
                Attribute::HwCounterDynamic(v) => optional = Some(v != 0),
                _ => {}
            }
        }
        Some(Self { index: index?, name: name?, optional })
    }
}

/// IBTA PortInfo:PortState.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortState(pub u8);

impl PortState {
    /// Traffic flows.
    pub const ACTIVE: Self = Self(4);
}

impl fmt::Display for PortState {
    /// As `rdma link` of iproute2 writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["NOP", "DOWN", "INIT", "ARMED", "ACTIVE", "ACTIVE_DEFER"];
        f.write_str(names.get(usize::from(self.0)).unwrap_or(&"UNKNOWN"))
    }
}

/// IBTA PortInfo:PortPhysicalState.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalState(pub u8);

impl fmt::Display for PhysicalState {
    /// As `rdma link` of iproute2 writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            "NOP",
            "SLEEP",
            "POLLING",
            "DISABLED",
            "PORT_CONFIGURATION_TRAINING",
            "LINK_UP",
            "LINK_ERROR_RECOVER",
            "PHY_TEST",
        ];
        f.write_str(names.get(usize::from(self.0)).unwrap_or(&"UNKNOWN"))
    }
}

/// The network interface of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netdev {
    /// Its ifindex.
    pub index: u32,
    /// What it is called at the moment.
    pub name: String,
}

/// `RDMA_NLDEV_CMD_PORT_GET`: a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Number of the port.
    pub port: PortNum,
    /// Logical state.
    pub state: Option<PortState>,
    /// Physical state.
    pub phys_state: Option<PhysicalState>,
    /// Local identifier; 0 without a subnet manager.
    pub lid: Option<u32>,
    /// The subnet manager's LID.
    pub sm_lid: Option<u32>,
    /// LID mask control.
    pub lmc: Option<u8>,
    /// The upper half of the port's GIDs.
    pub subnet_prefix: Option<u64>,
    /// Port capabilities, IBTA PortInfo:CapabilityMask.
    pub capabilities: Option<u64>,
    /// The network interface, where the port has one.
    pub netdev: Option<Netdev>,
    /// Attributes that this crate has no name for.
    pub other: Vec<Attribute>,
}

impl Port {
    /// None without a port number.
    pub(super) fn read(message: Message) -> Option<Self> {
        let (mut number, mut ifindex, mut ifname) = (None, None, None);
        let mut port = Self {
            port: PortNum(0),
            state: None,
            phys_state: None,
            lid: None,
            sm_lid: None,
            lmc: None,
            subnet_prefix: None,
            capabilities: None,
            netdev: None,
            other: Vec::new(),
        };
        for attribute in message.attributes {
            match attribute {
                Attribute::PortIndex(v) => number = Some(PortNum(v)),
                Attribute::PortState(v) => port.state = Some(PortState(v)),
                Attribute::PortPhysState(v) => port.phys_state = Some(PhysicalState(v)),
                Attribute::Lid(v) => port.lid = Some(v),
                Attribute::SmLid(v) => port.sm_lid = Some(v),
                Attribute::Lmc(v) => port.lmc = Some(v),
                Attribute::SubnetPrefix(v) => port.subnet_prefix = Some(v),
                Attribute::CapFlags(v) => port.capabilities = Some(v),
                Attribute::NdevIndex(v) => ifindex = Some(v),
                Attribute::NdevName(v) => ifname = Some(v),
                // Of the device, which the caller asked for.
                Attribute::DevIndex(_) | Attribute::DevName(_) => {}
                other => port.other.push(other),
            }
        }
        let netdev = ifindex.zip(ifname).map(|(index, name)| Netdev { index, name });
        Some(Self { port: number?, netdev, ..port })
    }
}

/// `RDMA_NLDEV_CMD_GET_CHARDEV`: a character device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chardev {
    /// Name below `/dev/infiniband`.
    pub name: String,
    /// ABI version.
    pub abi: Option<u64>,
    /// Major and minor number.
    pub number: Option<(u32, u32)>,
    /// `enum rdma_driver_id`, of uverbs only; see [`crate::driver_name`].
    pub driver: Option<u32>,
}

impl Chardev {
    /// None without a name.
    pub(super) fn read(message: Message) -> Option<Self> {
        let mut name = None;
        let (mut abi, mut number, mut driver) = (None, None, None);
        for attribute in message.attributes {
            match attribute {
                Attribute::ChardevName(v) => name = Some(v),
                Attribute::ChardevAbi(v) => abi = Some(v),
                Attribute::Chardev(v) => number = Some(huge_decode(v)),
                Attribute::UverbsDriverId(v) => driver = Some(v),
                _ => {}
            }
        }
        Some(Self { name: name?, abi, number, driver })
    }
}

/// `huge_decode_dev`: minor in bits 0-7 and 20-31, major in bits 8-19.
fn huge_decode(number: u64) -> (u32, u32) {
    let [low, high] = [number, number >> 12].map(|v| u32::try_from(v & 0xffff_ffff).unwrap_or(0));
    ((low >> 8) & 0xfff, (low & 0xff) | (high & 0xf_ff00))
}

/// `RDMA_NLDEV_CMD_SYS_GET`: settings of the whole system. None where the kernel is too old to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// Devices are seen from every network namespace.
    pub netns_shared: Option<bool>,
    /// Memory is safe over fork without `ibv_fork_init`.
    pub copy_on_fork: Option<bool>,
    /// A privileged Q_Key may be used without privilege.
    pub privileged_qkey: Option<bool>,
    /// The kernel announces events.
    pub monitor: Option<bool>,
}

impl System {
    pub(super) fn read(message: &Message) -> Self {
        let mut system = Self::default();
        for attribute in &message.attributes {
            match *attribute {
                Attribute::NetnsMode(v) => system.netns_shared = Some(v != 0),
                Attribute::CopyOnFork(v) => system.copy_on_fork = Some(v != 0),
                Attribute::PrivilegedQkey(v) => system.privileged_qkey = Some(v != 0),
                Attribute::MonitorMode(v) => system.monitor = Some(v != 0),
                _ => {}
            }
        }
        system
    }
}

/// `enum rdma_nl_notify_event_type`: what happened to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `RDMA_REGISTER_EVENT`
    Register(DevIndex, String),
    /// `RDMA_UNREGISTER_EVENT`
    Unregister(DevIndex, String),
    /// `RDMA_RENAME_EVENT`; the name is the new one. Not sent by 6.12: there, only a uevent tells.
    Rename(DevIndex, String),
    /// `RDMA_NETDEV_ATTACH_EVENT`
    NetdevAttach(DevIndex, PortNum, Netdev),
    /// `RDMA_NETDEV_DETACH_EVENT`
    NetdevDetach(DevIndex, PortNum, Netdev),
    /// `RDMA_NETDEV_RENAME_EVENT`
    NetdevRename(DevIndex, PortNum, Netdev),
    /// An event that this crate has no name for, or that lacks what its name asks for.
    Other(Message),
}

impl Event {
    /// None for a message that is no event.
    pub(super) fn read(message: Message) -> Option<Self> {
        if message.command != Command::MONITOR {
            return None;
        }
        let (mut kind, mut index, mut name) = (None, None, None);
        let (mut port, mut ifindex, mut ifname) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                Attribute::EventType(v) => kind = Some(*v),
                Attribute::DevIndex(v) => index = Some(DevIndex(*v)),
                Attribute::DevName(v) => name = Some(v.clone()),
                Attribute::PortIndex(v) => port = Some(PortNum(*v)),
                Attribute::NdevIndex(v) => ifindex = Some(*v),
                Attribute::NdevName(v) => ifname = Some(v.clone()),
                _ => {}
            }
        }
        let netdev = ifindex.zip(ifname).map(|(index, name)| Netdev { index, name });
        Some(match (kind, index, name, port, netdev) {
            (Some(0), Some(index), Some(name), ..) => Self::Register(index, name),
            (Some(1), Some(index), Some(name), ..) => Self::Unregister(index, name),
            (Some(2), Some(index), _, Some(port), Some(n)) => Self::NetdevAttach(index, port, n),
            (Some(3), Some(index), _, Some(port), Some(n)) => Self::NetdevDetach(index, port, n),
            (Some(4), Some(index), Some(name), ..) => Self::Rename(index, name),
            (Some(5), Some(index), _, Some(port), Some(n)) => Self::NetdevRename(index, port, n),
            _ => Self::Other(message),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(command: Command, attributes: Vec<Attribute>) -> Message {
        Message { command, attributes }
    }

    #[test]
    fn device_without_guid_is_still_a_device() {
        // rdma-core D7: one such entry made it give up on all devices.
        let device = Device::read(message(
            Command::GET,
            vec![Attribute::DevIndex(3), Attribute::DevName("efa_0".into())],
        ))
        .unwrap();
        assert_eq!((device.index, device.node_guid, device.protocol), (DevIndex(3), None, None));
        assert!(Device::read(message(Command::GET, vec![Attribute::DevIndex(3)])).is_none());
    }

    #[test]
    fn device_numbers() {
        // 231:192 is the first uverbs device; the second has a minor beyond 8 bits.
        assert_eq!(huge_decode(231 << 8 | 192), (231, 192));
        assert_eq!(huge_decode(0x0012_3000 << 8 | 0x5 << 8 | 0x67), (5, 0x12367 & 0xf_ffff));
    }

    #[test]
    fn events_and_what_is_not_one() {
        let renamed = message(
            Command::MONITOR,
            vec![Attribute::EventType(4), Attribute::DevIndex(2), Attribute::DevName("b".into())],
        );
        assert_eq!(Event::read(renamed), Some(Event::Rename(DevIndex(2), "b".into())));
        let unknown = message(Command::MONITOR, vec![Attribute::EventType(200)]);
        assert_eq!(Event::read(unknown.clone()), Some(Event::Other(unknown)));
        assert_eq!(Event::read(message(Command::GET, vec![])), None);
    }
}
