// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fabric of two thousand nodes that ibsim simulates and opensm manages, on a machine without any RDMA. Needs Debian's
//! ibsim-utils and opensm.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdma_verbs::Gid;
use rdma_verbs::ibsim::Port;
use rdma_verbs::mad::{Event, NodeInfo, Notice, PortInfo, Smp, attribute, class, method, text};
use rdma_verbs::requests::{Failure, Request, Requests};
use rdma_verbs::sa::{
    Client, Id, NodeRecord, PathRecord, Patience, Query, Subscription, record, records,
};
use rdma_verbs::umad::{Address, AgentId, AgentRequest, Carrier as _};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// A fat tree: every leaf has a link to every spine.
const SPINES: usize = 16;
const LEAVES: usize = 100;
const HOSTS_OF_A_LEAF: usize = 20;
const HOSTS: usize = LEAVES * HOSTS_OF_A_LEAF;
const NODES: usize = SPINES + LEAVES + HOSTS;

const PATIENCE: Patience = Patience { timeout: Duration::from_secs(14), retries: 2 };

#[test]
#[ignore = "needs ibsim and opensm, which `cargo xtask test` installs"]
fn two_thousand_nodes() {
    let mut fabric = Fabric::start();
    let mut us = Us::at(&fabric, "H2");

    let start = Instant::now();
    let nodes = us.walk();
    println!("{} nodes by directed route in {:?}", nodes.len(), start.elapsed());
    assert_eq!(nodes.len(), NODES);
    assert_eq!(nodes.values().filter(|(node, _)| node.node_type == 2).count(), SPINES + LEAVES);

    let first = fabric.opensm("H0");
    us.wait_for_manager(0);
    let lids = us.lids(&nodes);
    assert_eq!(lids.len(), NODES);

    let start = Instant::now();
    let wanted = |lid: u16| NodeRecord { lid: lid.into(), ..NodeRecord::default() };
    let asked: BTreeMap<Id, u64> = (lids.iter())
        .map(|(guid, lid)| (us.client.ask(Query::get(&wanted(*lid), NodeRecord::LID)), *guid))
        .collect();
    let mut described = BTreeMap::new();
    us.each(|id, mad| {
        let node: NodeRecord = record(&mad.unwrap()).unwrap();
        assert_eq!(node.info.node_guid.get(), asked[&id]);
        described.insert(text(&node.description), node.info.port_guid.get());
    });
    println!("{} NodeRecords in {:?}", asked.len(), start.elapsed());
    assert_eq!(described.len(), NODES);

    let start = Instant::now();
    let hosts = || nodes.values().filter(|(node, _)| node.node_type == 1);
    let asked: BTreeMap<Id, u16> = hosts()
        .map(|(node, _)| {
            let path = PathRecord {
                sgid: gid(us.port_guid).0.to_be_bytes(),
                dgid: gid(node.port_guid.get()).0.to_be_bytes(),
                ..PathRecord::default()
            };
            let query = Query::get(&path, PathRecord::SGID | PathRecord::DGID);
            (us.client.ask(query), lids[&node.node_guid.get()])
        })
        .collect();
    us.each(|id, mad| {
        let path: PathRecord = record(&mad.unwrap()).unwrap();
        assert_eq!(path.dlid.get(), asked[&id]);
    });
    println!("{} PathRecords in {:?}", asked.len(), start.elapsed());

    // A table of one, and of none.
    us.client.ask(Query::table(&wanted(lids[&us.node_guid]), NodeRecord::LID));
    us.each(|_, mad| assert_eq!(records::<NodeRecord>(&mad.unwrap()).len(), 1));
    us.client.ask(Query::table(&wanted(0xb000), NodeRecord::LID));
    us.each(|_, mad| match mad {
        Ok(mad) => assert!(records::<NodeRecord>(&mad).is_empty()),
        Err(failure) => assert!(failure.to_string().contains("no records"), "{failure}"),
    });

    // Told of a port that goes and comes back.
    us.subscribe();
    fabric.say("Unlink \"H1999\"");
    pause(3000);
    fabric.say("Relink \"H1999\"");
    us.wait_for(Event::InService(gid(described["H1999"])));

    // The manager dies, and another comes elsewhere.
    drop(first);
    us.client.ask(Query::get(&wanted(us.lid), NodeRecord::LID));
    let _second = fabric.opensm("H7");
    us.wait_for_manager(us.manager);
    let mut answers = Vec::new();
    us.each(|_, mad| answers.push(mad.map(drop)));
    assert!(matches!(*answers, [Ok(())]), "what the old one was asked of the new: {answers:?}");
    us.subscribe();
    us.subscription.end(&mut us.client);
    us.each(|_, mad| assert!(mad.is_ok()));
}

