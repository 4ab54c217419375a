// SPDX-License-Identifier: MIT OR Apache-2.0
//! The InfiniBand ports of this host, as those see them who ask others through them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rdma_config::Root;
use rdma_verbs::netlink::{Device, PortState};
use rdma_verbs::umad::Address;
use rdma_verbs::{DevIndex, Gid, Guid, PortNum, Protocol};

use crate::world::{Lock, PortFacts, World};

/// An InfiniBand port, and what of it one needs to ask others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPort {
    /// The RDMA device.
    pub index: DevIndex,
    /// Its name at the moment.
    pub device: String,
    /// Its node GUID.
    pub node_guid: Guid,
    /// How many ports it has.
    pub ports: u32,
    /// From 1.
    pub number: PortNum,
    /// `/dev/infiniband/umad0`
    pub umad: PathBuf,
    /// Whether it is ACTIVE.
    pub is_active: bool,
    /// Its own.
    pub lid: u16,
    /// The subnet manager's.
    pub sm_lid: u16,
    /// Service level to it.
    pub sm_sl: u8,
    /// LID mask control: it has two to this LIDs.
    pub lmc: u8,
    /// Those that are set; the first is that of the port GUID.
    pub gids: Vec<Gid>,
    /// Place in the table, and P_Key; those that are set.
    pub pkeys: Vec<(u16, u16)>,
}

impl LocalPort {
    /// Whether a subnet manager has made it usable; otherwise why not.
    ///
    /// # Errors
    /// It has not.
    pub fn ready(&self) -> Result<()> {
        // IBTA: unicast LIDs end at 0xbfff.
        let unicast = |lid: u16| (1..=0xbfff).contains(&lid);
        let Self { device, number, .. } = self;
        let good = self.is_active && unicast(self.lid) && unicast(self.sm_lid);
        ensure!(good, "port {number} of RDMA device '{device}' has no subnet manager yet");
        Ok(())
    }

    /// Where subnet administration is asked; None until a subnet manager has made the port usable.
    #[must_use]
    pub fn manager(&self) -> Option<Address> {
        self.ready().ok()?;
        // IBTA: over the default P_Key, of which everybody is a member.
        let default = self.pkeys.iter().find(|(_, pkey)| pkey & 0x7fff == 0x7fff);
        let pkey_index = default.map_or(0, |(index, _)| *index);
        Some(Address { lid: self.sm_lid, qpn: 1, sl: self.sm_sl, pkey_index, gid: None })
    }

    /// The port of a umad node, or of a device; without either the first InfiniBand port that is ACTIVE.
    ///
    /// # Errors
    /// There is none, or it is not InfiniBand.
    pub fn find(root: &Root, umad: Option<&Path>, device: Option<(&str, PortNum)>) -> Result<Self> {
        let mut world = World::now(root, Lock::None)?;
        let of_node = match umad {
            None => None,
            Some(path) => {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let node = world.sysfs.node("infiniband_mad", name)?;
                let node = node.with_context(|| format!("there is no {}", path.display()))?;
                Some((node.device, node.port.context("it belongs to no port")?))
            }
        };
        let asked = of_node.or(device.map(|(name, port)| (name.to_owned(), port)));
        let mut found = None;
        for device in world.devices.clone() {
            for port in world.ports(&device) {
                let active = port.link.as_ref().and_then(|l| l.state) == Some(PortState::ACTIVE);
                let fits = match &asked {
                    Some((name, number)) => *name == device.name && *number == port.number,
                    None => active && port.protocol == Some(Protocol::InfiniBand),
                };
                if fits && found.is_none() {
                    found = Some((device.clone(), port));
                }
            }
        }
        let (device, port) = found.with_context(|| match &asked {
            Some((name, port)) => format!("there is no port {port} of RDMA device '{name}'"),
            None => "there is no InfiniBand port that is ACTIVE".to_owned(),
        })?;
        Self::of(&mut world, device, port)
    }

    /// Every InfiniBand port that has a umad node. What is wrong with one does not spoil the others.
    ///
    /// # Errors
    /// No RDMA in the kernel, no netlink.
    pub fn all(root: &Root) -> Result<Vec<Result<Self>>> {
        let mut world = World::now(root, Lock::None)?;
        let mut all = Vec::new();
        for device in world.devices.clone() {
            for port in world.ports(&device) {
                if port.protocol == Some(Protocol::InfiniBand) {
                    all.push(Self::of(&mut world, device.clone(), port));
                }
            }
        }
        Ok(all)
    }

    fn of(world: &mut World, device: Device, port: PortFacts) -> Result<Self> {
        let (name, number) = (device.name, port.number);
        let about = format!("port {number} of RDMA device '{name}'");
        ensure!(port.protocol == Some(Protocol::InfiniBand), "{about} is not InfiniBand");
        let chardev = world.socket.chardev("umad", Some(device.index), Some(number))?;
        let chardev = chardev.with_context(|| format!("{about} has no umad node"))?;
        let link = port.link.with_context(|| format!("{about} does not tell its state"))?;
        let lid = |lid: Option<u32>| lid.and_then(|lid| u16::try_from(lid).ok()).unwrap_or(0);
        let gids = world.sysfs.gids(&name, number)?;
        ensure!(gids.first().is_some_and(|entry| entry.index == 0), "{about} has no GID");
        Ok(Self {
            umad: world.root.path("/dev/infiniband").join(chardev.name),
            is_active: link.state == Some(PortState::ACTIVE),
            lid: lid(link.lid),
            lmc: link.lmc.unwrap_or(0),
            sm_lid: lid(link.sm_lid),
            sm_sl: world.sysfs.sm_sl(&name, number)?.unwrap_or(0),
            gids: gids.into_iter().map(|entry| entry.gid).collect(),
            pkeys: world.sysfs.pkeys(&name, number)?,
            index: device.index,
            node_guid: device.node_guid.unwrap_or(Guid(0)),
            ports: device.ports,
            device: name,
            number,
        })
    }

    /// The GID of the port GUID.
    #[must_use]
    pub fn gid(&self) -> Gid {
        self.gids.first().copied().unwrap_or(Gid(0))
    }
}
