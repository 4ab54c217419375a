// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a description should be.

use rdma_config::{Config, Facts, Root, expand_description};
use rdma_udev_helper::world::{Look, World};
use rdma_verbs::netlink::Device;

/// Where neither the configuration nor `RDMA_NDD_ND_FORMAT` says anything.
pub const DEFAULT_FORMAT: &str = "%h %d";
/// Needs a question to the card, which takes its time.
const SERIAL: &str = "%{serial}";

/// The host's name up to its first dot.
#[must_use]
pub fn host(root: &Root) -> String {
    let name = std::fs::read_to_string(root.path("/proc/sys/kernel/hostname")).unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

/// The description of a device by the configuration, or else by `format`.
pub(crate) fn wanted(
    world: &mut World,
    config: &Config,
    format: &str,
    device: &Device,
    host: &str,
) -> String {
    let mut formats = config.descriptions().chain([format]);
    let with_serial = config.matches_serials() || formats.any(|format| format.contains(SERIAL));
    // Most need no more than names.
    if config.descriptions().next().is_none() && !format.contains("%{") {
        return expand_description(format, |word| match word {
            "%h" => host.to_owned(),
            _ => device.name.clone(),
        });
    }
    let look = world.look(device);
    let facts = world.identity(&look, with_serial).1;
    fill(world, config, &look, &facts, config.description_of(&facts).unwrap_or(format), host)
}

/// Puts in what is known of a device.
pub fn fill(
    world: &mut World,
    config: &Config,
    look: &Look,
    facts: &Facts,
    format: &str,
    host: &str,
) -> String {
    let role = match format.contains("%{role}") {
        true => Some(world.decision(config, look)).filter(|decision| decision.source.is_some()),
        false => None,
    };
    expand_description(format, |word| match word {
        "%h" => host.to_owned(),
        "%d" => look.device.name.clone(),
        "%{port-guid}" => facts.port_guid.first().cloned().unwrap_or_default(),
        SERIAL => {
            let asked = facts.serial.first().cloned();
            let serial = || world.sysfs.serial(&look.device.name).ok().flatten();
            asked.or_else(serial).unwrap_or_default()
        }
        "%{role}" => role.as_ref().map(|role| role.name.clone()).unwrap_or_default(),
        _ => String::new(),
    })
}
