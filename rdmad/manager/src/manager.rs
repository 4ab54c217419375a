// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the devices what the configuration says, as often as something has happened.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result};
use rdma_config::{Config, Facts, Root, SETTING_KEYS};
use rdma_udev_helper::log;
use rdma_udev_helper::state::{Run, replace};
use rdma_udev_helper::udev_db::is_settled;
use rdma_udev_helper::world::{Lock, Look, World, config};
use rdma_verbs::netlink::Device;
use rdma_verbs::{DevIndex, Watch};

use rdmad::apply;
use rdmad::links::{self, Act, Made, OnNetdev};
use rdmad::model::{self, Model};
use rdmad::settings::{Before, Verdict, verdict};

/// What is known of a device since it was looked at.
#[derive(Debug)]
struct Known {
    look: Look,
    facts: Facts,
    shown: model::Device,
    /// Whether its events are told.
    followed: bool,
}

/// Everything that lasts from one look to the next. None of it is needed: what must outlive the process is in
/// `/run/rdma`.
#[derive(Debug)]
pub(crate) struct Manager {
    root: Root,
    config: Config,
    known: BTreeMap<DevIndex, Known>,
    /// What is not as it should be, by what it is about; each is told once.
    problems: BTreeMap<String, String>,
}

impl Manager {
    pub(crate) fn new(root: Root) -> Self {
        let config = config(&root);
        Self { root, config, known: BTreeMap::new(), problems: BTreeMap::new() }
    }

    /// Reads the configuration again; what was given up before is tried again.
    pub(crate) fn reload(&mut self) {
        self.config = config(&self.root);
        self.known.clear();
        self.problems.clear();
    }

    /// Anything may have changed: everything is looked at again.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    /// A device has said something of itself; `node` is its uverbs node.
    pub(crate) fn forget_node(&mut self, node: &str) {
        self.known.retain(|_, known| known.look.nodes.iter().all(|n| n.name != node));
    }

    /// The devices that udev is done with.
    pub(crate) fn model(&self) -> Model {
        self.known.iter().map(|(index, known)| (*index, known.shown.clone())).collect()
    }

