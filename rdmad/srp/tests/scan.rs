// SPDX-License-Identifier: MIT OR Apache-2.0
//! A scan of fabrics that are made up, each for one thing that has gone wrong in rdma-core's daemon.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdma_srp::plan::Whom;
use rdma_srp::scan::{Found, Node, Scan};
use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::dm::{self, DmMad, IoControllerProfile, IoUnitInfo, ServiceEntry};
use rdma_verbs::mad::{ClassPortInfo, MAD_SIZE, MadHeader, PortInfo, class, method};
use rdma_verbs::sa::{PathRecord, Patience, PortInfoRecord, Record, SaHeader};
use rdma_verbs::umad::{Address, AgentId, AgentRequest, Carrier, Received};
use rdma_verbs::{DevIndex, Gid, Guid, PortNum};
use zerocopy::{FromBytes as _, IntoBytes as _};

const GID: u128 = 0xfe80 << 112;

/// A target at each of these LIDs, with one controller that has one service, unless a test says otherwise.
#[derive(Clone)]
struct Fabric {
    lids: Vec<u16>,
    controllers: u8,
    services: u8,
    /// The status of the answer to a PathRecord by LID and P_Key.
    path: fn(u16, u16) -> u16,
    /// What subnet administration answers first so many times.
    busy: usize,
}

const GOOD: Fabric =
    Fabric { lids: Vec::new(), controllers: 1, services: 1, path: |_, _| 0, busy: 0 };

type Asked = Arc<Mutex<Vec<(Address, Vec<u8>)>>>;

#[derive(Debug)]
struct Fake {
    fabric: Fabric,
    /// Always readable.
    file: File,
    answers: VecDeque<Received>,
    asked: Asked,
    agents: u32,
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fabric")
    }
}

impl AsFd for Fake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Carrier for Fake {
    fn register(&mut self, _: &AgentRequest<'_>) -> io::Result<AgentId> {
        self.agents += 1;
        Ok(AgentId(self.agents))
    }

    fn send(
        &mut self,
        agent: AgentId,
        to: Address,
        mad: &[u8],
        _: Option<Duration>,
        _: u32,
    ) -> io::Result<()> {
        self.asked.lock().unwrap().push((to, mad.to_vec()));
        let asked = MadHeader::of(mad).unwrap();
        let (status, mut answer) = match asked.class {
            class::SUBN_ADM => self.fabric.sa(mad),
            _ => (0, self.fabric.dm(mad)),
        };
        let header =
            MadHeader { method: asked.method | method::RESPONSE, status: status.into(), ..asked };
        header.write_to_prefix(&mut answer).unwrap();
        answer.resize(answer.len().max(MAD_SIZE), 0);
        self.answers.push_back(Received::Datagram { agent, from: to, mad: answer });
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Option<Received>> {
        Ok(self.answers.pop_front())
    }
}

impl Fabric {
    fn sa(&mut self, mad: &[u8]) -> (u16, Vec<u8>) {
        let (mut header, rest) = SaHeader::read_from_prefix(mad).unwrap();
        if self.busy > 0 {
            self.busy -= 1;
            return (1, mad.to_vec());
        }
        let (status, data) = match header.mad.attribute.get() {
            ClassPortInfo::ATTRIBUTE => (0, ClassPortInfo::default().as_bytes().to_vec()),
            PortInfoRecord::ATTRIBUTE => {
                // As long as opensm's.
                header.attribute_offset = 9.into();
                let record = |lid: &u16| {
                    let capabilities = dm::IS_SUPPORTED.into();
                    let info = PortInfo { capabilities, ..PortInfo::default() };
                    let endport_lid = (*lid).into();
                    let record = PortInfoRecord { endport_lid, info, ..PortInfoRecord::default() };
                    [record.as_bytes(), &[0; 4]].concat()
                };
                (0, self.lids.iter().flat_map(record).collect())
            }
            _ => {
                let (asked, _) = PathRecord::read_from_prefix(rest).unwrap();
                let (lid, pkey) = (asked.dlid.get(), asked.pkey.get());
                let dgid = (GID | u128::from(lid)).to_be_bytes();
                let path = PathRecord { dgid, ..asked };
                // As opensm: what was asked comes back with a refusal.
                ((self.path)(lid, pkey), path.as_bytes().to_vec())
            }
        };
        (status, [header.as_bytes(), &data].concat())
    }

