// SPDX-License-Identifier: MIT OR Apache-2.0
//! `monitor`: what there is, and then what changes.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context, Result};
use rdma_config::Root;
use rdma_udev_helper::world::{Lock, World};
use rdma_verbs::Watch;
use rdmad::model::{self, Difference, Model, differences};
use serde_json::json;

pub(crate) fn run(root: &Root, as_json: bool) -> Result<ExitCode> {
    let mut watch = Watch::open().context("cannot listen to the kernel")?;
    let mut before = Model::new();
    let mut told = BTreeSet::new();
    loop {
        let now = look(root, &mut watch, &mut told)?;
        for difference in differences(&before, &now) {
            match tell(&difference, as_json) {
                // Whoever reads has read enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(ExitCode::SUCCESS);
                }
                outcome => outcome.context("cannot write")?,
            }
        }
        before = now;
        watch.wait(None)?;
    }
}

/// All devices, whose events are told from now on. Without that, changes of ports are seen with the next event of
/// anything else; `told` has the devices of which that was said.
fn look(root: &Root, watch: &mut Watch, told: &mut BTreeSet<String>) -> Result<Model> {
    let mut world = World::now(root, Lock::None)?;
    let nodes = root.path("/dev/infiniband");
    for device in world.devices.clone() {
        let look = world.look(&device);
        let Some(node) = look.uverbs() else { continue };
        if let Err(error) = watch.follow(&nodes, node, look.driver.as_deref())
            && nodes.join(node).exists()
            && told.insert(device.name.clone())
        {
            let about = format!("RDMA device '{}'", device.name);
            eprintln!("rdmactl: {about}: changes of its ports are not seen at once: {error}");
        }
    }
    Ok(model::all(&mut world))
}

fn tell(difference: &Difference, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        let Difference { device, port, what, from, to } = difference;
        let port = port.map(|port| port.0);
        let value =
            json!({ "device": device, "port": port, "event": what, "from": from, "to": to });
        writeln!(out, "{value}")
    } else {
        writeln!(out, "{difference}")
    }
}
