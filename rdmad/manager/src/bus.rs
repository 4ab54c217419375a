// SPDX-License-Identifier: MIT OR Apache-2.0
//! `org.rdmad1` on the system bus: devices and ports to look at, names to change.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use rdma_config::{Root, check_device_name};
use rdma_udev_helper::renames::Step;
use rdma_udev_helper::world::{Lock, World, config};
use rdma_verbs::DevIndex;
use tokio::sync::mpsc;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedObjectPath;
use zbus::{Connection, fdo, interface};

use crate::polkit;
use rdmad::model::{Device, Model, Port};

const NAME: &str = "org.rdmad1";
const ROOT: &str = "/org/rdmad1";

/// What a caller wants of the manager.
#[derive(Debug)]
pub(crate) enum Order {
    /// Read the configuration again, and answer when it is in force.
    Reload(tokio::sync::oneshot::Sender<()>),
}

/// `org.rdmad1.Manager`
#[derive(Debug)]
struct ManagerObject {
    root: Root,
    orders: mpsc::Sender<Order>,
    problems: BTreeMap<String, String>,
}

#[interface(name = "org.rdmad1.Manager")]
impl ManagerObject {
    /// What is not as the configuration says, by what it is about.
    #[zbus(property)]
    fn problems(&self) -> HashMap<String, String> {
        self.problems.clone().into_iter().collect()
    }

    /// Version of the program.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Reads the configuration again and gives devices their settings.
    async fn reload(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        polkit::check(connection, &header, "org.rdmad1.reload").await?;
        let (done, when_done) = tokio::sync::oneshot::channel();
        let ended = |_| fdo::Error::Failed("rdmad is about to end".into());
        self.orders.send(Order::Reload(done)).await.map_err(|_| ended(()))?;
        when_done.await.map_err(|_| ended(()))
    }

    /// Gives every device the name that the configuration says; answers with the paths of those that cannot have
    /// theirs, and why.
    async fn apply(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<HashMap<OwnedObjectPath, String>> {
        polkit::check(connection, &header, "org.rdmad1.rename").await?;
        let mut world = World::now(&self.root, Lock::Alone).map_err(failed)?;
        let (planned, steps) = world.plan_all(&config(&self.root));
        world.rename(&steps).map_err(failed)?;
        let refused = planned.iter().filter_map(|p| Some((p.look.device.index, p.refusal?)));
        refused.map(|(index, why)| Ok((path(index)?, why.to_string()))).collect()
    }
}

/// `org.rdmad1.Device`
#[derive(Debug)]
struct DeviceObject {
    root: Root,
    is: Device,
}

#[interface(name = "org.rdmad1.Device")]
impl DeviceObject {
    /// Number in RDMA netlink; it stays while the device is there.
    #[zbus(property(emits_changed_signal = "const"))]
    fn index(&self) -> u32 {
        self.is.index
    }

    #[zbus(property)]
    fn name(&self) -> &str {
        &self.is.name
    }

    /// What it was called when it came.
    #[zbus(property)]
    fn kernel_name(&self) -> &str {
        &self.is.kernel_name
    }

    /// Who gave the name: `onboard`, `path`, ..., `fixed`, `user`, `kernel`.
    #[zbus(property)]
    fn name_policy(&self) -> &str {
        &self.is.name_policy
    }

    /// `kept`, `renamed`, `pending`, `refused:<reason>`.
    #[zbus(property)]
    fn name_status(&self) -> &str {
        &self.is.name_status
    }

    /// Of its first port: `ib`, `roce`, `iw`, `opa`.
    #[zbus(property)]
    fn protocol(&self) -> &str {
        &self.is.protocol
    }

    #[zbus(property)]
    fn driver(&self) -> &str {
        &self.is.driver
    }

    /// 16 hex digits.
    #[zbus(property)]
    fn node_guid(&self) -> &str {
        &self.is.node_guid
    }

    /// 16 hex digits.
    #[zbus(property)]
    fn sys_image_guid(&self) -> &str {
        &self.is.sys_image_guid
    }

    #[zbus(property)]
    fn firmware_version(&self) -> &str {
        &self.is.firmware_version
    }

