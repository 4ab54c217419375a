// SPDX-License-Identifier: MIT OR Apache-2.0
//! All devices as they are now, and what can be found out about one of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use crate::decide::{Case, Decision, Rank, decide};
use crate::naming::Identity;
use crate::renames::{self, Refusal, Step};
use crate::state::{Run, State, Status};
use anyhow::{Context, Result};
use rdma_config::{Config, DeviceEntry, Facts, Function, Root, check_device_name, cmdline};
use rdma_verbs::netlink::{Device, NameAssign, Netdev, Port, Socket};
use rdma_verbs::sysfs::{Node, Sysfs, SysfsError};
use rdma_verbs::{DevIndex, Guid, LinkLayer, PortNum, Protocol, driver_name, port_protocol};

use crate::log;

/// The kernel's devices at one moment, and the means to ask more.
#[derive(Debug)]
pub struct World {
    /// What all paths are below.
    pub root: Root,
    /// For requests.
    pub socket: Socket,
    /// What netlink does not tell.
    pub sysfs: Sysfs,
    /// What is remembered.
    pub run: Run,
    /// All devices of this network namespace.
    pub devices: Vec<Device>,
    /// The devices that an entry names, by the place where the entry stands.
    ranks: BTreeMap<(PathBuf, usize), BTreeMap<DevIndex, Rank>>,
    _lock: Option<File>,
}

/// How much others may do meanwhile.
#[derive(Clone, Copy, Debug)]
pub enum Lock {
    /// Anything, a rename half done included: for a look that needs no privilege.
    None,
    /// Read names.
    Shared,
    /// Nothing: names are changed.
    Alone,
}

/// All that is known of one device.
#[derive(Clone, Debug)]
pub struct Look {
    /// From netlink.
    pub device: Device,
    /// What is remembered of it.
    pub state: State,
    /// Its ports, from 1.
    pub ports: Vec<PortFacts>,
    /// `mlx5`, `rxe`: the kernel's word for the driver.
    pub driver: Option<String>,
    /// Its character devices.
    pub nodes: Vec<NodeName>,
}

impl Look {
    /// Its uverbs node: `uverbs0`.
    #[must_use]
    pub fn uverbs(&self) -> Option<&str> {
        let node = self.nodes.iter().find(|node| node.class == "infiniband_verbs");
        node.map(|node| node.name.as_str())
    }
}

/// What becomes of a device's name.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The device as it is.
    pub look: Look,
    /// What it should be called.
    pub decision: Decision,
    /// Why it cannot be.
    pub refusal: Option<Refusal>,
}

/// One character device.
#[derive(Clone, Debug)]
pub struct NodeName {
    /// `infiniband_verbs` or `infiniband_mad`
    pub class: &'static str,
    /// `uverbs0`
    pub name: String,
    /// What it is of.
    pub node: Node,
}

/// One port, from netlink and sysfs.
#[derive(Clone, Debug)]
pub struct PortFacts {
    /// From 1.
    pub number: PortNum,
    /// What it speaks.
    pub protocol: Option<Protocol>,
    /// Interface identifier of GID 0; None for zero.
    pub guid: Option<Guid>,
    /// State, LIDs and network interface, where netlink tells.
    pub link: Option<Port>,
}

impl PortFacts {
    /// The network interface of a RoCE or iWARP port.
    #[must_use]
    pub fn netdev(&self) -> Option<&Netdev> {
        self.link.as_ref()?.netdev.as_ref()
    }
}

impl World {
    /// Asks for all devices, in one question.
    ///
    /// # Errors
    /// No RDMA in the kernel, no netlink, no lock.
    pub fn now(root: &Root, lock: Lock) -> Result<Self> {
        let mut socket = Socket::open()?;
        let run = Run::of(root);
        let lock = match lock {
            Lock::None => Ok(None),
            Lock::Shared => run.lock(false).map(Some),
            Lock::Alone => run.lock(true).map(Some),
        };
        let lock = lock.context("cannot lock /run/rdma/lock")?;
        let mut devices = socket.devices()?;
        // Names become names of files here. The kernel has none with a slash; should it ever, not here.
        devices.retain(|d| !d.name.contains('/'));
        let sysfs = Sysfs::at(root.path("/sys"));
        Ok(Self {
            root: root.clone(),
            socket,
            sysfs,
            run,
            devices,
            ranks: BTreeMap::new(),
            _lock: lock,
        })
    }

