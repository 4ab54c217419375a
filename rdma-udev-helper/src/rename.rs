// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rename`: gives a device the name it should have, after its `add` event.

use anyhow::{Context, Result};
use rdma_config::{Config, Root};
use rdma_udev_helper::state::{State, Status};
use rdma_verbs::netlink::Reason;
use rdma_verbs::{DevIndex, sysfs};

use crate::log;
use crate::world::{Lock, World};

pub(crate) fn run(root: &Root, index: DevIndex) -> Result<()> {
    let mut world = World::now(root, &Lock::Alone)?;
    let Some(device) = world.by_index(index).cloned() else {
        log::note(format!("there is no RDMA device {index} (any more)"));
        return Ok(());
    };
    // What is wrong in it was told when the device's rules ran, a moment ago.
    let config = Config::load(root).0;
    let look = world.look(&device);
    let decision = world.decision(&config, &look);
    let outcome = match world.plan(&config, index, &decision.name) {
        Ok(steps) => apply(&mut world, &steps, decision.policy),
        // Somebody else has taken it since the rules ran.
        Err(taken) => Err(anyhow::anyhow!("it is the name of device {}", taken.by)),
    };
    let Err(error) = outcome else { return Ok(()) };
    let word = refusal(&error);
    let mut state = look.state;
    state.status = Status::Refused(word.to_owned());
    decision.policy.clone_into(&mut state.policy);
    world.run.save(index, &state).context("cannot write to /run/rdma")?;
    // Its rules have left it not ready for the rename; they run again without one.
    sysfs::announce_change(&world.sysfs.device(&device.name)).ok();
    Err(error.context(format!(
        "RDMA device '{}' keeps its name: it cannot be called '{}'",
        device.name, decision.name
    )))
}

/// Renames devices one after the other; the lock must be held. The kernel's `move` event has the rules
/// run for each, and those tell its children.
pub(crate) fn apply(world: &mut World, steps: &[(DevIndex, String)], policy: &str) -> Result<()> {
    for (index, name) in steps {
        let Some(device) = world.by_index(*index).cloned() else { continue };
        let before = world.state(&device);
        let after = State {
            name: name.clone(),
            policy: policy.to_owned(),
            status: Status::Renamed,
            ..before.clone()
        };
        // First, so that the event of the rename finds it.
        world.run.save(*index, &after).context("cannot write to /run/rdma")?;
        if let Err(error) = world.socket.rename(*index, name) {
            world.run.save(*index, &before).context("cannot write to /run/rdma")?;
            return Err(error.into());
        }
        world.run.no_longer_known_as(*index, &before.name);
    }
    Ok(())
}

/// The word in `ID_RDMA_NAME_STATUS`.
fn refusal(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref::<rdma_verbs::netlink::Error>().map(|e| &e.reason) {
        Some(Reason::Exists(_)) | None => "taken",
        Some(Reason::Permission(_)) => "permission",
        Some(Reason::Gone(_)) => "gone",
        Some(_) => "kernel",
    }
}
