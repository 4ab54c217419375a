// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who can do device management, and what they offer. All questions are under way at the same time, as far as the window of
//! [`Requests`] goes: one that does not answer costs its own time and nobody else's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rdma_verbs::Gid;
use rdma_verbs::mad::{
    ClassPortInfo, DmMad, IoControllerProfile, IoUnitInfo, MadHeader, PathRecord, PortInfoRecord,
    SaHeader, ServiceEntry, attribute, class, method, record, records, text,
};
use rdma_verbs::requests::{Failure, Request, RequestId, Requests};
use rdma_verbs::umad::{Address, AgentId, AgentRequest, Umad};
use zerocopy::{FromBytes as _, Immutable, IntoBytes};

use crate::plan::Whom;
use crate::port::LocalPort;
use crate::unit::{Controller, Service, Unit, present};

/// PortInfo:CapabilityMask.IsDeviceManagementSupported
const DEVICE_MANAGEMENT: u32 = 1 << 19;
/// SubnAdm ClassPortInfo:CapabilityMask.IsPortInfoCapMaskMatchSupported
const CAPABILITY_MATCH: u16 = 1 << 13;
/// The modifier that asks for it.
const MATCH: u32 = 1 << 31;
/// In a component mask: PortInfoRecord's CapabilityMask; PathRecord's DLID, SLID, P_Key.
const BY_CAPABILITIES: u64 = 1 << 7;
const BY_LIDS_AND_PKEY: u64 = 1 << 4 | 1 << 5 | 1 << 13;
/// PathRecord's DGID, SGID, NumbPath; PortInfoRecord's EndportLID.
const BY_GIDS: u64 = 1 << 2 | 1 << 3 | 1 << 12;
const BY_ENDPORT_LID: u64 = 1 << 0;
/// How many questions are under way at a time: so many that those who do not answer hold up nobody.
pub const WINDOW: usize = 256;
/// How many of them are to subnet administration, which all nodes ask.
const SA_WINDOW: usize = 8;
/// How many ServiceEntries an answer has.
const ENTRIES: u8 = 4;

/// How long and how often is asked.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For an answer, in all.
    pub timeout: Duration,
    /// How often it is asked again in that time.
    pub retries: u32,
}

impl Patience {
    pub(crate) fn request(self, agent: AgentId, to: Address, mad: Vec<u8>) -> Request {
        let timeout = self.timeout / (self.retries + 1);
        Request { agent, to, mad, timeout, retries: self.retries }
    }
}

/// What a scan has found, and what it has not.
#[derive(Debug, Default)]
pub struct Found {
    /// How many questions subnet administration was asked.
    pub questions: u32,
    /// In the order in which the subnet administration tells of their ports, and by the place of the P_Key.
    pub units: Vec<Unit>,
    /// Who has not answered, or with a refusal: a line each.
    pub problems: Vec<String>,
}

/// An open umad node with the agents that are needed here.
#[derive(Debug)]
pub struct Node {
    /// What is asked through it.
    pub requests: Requests,
    /// SubnAdm; notices that were subscribed to come to it.
    pub sa: AgentId,
    dm: AgentId,
}

impl AsRawFd for Node {
    /// Readable when [`Requests::advance`] has something.
    fn as_raw_fd(&self) -> RawFd {
        self.requests.as_raw_fd()
    }
}

impl Node {
    /// Opens the port's umad node; `with_reports` has the notices of subnet administration come here, and nowhere else.
    ///
    /// # Errors
    /// What the kernel says; `EPERM` or `EINVAL` where another has the notices.
    pub fn open(port: &LocalPort, window: usize, with_reports: bool) -> Result<Self> {
        let context = || format!("cannot use {}", port.umad.display());
        let umad = Umad::open(&port.umad).with_context(context)?;
        let agent = |class, version, methods, rmpp| {
            umad.register(&AgentRequest { class, version, methods, rmpp }).with_context(context)
        };
        let methods: &[u8] = if with_reports { &[method::REPORT] } else { &[] };
        let (sa, dm) =
            (agent(class::SUBN_ADM, 2, methods, true)?, agent(class::DEV_MGT, 1, &[], false)?);
        Ok(Self { requests: Requests::new(umad, window), sa, dm })
    }
}