    fn dm(&self, mad: &[u8]) -> Vec<u8> {
        let (mut answer, _) = DmMad::read_from_prefix(mad).unwrap();
        let data = match answer.mad.attribute.get() {
            dm::attribute::IO_UNIT_INFO => {
                let mut info = IoUnitInfo { max_controllers: self.controllers, ..<_>::default() };
                info.controllers = [0x11; 128];
                info.as_bytes().to_vec()
            }
            dm::attribute::IO_CONTROLLER_PROFILE => {
                let (io_class, services) = (0x0100.into(), self.services);
                let guid = u64::from(answer.mad.modifier.get()).into();
                IoControllerProfile { guid, io_class, services, ..<_>::default() }
                    .as_bytes()
                    .to_vec()
            }
            _ => {
                let mut entry = ServiceEntry::default();
                entry.name[..24].copy_from_slice(b"SRP.T10:0002C90200000007");
                entry.as_bytes().to_vec()
            }
        };
        answer.data[..data.len()].copy_from_slice(&data);
        answer.as_bytes().to_vec()
    }
}

fn port(pkeys: impl IntoIterator<Item = u16>) -> LocalPort {
    LocalPort {
        index: DevIndex(0),
        device: "mlx5_0".to_owned(),
        node_guid: Guid(1),
        ports: 1,
        number: PortNum(1),
        umad: "/dev/infiniband/umad0".into(),
        is_active: true,
        lid: 1,
        sm_lid: 2,
        sm_sl: 0,
        lmc: 0,
        gids: vec![Gid(GID | 1)],
        pkeys: (0..).zip(pkeys).collect(),
    }
}

fn scan(fabric: Fabric, port: LocalPort) -> (anyhow::Result<Found>, Vec<(Address, Vec<u8>)>) {
    let asked = Asked::default();
    let file = File::open("/dev/zero").unwrap();
    let (answers, agents) = (VecDeque::new(), 0);
    let fake = Fake { fabric, file, answers, asked: Arc::clone(&asked), agents };
    let patience = Patience { timeout: Duration::from_secs(5), retries: 3 };
    let mut node = Node::over(fake, &port, patience, false).unwrap();
    let mut scan = Scan::begin(&mut node, port, Whom::All);
    while let Some((id, outcome)) = node.client.wait().unwrap() {
        assert!(scan.take(&mut node, id, outcome).is_none());
    }
    let asked = asked.lock().unwrap().clone();
    (scan.finish(), asked)
}

fn lids(found: &Found) -> Vec<(u16, u16)> {
    found.units.iter().map(|unit| (unit.lid, unit.pkey)).collect()
}

/// rdma-core S3: a P_Key that is not shared comes back in the refusal, and counts as shared.
#[test]
fn a_refused_path_is_no_path() {
    let path = |_, pkey| if pkey == 0x8001 { 0x0300 } else { 0 };
    let (found, asked) = scan(Fabric { lids: vec![7], path, ..GOOD }, port([0xffff, 0x8001]));
    assert_eq!(lids(&found.unwrap()), [(7, 0xffff)]);
    let dm = asked.iter().filter(|(_, mad)| mad[1] == class::DEV_MGT);
    assert!(dm.clone().count() == 3 && dm.clone().all(|(to, _)| to.lid == 7 && to.pkey_index == 0));
}

/// rdma-core S7: room for 127 P_Keys on the stack. a26cbb3f4: the place of the P_Key was not said.
#[test]
fn as_many_pkeys_as_a_port_can_have() {
    let pkeys = || (0..u16::MAX / 8).map(|n| n | 0x8000);
    let (found, asked) = scan(Fabric { lids: vec![7], ..GOOD }, port(pkeys()));
    assert_eq!(found.unwrap().units.len(), pkeys().count());
    let unit =
        |(to, mad): &(Address, Vec<u8>)| (mad[1] == 6 && mad[17] == 0x10).then_some(to.pkey_index);
    let mut places: Vec<u16> = asked.iter().filter_map(unit).collect();
    places.sort_unstable();
    assert!(places.into_iter().eq(0..u16::MAX / 8));
}

/// rdma-core S13: an error of one port hides those after it.
#[test]
fn one_bad_port_hides_no_other() {
    let path = |lid, _| if lid == 8 { 0x0200 } else { 0 };
    let (found, _) = scan(Fabric { lids: vec![7, 8, 9], path, ..GOOD }, port([0xffff]));
    assert_eq!(lids(&found.unwrap()), [(7, 0xffff), (9, 0xffff)]);
}

/// d89490a22 of rdma-core: nobody has device management.
#[test]
fn an_empty_table() {
    let (found, asked) = scan(GOOD, port([0xffff]));
    assert!(found.unwrap().units.is_empty());
    assert_eq!(asked.len(), 2);
}

/// A manager that is busy is asked again, not too often.
#[test]
fn a_busy_manager() {
    let (found, _) = scan(Fabric { lids: vec![7], busy: 3, ..GOOD }, port([0xffff]));
    assert_eq!(lids(&found.unwrap()), [(7, 0xffff)]);
}

/// 0a71b1c96, d90eac29d of rdma-core: LIDs that nobody can have.
#[test]
fn without_a_manager_nobody_is_asked() {
    for (lid, sm_lid) in [(0, 2), (1, 0), (1, 0xc000), (0xffff, 2)] {
        let port = LocalPort { lid, sm_lid, ..port([0xffff]) };
        let (found, asked) = scan(Fabric { lids: vec![7], ..GOOD }, port);
        assert!(found.is_err() && asked.is_empty(), "{lid} {sm_lid}");
    }
}

/// A unit that says that it has every service there can be is not asked for all of them.
#[test]
fn no_more_services_than_anybody_has() {
    let hostile = Fabric { lids: vec![7], controllers: 255, services: 255, ..GOOD };
    let (found, asked) = scan(hostile, port([0xffff]));
    let found = found.unwrap();
    assert_eq!(found.units.len(), 1);
    assert!(asked.len() < 1000, "{} questions", asked.len());
    assert!(found.problems[0].contains("services are too many"), "{:?}", found.problems);
}
