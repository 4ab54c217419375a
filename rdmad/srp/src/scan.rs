// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who can do device management, and what they offer. All questions are under way at the same time, as far as the window of
//! [`Requests`] goes: one that does not answer costs its own time and nobody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use rdma_verbs::Gid;
use rdma_verbs::mad::{
    ClassPortInfo, DmMad, IoControllerProfile, IoUnitInfo, MadHeader, PathRecord, PortInfoRecord,
    SaHeader, ServiceEntry, attribute, class, method, record, records, text,
};
use rdma_verbs::requests::{Failure, Request, RequestId, Requests};
use rdma_verbs::umad::{Address, AgentId, AgentRequest, Umad};
use zerocopy::{FromBytes as _, IntoBytes};

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
/// How many ServiceEntries an answer has.
const ENTRIES: u8 = 4;

/// How long and how often is asked.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For an answer, each time.
    pub timeout: Duration,
    /// How often it is asked again.
    pub retries: u32,
}

/// What a scan has found, and what it has not.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order in which the subnet administration tells of their ports, and by the place of the P_Key.
    pub units: Vec<Unit>,
    /// Who has not answered, or with a refusal: a line each.
    pub problems: Vec<String>,
}

/// Asks everybody, through one port.
#[derive(Debug)]
pub struct Scan<'a> {
    port: &'a LocalPort,
    patience: Patience,
    requests: Requests,
    sa: AgentId,
    dm: AgentId,
    steps: BTreeMap<RequestId, Step>,
    /// By the place of the port in the answer, and of the P_Key in the table.
    units: BTreeMap<(usize, u16), Unit>,
    found: Found,
}

/// What an answer is to.
#[derive(Clone, Debug)]
enum Step {
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

impl<'a> Scan<'a> {
    /// Opens the port's umad node.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(port: &'a LocalPort, patience: Patience, window: usize) -> Result<Self> {
        let context = || format!("cannot use {}", port.umad.display());
        let umad = Umad::open(&port.umad).with_context(context)?;
        let agent = |class, version, rmpp| {
            umad.register(&AgentRequest { class, version, methods: &[], rmpp })
                .with_context(context)
        };
        let (sa, dm) = (agent(class::SUBN_ADM, 2, true)?, agent(class::DEV_MGT, 1, false)?);
        Ok(Self {
            port,
            patience,
            requests: Requests::new(umad, window),
            sa,
            dm,
            steps: BTreeMap::new(),
            units: BTreeMap::new(),
            found: Found::default(),
        })
    }

