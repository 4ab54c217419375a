// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices and ports as others are told of them.

use std::collections::BTreeMap;
use std::fmt;

use rdma_config::Facts;
use rdma_udev_helper::world::{Look, PortFacts, World};
use rdma_verbs::sysfs::best_roce_v2;
use rdma_verbs::{DevIndex, PortNum, Protocol};

/// All devices, by their index.
pub type Model = BTreeMap<DevIndex, Device>;

/// What others see of a device; what is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// In RDMA netlink.
    pub index: u32,
    /// What it is called now.
    pub name: String,
    /// What it was called when it came.
    pub kernel_name: String,
    /// Who gave the name.
    pub name_policy: String,
    /// How that went.
    pub name_status: String,
    /// Of its first port.
    pub protocol: String,
    /// `mlx5`, `rxe`
    pub driver: String,
    /// `pci-0000:c1:00.0`
    pub path: String,
    /// 16 hex digits.
    pub node_guid: String,
    /// 16 hex digits.
    pub sys_image_guid: String,
    /// As the driver writes it.
    pub firmware_version: String,
    /// By number.
    pub ports: BTreeMap<PortNum, Port>,
}

/// What others see of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// From 1.
    pub number: u32,
    /// `ib`, `roce`, `iw`, `opa`
    pub protocol: String,
    /// 16 hex digits.
    pub guid: String,
    /// `ACTIVE`
    pub state: String,
    /// IBTA PortInfo:PortState.
    pub state_number: u8,
    /// `LINK_UP`
    pub physical_state: String,
    /// 0 without one.
    pub lid: u32,
    /// Of the subnet manager.
    pub sm_lid: u32,
    /// In Mb/s.
    pub rate: u32,
    /// Of a RoCE or iWARP port.
    pub netdev: String,
    /// Those in use: index and GID.
    pub gids: Vec<(u32, String)>,
    /// That of them which RoCE v2 should use.
    pub gid_index: Option<u32>,
}

/// All devices as they are.
#[must_use]
pub fn all(world: &mut World) -> Model {
    let devices = world.devices.clone();
    let look = |device: &rdma_verbs::netlink::Device| {
        let look = world.look(device);
        let facts = world.identity(&look, false).1;
        (device.index, self::device(world, &look, &facts))
    };
    devices.iter().map(look).collect()
}

/// A device as it is; `facts` are those of its look.
#[must_use]
pub fn device(world: &World, look: &Look, facts: &Facts) -> Device {
    let Look { device, state, ports, driver, .. } = look;
    Device {
        index: device.index.0,
        name: device.name.clone(),
        kernel_name: state.kernel_name.clone(),
        name_policy: state.policy.clone(),
        name_status: state.status.to_string(),
        protocol: text(device.protocol),
        driver: text(driver.as_ref()),
        path: text(facts.path.first()),
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
        gid_index: match port.protocol {
            Some(Protocol::Roce) => {
                best_roce_v2(&gids, port.netdev().map(|n| n.name.as_str())).map(|best| best.index)
            }
            _ => None,
        },
        gids: gids.into_iter().map(|gid| (gid.index, gid.gid.to_string())).collect(),
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

/// Something that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The device's name; that it has now, if it is still there.
    pub device: String,
    /// The port that it is about.
    pub port: Option<PortNum>,
    /// `added`, `removed`, or what has another value: `name`, `state`, `lid`, `gid`, ...
    pub what: &'static str,
    /// What it was; empty for what was not there.
    pub from: String,
    /// What it is; empty for what is there no more.
    pub to: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, port, what, from, to } = self;
        write!(f, "RDMA device '{device}'")?;
        if let Some(port) = port {
            write!(f, " port {port}")?;
        }
        match (*what, from.as_str(), to.as_str()) {
            (what @ ("added" | "removed"), ..) => write!(f, ": {what}"),
            (what, "", to) => write!(f, ": {what} {to}"),
            (what, from, "") => write!(f, ": no {what} any more, was {from}"),
            (what, from, to) => write!(f, ": {what} {to}, was {from}"),
        }
    }
}

