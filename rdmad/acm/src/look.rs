// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ports of this host, and what they are called.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use rdma_acm::endpoints::Assigned;
use rdma_acm::names;
use rdma_config::Root;
use rdma_udev_helper::local_port::LocalPort;
use rdma_udev_helper::log;
use rdma_udev_helper::world::{Lock, World};
use rdma_verbs::DevIndex;
use rdma_verbs::sysfs::Sysfs;

use crate::fabric::{self, Order};
use crate::host;
use crate::service::Service;

/// What there is at one moment.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    ports: Vec<LocalPort>,
    addresses: Vec<Assigned>,
    /// The uverbs node of each device, and its driver: for its events.
    nodes: BTreeMap<DevIndex, (String, Option<String>)>,
    problems: BTreeSet<String>,
}

/// Looks at all of it, which takes longer than anybody should wait for an answer.
fn see(root: &Root) -> Seen {
    let mut seen = Seen::default();
    let mut problem = |error: anyhow::Error| {
        seen.problems.insert(format!("{error:#}"));
    };
    match LocalPort::all(root) {
        Ok(all) => {
            seen.ports =
                all.into_iter().filter_map(|port| port.map_err(&mut problem).ok()).collect();
        }
        Err(error) => problem(error),
    }
    match host::addresses(&Sysfs::at(root.path("/sys")), &seen.ports) {
        Ok(addresses) => seen.addresses = addresses,
        Err(error) => problem(error),
    }
    if seen.ports.is_empty() {
        return seen;
    }
    match World::now(root, Lock::None) {
        Ok(mut world) => {
            for device in world.devices.clone() {
                if seen.ports.iter().any(|port| port.index == device.index) {
                    let look = world.look(&device);
                    if let Some(node) = look.uverbs() {
                        seen.nodes.insert(device.index, (node.to_owned(), look.driver));
                    }
                }
            }
        }
        Err(error) => problem(error),
    }
    seen
}

impl Service {
    /// Has everything looked at; once more afterwards, where that is under way.
    pub(crate) fn look(&mut self) {
        if self.looking.is_some() {
            self.again = true;
        } else {
            let root = self.root.clone();
            self.looking = Some(tokio::task::spawn_blocking(move || see(&root)));
        }
    }

    /// Takes what was seen: opens the ports that are new, and lets go of those that are not there any more.
    pub(crate) fn seen(&mut self, seen: Seen) {
        let Seen { ports, addresses, nodes, mut problems } = seen;
        // What was seen before the events of a device are told may not be so any more.
        let is_news = self.follow(nodes, &mut problems);
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
        let mut names = self.names.clone().unwrap_or_else(|| {
            let host = rustix::system::uname();
            names::of_host(&host.nodename().to_string_lossy(), &ports)
        });
        names.extend(addresses);
        self.shared.resolver.borrow_mut().set_ports(ports, &names);
        self.shared.act();
        if std::mem::take(&mut self.again) | is_news {
            self.look();
        }
    }

    /// Has the events of devices told; whether that is news.
    fn follow(
        &mut self,
        nodes: BTreeMap<DevIndex, (String, Option<String>)>,
        problems: &mut BTreeSet<String>,
    ) -> bool {
        let dev = self.root.path("/dev/infiniband");
        let mut is_news = false;
        for (index, (node, driver)) in nodes {
            match self.watch.get_mut().follow(&dev, &node, driver.as_deref()) {
                Ok(news) => {
                    is_news |= news;
                    self.followed.insert(node, index);
                }
                Err(error) => {
                    problems.insert(format!("changes of {node} are not seen at once: {error}"));
                }
            }
        }
        is_news
    }
}
