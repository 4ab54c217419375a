// SPDX-License-Identifier: MIT OR Apache-2.0
//! `device`: what an RDMA device is, and what it should be called.

use anyhow::{Context, Result};
use rdma_config::{Config, Root};
use rdma_udev_helper::properties::Properties;
use rdma_udev_helper::state::Status;
use rdma_verbs::Protocol;

use crate::children;
use rdma_udev_helper::log;
use rdma_udev_helper::world::{Lock, Look, World, config};

pub(crate) fn run(root: &Root, name: &str, may_rename: bool) -> Result<()> {
    // A rename that is half done must not be seen.
    let mut world = World::now(root, Lock::Shared)?;
    let Some(device) = world.by_name(name).cloned() else {
        // Its own move or remove event follows, and tells the rest.
        log::note(format!("there is no RDMA device '{name}' (any more)"));
        println!("SYSTEMD_READY=0");
        return Ok(());
    };
    let mut look = world.look(&device);
    let config = config(root);
    if may_rename {
        consider_renaming(&mut world, &config, &mut look);
    }
    world.run.save(device.index, &look.state).context("cannot write to /run/rdma")?;
    let mut properties = properties(&look);
    // Without entries there is nothing to match, and what they match by costs a look at the bus.
    if !config.devices.is_empty() {
        let wants =
            config.wants_of(&world.identity(&look, config.matches_serials()).1, &device.name);
        properties.set_some("ID_RDMA_WANTS", (!wants.is_empty()).then(|| wants.join(" ")));
    }
    print!("{}", properties.as_str());
    if look.state.status != Status::Pending {
        children::announce(&world, &look)?;
    }
    Ok(())
}

/// Finds out whether the device is to be renamed, and whether it can be.
fn consider_renaming(world: &mut World, config: &Config, look: &mut Look) {
    let decision = world.decision(config, look);
    let (device, state) = (&look.device, &mut look.state);
    decision.policy.clone_into(&mut state.policy);
    if decision.name == device.name {
        let kept = device.name == state.kernel_name || decision.policy == "user";
        state.status = if kept { Status::Kept } else { Status::Renamed };
        return;
    }
    state.status = match world.plan(config, device.index, &decision) {
        Ok(_) => Status::Pending,
        Err(refusal) => {
            log::warning(format!(
                "RDMA device '{}' keeps its name: it should be called '{}' by policy {}{}, but {refusal}",
                device.name,
                decision.name.escape_debug(),
                decision.policy,
                decision.source.map(|s| format!(" ({s})")).unwrap_or_default(),
            ));
            Status::Refused(refusal.word().to_owned())
        }
    };
}

fn properties(look: &Look) -> Properties {
    let Look { device, state, ports, driver, .. } = look;
    let mut p = Properties::default();
    p.set("ID_RDMA_INDEX", device.index);
    p.set("ID_RDMA_KERNEL_NAME", &state.kernel_name);
    p.set("ID_RDMA_NAME", &device.name);
    p.set("ID_RDMA_NAME_POLICY", &state.policy);
    p.set("ID_RDMA_NAME_STATUS", &state.status);
    p.set_some("ID_RDMA_DRIVER", driver.as_ref());
    p.set_some("ID_RDMA_PROTOCOL", device.protocol);
    p.set_some("ID_RDMA_NODE_GUID", device.node_guid);
    p.set_some("ID_RDMA_SYS_IMAGE_GUID", device.sys_image_guid);
    p.set_some("ID_RDMA_FW_VERSION", device.fw_version.as_ref().filter(|v| !v.is_empty()));
    p.set("ID_RDMA_PORTS", device.ports);
    for port in ports {
        let n = port.number;
        p.set_some(format_args!("ID_RDMA_PORT_{n}_GUID"), port.guid);
        p.set_some(format_args!("ID_RDMA_PORT_{n}_LINK"), port.protocol);
        p.set_some(format_args!("ID_RDMA_PORT_{n}_NETDEV"), port.netdev().map(|d| &d.name));
    }
    let flags = [
        (Protocol::InfiniBand, "ID_RDMA_INFINIBAND"),
        (Protocol::Roce, "ID_RDMA_ROCE"),
        (Protocol::Iwarp, "ID_RDMA_IWARP"),
        (Protocol::Opa, "ID_RDMA_OPA"),
    ];
    for (protocol, flag) in flags {
        if ports.iter().any(|port| port.protocol == Some(protocol)) {
            p.set(flag, 1);
        }
    }
    p
}
