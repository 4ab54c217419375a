// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the children of a device belong to: its character devices and network interfaces.
//!
//! It is written to files that rules import, so that a whole device with all its children costs udev one
//! program. The kernel announces the character devices before the device itself; so they are announced
//! again, as a `change`, once the file is there. One that comes later, when its module is loaded, finds
//! the link under the device's name and asks for itself (`node`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rdma_config::{Config, IpoibNames, Root, cmdline};
use rdma_udev_helper::claims::claim;
use rdma_udev_helper::ipoib;
use rdma_udev_helper::properties::Properties;
use rdma_udev_helper::state::{Status, replace};
use rdma_verbs::netlink::Device;
use rdma_verbs::sysfs::{self, Node};
use rdma_verbs::{DevIndex, Guid, PortNum};

use rdma_udev_helper::log;
use rdma_udev_helper::world::{Lock, Look, NodeName, World};

/// Writes the files of all children, and has udev look at those for which that is news.
pub(crate) fn announce(world: &World, look: &Look) -> Result<()> {
    // First the name: a child that appears from now on asks for itself. Under a new name every child is
    // announced, as its own links and aliases have that name.
    let new_name = world
        .run
        .known_as(look.device.index, &look.device.name)
        .context("cannot write to /run/rdma")?;
    let owned = owned_guids(world, look)?;
    for NodeName { class, name, node } in &look.nodes {
        let properties = node_properties(look, node, name, &owned);
        let dir = world.sysfs.class_dir(class, name);
        tell(world, &node_file(name, node), &dir, &properties, new_name)?;
    }
    for port in &look.ports {
        let Some(netdev) = port.netdev() else { continue };
        let mut p = Properties::default();
        p.set("ID_RDMA_DEV", &look.device.name);
        p.set("ID_RDMA_INDEX", look.device.index);
        p.set("ID_RDMA_PORT", port.number);
        p.set_some("ID_RDMA_PORT_GUID", port.guid);
        let dir = world.sysfs.class_dir("net", &netdev.name);
        tell(world, &format!("net/{}", netdev.index), &dir, &p, new_name)?;
    }
    // IPoIB interfaces ask for themselves; those that have asked under the old name ask again.
    if look.state.status == Status::Renamed && new_name {
        for netdev in world.sysfs.ipoib_interfaces(&look.device.name) {
            // Gone since: then there is nothing to look at.
            sysfs::announce_change(&world.sysfs.class_dir("net", &netdev)).ok();
        }
    }
    Ok(())
}

fn tell(
    world: &World,
    file: &str,
    device: &Path,
    properties: &Properties,
    always: bool,
) -> Result<()> {
    let path = world.run.path(file);
    if !always && fs::read(&path).is_ok_and(|old| old == properties.as_str().as_bytes()) {
        return Ok(());
    }
    replace(&path, properties.as_str().as_bytes()).context("cannot write to /run/rdma")?;
    // Gone since: then there is nothing to look at.
    sysfs::announce_change(device).ok();
    Ok(())
}

/// The name has all that makes a node another one, as the rules put it together.
fn node_file(name: &str, node: &Node) -> String {
    let port = node.port.map(|p| format!(".{p}")).unwrap_or_default();
    format!("nodes/{name}.{}{port}", node.device)
}

/// `node`: the file of one character device that came after its device.
pub(crate) fn node(root: &Root, class: &str, name: &str) -> Result<()> {
    let mut world = World::now(root, Lock::Shared)?;
    let Some(node) = world.sysfs.node(class, name)? else {
        log::note(format!("{class}/{name} is gone"));
        return Ok(());
    };
    let Some(device) = world.by_name(&node.device).cloned() else {
        log::note(format!("the RDMA device '{}' of {name} is gone", node.device));
        return Ok(());
    };
    let look = world.look(&device);
    let owned = owned_guids(&world, &look)?;
    let properties = node_properties(&look, &node, name, &owned);
    let path = world.run.path(&node_file(name, &node));
    replace(&path, properties.as_str().as_bytes()).context("cannot write to /run/rdma")
}

/// Who has the links of each port's GUID: None for this device.
type Owners = BTreeMap<PortNum, Option<(DevIndex, PortNum)>>;