/// Asks through one port.
#[derive(Debug)]
pub struct Scan {
    port: LocalPort,
    patience: Patience,
    steps: BTreeMap<RequestId, Step>,
    /// By the place of the port in the answer, and of the P_Key in the table.
    units: BTreeMap<(usize, u16), Unit>,
    found: Found,
    /// Subnet administration does not answer.
    failed: Option<anyhow::Error>,
    /// Questions to it that wait for their turn, how many are under way, and how many there were.
    to_ask: VecDeque<(Step, Vec<u8>)>,
    asking: usize,
    questions: u32,
}

/// What an answer is to.
#[derive(Clone, Debug)]
enum Step {
    Capabilities(Whom),
    Lid { gid: Gid, can_match: bool },
    Ports,
    Path { place: usize, lid: u16, pkey: (u16, u16) },
    Unit(Peer),
    Profile { of: Peer, slot: u8 },
    Services { of: Peer, slot: u8, first: u8 },
}

/// A port that is asked, over one P_Key.
#[derive(Clone, Copy, Debug)]
struct Peer {
    place: usize,
    at: Address,
    gid: Gid,
    pkey: u16,
}

impl Scan {
    /// Begins.
    pub fn begin(node: &mut Node, port: LocalPort, patience: Patience, whom: Whom) -> Self {
        let mut scan = Self {
            port,
            patience,
            steps: BTreeMap::new(),
            units: BTreeMap::new(),
            found: Found::default(),
            failed: None,
            to_ask: VecDeque::new(),
            asking: 0,
            questions: 0,
        };
        let none = [0_u8; 0];
        let step = Step::Capabilities(whom);
        scan.ask_sa(node, step, method::GET, attribute::CLASS_PORT_INFO, 0, 0, &none);
        scan
    }

    /// Finds all units, and waits for that.
    ///
    /// # Errors
    /// See [`Scan::finish`].
    pub fn run(port: LocalPort, patience: Patience) -> Result<Found> {
        let mut node = Node::open(&port, WINDOW, false)?;
        let mut scan = Self::begin(&mut node, port, patience, Whom::All);
        while let Some((id, outcome)) = node.requests.wait()? {
            scan.take(&mut node, id, outcome);
        }
        scan.finish()
    }

    /// Takes the end of a request, if it is one of this scan's; gives it back if it is not.
    pub fn take(
        &mut self,
        node: &mut Node,
        id: RequestId,
        outcome: Result<Vec<u8>, Failure>,
    ) -> Option<Result<Vec<u8>, Failure>> {
        let Some(step) = self.steps.remove(&id) else { return Some(outcome) };
        self.go_on(node, step, outcome);
        None
    }