    /// Finds all units.
    ///
    /// # Errors
    /// The subnet administration does not answer. What others do not answer is told in [`Found`].
    pub fn run(mut self) -> Result<Found> {
        let lids = self.managed_ports().context("the subnet manager has not told who there is")?;
        for (place, lid) in lids.into_iter().enumerate() {
            for pkey in self.port.pkeys.clone() {
                let path = PathRecord {
                    dlid: lid.into(),
                    slid: self.port.lid.into(),
                    pkey: pkey.1.into(),
                    ..PathRecord::default()
                };
                let request = self.sa_request(
                    method::GET,
                    attribute::PATH_RECORD,
                    0,
                    BY_LIDS_AND_PKEY,
                    &path,
                );
                self.ask(Step::Path { place, lid, pkey }, request);
            }
        }
        while let Some((id, outcome)) = self.requests.wait()? {
            if let Some(step) = self.steps.remove(&id) {
                self.go_on(step, outcome);
            }
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

    /// The LIDs of ports with device management.
    fn managed_ports(&mut self) -> Result<Vec<u16>> {
        let request = self.sa_request(method::GET, attribute::CLASS_PORT_INFO, 0, 0, &[0_u8; 0]);
        let info = self.requests.ask_one(request)?;
        let info: ClassPortInfo = record(&info).ok_or(Failure::Garbage)?;
        let can_match = info.capabilities.get() & CAPABILITY_MATCH != 0;
        let (modifier, mask) = if can_match { (MATCH, BY_CAPABILITIES) } else { (0, 0) };
        let wanted =
            PortInfoRecord { capabilities: DEVICE_MANAGEMENT.into(), ..PortInfoRecord::default() };
        let attribute = attribute::PORT_INFO_RECORD;
        let request = self.sa_request(method::GET_TABLE, attribute, modifier, mask, &wanted);
        let table = match self.requests.ask_one(request) {
            Ok(table) => table,
            // ERR_NO_RECORDS
            Err(Failure::Refused(status)) if status.0 >> 8 == 3 => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let records: Vec<PortInfoRecord> = records(&table);
        let managed = records.iter().filter(|r| r.capabilities.get() & DEVICE_MANAGEMENT != 0);
        let mut told = BTreeSet::new();
        Ok(managed.map(|r| r.endport_lid.get()).filter(|lid| told.insert(*lid)).collect())
    }

    fn go_on(&mut self, step: Step, outcome: Result<Vec<u8>, Failure>) {
        let answer = match outcome {
            Ok(answer) => answer,
            // They have no P_Key in common.
            Err(Failure::Refused(_)) if matches!(step, Step::Path { .. }) => return,
            Err(failure) => return self.found.problems.push(format!("{step}: {failure}")),
        };
        if self.understand(&step, &answer).is_none() {
            self.found.problems.push(format!("{step}: {}", Failure::Garbage));
        }
    }

    /// Takes what an answer says, and asks what follows from it; None when it does not make sense.
    fn understand(&mut self, step: &Step, answer: &[u8]) -> Option<()> {
        match *step {
            Step::Path { place, lid, pkey: (index, pkey) } => {
                let path: PathRecord = record(answer)?;
                let sl = path.qos_and_sl.get().to_be_bytes()[1] & 0xf;
                let at = Address { lid, qpn: 1, sl, pkey_index: index, gid: None };
                let peer = Peer { place, at, gid: Gid(u128::from_be_bytes(path.dgid)), pkey };
                self.ask_unit(Step::Unit(peer), peer, attribute::IO_UNIT_INFO, 0);
            }
            Step::Unit(of) => {
                let data = answer.get(64..)?;
                let info = IoUnitInfo::read_from_prefix(data).ok()?.0;
                for slot in present(&info) {
                    let step = Step::Profile { of, slot };
                    let attribute = attribute::IO_CONTROLLER_PROFILE;
                    self.ask_unit(step, of, attribute, slot.into());
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
                    self.ask_unit(step, of, attribute::SERVICE_ENTRIES, which);
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

    fn ask(&mut self, step: Step, request: Request) {
        let id = self.requests.ask(request);
        self.steps.insert(id, step);
    }

    fn ask_unit(&mut self, step: Step, of: Peer, attribute: u16, modifier: u32) {
        let mad = MadHeader {
            attribute: attribute.into(),
            modifier: modifier.into(),
            ..header(class::DEV_MGT, 1, method::GET)
        };
        let mad = DmMad { mad, ..DmMad::default() }.as_bytes().to_vec();
        let request = self.request(self.dm, of.at, mad);
        self.ask(step, request);
    }

    fn sa_request<T: IntoBytes + zerocopy::Immutable + ?Sized>(
        &self,
        method: u8,
        attribute: u16,
        modifier: u32,
        mask: u64,
        record: &T,
    ) -> Request {
        let mad = MadHeader {
            attribute: attribute.into(),
            modifier: modifier.into(),
            ..header(class::SUBN_ADM, 2, method)
        };
        let header = SaHeader { mad, component_mask: mask.into(), ..SaHeader::default() };
        let mut mad = [header.as_bytes(), record.as_bytes()].concat();
        mad.resize(rdma_verbs::mad::MAD_SIZE, 0);
        let LocalPort { sm_lid: lid, sm_sl: sl, .. } = *self.port;
        // IBTA: subnet administration is asked over the default P_Key, of which everybody is a member.
        let default = self.port.pkeys.iter().find(|(_, pkey)| pkey & 0x7fff == 0x7fff);
        let pkey_index = default.map_or(0, |(index, _)| *index);
        self.request(self.sa, Address { lid, qpn: 1, sl, pkey_index, gid: None }, mad)
    }

    fn request(&self, agent: AgentId, to: Address, mad: Vec<u8>) -> Request {
        let Patience { timeout, retries } = self.patience;
        Request { agent, to, mad, timeout, retries }
    }
}

fn header(class: u8, class_version: u8, method: u8) -> MadHeader {
    MadHeader { base_version: 1, class, class_version, method, ..MadHeader::default() }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (lid, pkey, what) = match self {
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
