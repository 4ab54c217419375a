// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps descriptions as they should be, as often as something has happened.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result};
use rdma_config::{Config, Root, unknown_description_words};
use rdma_udev_helper::log;
use rdma_udev_helper::udev_db::is_settled;
use rdma_udev_helper::world::{Lock, World, config};
use rdma_verbs::DevIndex;
use rdma_verbs::netlink::Device;
use serde::Serialize;

use crate::wanted::{host, wanted};

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Its number.
    pub index: u32,
    /// What it is called.
    pub name: String,
    /// What its description is.
    pub description: String,
    /// What it should be.
    pub wanted: String,
    /// Why it is not.
    pub problem: Option<String>,
}

/// There is no device of this name.
#[derive(Debug)]
pub struct NoSuchDevice(pub String);

/// Everything that lasts from one look to the next.
#[derive(Debug)]
pub struct Keeper {
    root: Root,
    format: String,
    config: Config,
    /// The devices that were dealt with: by what name, and what was in the way. Of the others something has been heard.
    done: BTreeMap<DevIndex, (String, Option<String>)>,
    /// What was said of a device; it is said once.
    told: BTreeMap<DevIndex, String>,
}

impl Keeper {
    /// With a format for devices of which the configuration says nothing.
    #[must_use]
    pub fn new(root: Root, format: String) -> Self {
        for word in unknown_description_words(&format) {
            log::warning(format!("RDMA_NDD_ND_FORMAT has '{word}', which is not known"));
        }
        let config = config(&root);
        Self { root, format, config, done: BTreeMap::new(), told: BTreeMap::new() }
    }

    /// Reads the configuration again.
    pub fn reload(&mut self) {
        self.config = config(&self.root);
        self.told.clear();
        self.forget_all();
    }

    /// Something may be different with every device.
    pub fn forget_all(&mut self) {
        self.done.clear();
    }

    /// Something is different with the device of this name.
    pub fn forget(&mut self, name: &str) {
        self.done.retain(|_, (done, _)| done != name);
    }

    /// Writes what is not as it should be. How many devices udev is not done with: their names may yet change.
    ///
    /// # Errors
    /// The kernel cannot be asked. What is in the way of one device is told, and the others are done.
    pub fn tick(&mut self) -> Result<usize> {
        let mut world = World::now(&self.root, Lock::None)?;
        self.describe(&mut world, |_| false)
    }

    /// Writes the description of one device, or of all, whatever it is.
    ///
    /// # Errors
    /// The kernel cannot be asked; [`NoSuchDevice`].
    pub fn write(&mut self, name: Option<&str>) -> Result<Result<(), NoSuchDevice>> {
        let mut world = World::now(&self.root, Lock::None)?;
        if let Some(name) = name
            && world.by_name(name).is_none()
        {
            return Ok(Err(NoSuchDevice(name.to_owned())));
        }
        let is_meant = |device: &Device| name.is_none_or(|name| device.name == name);
        self.done.retain(|index, _| !world.by_index(*index).is_some_and(is_meant));
        self.describe(&mut world, is_meant)?;
        Ok(Ok(()))
    }

    /// All devices as they are.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn list(&self) -> Result<Vec<Description>> {
        let mut world = World::now(&self.root, Lock::None)?;
        let host = host(&self.root);
        let mut list: Vec<Description> = Vec::new();
        for device in world.devices.clone() {
            let problem = self.done.get(&device.index).and_then(|(_, problem)| problem.clone());
            let description = world.sysfs.node_description(&device.name);
            list.push(Description {
                index: device.index.0,
                description: description.unwrap_or_default().unwrap_or_default(),
                wanted: wanted(&mut world, &self.config, &self.format, &device, &host),
                name: device.name,
                problem,
            });
        }
        list.sort_by_key(|description| description.index);
        Ok(list)
    }

    fn describe(&mut self, world: &mut World, force: impl Fn(&Device) -> bool) -> Result<usize> {
        self.done.retain(|index, _| world.by_index(*index).is_some());
        self.told.retain(|index, _| world.by_index(*index).is_some());
        let host = host(&self.root);
        let mut unsettled = 0;
        let mut written = Vec::new();
        for device in world.devices.clone() {
            if self.done.get(&device.index).is_some_and(|(name, _)| *name == device.name) {
                continue;
            }
            if !is_settled(&self.root, &format!("+infiniband:{}", device.name)) {
                unsettled += 1;
                continue;
            }
            let wanted = wanted(world, &self.config, &self.format, &device, &host);
            let problem = match write(world, &device, &wanted, force(&device)) {
                Ok(()) => None,
                // It has gone, or has another name by now; its event is on the way.
                Err(_) if !world.is_there(&device) => continue,
                Err(error) => Some(error),
            };
            self.tell(&device, problem.as_ref());
            let problem = problem.map(|problem| format!("{problem:#}"));
            self.done.insert(device.index, (device.name.clone(), problem));
            written.push(device);
        }
        // What was written by a name that went to another device meanwhile is wrong there: its event is on the way, too.
        if !written.is_empty() {
            for device in world.gone(written) {
                self.done.remove(&device.index);
                self.forget(&device.name);
            }
        }
        Ok(unsettled)
    }

    fn tell(&mut self, device: &Device, problem: Option<&anyhow::Error>) {
        let Some(problem) = problem else {
            if self.told.remove(&device.index).is_some() {
                log::note(format!(
                    "RDMA device '{}' is described as it should be now",
                    device.name
                ));
            }
            return;
        };
        let text = format!("RDMA device '{}': {problem:#}", device.name);
        if self.told.get(&device.index) == Some(&text) {
            return;
        }
        // Of some drivers nothing else is to be expected.
        match problem.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::Unsupported) => log::note(&text),
            _ => log::warning(&text),
        }
        self.told.insert(device.index, text);
    }
}

/// Writes a description and reads it back.
fn write(world: &World, device: &Device, wanted: &str, force: bool) -> Result<()> {
    let read = || anyhow::Ok(world.sysfs.node_description(&device.name)?.unwrap_or_default());
    let was = read()?;
    if was == wanted && !force {
        return Ok(());
    }
    let about = || format!("cannot describe it as '{wanted}'");
    world.sysfs.set_node_description(&device.name, wanted).map_err(why).with_context(about)?;
    let is = read()?;
    anyhow::ensure!(is == wanted, "{}: the driver has made it '{is}'", about());
    log::note(format!("RDMA device '{}': '{wanted}', was '{was}'", device.name));
    Ok(())
}

fn why(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::Unsupported => {
            anyhow::Error::new(error).context("its driver lets nobody set one")
        }
        _ => error.into(),
    }
}