    /// The device of a name; None when there is none, or when sysfs has another device under the name
    /// by now.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Device> {
        let device = self.devices.iter().find(|d| d.name == name)?;
        let in_sysfs = usable(self.sysfs.node_guid(name));
        (in_sysfs.is_none() || device.node_guid.is_none() || in_sysfs == device.node_guid)
            .then_some(device)
    }

    /// The device of a netlink index.
    #[must_use]
    pub fn by_index(&self, index: DevIndex) -> Option<&Device> {
        self.devices.iter().find(|d| d.index == index)
    }

    /// Whether a device is still there, and called the same. Where the kernel cannot be asked it is.
    pub fn is_there(&mut self, device: &Device) -> bool {
        self.gone(vec![device.clone()]).is_empty()
    }

    /// Those of these devices that are there no more, or called something else.
    pub fn gone(&mut self, mut devices: Vec<Device>) -> Vec<Device> {
        // Of all, as one that is going is listed no more, but still answers to its number.
        let Ok(now) = self.socket.devices() else { return Vec::new() };
        devices.retain(|d| !now.iter().any(|now| now.index == d.index && now.name == d.name));
        devices
    }

    /// Finds out all about a device.
    pub fn look(&mut self, device: &Device) -> Look {
        let ports = self.ports(device);
        let (uverbs, driver) = self.uverbs(device);
        let mut nodes: Vec<NodeName> = uverbs.into_iter().collect();
        // Only where ib_umad is loaded: the question alone would load it.
        if self.root.path("/sys/class/infiniband_mad").exists() {
            for port in &ports {
                nodes.extend(self.umad(device, port.number));
            }
        }
        Look { device: device.clone(), state: self.state(device), ports, driver, nodes }
    }

    /// The ports of a device. Without netlink's part of it (the device is just going) what sysfs has.
    pub fn ports(&mut self, device: &Device) -> Vec<PortFacts> {
        let ports = self.socket.ports(device.index).unwrap_or_else(|error| {
            log::note(format!("{error}"));
            Vec::new()
        });
        let link = |n: PortNum| ports.iter().find(|p: &&Port| p.port == n);
        (1..=device.ports)
            .map(PortNum)
            .map(|number| PortFacts {
                number,
                protocol: self.protocol(device, number),
                guid: usable(self.sysfs.port_guid(&device.name, number)),
                link: link(number).cloned(),
            })
            .collect()
    }

    fn protocol(&self, device: &Device, port: PortNum) -> Option<Protocol> {
        let link = self.sysfs.link_layer(&device.name, port).unwrap_or_else(|error| {
            log::warning(error);
            LinkLayer::Unspecified
        });
        port_protocol(device.protocol, link)
    }

    /// The uverbs node, and with it the driver's name in the kernel's words; without one, that of the bus
    /// driver. The kernel loads ib_uverbs for the question.
    fn uverbs(&mut self, device: &Device) -> (Option<NodeName>, Option<String>) {
        let chardev = self.socket.chardev("uverbs", Some(device.index), None).ok().flatten();
        let name = chardev.as_ref().and_then(|c| driver_name(c.driver?)).map(str::to_owned);
        let node = chardev.map(|c| NodeName {
            class: "infiniband_verbs",
            name: c.name,
            node: Node { device: device.name.clone(), port: None },
        });
        (node, name.or_else(|| self.sysfs.bus_driver(&device.name)))
    }

    /// The umad node of a port and, where there is a subnet manager's place, the issm node. The kernel
    /// tells of the first only; both have one number.
    fn umad(&mut self, device: &Device, port: PortNum) -> Vec<NodeName> {
        let chardev = self.socket.chardev("umad", Some(device.index), Some(port)).ok().flatten();
        let class = "infiniband_mad";
        chardev
            .iter()
            .flat_map(|umad| [umad.name.clone(), umad.name.replace("umad", "issm")])
            .filter(|name| self.sysfs.class_dir(class, name).exists())
            .map(|name| {
                let node = Node { device: device.name.clone(), port: Some(port) };
                NodeName { class, name, node }
            })
            .collect()
    }

    /// What is remembered of a device, brought up to date: a name that we did not leave it with was
    /// given by somebody else.
    #[must_use]
    pub fn state(&self, device: &Device) -> State {
        match self.run.state(device.index, device.node_guid) {
            Some(state) if state.name == device.name => state,
            Some(state) => {
                self.run.no_longer_known_as(device.index, &state.name);
                let (policy, status) = ("user".into(), Status::Kept);
                State { name: device.name.clone(), policy, status, ..state }
            }
            None => State {
                kernel_name: device.name.clone(),
                node_guid: device.node_guid,
                name: device.name.clone(),
                policy: match device.name_assign {
                    NameAssign::User => "user".into(),
                    NameAssign::Unknown => "kernel".into(),
                },
                status: Status::Kept,
            },
        }
    }

    /// What a device should be called.
    pub fn decision(&mut self, config: &Config, look: &Look) -> Decision {
        let (identity, facts) = self.identity(look, config.matches_serials());
        let case = Case {
            current: &look.device.name,
            named_by_user: look.state.policy == "user",
            enabled: cmdline::names_enabled(&self.root),
            config,
            facts: &facts,
            identity: &identity,
        };
        decide(&case, |entry| self.rank(config, entry, look.device.index))
    }

    /// The place of a device among those that an entry names: by PCI address, their own or that of their network
    /// interface, and those without one last, in the order in which the kernel made them.
    fn rank(&mut self, config: &Config, entry: &DeviceEntry, index: DevIndex) -> Rank {
        if !self.ranks.contains_key(&entry.source) {
            let mut order = Vec::new();
            for device in self.devices.clone() {
                let look = self.look(&device);
                let (identity, facts) = self.identity(&look, config.matches_serials());
                if config.name_of(&facts).is_none_or(|(_, e)| e.source != entry.source) {
                    continue;
                }
                let netdev = look.ports.first().and_then(PortFacts::netdev);
                let place = identity.place.as_ref();
                let address = match place {
                    Some(place) => Some(place.own_address),
                    None => netdev.and_then(|n| self.sysfs.netdev_function(&n.name)),
                };
                let card = place.map(|p| p.address).or(address).map(|a| (a.domain, a.bus, a.slot));
                let sf = place.and_then(|p| p.sf);
                let last = (sf, netdev.map(|n| n.index), device.index);
                order.push((address.is_none(), address, last, card));
            }
            order.sort();
            let mut ranks = BTreeMap::new();
            let mut cards = Vec::new();
            for (index, (.., (.., device), card)) in order.into_iter().enumerate() {
                // Without an address each is a card of its own.
                let known = card.and_then(|_| cards.iter().position(|c| *c == card));
                let rail = known.unwrap_or(cards.len());
                if known.is_none() {
                    cards.push(card);
                }
                ranks.insert(device, Rank { index, rail });
            }
            self.ranks.insert(entry.source.clone(), ranks);
        }
        let ranks = self.ranks.get(&entry.source);
        ranks.and_then(|ranks| ranks.get(&index)).copied().unwrap_or_default()
    }

    /// The renames that give a device the name of a decision; see [`renames::plan`].
    ///
    /// # Errors
    /// Why it cannot have it.
    pub fn plan(
        &mut self,
        config: &Config,
        index: DevIndex,
        decision: &Decision,
    ) -> Result<Vec<Step>, Refusal> {
        check_device_name(&decision.name).map_err(Refusal::BadName)?;
        let devices = self.devices.clone();
        let names: BTreeMap<DevIndex, String> =
            devices.iter().map(|d| (d.index, d.name.clone())).collect();
        let mut policies = BTreeMap::from([(index, decision.policy)]);
        let steps = renames::plan(&names, index, &decision.name, |holder| {
            let device = devices.iter().find(|d| d.index == holder)?;
            let look = self.look(device);
            let want = self.decision(config, &look);
            policies.insert(holder, want.policy);
            check_device_name(&want.name).is_ok().then_some(want.name)
        });
        let steps = steps.map_err(|taken| Refusal::Taken(taken.by))?;
        let policy = |index: DevIndex| policies.get(&index).copied().unwrap_or_default();
        Ok(steps
            .into_iter()
            .map(|(device, name)| Step { device, name, policy: policy(device) })
            .collect())
    }

    /// What becomes of every device's name, and the renames that lead there.
    pub fn plan_all(&mut self, config: &Config) -> (Vec<Planned>, Vec<Step>) {
        let devices = self.devices.clone();
        let mut planned: Vec<Planned> = devices
            .iter()
            .map(|device| {
                let look = self.look(device);
                Planned { decision: self.decision(config, &look), look, refusal: None }
            })
            .collect();
        let names = devices.iter().map(|d| (d.index, d.name.clone())).collect();
        let wants = planned.iter().map(|p| (p.look.device.index, &p.decision)).collect();
        let (steps, mut refusals) = renames::plan_all(&names, &wants);
        for p in &mut planned {
            p.refusal = refusals.remove(&p.look.device.index);
        }
        (planned, steps)
    }

    /// Renames devices one after the other; the lock must be [`Lock::Alone`]. The kernel's `move` event has the
    /// rules run for each, and those tell its children.
    ///
    /// # Errors
    /// What the kernel says to the first that fails; those before it are done.
    pub fn rename(&mut self, steps: &[Step]) -> Result<()> {
        for Step { device: index, name, policy } in steps {
            let Some(device) = self.by_index(*index).cloned() else { continue };
            let before = self.state(&device);
            let after = State {
                name: name.clone(),
                policy: (*policy).to_owned(),
                status: Status::Renamed,
                ..before.clone()
            };
            // First, so that the event of the rename finds it.
            self.run.save(*index, &after).context("cannot write to /run/rdma")?;
            if let Err(error) = self.socket.rename(*index, name) {
                self.run.save(*index, &before).context("cannot write to /run/rdma")?;
                return Err(error.into());
            }
            self.run.no_longer_known_as(*index, &before.name);
        }
        Ok(())
    }

    /// What a device can be named by and matched by; its card is asked for the serial number only `with_serial`.
    #[must_use]
    pub fn identity(&self, look: &Look, with_serial: bool) -> (Identity, Facts) {
        let Look { device, state, ports, driver, .. } = look;
        let place = usable(self.sysfs.place(&device.name));
        let slot = place.as_ref().and_then(|p| usable(self.sysfs.slot(p.own_address)));
        let words = |p: Protocol| match p {
            // The kernel's word, and the one that lists and flags have.
            Protocol::InfiniBand => vec!["ib".to_owned(), "infiniband".to_owned()],
            Protocol::Iwarp => vec!["iw".to_owned(), "iwarp".to_owned()],
            other => vec![other.to_string()],
        };
        let netdevs: Vec<String> =
            ports.iter().filter_map(|p| Some(p.netdev()?.name.clone())).collect();
        let only_port = match ports.as_slice() {
            [port] => matches!(port.protocol, Some(Protocol::Roce | Protocol::Iwarp)),
            _ => false,
        };
        let function = place.as_ref().map(|p| match (p.sf, p.vf) {
            (Some(sf), _) => Function::Sub(sf),
            (None, Some(vf)) => Function::Virtual(vf),
            (None, None) => Function::Physical,
        });
        let path = place.as_ref().map(|p| {
            let a = p.own_address;
            format!("pci-{:04x}:{:02x}:{:02x}.{}", a.domain, a.bus, a.slot, a.function)
        });
        let facts = Facts {
            sysname: vec![state.kernel_name.clone()],
            path: path.into_iter().collect(),
            slot: slot.iter().cloned().collect(),
            port_guid: ports.iter().filter_map(|p| Some(p.guid?.to_string())).collect(),
            node_guid: device.node_guid.iter().map(Guid::to_string).collect(),
            driver: driver.iter().cloned().collect(),
            protocol: ports.iter().filter_map(|p| p.protocol).flat_map(words).collect(),
            netdev: netdevs.clone(),
            board_id: usable(self.sysfs.board_id(&device.name)).into_iter().collect(),
            serial: match with_serial {
                true => usable(self.sysfs.serial(&device.name)).into_iter().collect(),
                false => Vec::new(),
            },
            function,
            numa_node: usable(self.sysfs.numa_node(&device.name)),
        };
        let identity = Identity {
            protocol: device.protocol,
            place,
            slot,
            node_guid: device.node_guid,
            netdev: netdevs.into_iter().next().filter(|_| only_port),
        };
        (identity, facts)
    }
}

/// The configuration, with what is wrong in it told.
#[must_use]
pub fn config(root: &Root) -> Config {
    let (config, warnings) = Config::load(root);
    for warning in warnings {
        log::warning(warning);
    }
    config
}

/// A fact, or nothing and a message when the file that has it is broken.
fn usable<T>(fact: Result<Option<T>, SysfsError>) -> Option<T> {
    fact.unwrap_or_else(|error| {
        log::warning(format!("{error}, going on without it"));
        None
    })
}