    /// Whether everybody has answered, or will not.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.steps.is_empty() && self.to_ask.is_empty()
    }

    /// Nobody wants to know any more.
    pub fn cancel(&mut self, node: &mut Node) {
        self.to_ask.clear();
        for id in std::mem::take(&mut self.steps).into_keys() {
            node.requests.cancel(id);
        }
    }

    /// What was found.
    ///
    /// # Errors
    /// The subnet administration does not answer. What others do not answer is told in [`Found`].
    pub fn finish(mut self) -> Result<Found> {
        if let Some(error) = self.failed {
            return Err(error.context("the subnet manager has not told who there is"));
        }
        self.found.questions = self.questions;
        self.found.units = self.units.into_values().collect();
        for unit in &mut self.found.units {
            unit.controllers.sort_by_key(|controller| controller.slot);
            for controller in &mut unit.controllers {
                controller.services.sort_by_key(|service| service.index);
            }
        }
        Ok(self.found)
    }

    /// Asks for the ports with device management: all, or that of a LID.
    fn ask_ports(&mut self, node: &mut Node, lid: Option<u16>, can_match: bool) {
        let (modifier, mask) = if can_match { (MATCH, BY_CAPABILITIES) } else { (0, 0) };
        let wanted = PortInfoRecord {
            endport_lid: lid.unwrap_or(0).into(),
            capabilities: DEVICE_MANAGEMENT.into(),
            ..PortInfoRecord::default()
        };
        let mask = mask | if lid.is_some() { BY_ENDPORT_LID } else { 0 };
        let attribute = attribute::PORT_INFO_RECORD;
        self.ask_sa(node, Step::Ports, method::GET_TABLE, attribute, modifier, mask, &wanted);
    }

    fn go_on(&mut self, node: &mut Node, step: Step, outcome: Result<Vec<u8>, Failure>) {
        if step.is_for_sa() {
            self.asking -= 1;
        }
        let understood = outcome
            .and_then(|answer| self.understand(node, &step, &answer).ok_or(Failure::Garbage));
        match (understood, &step) {
            (Ok(()), _) => {}
            // They have no P_Key in common; there is none, or none any more.
            (Err(Failure::Refused(_)), Step::Path { .. } | Step::Lid { .. }) => {}
            // ERR_NO_RECORDS
            (Err(Failure::Refused(status)), Step::Ports) if status.0 >> 8 == 3 => {}
            (Err(failure), Step::Capabilities(_) | Step::Lid { .. } | Step::Ports) => {
                self.failed = Some(failure.into());
            }
            (Err(failure), step) => self.found.problems.push(format!("{step}: {failure}")),
        }
        self.ask_next(node);
    }

    /// Takes what an answer says, and asks what follows from it; None when it does not make sense.
    fn understand(&mut self, node: &mut Node, step: &Step, answer: &[u8]) -> Option<()> {
        match *step {
            Step::Capabilities(whom) => {
                let info: ClassPortInfo = record(answer)?;
                let can_match = info.capabilities.get() & CAPABILITY_MATCH != 0;
                match whom {
                    Whom::All => self.ask_ports(node, None, can_match),
                    Whom::Lid(lid) => self.ask_ports(node, Some(lid), can_match),
                    Whom::Gid(gid) => {
                        let path = PathRecord {
                            dgid: gid.0.to_be_bytes(),
                            sgid: self.port.gid.0.to_be_bytes(),
                            reversible_and_paths: 1,
                            ..PathRecord::default()
                        };
                        let step = Step::Lid { gid, can_match };
                        let (get, attribute) = (method::GET, attribute::PATH_RECORD);
                        self.ask_sa(node, step, get, attribute, 0, BY_GIDS, &path);
                    }
                }
            }
            Step::Lid { can_match, .. } => {
                let path: PathRecord = record(answer)?;
                self.ask_ports(node, Some(path.dlid.get()), can_match);
            }
            Step::Ports => {
                // Not all managers look at the mask.
                let records: Vec<PortInfoRecord> = records(answer);
                let managed =
                    records.iter().filter(|r| r.capabilities.get() & DEVICE_MANAGEMENT != 0);
                let mut told = BTreeSet::new();
                let lids = managed.map(|r| r.endport_lid.get()).filter(|lid| told.insert(*lid));
                for (place, lid) in lids.enumerate() {
                    self.ask_paths(node, place, lid);
                }
            }
            Step::Path { place, lid, pkey: (index, pkey) } => {
                let path: PathRecord = record(answer)?;
                let sl = path.qos_and_sl.get().to_be_bytes()[1] & 0xf;
                let at = Address { lid, qpn: 1, sl, pkey_index: index, gid: None };
                let peer = Peer { place, at, gid: Gid(u128::from_be_bytes(path.dgid)), pkey };
                self.ask_unit(node, Step::Unit(peer), peer, attribute::IO_UNIT_INFO, 0);
            }
            Step::Unit(of) => {
                let data = answer.get(64..)?;
                let info = IoUnitInfo::read_from_prefix(data).ok()?.0;
                for slot in present(&info) {
                    let step = Step::Profile { of, slot };
                    let attribute = attribute::IO_CONTROLLER_PROFILE;
                    self.ask_unit(node, step, of, attribute, slot.into());
                }
                let (lid, gid, pkey) = (of.at.lid, of.gid, of.pkey);
                let unit = Unit { lid, gid, pkey, info, controllers: Vec::new() };
                self.units.insert((of.place, of.at.pkey_index), unit);
            }
            Step::Profile { of, slot } => {
                let profile = IoControllerProfile::read_from_prefix(answer.get(64..)?).ok()?.0;
                for first in (0..profile.services).step_by(ENTRIES.into()) {
                    let last = first.saturating_add(ENTRIES - 1).min(profile.services - 1);
                    let which = u32::from(slot) << 16 | u32::from(last) << 8 | u32::from(first);
                    let step = Step::Services { of, slot, first };
                    self.ask_unit(node, step, of, attribute::SERVICE_ENTRIES, which);
                }
                let controller = Controller { slot, profile, services: Vec::new() };
                self.unit(of)?.controllers.push(controller);
            }
            Step::Services { of, slot, first } => {
                let entries: [ServiceEntry; ENTRIES as usize] =
                    <_>::read_from_prefix(answer.get(64..)?).ok()?.0;
                let controllers = &mut self.unit(of)?.controllers;
                let controller = controllers.iter_mut().find(|c| c.slot == slot)?;
                let indexes = first..controller.profile.services;
                controller.services.extend(indexes.zip(entries).map(|(index, entry)| Service {
                    index,
                    id: entry.id.get(),
                    name: text(&entry.name),
                }));
            }
        }
        Some(())
    }

    fn unit(&mut self, of: Peer) -> Option<&mut Unit> {
        self.units.get_mut(&(of.place, of.at.pkey_index))
    }

    /// Asks for the way to a port, over each P_Key.
    fn ask_paths(&mut self, node: &mut Node, place: usize, lid: u16) {
        for pkey in self.port.pkeys.clone() {
            let path = PathRecord {
                dlid: lid.into(),
                slid: self.port.lid.into(),
                pkey: pkey.1.into(),
                ..PathRecord::default()
            };
            let step = Step::Path { place, lid, pkey };
            let (get, attribute) = (method::GET, attribute::PATH_RECORD);
            self.ask_sa(node, step, get, attribute, 0, BY_LIDS_AND_PKEY, &path);
        }
    }

    fn ask_unit(&mut self, node: &mut Node, step: Step, of: Peer, attribute: u16, modifier: u32) {
        let mad = MadHeader {
            attribute: attribute.into(),
            modifier: modifier.into(),
            ..header(class::DEV_MGT, 1, method::GET)
        };
        let mad = DmMad { mad, ..DmMad::default() }.as_bytes().to_vec();
        let request = self.patience.request(node.dm, of.at, mad);
        self.steps.insert(node.requests.ask(request), step);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one datagram")]
    fn ask_sa<T: IntoBytes + Immutable + ?Sized>(
        &mut self,
        node: &mut Node,
        step: Step,
        method: u8,
        attribute: u16,
        modifier: u32,
        mask: u64,
        record: &T,
    ) {
        self.to_ask.push_back((step, sa_mad(method, attribute, modifier, mask, record)));
        self.ask_next(node);
    }

    fn ask_next(&mut self, node: &mut Node) {
        while self.asking < SA_WINDOW {
            let Some((step, mad)) = self.to_ask.pop_front() else { return };
            let request = self.patience.request(node.sa, self.port.sa(), mad);
            self.steps.insert(node.requests.ask(request), step);
            self.asking += 1;
            self.questions += 1;
        }
    }
}

