// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is answered what. No sockets and no clock: what comes in is said with its time, what goes out is taken from
//! [`Resolver::output`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::Gid;
use rdma_verbs::local_service::{self, Reply, Ticket};
use rdma_verbs::sa::PathRecord;
use serde::Serialize;

use crate::address::Address;
use crate::endpoints::{Assigned, Endpoint, Endpoints, PortKey};
use crate::options::Options;
use crate::paths::{Paths, Wanted};
use crate::wire::{self, EndpointFacts, Question, Request, Status, Whose};

/// Which program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// What the fabric is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuestionId(pub u64);

/// What this host says of its addresses.
pub trait Host {
    /// The address that a datagram to another goes out with; None where no way leads there.
    fn source(&self, destination: IpAddr) -> Option<IpAddr>;

    /// The GID of whoever has an address, as the kernel knows it of this IPoIB interface; None where it does not.
    fn neighbour(&self, interface: u32, address: IpAddr) -> Option<u128>;
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A program is answered.
    Answer(ClientId, Vec<u8>),
    /// The kernel is answered.
    Kernel(Ticket, Reply),
    /// Subnet administration is asked for a path; [`Resolver::answered`] takes what it says.
    Ask {
        /// Through this port.
        port: PortKey,
        /// Which question it is.
        question: QuestionId,
        /// Such a path.
        path: PathRecord,
        /// Those fields of it that are meant.
        components: u64,
    },
    /// Nobody waits for the answer any more.
    Leave(PortKey, QuestionId),
}

/// How long it is remembered that there is no answer.
const NO_ANSWER: Duration = Duration::from_secs(1);
/// How many questions through one port are open at a time; whoever asks more is told that there is no room.
const MOST_ASKED: usize = 1 << 16;

/// How much was asked, in the order of `ACM_CNTR_*`; and what rdma-core's ibacm does not count.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Figures {
    /// Questions that failed.
    pub errors: u64,
    /// Questions.
    pub questions: u64,
    /// Questions to which there is no answer.
    pub no_data: u64,
    /// Addresses that others were asked for.
    pub addresses_asked: u64,
    /// Addresses that were known.
    pub addresses_known: u64,
    /// Paths that subnet administration was asked for.
    pub paths_asked: u64,
    /// Paths that were known.
    pub paths_known: u64,
    /// Questions of the kernel.
    pub kernel_asked: u64,
    /// Those of them that it was told something to.
    pub kernel_answered: u64,
}

impl Figures {
    fn counters(&self) -> [u64; 7] {
        [
            self.errors,
            self.questions,
            self.no_data,
            self.addresses_asked,
            self.addresses_known,
            self.paths_asked,
            self.paths_known,
        ]
    }
}

/// What is asked of the fabric, and who waits for it.
struct Asked {
    port: PortKey,
    /// None where the answer is not to be kept.
    wanted: Option<Wanted>,
    waiting: Vec<(Asker, EndpointKey)>,
}

/// Who is to be answered, and how.
#[derive(Clone, Debug)]
enum Asker {
    Client { client: ClientId, transaction: [u8; 8], form: Form },
    Kernel { ticket: Ticket, flags: u32 },
}

#[derive(Clone, Debug)]
enum Form {
    /// With the address that was chosen to ask with.
    Path(Option<Address>),
    /// As subnet administration says it.
    Said { flags: u32 },
}

type EndpointKey = (PortKey, u16);

/// All questions and all that is known.
pub struct Resolver<H> {
    host: H,
    options: Options,
    endpoints: Endpoints,
    hosts: HashMap<Address, u128>,
    known: BTreeMap<PortKey, Paths>,
    asked: HashMap<QuestionId, Asked>,
    by_wanted: HashMap<(PortKey, Wanted), QuestionId>,
    /// All are waited for as long: the first is due first.
    deadlines: VecDeque<(Instant, QuestionId)>,
    last: u64,
    figures: Figures,
    by_endpoint: BTreeMap<EndpointKey, Figures>,
    outputs: VecDeque<Output>,
}

