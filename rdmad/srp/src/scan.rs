// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who can do device management, and what they offer. All questions are under way at the same time, as far as the window of
//! [`Requests`] goes: one that does not answer costs its own time and nobody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, anyhow};
use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::Gid;
use rdma_verbs::dm::{self, DmMad, IoControllerProfile, IoUnitInfo, ServiceEntry};
use rdma_verbs::mad::{ClassPortInfo, MadHeader, PortInfo, class, method, text};
use rdma_verbs::requests::{Failure, Request, Requests};
use rdma_verbs::sa::{
    CAN_MATCH_CAPABILITIES, Client, Id, PathRecord, Patience, PortInfoRecord, Query, record,
    records,
};
use rdma_verbs::umad::{Address, AgentId, AgentRequest, Carrier, Umad};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::plan::Whom;
use crate::unit::{Controller, Service, Unit, present};

/// How many questions are under way at a time: so many that those who do not answer hold up nobody.
const WINDOW: usize = 256;
/// How many services of one unit are asked for: many more than any has, and an end to what one that lies has to tell.
const SERVICES: usize = 2048;
/// How many ServiceEntries an answer has.
const ENTRIES: u8 = 4;

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

/// An open umad node: subnet administration, and an agent for device management.
#[derive(Debug)]
pub struct Node {
    /// What is asked through it; notices that were subscribed to come to it.
    pub client: Client,
    dm: AgentId,
    patience: Patience,
}

impl AsRawFd for Node {
    /// Readable when [`Client::advance`] has something.
    fn as_raw_fd(&self) -> RawFd {
        self.client.as_raw_fd()
    }
}

impl Node {
    /// Opens the port's umad node; `with_reports` has the notices of subnet administration come here, and nowhere else.
    ///
    /// # Errors
    /// What the kernel says; `EPERM` or `EINVAL` where another has the notices.
    pub fn open(port: &LocalPort, patience: Patience, with_reports: bool) -> Result<Self> {
        let context = || format!("cannot use {}", port.umad.display());
        let umad = Umad::open(&port.umad).with_context(context)?;
        Self::over(umad, port, patience, with_reports).with_context(context)
    }

    /// The same over something else that carries datagrams.
    ///
    /// # Errors
    /// As for [`Node::open`].
    pub fn over(
        mut carrier: impl Carrier + 'static,
        port: &LocalPort,
        patience: Patience,
        with_reports: bool,
    ) -> io::Result<Self> {
        let mut agent = |class, version, methods, rmpp| {
            carrier.register(&AgentRequest { class, version, methods, rmpp })
        };
        let methods: &[u8] = if with_reports { &[method::REPORT] } else { &[] };
        let sa = agent(class::SUBN_ADM, 2, methods, true)?;
        let dm = agent(class::DEV_MGT, 1, &[], false)?;
        let mut client = Client::new(Requests::new(carrier, WINDOW), sa, patience);
        client.set_manager(port.manager());
        Ok(Self { client, dm, patience })
    }
}

/// Asks through one port.
#[derive(Debug)]
pub struct Scan {
    port: LocalPort,
    steps: BTreeMap<Id, Step>,
    /// By the place of the port in the answer, and of the P_Key in the table.
    units: BTreeMap<(usize, u16), Unit>,
    found: Found,
    /// Subnet administration does not answer, or nobody can be asked any more.
    failed: Option<anyhow::Error>,
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
    pub fn begin(node: &mut Node, port: LocalPort, whom: Whom) -> Self {
        let mut scan = Self {
            port,
            steps: BTreeMap::new(),
            units: BTreeMap::new(),
            found: Found::default(),
            failed: None,
        };
        scan.ask_sa(node, Step::Capabilities(whom), Query::get(&ClassPortInfo::default(), 0));
        scan
    }

    /// Finds all units, and waits for that.
    ///
    /// # Errors
    /// See [`Scan::finish`].
    pub fn run(port: LocalPort, patience: Patience) -> Result<Found> {
        let mut node = Node::open(&port, patience, false)?;
        let mut scan = Self::begin(&mut node, port, Whom::All);
        while let Some((id, outcome)) = node.client.wait()? {
            scan.take(&mut node, id, outcome);
        }
        scan.finish()
    }

    /// Takes the end of a request, if it is one of this scan's; gives it back if it is not.
    pub fn take(
        &mut self,
        node: &mut Node,
        id: Id,
        outcome: Result<Vec<u8>, Failure>,
    ) -> Option<Result<Vec<u8>, Failure>> {
        let Some(step) = self.steps.remove(&id) else { return Some(outcome) };
        self.go_on(node, step, outcome);
        None
    }