    /// Gives it a name, which it keeps as one given by a person.
    async fn rename(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        name: &str,
    ) -> fdo::Result<()> {
        polkit::check(connection, &header, "org.rdmad1.rename").await?;
        check_device_name(name).map_err(|why| fdo::Error::InvalidArgs(why.to_string()))?;
        let mut world = World::now(&self.root, Lock::Alone).map_err(failed)?;
        let device = DevIndex(self.is.index);
        world.rename(&[Step { device, name: name.to_owned(), policy: "user" }]).map_err(failed)
    }
}

/// `org.rdmad1.Port`
#[derive(Debug)]
struct PortObject {
    is: Port,
}

#[interface(name = "org.rdmad1.Port")]
impl PortObject {
    /// From 1.
    #[zbus(property(emits_changed_signal = "const"))]
    fn number(&self) -> u32 {
        self.is.number
    }

    /// `ib`, `roce`, `iw`, `opa`.
    #[zbus(property)]
    fn protocol(&self) -> &str {
        &self.is.protocol
    }

    /// 16 hex digits.
    #[zbus(property)]
    fn guid(&self) -> &str {
        &self.is.guid
    }

    /// `DOWN`, `INIT`, `ARMED`, `ACTIVE`.
    #[zbus(property)]
    fn state(&self) -> &str {
        &self.is.state
    }

    /// `LINK_UP`, `POLLING`, `DISABLED`, ...
    #[zbus(property)]
    fn physical_state(&self) -> &str {
        &self.is.physical_state
    }

    #[zbus(property)]
    fn lid(&self) -> u32 {
        self.is.lid
    }

    /// LID of the subnet manager.
    #[zbus(property)]
    fn sm_lid(&self) -> u32 {
        self.is.sm_lid
    }

    /// In Mb/s.
    #[zbus(property)]
    fn rate(&self) -> u32 {
        self.is.rate
    }

    /// The network interface of a RoCE or iWARP port.
    #[zbus(property)]
    fn netdev(&self) -> &str {
        &self.is.netdev
    }

    /// Those in use: index in the table, GID.
    #[zbus(property)]
    fn gids(&self) -> Vec<(u32, String)> {
        self.is.gids.clone()
    }
}

fn failed(error: impl Into<anyhow::Error>) -> fdo::Error {
    fdo::Error::Failed(format!("{:#}", error.into()))
}

fn path(index: DevIndex) -> fdo::Result<OwnedObjectPath> {
    OwnedObjectPath::try_from(format!("{ROOT}/device/{index}")).map_err(failed)
}

/// What is on the bus.
#[derive(Debug)]
pub(crate) struct Bus {
    connection: Connection,
    root: Root,
    shown: Model,
}

impl Bus {
    /// Takes the name. Nothing is shown yet.
    ///
    /// # Errors
    /// There is no bus, or another has the name.
    pub(crate) async fn open(root: &Root, orders: mpsc::Sender<Order>) -> Result<Self> {
        let manager = ManagerObject { root: root.clone(), orders, problems: BTreeMap::new() };
        let connection = zbus::connection::Builder::system()?
            .serve_at(ROOT, fdo::ObjectManager)?
            .serve_at(ROOT, manager)?
            .name(NAME)?
            .build()
            .await
            .context("cannot take the name org.rdmad1 on the system bus")?;
        Ok(Self { connection, root: root.clone(), shown: Model::new() })
    }

    /// Shows what has changed: objects that come and go, properties that are other ones.
    ///
    /// # Errors
    /// What the bus says.
    pub(crate) async fn show(
        &mut self,
        model: &Model,
        problems: &BTreeMap<String, String>,
    ) -> Result<()> {
        let gone: Vec<DevIndex> =
            self.shown.keys().filter(|index| !model.contains_key(*index)).copied().collect();
        for index in gone {
            if let Some(device) = self.shown.remove(&index) {
                self.hide(index, &device).await?;
            }
        }
        for (index, device) in model {
            match self.shown.get(index) {
                Some(before) if before == device => continue,
                Some(before) if before.ports.keys().eq(device.ports.keys()) => {
                    self.change(*index, before, device).await?;
                }
                Some(before) => {
                    self.hide(*index, before).await?;
                    self.add(*index, device).await?;
                }
                None => self.add(*index, device).await?,
            }
            self.shown.insert(*index, device.clone());
        }
        let manager = self.connection.object_server().interface::<_, ManagerObject>(ROOT).await?;
        if manager.get().await.problems != *problems {
            manager.get_mut().await.problems.clone_from(problems);
            manager.get().await.problems_changed(manager.signal_emitter()).await?;
        }
        Ok(())
    }