#[expect(clippy::disallowed_methods, reason = "nothing tells of it")]
fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn gid(port_guid: u64) -> Gid {
    Gid(0xfe80 << 112 | u128::from(port_guid))
}

/// One of the hosts, with a window of questions.
struct Us {
    client: Client,
    subscription: Subscription,
    smp: AgentId,
    node_guid: u64,
    port_guid: u64,
    lid: u16,
    /// LID of the subnet manager.
    manager: u16,
}

impl Us {
    fn at(fabric: &Fabric, host: &str) -> Self {
        let mut port = fabric.port(host);
        let mut agent = |class, version, methods| {
            port.register(&AgentRequest { class, version, methods, rmpp: false }).unwrap()
        };
        let smp = agent(class::SUBN_DIRECTED, 1, &[]);
        let sa = agent(class::SUBN_ADM, 2, &[method::REPORT]);
        let client = Client::new(Requests::new(port, 256), sa, PATIENCE);
        let (lid, manager, subscription) = (0, 0, Subscription::default());
        let mut us = Self { client, subscription, smp, node_guid: 0, port_guid: 0, lid, manager };
        let own: NodeInfo = us.directed(attribute::NODE_INFO, &[]);
        (us.node_guid, us.port_guid) = (own.node_guid.get(), own.port_guid.get());
        us
    }

    fn ask_directed(&mut self, attribute: u16, route: &[u8]) -> Id {
        let mad = Smp::directed(attribute, 0, route).unwrap().as_bytes().to_vec();
        let to = Address { lid: 0xffff, ..Address::default() };
        let timeout = Duration::from_secs(1);
        self.client.ask_other(Request { agent: self.smp, to, mad, timeout, retries: 3 })
    }

    fn directed<T: zerocopy::FromBytes>(&mut self, attribute: u16, route: &[u8]) -> T {
        let id = self.ask_directed(attribute, route);
        loop {
            let (ended, outcome) = self.client.wait().unwrap().unwrap();
            if ended == id {
                return data(&outcome.unwrap());
            }
        }
    }

    fn each(&mut self, mut take: impl FnMut(Id, Result<Vec<u8>, Failure>)) {
        while let Some((id, outcome)) = self.client.wait().unwrap() {
            take(id, outcome);
        }
    }

    /// All nodes by GUID, with the route to each.
    fn walk(&mut self) -> BTreeMap<u64, (NodeInfo, Vec<u8>)> {
        let mut asked = BTreeMap::from([(self.ask_directed(attribute::NODE_INFO, &[]), vec![])]);
        let mut found = BTreeMap::new();
        while let Some((id, outcome)) = self.client.wait().unwrap() {
            let route: Vec<u8> = asked.remove(&id).unwrap();
            let node: NodeInfo = data(&outcome.unwrap());
            if found.contains_key(&node.node_guid.get()) {
                continue;
            }
            let came_by = node.port_and_vendor.get().to_be_bytes()[0];
            let ports: Vec<u8> = match (node.node_type, route.as_slice()) {
                (2, _) => (1..=node.ports).filter(|port| *port != came_by).collect(),
                (_, []) => vec![came_by],
                _ => vec![],
            };
            for port in ports {
                let route = [route.as_slice(), &[port]].concat();
                asked.insert(self.ask_directed(attribute::NODE_INFO, &route), route);
            }
            found.insert(node.node_guid.get(), (node, route));
        }
        found
    }

    /// The LID of each node.
    fn lids(&mut self, nodes: &BTreeMap<u64, (NodeInfo, Vec<u8>)>) -> BTreeMap<u64, u16> {
        let asked: BTreeMap<Id, u64> = (nodes.iter())
            .map(|(guid, (_, route))| (self.ask_directed(attribute::PORT_INFO, route), *guid))
            .collect();
        let mut lids = BTreeMap::new();
        self.each(|id, mad| {
            let info: PortInfo = data(&mad.unwrap());
            lids.insert(asked[&id], info.lid.get());
        });
        lids
    }

    /// Until the port is ACTIVE and has another subnet manager than before.
    fn wait_for_manager(&mut self, before: u16) {
        let deadline = Instant::now() + Duration::from_secs(100);
        loop {
            let info: PortInfo = self.directed(attribute::PORT_INFO, &[]);
            let is_active = info.speed_and_state & 0xf == 4;
            (self.lid, self.manager) = (info.lid.get(), info.sm_lid.get());
            if is_active && self.manager != before {
                break;
            }
            assert!(Instant::now() < deadline, "no subnet manager: {info:?}");
            pause(20);
        }
        let at = Address { lid: self.manager, qpn: 1, ..Address::default() };
        self.client.set_manager(Some(at));
    }