impl<H> std::fmt::Debug for Resolver<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("asked", &self.asked.len()).finish_non_exhaustive()
    }
}

impl<H: Host> Resolver<H> {
    /// Without ports.
    #[must_use]
    pub fn new(host: H, options: Options) -> Self {
        Self {
            host,
            options,
            endpoints: Endpoints::default(),
            hosts: HashMap::new(),
            known: BTreeMap::new(),
            asked: HashMap::new(),
            by_wanted: HashMap::new(),
            deadlines: VecDeque::new(),
            last: 0,
            figures: Figures::default(),
            by_endpoint: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// What is configured.
    pub fn configure(&mut self, options: Options, hosts: HashMap<Address, u128>) {
        self.options = options;
        self.hosts = hosts;
    }

    /// The ports as they are now, and their names. What is known of one that has changed is forgotten; who waits for
    /// one that cannot be used any more is told so.
    pub fn set_ports(&mut self, ports: Vec<LocalPort>, names: &[Assigned]) {
        let is_there = |key: PortKey| ports.iter().any(|port| (port.index, port.number) == key);
        self.by_endpoint.retain(|(port, _), _| is_there(*port));
        let before = std::mem::replace(&mut self.endpoints, Endpoints::new(ports, names));
        for (key, port) in before.ports() {
            match self.endpoints.port(*key) {
                Some(now) if now == port => {}
                Some(_) => self.forget(*key),
                None => {
                    self.forget(*key);
                    self.known.remove(key);
                    let of_port = |(_, asked): &(&QuestionId, &Asked)| asked.port == *key;
                    let questions: Vec<QuestionId> =
                        self.asked.iter().filter(of_port).map(|(id, _)| *id).collect();
                    for question in questions {
                        self.leave(question, Status::NotConnected);
                    }
                }
            }
        }
    }

    /// Something of the fabric has changed: what is known of it through this port may not be so any more, and what is
    /// being answered neither.
    pub fn forget(&mut self, port: PortKey) {
        self.known.remove(&port);
        for asked in self.asked.values_mut().filter(|asked| asked.port == port) {
            if let Some(wanted) = asked.wanted.take() {
                self.by_wanted.remove(&(port, wanted));
            }
        }
    }

    /// A program asks.
    pub fn client(&mut self, client: ClientId, request: &Request, now: Instant) {
        let transaction = request.transaction;
        let answer = match &request.question {
            Err(status) => {
                self.figures.errors += 1;
                Err(*status)
            }
            Ok(Question::Counters(whose)) => {
                let figures = self.figures_of(whose).ok_or(Status::SourceAddress);
                figures.map(|figures| request.counters(&figures.counters()))
            }
            Ok(Question::Endpoint { number, port }) => {
                let number = usize::from(*number).checked_sub(1);
                let endpoint = number.and_then(|number| self.endpoints.all(*port).nth(number));
                let facts = endpoint.and_then(|endpoint| self.facts(endpoint));
                facts.map(|facts| request.endpoint(&facts)).ok_or(Status::Invalid)
            }
            Ok(Question::Destination { source, destination, no_delay }) => {
                let found = self.destination(source.as_ref(), destination);
                match found {
                    Ok((endpoint, wanted, source)) => {
                        let form = Form::Path(source);
                        let asker = Asker::Client { client, transaction, form };
                        return self.find(endpoint, wanted, asker, *no_delay, now);
                    }
                    Err(status) => self.unplaced(status),
                }
            }
            Ok(Question::Path { path, no_delay }) => match self.endpoints.of_path(path) {
                Some((port, pkey)) => {
                    let endpoint = ((port.index, port.number), pkey);
                    let wanted = Wanted::like(&completed(port, pkey, *path));
                    let asker = Asker::Client { client, transaction, form: Form::Path(None) };
                    return self.find(endpoint, wanted, asker, *no_delay, now);
                }
                None => self.unplaced(Status::SourceAddress),
            },
            Ok(Question::SubnetAdministration { path, flags }) => {
                match self.endpoints.of_path(path) {
                    Some((port, pkey)) => {
                        let endpoint = ((port.index, port.number), pkey);
                        let form = Form::Said { flags: *flags };
                        let asker = Asker::Client { client, transaction, form };
                        self.count(Some(endpoint), |figures| figures.questions += 1);
                        return self.ask(endpoint, Wanted::like(path), false, Some(asker), now);
                    }
                    None => self.unplaced(Status::SourceAddress),
                }
            }
        };
        let answer = answer.unwrap_or_else(|status| request.refused(status));
        self.outputs.push_back(Output::Answer(client, answer));
    }

    /// The kernel asks.
    pub fn kernel(&mut self, request: local_service::Request, now: Instant) {
        use local_service::Request::{Ip, Malformed, Path};
        self.figures.kernel_asked += 1;
        let ticket = match request {
            Path { ticket, device, port, path_use, path, components } => {
                if let Some(port) = self.endpoints.named(&device, port) {
                    let endpoint = ((port.index, port.number), path.pkey.get());
                    let asker = Asker::Kernel { ticket, flags: path_use.flags() };
                    let wanted = Wanted::new(&path, components);
                    return self.find(endpoint, wanted, asker, false, now);
                }
                ticket
            }
            Ip { ticket, interface, address } => {
                let address = Address::Ip(address);
                let own = self.endpoints.of(&address);
                let own = own.and_then(|own| self.endpoints.port(own.port)).map(|own| own.gid().0);
                if let Some(gid) = own.or_else(|| self.gid(&address, &BTreeSet::from([interface])))
                {
                    self.figures.addresses_known += 1;
                    self.figures.kernel_answered += 1;
                    return self.outputs.push_back(Output::Kernel(ticket, Reply::Gid(Gid(gid))));
                }
                ticket
            }
            Malformed(ticket) => ticket,
        };
        self.figures.errors += 1;
        self.outputs.push_back(Output::Kernel(ticket, Reply::Failed));
    }

    /// What subnet administration has said.
    pub fn answered(
        &mut self,
        question: QuestionId,
        answer: Result<PathRecord, Status>,
        now: Instant,
    ) {
        // It may have taken too long.
        let Some(asked) = self.asked.remove(&question) else { return };
        if let Some(wanted) = asked.wanted {
            let kept_for = match &answer {
                Ok(_) => self.options.path_timeout,
                Err(_) => Some(NO_ANSWER),
            };
            self.by_wanted.remove(&(asked.port, wanted.clone()));
            let known = self.known.entry(asked.port).or_default();
            known.put(wanted, answer, kept_for.map(|time| now + time));
        }
        for (asker, endpoint) in asked.waiting {
            self.answer(asker, endpoint, answer);
        }
        self.drop_answered();
    }

    /// When [`Resolver::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Answers those who have waited for too long.
    pub fn tick(&mut self, now: Instant) {
        while let Some((deadline, question)) = self.deadlines.front().copied() {
            if deadline > now {
                return;
            }
            self.deadlines.pop_front();
            if let Some(asked) = self.asked.get(&question) {
                self.outputs.push_back(Output::Leave(asked.port, question));
                self.answered(question, Err(Status::TimedOut), now);
            }
        }
    }

    /// What is to be done next.
    pub fn output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// How much was asked.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// How many questions are open, and how many paths are known.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.asked.len(), self.known.values().map(Paths::len).sum())
    }

    /// All endpoints, with the names of their devices.
    pub fn endpoints(&self) -> impl Iterator<Item = (&LocalPort, &Endpoint)> {
        let port = |endpoint: &Endpoint| self.endpoints.port(endpoint.port);
        self.endpoints.all(0).filter_map(move |endpoint| Some((port(endpoint)?, endpoint)))
    }

    fn figures_of(&self, whose: &Whose) -> Option<Figures> {
        let endpoint = match whose {
            Whose::All => return Some(self.figures),
            // rdma-core A6: the number is not that of a port, too.
            Whose::Number(number) => {
                self.endpoints.all(0).nth(usize::from(*number).checked_sub(1)?)?
            }
            Whose::Of(address) => self.endpoints.of(address)?,
        };
        let key = (endpoint.port, endpoint.pkey);
        Some(self.by_endpoint.get(&key).copied().unwrap_or_default())
    }

    fn facts<'a>(&'a self, endpoint: &'a Endpoint) -> Option<EndpointFacts<'a>> {
        let port = self.endpoints.port(endpoint.port)?;
        let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        Some(EndpointFacts {
            guid: port.node_guid.0,
            port: byte(port.number.0),
            ports: byte(port.ports),
            pkey: endpoint.pkey,
            names: endpoint.names.iter().map(String::as_str).collect(),
        })
    }

    /// The path to an address: from which endpoint, and with the address that was chosen to ask with, where none was
    /// given.
    fn destination(
        &mut self,
        source: Option<&Address>,
        destination: &Address,
    ) -> Result<(EndpointKey, Wanted, Option<Address>), Status> {
        let chosen = match (source, destination) {
            (Some(_), _) => None,
            (None, Address::Ip(to)) => {
                let source = self.host.source(*to).ok_or(Status::DestinationAddress)?;
                Some(Address::Ip(source))
            }
            (None, _) => return Err(Status::DestinationType),
        };
        let source = source.or(chosen.as_ref()).ok_or(Status::SourceAddress)?;
        let endpoint = self.endpoints.of(source).ok_or(Status::SourceAddress)?;
        let port = self.endpoints.port(endpoint.port).ok_or(Status::SourceAddress)?;
        let own = self.endpoints.of(destination).filter(|own| own.pkey == endpoint.pkey);
        let mut path = PathRecord::default();
        match (destination, own.and_then(|own| self.endpoints.port(own.port))) {
            (_, Some(own)) => path.dgid = own.gid().0.to_be_bytes(),
            (Address::Gid(gid), None) => path.dgid = gid.to_be_bytes(),
            (Address::Lid(lid), None) => path.dlid = (*lid).into(),
            (address, None) => {
                let gid = self.gid(address, &endpoint.interfaces).ok_or(Status::NoData)?;
                path.dgid = gid.to_be_bytes();
            }
        }
        let wanted = Wanted::like(&completed(port, endpoint.pkey, path));
        let key = (endpoint.port, endpoint.pkey);
        self.count(Some(key), |figures| figures.addresses_known += 1);
        Ok((key, wanted, chosen))
    }

    /// The GID of another host, as it is written, or as the kernel knows it of these interfaces.
    fn gid(&self, address: &Address, interfaces: &BTreeSet<u32>) -> Option<u128> {
        self.hosts.get(address).copied().or_else(|| match address {
            Address::Ip(ip) => interfaces.iter().find_map(|i| self.host.neighbour(*i, *ip)),
            _ => None,
        })
    }

    /// Answers at once what is known; asks for what is not.
    fn find(
        &mut self,
        endpoint: EndpointKey,
        wanted: Wanted,
        asker: Asker,
        no_delay: bool,
        now: Instant,
    ) {
        self.count(Some(endpoint), |figures| figures.questions += 1);
        let known = self.known.entry(endpoint.0).or_default();
        if let Some(answer) = known.get(&wanted, now).copied() {
            self.count(Some(endpoint), |figures| figures.paths_known += 1);
            return self.answer(asker, endpoint, answer);
        }
        if no_delay {
            self.answer(asker, endpoint, Err(Status::NoData));
            return self.ask(endpoint, wanted, true, None, now);
        }
        self.ask(endpoint, wanted, true, Some(asker), now);
    }

    /// Asks subnet administration, or waits with others that have asked the same; `keep` the answer.
    fn ask(
        &mut self,
        endpoint: EndpointKey,
        wanted: Wanted,
        keep: bool,
        asker: Option<Asker>,
        now: Instant,
    ) {
        let port = endpoint.0;
        if keep {
            if let Some(question) = self.by_wanted.get(&(port, wanted.clone())) {
                if let Some(asked) = self.asked.get_mut(question) {
                    asked.waiting.extend(asker.map(|asker| (asker, endpoint)));
                }
                return;
            }
        }
        if self.asked.len() >= MOST_ASKED {
            if let Some(asker) = asker {
                self.answer(asker, endpoint, Err(Status::NoMemory));
            }
            return;
        }
        self.count(Some(endpoint), |figures| figures.paths_asked += 1);
        self.last += 1;
        let question = QuestionId(self.last);
        let (path, components) = wanted.path();
        self.outputs.push_back(Output::Ask { port, question, path, components });
        self.deadlines.push_back((now + self.options.deadline(), question));
        if keep {
            self.by_wanted.insert((port, wanted.clone()), question);
        }
        let waiting = asker.into_iter().map(|asker| (asker, endpoint)).collect();
        self.asked.insert(question, Asked { port, wanted: keep.then_some(wanted), waiting });
    }

    /// The first deadline is that of a question that is open: nobody is woken for another.
    fn drop_answered(&mut self) {
        while self.deadlines.front().is_some_and(|(_, first)| !self.asked.contains_key(first)) {
            self.deadlines.pop_front();
        }
    }

    /// Ends a question without an answer of the fabric, and remembers nothing.
    fn leave(&mut self, question: QuestionId, status: Status) {
        let Some(asked) = self.asked.remove(&question) else { return };
        self.outputs.push_back(Output::Leave(asked.port, question));
        for (asker, endpoint) in asked.waiting {
            self.answer(asker, endpoint, Err(status));
        }
        self.drop_answered();
    }

    fn answer(&mut self, asker: Asker, endpoint: EndpointKey, answer: Result<PathRecord, Status>) {
        if let Err(status) = answer {
            self.count_failure(Some(endpoint), status);
        }
        self.outputs.push_back(match (asker, answer) {
            (Asker::Kernel { ticket, flags }, Ok(path)) => {
                self.figures.kernel_answered += 1;
                Output::Kernel(ticket, Reply::Path(flags, path))
            }
            (Asker::Kernel { ticket, .. }, Err(_)) => Output::Kernel(ticket, Reply::Failed),
            (Asker::Client { client, transaction, form }, answer) => {
                let bytes = match (answer, form) {
                    (Ok(path), Form::Path(source)) => {
                        wire::path(transaction, &path, source.as_ref())
                    }
                    (Ok(path), Form::Said { flags }) => {
                        wire::from_subnet_administration(transaction, &path, flags)
                    }
                    (Err(status), _) => wire::no_path(transaction, status),
                };
                Output::Answer(client, bytes)
            }
        });
    }

    /// A question for a path that begins nowhere here, or leads nowhere.
    fn unplaced<T>(&mut self, status: Status) -> Result<T, Status> {
        self.figures.questions += 1;
        self.count_failure(None, status);
        Err(status)
    }

    fn count(&mut self, endpoint: Option<EndpointKey>, mut what: impl FnMut(&mut Figures)) {
        what(&mut self.figures);
        if let Some(endpoint) = endpoint {
            what(self.by_endpoint.entry(endpoint).or_default());
        }
    }

    fn count_failure(&mut self, endpoint: Option<EndpointKey>, status: Status) {
        self.count(endpoint, |figures| match status {
            Status::NoData => figures.no_data += 1,
            _ => figures.errors += 1,
        });
    }
}

/// A path from this port, in this partition, that can be gone both ways, unless something else is said.
fn completed(port: &LocalPort, pkey: u16, mut path: PathRecord) -> PathRecord {
    if path.sgid == [0; 16] && path.slid.get() == 0 {
        path.sgid = port.gid().0.to_be_bytes();
    }
    if path.pkey.get() == 0 {
        path.pkey = pkey.into();
    }
    if path.reversible_and_paths == 0 {
        path.reversible_and_paths = 0x81;
    }
    path
}
