// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is mapped to what, and the ports that are reserved for it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::kept::Line;

/// What of the host a table of mappings needs.
pub trait Host {
    /// A reserved TCP port, until it is dropped.
    type Port;

    /// Reserves the port of an address, or any where that is 0.
    ///
    /// # Errors
    /// What the kernel says.
    fn reserve(&mut self, address: SocketAddr) -> io::Result<(Self::Port, u16)>;

    /// A number that nobody can guess.
    fn handle(&mut self) -> u64;
}

/// The kernel asks for a mapping before it has it in its own list; for no longer than this.
const UNLISTED: Duration = Duration::from_secs(10);

/// One address, and the TCP address behind it.
#[derive(Debug)]
pub struct Mapping<P> {
    /// As the application has it.
    pub local: SocketAddr,
    /// The same where nothing is to be reserved.
    pub mapped: SocketAddr,
    /// How many listeners and connections have it.
    pub users: u32,
    /// None where nothing is to be reserved, or somebody else has the port.
    port: Option<P>,
    /// When the kernel last asked for it, if it has.
    asked: Option<Instant>,
}

impl<P> Mapping<P> {
    /// Whether a port is reserved for it.
    pub fn is_reserved(&self) -> bool {
        self.port.is_some()
    }

    /// What is kept of it.
    pub fn line(&self) -> Line {
        let Self { local, mapped, users, .. } = *self;
        Line { local, mapped, users, is_reserved: self.is_reserved() }
    }
}

/// What the kernel tells of one of its listeners and connections.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// As the application has it.
    pub local: SocketAddr,
    /// What it is mapped to, as far as the kernel knows.
    pub mapped: SocketAddr,
    /// Whether a port is to be reserved.
    pub reserve: bool,
}

/// All mappings; an address is its port and IP address, without the scope.
#[derive(Debug)]
pub struct Mappings<P>(BTreeMap<(u16, IpAddr), Mapping<P>>);

impl<P> Default for Mappings<P> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

fn key(address: SocketAddr) -> (u16, IpAddr) {
    (address.port(), address.ip())
}

/// That of all addresses of a host.
fn wildcard(of: SocketAddr) -> (u16, IpAddr) {
    let ip = if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    (of.port(), ip)
}

impl<P> Mappings<P> {
    /// All by port and address, or those after one.
    pub fn after(&self, address: Option<SocketAddr>) -> impl Iterator<Item = &Mapping<P>> {
        let from = address.map_or(Bound::Unbounded, |address| Bound::Excluded(key(address)));
        self.0.range((from, Bound::Unbounded)).map(|(_, mapping)| mapping)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mapping that whoever connects to an address has to know.
    pub fn find(&self, address: SocketAddr) -> Option<&Mapping<P>> {
        self.0.get(&key(address)).or_else(|| self.0.get(&wildcard(address)))
    }

    /// Whether nobody can listen there, as somebody has the port at all addresses, or this is all and somebody has it at one.
    /// Where the same address is there already, another can have it, too.
    pub fn overlaps(&self, local: SocketAddr) -> bool {
        let all = wildcard(local);
        let overlaps = if key(local) == all {
            // The wildcard comes first of its port and family.
            let next = self.0.range(all..).next();
            next.is_some_and(|(next, _)| next.0 == all.0 && next.1.is_ipv4() == all.1.is_ipv4())
        } else {
            self.0.contains_key(&all)
        };
        overlaps && !self.0.contains_key(&key(local))
    }

    /// One more listener at an address, or connection from it: what it is in TCP.
    ///
    /// # Errors
    /// No port can be reserved.
    pub fn add<H: Host<Port = P>>(
        &mut self,
        host: &mut H,
        local: SocketAddr,
        reserve: bool,
        now: Instant,
    ) -> io::Result<SocketAddr> {
        if let Some(mapping) = self.0.get_mut(&key(local)) {
            mapping.users = mapping.users.saturating_add(1);
            mapping.asked = Some(now);
            return Ok(mapping.mapped);
        }
        let (mut mapped, mut port) = (local, None);
        if reserve {
            mapped.set_port(0);
            let (reserved, number) = host.reserve(mapped)?;
            mapped.set_port(number);
            port = Some(reserved);
        }
        self.0.insert(key(local), Mapping { local, mapped, users: 1, port, asked: Some(now) });
        Ok(mapped)
    }

    /// One less; with the last its port is free again. What has become of it, if there was one.
    pub fn remove(&mut self, local: SocketAddr) -> Option<Line> {
        let mapping = self.0.get_mut(&key(local))?;
        mapping.users -= 1;
        let line = mapping.line();
        if line.users == 0 {
            self.0.remove(&key(local));
        }
        Some(line)
    }

    /// What a port mapper before this one has had. Those of which the ports have been taken by somebody else meanwhile.
    pub fn restore<H: Host<Port = P>>(
        &mut self,
        host: &mut H,
        lines: &[Line],
    ) -> Vec<(SocketAddr, io::Error)> {
        let mut lost = Vec::new();
        for Line { local, mapped, users, is_reserved } in lines.iter().copied() {
            let port = reserve_again(host, mapped, is_reserved, &mut lost);
            self.0.insert(key(local), Mapping { local, mapped, users, port, asked: None });
        }
        lost
    }

    /// What the kernel has, `told` one by one, is what there is; where that is not all of it (`is_all`), it is no less.
    /// Those of which the ports have been taken by somebody else meanwhile.
    pub fn agree<H: Host<Port = P>>(
        &mut self,
        host: &mut H,
        told: &[Told],
        is_all: bool,
        now: Instant,
    ) -> Vec<(SocketAddr, io::Error)> {
        let mut lost = Vec::new();
        let mut users: BTreeMap<_, u32> = BTreeMap::new();
        for Told { local, mapped, reserve } in told.iter().copied() {
            *users.entry(key(local)).or_default() += 1;
            self.0.entry(key(local)).or_insert_with(|| {
                // One that could not be mapped goes by its own address.
                let is_reserved = reserve && mapped != local;
                let port = reserve_again(host, mapped, is_reserved, &mut lost);
                Mapping { local, mapped, users: 0, port, asked: None }
            });
        }
        self.0.retain(|key, mapping| {
            let told = users.get(key).copied().unwrap_or(0);
            let may_be_unlisted =
                mapping.asked.is_some_and(|at| now.saturating_duration_since(at) < UNLISTED);
            let is_known = is_all && !may_be_unlisted;
            mapping.users = if is_known { told } else { mapping.users.max(told) };
            mapping.users > 0
        });
        lost
    }
}

/// A port that was reserved before.
fn reserve_again<H: Host>(
    host: &mut H,
    mapped: SocketAddr,
    is_reserved: bool,
    lost: &mut Vec<(SocketAddr, io::Error)>,
) -> Option<H::Port> {
    match is_reserved.then(|| host.reserve(mapped))? {
        Ok((port, _)) => Some(port),
        Err(error) => {
            lost.push((mapped, error));
            None
        }
    }
}