    fn subscribe(&mut self) {
        self.subscription.begin(&mut self.client);
        while let Some((id, outcome)) = self.client.wait().unwrap() {
            assert_eq!(self.subscription.take(id, outcome, Instant::now()).unwrap(), None);
        }
        assert!(self.subscription.is_done());
    }

    fn wait_for(&mut self, event: Event) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < deadline, "{event:?} is not told");
            let wake = Instant::now() + Duration::from_millis(100);
            self.client.requests().wait_until(Some(wake)).unwrap();
            assert!(self.client.advance(Instant::now()).is_none());
            while let Some(unasked) = self.client.requests().take_unasked() {
                let told = record::<Notice>(&unasked.mad).and_then(|notice| notice.event());
                self.client.requests().acknowledge(unasked).unwrap();
                if told == Some(event) {
                    return;
                }
            }
        }
    }
}

fn data<T: zerocopy::FromBytes>(mad: &[u8]) -> T {
    let smp = Smp::read_from_prefix(mad).unwrap().0;
    T::read_from_prefix(&smp.data).unwrap().0
}

struct Fabric {
    ibsim: Child,
    dir: tempfile::TempDir,
    base: String,
}

impl Fabric {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = format!("rdmad-{}", std::process::id());
        let net = dir.path().join("net");
        std::fs::write(&net, fat_tree()).unwrap();
        let log = std::fs::File::create(dir.path().join("ibsim")).unwrap();
        let ibsim = Command::new("ibsim")
            .args(["-s", "-N", "4096", "-S", "256", "-P", "40000"])
            .arg(&net)
            .env("IBSIM_SOCKNAME", &base)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("ibsim of ibsim-utils");
        Self { ibsim, dir, base }
    }

    fn port(&self, host: &str) -> Port {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match Port::connect(&self.base, host) {
                Ok(port) => return port,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            pause(20);
        }
    }

    fn say(&mut self, command: &str) {
        writeln!(self.ibsim.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    fn opensm(&self, host: &str) -> Ends {
        let dir = self.dir.path();
        let child = Command::new("/usr/sbin/opensm")
            .args(["-s", "1", "-f"])
            .arg(dir.join(format!("opensm-{host}")))
            .current_dir(dir)
            .env("LD_PRELOAD", umad2sim())
            .env("IBSIM_SOCKNAME", &self.base)
            .env("SIM_HOST", host)
            .env("OSM_TMP_DIR", dir)
            .env("OSM_CACHE_DIR", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Ends(child.expect("opensm"))
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.ibsim.kill().ok();
        self.ibsim.wait().ok();
        if std::thread::panicking() {
            for log in ["ibsim", "opensm-H0", "opensm-H7"] {
                let text = std::fs::read_to_string(self.dir.path().join(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                println!("{log}:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
            }
        }
    }
}

/// What is killed when it is dropped.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn umad2sim() -> PathBuf {
    let dirs = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let places = dirs.map(|dir| dir.join("umad2sim/libumad2sim.so"));
    places
        .chain([PathBuf::from("/usr/lib64/umad2sim/libumad2sim.so")])
        .find(|p| Path::exists(p))
        .expect("libumad2sim")
}

/// In ibsim's words, with both ends of each link.
fn fat_tree() -> String {
    let mut net = String::new();
    for leaf in 0..LEAVES {
        writeln!(net, "Switch {} \"L{leaf}\"", SPINES + HOSTS_OF_A_LEAF).unwrap();
        for spine in 0..SPINES {
            writeln!(net, "[{}] \"S{spine}\"[{}]", spine + 1, leaf + 1).unwrap();
        }
        for host in 0..HOSTS_OF_A_LEAF {
            let name = leaf * HOSTS_OF_A_LEAF + host;
            writeln!(net, "[{}] \"H{name}\"[1]", SPINES + host + 1).unwrap();
        }
        net.push('\n');
    }
    for spine in 0..SPINES {
        writeln!(net, "Switch {LEAVES} \"S{spine}\"").unwrap();
        for leaf in 0..LEAVES {
            writeln!(net, "[{}] \"L{leaf}\"[{}]", leaf + 1, spine + 1).unwrap();
        }
        net.push('\n');
    }
    for host in 0..HOSTS {
        let (leaf, port) = (host / HOSTS_OF_A_LEAF, SPINES + host % HOSTS_OF_A_LEAF + 1);
        writeln!(net, "Hca 1 \"H{host}\"\n[1] \"L{leaf}\"[{port}]\n").unwrap();
    }
    net
}