fn owned_guids(world: &World, look: &Look) -> Result<Owners> {
    let device = &look.device;
    let mut owners = BTreeMap::new();
    for port in &look.ports {
        let Some(guid) = port.guid else { continue };
        let me = (device.index, port.number);
        let owner = claim(&world.run, guid, me, |other| has_guid(world, other, guid))
            .context("cannot write to /run/rdma")?;
        if owner != me {
            log::warning(format!(
                "port {} of RDMA device '{}' gets no by-port-guid links: port {} of device {} has the same port GUID {guid}",
                port.number, device.name, owner.1, owner.0
            ));
        }
        owners.insert(port.number, Some(owner).filter(|o| *o != me));
    }
    Ok(owners)
}

fn has_guid(world: &World, (index, port): (DevIndex, PortNum), guid: Guid) -> bool {
    let device = world.by_index(index);
    device.is_some_and(|d| matches!(world.sysfs.port_guid(&d.name, port), Ok(Some(g)) if g == guid))
}

fn node_properties(look: &Look, node: &Node, name: &str, owners: &Owners) -> Properties {
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let mut p = Properties::default();
    p.set("ID_RDMA_DEV", &look.device.name);
    p.set("ID_RDMA_INDEX", look.device.index);
    p.set_some("ID_RDMA_PORT", node.port);
    if let Some(port) = node.port {
        p.set_instance("ID_RDMA_INSTANCE", &format!("{}:{port}", look.device.name));
    }
    let (mut links, mut conflicts) = (Vec::new(), Vec::new());
    for port in look.ports.iter().filter(|p| node.port.is_none_or(|n| n == p.number)) {
        // A uverbs node is of all ports, the others of one.
        let which = if node.port.is_none() { format!("_{}", port.number) } else { String::new() };
        p.set_some(format_args!("ID_RDMA_PORT{which}_GUID"), port.guid);
        match node.port {
            Some(_) => p.set_some("ID_RDMA_LINK", port.protocol),
            None => p.set_some(format_args!("ID_RDMA_PORT{which}_LINK"), port.protocol),
        }
        let Some(guid) = port.guid else { continue };
        match owners.get(&port.number) {
            Some(Some((index, other))) => conflicts.push(format!("{guid}:{index}:{other}")),
            _ => links.push(format!("infiniband/by-port-guid/{guid}/{kind}")),
        }
    }
    if !links.is_empty() {
        p.set("ID_RDMA_DEVLINKS", links.join(" "));
    }
    if !conflicts.is_empty() {
        p.set("ID_RDMA_LINK_CONFLICT", conflicts.join(" "));
    }
    p
}

/// `ipoib`: what an IPoIB interface belongs to, and what it should be called.
pub(crate) fn ipoib(root: &Root, netdev: &str, may_rename: bool) -> Result<()> {
    let mut world = World::now(root, Lock::Shared)?;
    let Some((node, pkey)) = world.sysfs.ipoib(netdev)? else {
        log::note(format!("'{netdev}' is no IPoIB interface"));
        return Ok(());
    };
    let Some((device, port)) = world.by_name(&node.device).cloned().zip(node.port) else {
        log::note(format!("the RDMA device '{}' of '{netdev}' is gone", node.device));
        return Ok(());
    };
    let mut p = Properties::default();
    p.set("ID_RDMA_DEV", &device.name);
    p.set("ID_RDMA_INDEX", device.index);
    p.set("ID_RDMA_PORT", port);
    p.set_some("ID_RDMA_PORT_GUID", world.sysfs.port_guid(&device.name, port)?);
    p.set("ID_RDMA_PKEY", format_args!("{pkey:#06x}"));
    if may_rename && cmdline::names_enabled(root) && !world.sysfs.netdev_is_named(netdev) {
        // What is wrong in it is told when the device's rules run.
        let config = Config::load(root).0;
        if config.ipoib == IpoibNames::DevicePort {
            let (long, short) = ipoib::names(&name_to_be(&mut world, &config, &device), port, pkey);
            p.set("ID_RDMA_IPOIB_NAME", &short);
            p.set_some("ID_RDMA_IPOIB_ALTNAME", (long != short).then_some(long));
        }
    }
    print!("{}", p.as_str());
    Ok(())
}

/// What a device is called once its own event has been dealt with: the kernel announces its IPoIB
/// interfaces first.
fn name_to_be(world: &mut World, config: &Config, device: &Device) -> String {
    let seen = world.run.state(device.index, device.node_guid);
    if seen.is_none_or(|state| state.status == Status::Pending) {
        let look = world.look(device);
        let decision = world.decision(config, &look);
        if world.plan(config, device.index, &decision).is_ok() {
            return decision.name;
        }
    }
    device.name.clone()
}
