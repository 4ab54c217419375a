// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices and ports as others are told of them.

use std::collections::BTreeMap;

use rdma_udev_helper::world::{Look, PortFacts, World};
use rdma_verbs::{DevIndex, PortNum};

/// All devices, by their index.
pub(crate) type Model = BTreeMap<DevIndex, Device>;

/// What others see of a device; what is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kernel_name: String,
    pub(crate) name_policy: String,
    pub(crate) name_status: String,
    pub(crate) protocol: String,
    pub(crate) driver: String,
    pub(crate) node_guid: String,
    pub(crate) sys_image_guid: String,
    pub(crate) firmware_version: String,
    pub(crate) ports: BTreeMap<PortNum, Port>,
}

/// What others see of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u32,
    pub(crate) protocol: String,
    pub(crate) guid: String,
    pub(crate) state: String,
    /// IBTA PortInfo:PortState.
    pub(crate) state_number: u8,
    pub(crate) physical_state: String,
    pub(crate) lid: u32,
    pub(crate) sm_lid: u32,
    /// In Mb/s.
    pub(crate) rate: u32,
    pub(crate) netdev: String,
    /// Those in use: index and GID.
    pub(crate) gids: Vec<(u32, String)>,
}

pub(crate) fn device(world: &World, look: &Look) -> Device {
    let Look { device, state, ports, driver, .. } = look;
    Device {
        index: device.index.0,
        name: device.name.clone(),
        kernel_name: state.kernel_name.clone(),
        name_policy: state.policy.clone(),
        name_status: state.status.to_string(),
        protocol: text(device.protocol),
        driver: text(driver.as_ref()),
        node_guid: text(device.node_guid),
        sys_image_guid: text(device.sys_image_guid),
        firmware_version: text(device.fw_version.as_ref()),
        ports: ports.iter().map(|p| (p.number, port(world, &device.name, p))).collect(),
    }
}

/// A file of sysfs that cannot be used leaves its value empty; the device is told of all the same.
fn port(world: &World, device: &str, port: &PortFacts) -> Port {
    let link = port.link.as_ref();
    let gids = world.sysfs.gids(device, port.number).unwrap_or_default();
    Port {
        number: port.number.0,
        protocol: text(port.protocol),
        guid: text(port.guid),
        state: text(link.and_then(|l| l.state)),
        state_number: link.and_then(|l| l.state).map_or(0, |state| state.0),
        physical_state: text(link.and_then(|l| l.phys_state)),
        lid: link.and_then(|l| l.lid).unwrap_or(0),
        sm_lid: link.and_then(|l| l.sm_lid).unwrap_or(0),
        rate: world.sysfs.rate(device, port.number).ok().flatten().unwrap_or(0),
        netdev: text(port.netdev().map(|n| &n.name)),
        gids: gids.into_iter().map(|gid| (gid.index, gid.gid.to_string())).collect(),
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}