    async fn add(&self, index: DevIndex, device: &Device) -> Result<()> {
        let server = self.connection.object_server();
        let at = path(index)?;
        let object = DeviceObject { root: self.root.clone(), is: device.clone() };
        server.at(&at, object).await?;
        for (number, port) in &device.ports {
            server.at(format!("{at}/port/{number}"), PortObject { is: port.clone() }).await?;
        }
        Ok(())
    }

    async fn hide(&self, index: DevIndex, device: &Device) -> Result<()> {
        let server = self.connection.object_server();
        let at = path(index)?;
        for number in device.ports.keys() {
            server.remove::<PortObject, _>(format!("{at}/port/{number}")).await?;
        }
        server.remove::<DeviceObject, _>(&at).await?;
        Ok(())
    }

    async fn change(&self, index: DevIndex, before: &Device, now: &Device) -> Result<()> {
        let server = self.connection.object_server();
        let at = path(index)?;
        let object = server.interface::<_, DeviceObject>(&at).await?;
        object.get_mut().await.is.clone_from(now);
        object.get().await.changed(object.signal_emitter(), before).await?;
        for (number, port) in &now.ports {
            let Some(before) = before.ports.get(number).filter(|before| *before != port) else {
                continue;
            };
            let object = server.interface::<_, PortObject>(format!("{at}/port/{number}")).await?;
            object.get_mut().await.is.clone_from(port);
            object.get().await.changed(object.signal_emitter(), before).await?;
        }
        Ok(())
    }
}

/// Tells of each property that is another than before.
macro_rules! changed {
    ($object:ty, $before:ty, $($field:ident $told:ident),+) => {
        impl $object {
            async fn changed(&self, to: &SignalEmitter<'_>, before: &$before) -> zbus::Result<()> {
                $(if self.is.$field != before.$field {
                    self.$told(to).await?;
                })+
                Ok(())
            }
        }
    };
}

changed!(
    DeviceObject,
    Device,
    name name_changed,
    kernel_name kernel_name_changed,
    name_policy name_policy_changed,
    name_status name_status_changed,
    protocol protocol_changed,
    driver driver_changed,
    node_guid node_guid_changed,
    sys_image_guid sys_image_guid_changed,
    firmware_version firmware_version_changed
);
changed!(
    PortObject,
    Port,
    protocol protocol_changed,
    guid guid_changed,
    state state_changed,
    physical_state physical_state_changed,
    lid lid_changed,
    sm_lid sm_lid_changed,
    rate rate_changed,
    netdev netdev_changed,
    gids gids_changed
);

#[cfg(test)]
mod tests {
    use zbus::object_server::Interface as _;

    use super::*;

    /// The committed description is that of the program; `docs/org.rdmad1.xml` is made anew by this test when it is
    /// run with `BLESS=1`.
    #[test]
    fn description() {
        let (orders, _) = mpsc::channel(1);
        let root = Root::at("/nonexistent");
        let manager = ManagerObject { root: root.clone(), orders, problems: BTreeMap::new() };
        let mut xml = String::from("<node>\n");
        manager.introspect_to_writer(&mut xml, 2);
        DeviceObject { root, is: Device::default() }.introspect_to_writer(&mut xml, 2);
        PortObject { is: Port::default() }.introspect_to_writer(&mut xml, 2);
        xml += "</node>\n";
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/org.rdmad1.xml");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(file, &xml).unwrap();
        }
        assert_eq!(std::fs::read_to_string(file).unwrap(), xml);
    }
}
