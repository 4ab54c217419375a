// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ports of this host, and what they are called.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use rdma_acm::endpoints::Assigned;
use rdma_acm::names;
use rdma_udev_helper::local_port::LocalPort;
use rdma_udev_helper::log;
use rdma_udev_helper::world::{Lock, World};
use rdma_verbs::DevIndex;
use rdma_verbs::sysfs::Sysfs;

use crate::fabric::{self, Order};
use crate::host;
use crate::service::Service;

impl Service {
    /// Looks at all ports and their names, and opens those that are new.
    pub(crate) fn look(&mut self) {
        let mut problems = BTreeSet::new();
        let ports = self.ports(&mut problems);
        let names = self.names(&ports, &mut problems);
        {
            let mut open = self.shared.ports.borrow_mut();
            open.retain(|key, orders| {
                !orders.is_closed() && ports.iter().any(|port| (port.index, port.number) == *key)
            });
            for port in &ports {
                let orders = match open.entry((port.index, port.number)) {
                    Entry::Occupied(orders) => orders.into_mut(),
                    Entry::Vacant(place) => match fabric::open(&self.shared, port, &self.options) {
                        Ok(orders) => place.insert(orders),
                        Err(error) => {
                            problems.insert(format!("{error:#}"));
                            continue;
                        }
                    },
                };
                // One that has just ended is opened at the next look.
                orders.send(Order::Manager(port.manager())).ok();
            }
        }
        // A device that comes or goes is seen in part: no more than a note.
        for problem in problems.difference(&self.problems) {
            log::note(problem);
        }
        self.problems = problems;
        self.shared.resolver.borrow_mut().set_ports(ports, &names);
        self.shared.act();
    }

    fn ports(&mut self, problems: &mut BTreeSet<String>) -> Vec<LocalPort> {
        loop {
            let all = match LocalPort::all(&self.root) {
                Ok(all) => all,
                Err(error) => {
                    problems.insert(format!("{error:#}"));
                    return Vec::new();
                }
            };
            let mut ports = Vec::new();
            for port in all {
                match port {
                    Ok(port) => ports.push(port),
                    Err(error) => drop(problems.insert(format!("{error:#}"))),
                }
            }
            // What was seen before the events of a device are told may not be so any more.
            if !self.follow(&ports, problems) {
                return ports;
            }
        }
    }

    /// Has the events of their devices told; whether that is news.
    fn follow(&mut self, ports: &[LocalPort], problems: &mut BTreeSet<String>) -> bool {
        let is_followed = |index| self.followed.values().any(|followed| *followed == index);
        let new: BTreeSet<DevIndex> =
            ports.iter().map(|port| port.index).filter(|index| !is_followed(*index)).collect();
        if new.is_empty() {
            return false;
        }
        let Ok(mut world) = World::now(&self.root, Lock::None) else { return false };
        let mut is_news = false;
        for index in new {
            // It may have gone.
            let Some(device) = world.by_index(index).cloned() else { continue };
            let look = world.look(&device);
            let Some(node) = look.uverbs().map(str::to_owned) else { continue };
            let dev = self.root.path("/dev/infiniband");
            match self.watch.get_mut().follow(&dev, &node, look.driver.as_deref()) {
                Ok(news) => {
                    is_news |= news;
                    self.followed.insert(node, index);
                }
                Err(error) => {
                    problems.insert(format!(
                        "changes of RDMA device '{}' are not seen at once: {error}",
                        device.name
                    ));
                }
            }
        }
        is_news
    }

    fn names(&self, ports: &[LocalPort], problems: &mut BTreeSet<String>) -> Vec<Assigned> {
        let mut assigned = self.names.clone().unwrap_or_else(|| {
            let host = rustix::system::uname();
            names::of_host(&host.nodename().to_string_lossy(), ports)
        });
        match host::addresses(&Sysfs::at(self.root.path("/sys")), ports) {
            Ok(addresses) => assigned.extend(addresses),
            Err(error) => drop(problems.insert(format!("{error:#}"))),
        }
        assigned
    }
}