    /// Whether everybody has answered, or will not.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.steps.is_empty()
    }

    /// Nobody wants to know any more.
    pub fn cancel(&mut self, node: &mut Node) {
        for id in std::mem::take(&mut self.steps).into_keys() {
            node.client.cancel(id);
        }
    }

    /// What was found.
    ///
    /// # Errors
    /// The subnet administration does not answer, or the device has gone. What others do not answer is told in [`Found`].
    pub fn finish(mut self) -> Result<Found> {
        if let Some(error) = self.failed {
            return Err(error);
        }
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
        let wanted = PortInfoRecord {
            endport_lid: lid.unwrap_or(0).into(),
            info: PortInfo { capabilities: dm::IS_SUPPORTED.into(), ..PortInfo::default() },
            ..PortInfoRecord::default()
        };
        let of_lid = if lid.is_some() { PortInfoRecord::ENDPORT_LID } else { 0 };
        let query = if can_match {
            Query::table(&wanted, of_lid | PortInfoRecord::CAPABILITIES).matching_capabilities()
        } else {
            Query::table(&wanted, of_lid)
        };
        self.ask_sa(node, Step::Ports, query);
    }

    fn go_on(&mut self, node: &mut Node, step: Step, outcome: Result<Vec<u8>, Failure>) {
        let understood = outcome
            .and_then(|answer| self.understand(node, &step, &answer).ok_or(Failure::Garbage));
        match (understood, &step) {
            (Ok(()), _) => {}
            (Err(Failure::Gone), _) => {
                self.failed = Some(anyhow!("RDMA device '{}' has gone", self.port.device));
            }
            // They have no P_Key in common; there is none, or none any more.
            (Err(Failure::Refused(_)), Step::Path { .. } | Step::Lid { .. }) => {}
            // ERR_NO_RECORDS
            (Err(Failure::Refused(status)), Step::Ports) if status.0 >> 8 == 3 => {}
            (Err(failure), Step::Capabilities(_) | Step::Lid { .. } | Step::Ports) => {
                let failure = anyhow::Error::from(failure);
                self.failed = Some(failure.context("the subnet manager has not told who there is"));
            }
            (Err(failure), step) => self.found.problems.push(format!("{step}: {failure}")),
        }
    }

    /// Takes what an answer says, and asks what follows from it; None when it does not make sense.
    fn understand(&mut self, node: &mut Node, step: &Step, answer: &[u8]) -> Option<()> {
        match *step {
            Step::Capabilities(whom) => {
                let info: ClassPortInfo = record(answer)?;
                let can_match = info.capabilities.get() & CAN_MATCH_CAPABILITIES != 0;
                match whom {
                    Whom::All => self.ask_ports(node, None, can_match),
                    Whom::Lid(lid) => self.ask_ports(node, Some(lid), can_match),
                    Whom::Gid(gid) => self.ask_lid(node, gid, can_match),
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
                    records.iter().filter(|r| r.info.capabilities.get() & dm::IS_SUPPORTED != 0);
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
                self.ask_unit(node, Step::Unit(peer), peer, dm::attribute::IO_UNIT_INFO, 0);
            }
            Step::Unit(of) => {
                let data = answer.get(64..)?;
                let info = IoUnitInfo::read_from_prefix(data).ok()?.0;
                for slot in present(&info) {
                    let step = Step::Profile { of, slot };
                    let attribute = dm::attribute::IO_CONTROLLER_PROFILE;
                    self.ask_unit(node, step, of, attribute, slot.into());
                }
                let (lid, gid, pkey) = (of.at.lid, of.gid, of.pkey);
                let unit = Unit { lid, gid, pkey, info, controllers: Vec::new() };
                self.units.insert((of.place, of.at.pkey_index), unit);
            }
            Step::Profile { of, slot } => {
                let profile = IoControllerProfile::read_from_prefix(answer.get(64..)?).ok()?.0;
                let told = self.unit(of)?.controllers.iter();
                let told: usize = told.map(|c| usize::from(c.profile.services)).sum();
                if told + usize::from(profile.services) > SERVICES {
                    let problem = format!("{step}: more than {SERVICES} services are too many");
                    self.found.problems.push(problem);
                    return Some(());
                }
                for first in (0..profile.services).step_by(ENTRIES.into()) {
                    let last = first.saturating_add(ENTRIES - 1).min(profile.services - 1);
                    let which = u32::from(slot) << 16 | u32::from(last) << 8 | u32::from(first);
                    let step = Step::Services { of, slot, first };
                    self.ask_unit(node, step, of, dm::attribute::SERVICE_ENTRIES, which);
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

    /// Asks for the LID of a port.
    fn ask_lid(&mut self, node: &mut Node, gid: Gid, can_match: bool) {
        let path = PathRecord {
            dgid: gid.0.to_be_bytes(),
            sgid: self.port.gid().0.to_be_bytes(),
            reversible_and_paths: 1,
            ..PathRecord::default()
        };
        let components = PathRecord::DGID | PathRecord::SGID | PathRecord::PATHS;
        self.ask_sa(node, Step::Lid { gid, can_match }, Query::get(&path, components));
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
            let components = PathRecord::DLID | PathRecord::SLID | PathRecord::PKEY;
            self.ask_sa(node, Step::Path { place, lid, pkey }, Query::get(&path, components));
        }
    }

    fn ask_unit(&mut self, node: &mut Node, step: Step, of: Peer, attribute: u16, modifier: u32) {
        let mad = MadHeader {
            attribute: attribute.into(),
            modifier: modifier.into(),
            ..MadHeader::request(class::DEV_MGT, 1, method::GET)
        };
        let request = Request {
            agent: node.dm,
            to: of.at,
            mad: DmMad { mad, ..DmMad::default() }.as_bytes().to_vec(),
            timeout: node.patience.timeout / (node.patience.retries + 1),
            retries: node.patience.retries,
        };
        self.steps.insert(node.client.ask_other(request), step);
    }

    fn ask_sa(&mut self, node: &mut Node, step: Step, query: Query) {
        self.found.questions += 1;
        self.steps.insert(node.client.ask(query), step);
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
