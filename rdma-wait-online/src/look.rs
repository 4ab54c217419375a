// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices that a condition asks about, as they are now.

use anyhow::Result;
use rdma_config::{Online, Root};
use rdma_udev_helper::log;
use rdma_udev_helper::udev_db::is_settled;
use rdma_udev_helper::world::{Lock, Look, World};
use rdma_verbs::netlink::{Error, Reason};
use rdma_verbs::sysfs::SysfsError;

use crate::{Device, Port};

/// Looks at every device that is asked about. `follows` says whether its events are told only from now on: then its ports
/// are looked at again.
///
/// # Errors
/// The kernel's RDMA netlink cannot be asked. A kernel without RDMA has no devices.
pub fn look(
    root: &Root,
    online: &Online,
    mut follows: impl FnMut(&Look) -> bool,
) -> Result<Vec<Device>> {
    let mut world = match World::now(root, Lock::None) {
        Ok(world) => world,
        Err(error) if has_no_rdma(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut devices = Vec::new();
    for device in world.devices.clone() {
        if !online.is_about(&device.name) {
            continue;
        }
        let mut found = world.look(&device);
        if !online.matches.fits(&world.identity(&found, online.matches.asks_for_serial()).1) {
            continue;
        }
        if follows(&found) {
            found.ports = world.ports(&device);
        }
        let ports = found.ports.iter().map(|port| {
            let name = &device.name;
            // Only what is asked for: tables and lists of interfaces can be long, and this is done at each event.
            let ipoib = online.ipoib.then(|| world.sysfs.ipoib_interfaces_of(name, port.number));
            let gids =
                online.gid.and_then(|_| usable(world.sysfs.gids(name, port.number).map(Some)));
            let link = port.link.as_ref();
            Port {
                number: port.number,
                protocol: port.protocol,
                state: link.and_then(|l| l.state),
                physical: link.and_then(|l| l.phys_state),
                rate: usable(world.sysfs.rate(name, port.number)),
                gids: gids.unwrap_or_default(),
                netdev: port.netdev().map(|n| n.name.clone()),
                ipoib: ipoib
                    .into_iter()
                    .flatten()
                    .map(|n| (n.clone(), world.sysfs.netdev_is_up(&n)))
                    .collect(),
            }
        });
        devices.push(Device {
            settled: is_settled(root, &format!("+infiniband:{}", device.name)),
            ports: ports.collect(),
            name: device.name,
        });
    }
    Ok(devices)
}

fn has_no_rdma(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|e| matches!(e.reason, Reason::NoRdma))
}

fn usable<T>(fact: Result<Option<T>, SysfsError>) -> Option<T> {
    fact.unwrap_or_else(|error| {
        log::note(format!("{error}, going on without it"));
        None
    })
}
