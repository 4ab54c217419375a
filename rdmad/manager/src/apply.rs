// SPDX-License-Identifier: MIT OR Apache-2.0
//! How each setting is read and set.

use std::fs::File;

use anyhow::{Context, Result, bail, ensure};
use rdma_udev_helper::world::{Look, PortFacts, World};
use rdma_verbs::netlink::HwCounter;
use rdma_verbs::{CmDefault, CmDefaults, PortNum, Protocol};

/// Reads a setting by its key in the configuration.
///
/// # Errors
/// What the kernel says; a device that does not have such a thing.
pub fn get(world: &mut World, look: &Look, key: &str) -> Result<String> {
    let device = &look.device;
    Ok(match key {
        "adaptive-moderation" => {
            let now = world.socket.device(device.index)?;
            let on = now.and_then(|d| d.adaptive_moderation);
            on.context("the kernel does not say what it is")?.to_string()
        }
        "optional-counters" => {
            let read = |port: &PortFacts| {
                let counters = optional_counters(world, look, port.number)?.into_iter();
                let on = counters.filter(|c| c.optional == Some(true));
                let mut names: Vec<String> = on.map(|counter| counter.name).collect();
                names.sort();
                Ok(names.join(","))
            };
            let mut values = look.ports.iter().map(read).collect::<Result<Vec<_>>>()?;
            values.dedup();
            values.join("; ")
        }
        // It is in ours, or we would not see it.
        "netns" => String::new(),
        _ => {
            let defaults = cm_defaults(world, look)?;
            let read = |port: &PortNum| defaults.get(*port, cm_default(key)?).map_err(Into::into);
            let mut values = roce_ports(look)?.iter().map(read).collect::<Result<Vec<_>>>()?;
            values.dedup();
            values.join(", ")
        }
    })
}

/// Sets it.
///
/// # Errors
/// What the kernel says; a device that does not have such a thing.
pub fn set(world: &mut World, look: &Look, key: &str, value: &str) -> Result<()> {
    let device = &look.device;
    match key {
        "adaptive-moderation" => {
            Ok(world.socket.set_adaptive_moderation(device.index, value == "true")?)
        }
        "optional-counters" => {
            for port in &look.ports {
                let counters = optional_counters(world, look, port.number)?;
                let number = |name: &str| {
                    let known = || counters.iter().map(|c| c.name.as_str()).collect::<Vec<_>>();
                    let counter = counters.iter().find(|counter| counter.name == name);
                    counter.map(|counter| counter.index).with_context(|| {
                        let (port, known) = (port.number, known().join(", "));
                        format!("port {port} has no optional counter '{name}'; it has: {known}")
                    })
                };
                let names = value.split(',').filter(|name| !name.is_empty());
                let numbers = names.map(number).collect::<Result<Vec<u32>>>()?;
                world.socket.set_hw_counters(device.index, port.number, &numbers)?;
            }
            Ok(())
        }
        "netns" => {
            let path = world.root.path("/run/netns").join(value);
            let netns = File::open(&path)
                .with_context(|| format!("there is no network namespace {}", path.display()))?;
            use std::os::fd::AsFd as _;
            Ok(world.socket.set_netns(device.index, netns.as_fd())?)
        }
        _ => {
            let defaults = cm_defaults(world, look)?;
            for port in roce_ports(look)? {
                let outcome = defaults.set(port, cm_default(key)?, value);
                // All that the kernel says to a mode that the port does not have is EINVAL.
                outcome.with_context(|| format!("port {port} does not take it"))?;
            }
            Ok(())
        }
    }
}

fn optional_counters(world: &mut World, look: &Look, port: PortNum) -> Result<Vec<HwCounter>> {
    let mut counters = world.socket.hw_counters(look.device.index, port)?;
    counters.retain(|counter| counter.optional.is_some());
    Ok(counters)
}

fn cm_default(key: &str) -> Result<CmDefault> {
    match key {
        "roce-mode" => Ok(CmDefault::RoceMode),
        "tos" => Ok(CmDefault::RoceTos),
        other => bail!("'{other}' is no setting"),
    }
}

fn cm_defaults(world: &mut World, look: &Look) -> Result<CmDefaults> {
    // The kernel loads rdma_cm for the question, and answers when it is there.
    world.socket.chardev("rdma_cm", None, None)?;
    let defaults = CmDefaults::open(&world.root.path("/sys/kernel/config"), &look.device.name)?;
    defaults.context("there is no /sys/kernel/config/rdma_cm; is configfs mounted?")
}

fn roce_ports(look: &Look) -> Result<Vec<PortNum>> {
    let roce = look.ports.iter().filter(|port| port.protocol == Some(Protocol::Roce));
    let ports: Vec<PortNum> = roce.map(|port| port.number).collect();
    ensure!(!ports.is_empty(), "it has no RoCE port");
    Ok(ports)
}
