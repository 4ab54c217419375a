// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rename`: gives a device the name it should have, after its `add` event.

use anyhow::{Context, Result};
use rdma_config::{Config, Root};
use rdma_udev_helper::log;
use rdma_udev_helper::renames::Refusal;
use rdma_udev_helper::state::Status;
use rdma_udev_helper::world::{Lock, World};
use rdma_verbs::netlink::Reason;
use rdma_verbs::{DevIndex, sysfs};

pub(crate) fn run(root: &Root, index: DevIndex) -> Result<()> {
    let mut world = World::now(root, Lock::Alone)?;
    let Some(device) = world.by_index(index).cloned() else {
        log::note(format!("there is no RDMA device {index} (any more)"));
        return Ok(());
    };
    // What is wrong in it was told when the device's rules ran, a moment ago.
    let config = Config::load(root).0;
    let look = world.look(&device);
    let decision = world.decision(&config, &look);
    let outcome = match world.plan(&config, index, &decision) {
        Ok(steps) => world.rename(&steps),
        // Somebody else has taken it since the rules ran.
        Err(refusal) => Err(refusal.into()),
    };
    let Err(error) = outcome else { return Ok(()) };
    let word = word(&error);
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

/// The word in `ID_RDMA_NAME_STATUS`.
fn word(error: &anyhow::Error) -> &'static str {
    let kernel = error.downcast_ref::<rdma_verbs::netlink::Error>().map(|e| &e.reason);
    match (kernel, error.downcast_ref::<Refusal>()) {
        (_, Some(refusal)) => refusal.word(),
        (Some(Reason::Exists(_)), None) => "taken",
        (Some(Reason::Permission(_)), None) => "permission",
        (Some(Reason::Gone(_)), None) => "gone",
        (_, None) => "kernel",
    }
}