    /// Writes a file of `/run/rdma`, when it is another than before; who reads sees all of it or what was there before.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = Run::of(&self.root).path(name);
        if let Err(error) = replace(&path, text.as_bytes()) {
            log::note(format!("cannot write {}: {error}", path.display()));
        }
    }

    /// What is not as it should be, by what it is about.
    pub(crate) fn problems(&self) -> &BTreeMap<String, String> {
        &self.problems
    }

    /// Looks at what is there and does what is to be done.
    ///
    /// # Errors
    /// The kernel cannot be asked. What cannot be done to one device or link is a warning, and the rest is done.
    pub(crate) fn tick(&mut self, watch: &mut Watch) -> Result<()> {
        let mut world = World::now(&self.root, Lock::None)?;
        self.system(&mut world);
        if self.links(&mut world, watch)? {
            world = World::now(&self.root, Lock::None)?;
        }
        self.devices(&mut world, watch);
        Ok(())
    }

    /// Tells a problem when it is new, and that it is over.
    fn tell(&mut self, about: &str, problem: Option<String>) {
        match problem {
            None => {
                if self.problems.remove(about).is_some() {
                    log::note(format!("{about}: it is as it should be now"));
                }
            }
            Some(problem) if self.problems.get(about) == Some(&problem) => {}
            Some(problem) => {
                log::warning(format!("{about}: {problem}"));
                self.problems.insert(about.to_owned(), problem);
            }
        }
    }

    /// `[system] netns`
    fn system(&mut self, world: &mut World) {
        let Some(shared) = self.config.netns_shared else { return };
        let mode = if shared { "shared" } else { "exclusive" };
        let about = format!("[system] netns = \"{mode}\"");
        if self.problems.contains_key(&about) {
            // The kernel refuses for good as soon as there is another network namespace.
            return;
        }
        let outcome = world.socket.system().and_then(|system| {
            if system.netns_shared == Some(shared) {
                return Ok(false);
            }
            world.socket.set_netns_shared(shared).map(|()| true)
        });
        match outcome {
            Ok(false) => {}
            Ok(true) => log::note(format!("{about}: done")),
            Err(error) => {
                let kind =
                    error.reason.errno().map(|errno| io::Error::from_raw_os_error(errno).kind());
                let hint = match kind {
                    Some(io::ErrorKind::ResourceBusy) => {
                        "; other network namespaces are in use: it needs a reboot"
                    }
                    _ => "",
                };
                self.tell(&about, Some(format!("{error}{hint}")));
            }
        }
    }

    /// Makes and removes software devices; true when any came or went.
    fn links(&mut self, world: &mut World, watch: &mut Watch) -> Result<bool> {
        let made = links::made(&self.root);
        if self.config.links.is_empty() && made.is_empty() {
            return Ok(false);
        }
        let devices = world.devices.clone();
        let on_netdev = devices.iter().filter_map(|device| {
            let known = self.known.get(&device.index).filter(|k| k.look.device.name == device.name);
            match known {
                Some(known) => OnNetdev::of(&known.look),
                None => OnNetdev::of(&world.look(device)),
            }
        });
        let on_netdev: Vec<OnNetdev> = on_netdev.collect();
        // Under a name that udev may yet change it is another's interface.
        let has_netdev = |name: &str| {
            let index = world.sysfs.netdev_index(name);
            index.is_some_and(|index| is_settled(&self.root, &format!("n{index}")))
        };
        let acts = links::plan(&self.config.links, &made, &on_netdev, has_netdev);
        let mut changed = false;
        for act in acts {
            let (name, outcome) = match &act {
                Act::Make(link) => (&link.name, self.make(world, link)),
                Act::Remove(name, index) => (name, self.remove(world, watch, name, *index)),
                Act::Forget(name) => (name, self.write_link(name, None)),
            };
            changed |= !matches!(act, Act::Forget(_)) && outcome.is_ok();
            let name = name.clone();
            self.tell(&format!("[[link]] {name}"), outcome.err().map(|error| format!("{error:#}")));
        }
        Ok(changed)
    }

    fn make(&self, world: &mut World, link: &rdma_config::Link) -> Result<()> {
        let made = Made { kind: link.kind.to_owned(), netdev: link.netdev.clone(), index: None };
        // First, so that whoever comes after us knows whose it is.
        self.write_link(&link.name, Some(&made))?;
        if let Err(error) = world.socket.new_link(&link.name, link.kind, &link.netdev) {
            self.write_link(&link.name, None)?;
            return Err(error.into());
        }
        let device = world.socket.devices()?.into_iter().find(|d| d.name == link.name);
        if let Some(device) = device {
            self.write_link(&link.name, Some(&Made { index: Some(device.index), ..made }))?;
        }
        log::note(format!("made {} device '{}' on '{}'", link.kind, link.name, link.netdev));
        Ok(())
    }

    fn remove(
        &mut self,
        world: &mut World,
        watch: &mut Watch,
        name: &str,
        index: DevIndex,
    ) -> Result<()> {
        if let Some(device) = world.by_index(index).cloned() {
            world.look(&device).nodes.iter().for_each(|node| watch.let_go(&node.name));
        }
        self.known.remove(&index);
        Before::forget(&self.root, index);
        world.socket.delete_link(index)?;
        let asked = self.config.links.iter().any(|link| link.name == name);
        let why = if asked { "to make it anew" } else { "as no [[link]] asks for it any more" };
        log::note(format!("removed device '{name}' {why}"));
        self.write_link(name, None)
    }

    fn write_link(&self, name: &str, made: Option<&Made>) -> Result<()> {
        links::write(&self.root, name, made).context("cannot write to /run/rdma/links")
    }

    /// Looks at every device that is new, and that udev is done with; applies settings.
    fn devices(&mut self, world: &mut World, watch: &mut Watch) {
        let devices = world.devices.clone();
        let gone: Vec<DevIndex> =
            self.known.keys().filter(|index| world.by_index(**index).is_none()).copied().collect();
        for index in gone {
            Before::forget(&self.root, index);
            if let Some(known) = self.known.remove(&index) {
                let of = of_device(&known.look.device.name, "");
                self.problems.retain(|about, _| !about.starts_with(&of));
            }
        }
        for device in devices {
            let is_known = |known: &Known| known.followed && known.look.device.name == device.name;
            if !self.known.get(&device.index).is_some_and(is_known) {
                if !is_settled(&self.root, &format!("+infiniband:{}", device.name)) {
                    continue;
                }
                let (look, followed) = self.follow(world, watch, &device);
                let facts = world.identity(&look, self.config.matches_serials()).1;
                let shown = model::device(world, &look, &facts);
                self.known.insert(device.index, Known { look, facts, shown, followed });
            }
            self.apply(world, device.index);
        }
    }

    /// Looks at a device. Also whether what changes after this is told: not while its node is just coming or going.
    fn follow(&mut self, world: &mut World, watch: &mut Watch, device: &Device) -> (Look, bool) {
        let mut look = world.look(device);
        let uverbs = look.uverbs();
        let nodes = self.root.path("/dev/infiniband");
        let outcome = match uverbs {
            Some(node) => watch.follow(&nodes, node, look.driver.as_deref()),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let is_loaded = self.root.path("/sys/class/infiniband_verbs").exists();
        let problem = match &outcome {
            Err(_) if !is_loaded => Some("ib_uverbs is not loaded".to_owned()),
            Err(error) if uverbs.is_some() && world.is_there(device) => Some(error.to_string()),
            _ => None,
        };
        let problem = problem.map(|why| format!("changes are not seen at once: {why}"));
        self.tell(&of_device(&device.name, "ports"), problem);
        if let Ok(true) = outcome {
            look.ports = world.ports(device);
        }
        (look, outcome.is_ok())
    }

    fn apply(&mut self, world: &mut World, index: DevIndex) {
        let Some(Known { look, facts, .. }) = self.known.get(&index) else { return };
        let (name, look) = (look.device.name.clone(), look.clone());
        let wanted = self.config.settings_of(facts);
        if wanted.is_empty() {
            return;
        }
        let repair = self.config.repairs(facts);
        let wanted: Vec<(&str, String)> = SETTING_KEYS
            .into_iter()
            .filter_map(|key| Some((key, (*wanted.get(key)?).to_owned())))
            .collect();
        let before = Before::read(&self.root, index, look.device.node_guid);
        let mut after = before.clone();
        for (key, value) in wanted {
            let set_before = before.0.get(key).map(String::as_str);
            let problem = match one(world, &look, key, &value, set_before, repair) {
                Ok(None) => {
                    after.0.insert(key.to_owned(), value);
                    None
                }
                Ok(Some(problem)) => Some(problem),
                // It has gone, or has another name by now; its event is on the way.
                Err(_) if !world.is_there(&look.device) => return,
                Err(error) => Some(format!("cannot set it to '{value}': {error:#}")),
            };
            self.tell(&of_device(&name, key), problem);
        }
        if after != before
            && let Err(error) = after.write(&self.root, index)
        {
            self.tell("/run/rdma/settings", Some(format!("cannot write there: {error}")));
        }
    }
}

/// Makes one setting what it should be; what is in the way, where that is nobody's failure.
fn one(
    world: &mut World,
    look: &Look,
    key: &str,
    wanted: &str,
    set_before: Option<&str>,
    repair: bool,
) -> Result<Option<String>> {
    let is = apply::get(world, look, key)?;
    match verdict(wanted, &is, set_before, repair) {
        Verdict::Good => Ok(None),
        Verdict::Drifted => Ok(Some(format!(
            "somebody has changed it from '{wanted}' to '{is}'; it stays so until the configuration is read again"
        ))),
        Verdict::Set => {
            apply::set(world, look, key, wanted)?;
            log::note(format!("{}: '{wanted}', was '{is}'", of_device(&look.device.name, key)));
            Ok(None)
        }
    }
}

fn of_device(name: &str, key: &str) -> String {
    format!("RDMA device '{name}' {key}")
}