/// A datagram for subnet administration.
pub(crate) fn sa_mad<T: IntoBytes + Immutable + ?Sized>(
    method: u8,
    attribute: u16,
    modifier: u32,
    mask: u64,
    record: &T,
) -> Vec<u8> {
    let mad = MadHeader {
        attribute: attribute.into(),
        modifier: modifier.into(),
        ..header(class::SUBN_ADM, 2, method)
    };
    let header = SaHeader { mad, component_mask: mask.into(), ..SaHeader::default() };
    let mut mad = [header.as_bytes(), record.as_bytes()].concat();
    mad.resize(rdma_verbs::mad::MAD_SIZE, 0);
    mad
}

fn header(class: u8, class_version: u8, method: u8) -> MadHeader {
    MadHeader { base_version: 1, class, class_version, method, ..MadHeader::default() }
}

impl Step {
    fn is_for_sa(&self) -> bool {
        matches!(self, Self::Capabilities(_) | Self::Lid { .. } | Self::Ports | Self::Path { .. })
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (lid, pkey, what) = match self {
            Self::Capabilities(_) | Self::Ports => return f.write_str("subnet administration"),
            Self::Lid { gid, .. } => return write!(f, "GID {gid}, path"),
            Self::Path { lid, pkey, .. } => (*lid, pkey.1, "path".to_owned()),
            Self::Unit(of) => (of.at.lid, of.pkey, "I/O unit".to_owned()),
            Self::Profile { of, slot } => (of.at.lid, of.pkey, format!("controller {slot}")),
            Self::Services { of, slot, first } => {
                (of.at.lid, of.pkey, format!("services of controller {slot} from {first}"))
            }
        };
        write!(f, "LID {lid}, P_Key 0x{pkey:04x}, {what}")
    }
}