/// What is not as it was: a line for each device that has come or gone and for each value.
#[must_use]
pub fn differences(before: &Model, now: &Model) -> Vec<Difference> {
    let mut out = Vec::new();
    let mut tell = |device: &Device, port, what, from: &str, to: &str| {
        let (device, from, to) = (device.name.clone(), from.to_owned(), to.to_owned());
        out.push(Difference { device, port, what, from, to });
    };
    for (_, device) in before.iter().filter(|(index, _)| !now.contains_key(index)) {
        tell(device, None, "removed", "", "");
    }
    for (index, device) in now {
        let nothing = Device::default();
        let old = before.get(index).unwrap_or(&nothing);
        if !before.contains_key(index) {
            tell(device, None, "added", "", "");
        } else if old.name != device.name {
            tell(device, None, "name", &old.name, &device.name);
        }
        for (number, port) in &device.ports {
            let nothing = Port::default();
            let old = old.ports.get(number).unwrap_or(&nothing);
            for ((what, from), (_, to)) in old.values().into_iter().zip(port.values()) {
                if from != to {
                    tell(device, Some(*number), what, &from, &to);
                }
            }
            let gids =
                |port: &Port| -> BTreeMap<u32, String> { port.gids.iter().cloned().collect() };
            let (from, to) = (gids(old), gids(port));
            let mut indexes: Vec<u32> = from.keys().chain(to.keys()).copied().collect();
            indexes.sort_unstable();
            indexes.dedup();
            for index in indexes.into_iter().filter(|index| from.get(index) != to.get(index)) {
                let text = |gids: &BTreeMap<u32, String>| {
                    gids.get(&index).map(|gid| format!("{index} {gid}")).unwrap_or_default()
                };
                tell(device, Some(*number), "gid", &text(&from), &text(&to));
            }
        }
    }
    out
}

impl Port {
    /// What may be another value from one moment to the next, besides the table of GIDs.
    fn values(&self) -> [(&'static str, String); 7] {
        let number = |n: u32| if n == 0 { String::new() } else { n.to_string() };
        [
            ("state", self.state.clone()),
            ("physical state", self.physical_state.clone()),
            ("lid", number(self.lid)),
            ("sm lid", number(self.sm_lid)),
            ("rate in Mb/s", number(self.rate)),
            ("netdev", self.netdev.clone()),
            ("gid index for RoCE v2", text(self.gid_index)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, state: &str, lid: u32, gids: &[(u32, &str)]) -> Model {
        let gids = gids.iter().map(|(index, gid)| (*index, (*gid).to_owned())).collect();
        let port = Port { state: state.into(), lid, gids, ..Port::default() };
        let ports = [(PortNum(1), port)].into();
        [(DevIndex(3), Device { name: name.into(), ports, ..Device::default() })].into()
    }

    #[test]
    fn what_has_changed() {
        let none = Model::new();
        let init = model("mlx5_0", "INIT", 0, &[(0, "fe80::1")]);
        let active = model("rail0", "ACTIVE", 7, &[(0, "fe80::1"), (1, "fe80::2")]);
        let lines = |before, now| -> Vec<String> {
            differences(before, now).iter().map(ToString::to_string).collect()
        };
        assert_eq!(lines(&init, &init), [""; 0]);
        assert_eq!(
            lines(&none, &init),
            [
                "RDMA device 'mlx5_0': added",
                "RDMA device 'mlx5_0' port 1: state INIT",
                "RDMA device 'mlx5_0' port 1: gid 0 fe80::1",
            ]
        );
        assert_eq!(
            lines(&init, &active),
            [
                "RDMA device 'rail0': name rail0, was mlx5_0",
                "RDMA device 'rail0' port 1: state ACTIVE, was INIT",
                "RDMA device 'rail0' port 1: lid 7",
                "RDMA device 'rail0' port 1: gid 1 fe80::2",
            ]
        );
        assert_eq!(
            lines(&active, &init)[2..],
            [
                "RDMA device 'mlx5_0' port 1: no lid any more, was 7",
                "RDMA device 'mlx5_0' port 1: no gid any more, was 1 fe80::2",
            ]
        );
        assert_eq!(lines(&init, &none), ["RDMA device 'mlx5_0': removed"]);
    }
}
