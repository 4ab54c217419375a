// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the ports of this host are called.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::sa::PathRecord;
use rdma_verbs::{DevIndex, PortNum};

use crate::address::Address;

/// A port of this host.
pub type PortKey = (DevIndex, PortNum);

/// A name, and what it is a name of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// As it was written.
    pub text: String,
    /// The same to compare.
    pub address: Address,
    /// Name of the RDMA device.
    pub device: String,
    /// Which of its ports.
    pub port: PortNum,
    /// The partition; None for the first of the port's table.
    pub pkey: Option<u16>,
    /// Of an address: the index of the IPoIB interface that has it.
    pub interface: Option<u32>,
}

/// One partition of one port, where it has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The port.
    pub port: PortKey,
    /// As it stands in the port's table: without the top bit for a limited member.
    pub pkey: u16,
    /// As they were written.
    pub names: Vec<String>,
    /// Its IPoIB interfaces that have addresses.
    pub interfaces: BTreeSet<u32>,
}

/// The ports that can be used, and all their names.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    ports: BTreeMap<PortKey, LocalPort>,
    all: Vec<Endpoint>,
    by_address: HashMap<Address, usize>,
}

/// Whether two P_Keys are of the same partition, whatever kind of member they are for.
fn same_partition(a: u16, b: u16) -> bool {
    a & 0x7fff == b & 0x7fff
}

impl Endpoints {
    /// Of several that claim a name the first has it. Ports without a subnet manager cannot be used.
    #[must_use]
    pub fn new(ports: Vec<LocalPort>, assigned: &[Assigned]) -> Self {
        let mut endpoints = Self::default();
        for port in ports.into_iter().filter(|port| port.ready().is_ok()) {
            let key = (port.index, port.number);
            // 0450c59bd and 236a5d678 of rdma-core: a partition has a number, and the table may have holes.
            for (_, pkey) in port.pkeys.iter().filter(|(_, pkey)| pkey & 0x7fff != 0) {
                let names: Vec<&Assigned> =
                    assigned.iter().filter(|name| name.is_of(&port, *pkey)).collect();
                if names.is_empty() {
                    continue;
                }
                for name in &names {
                    let number = endpoints.all.len();
                    endpoints.by_address.entry(name.address.clone()).or_insert(number);
                }
                let interfaces = names.iter().filter_map(|name| name.interface).collect();
                let names = names.iter().map(|name| name.text.clone()).collect();
                endpoints.all.push(Endpoint { port: key, pkey: *pkey, names, interfaces });
            }
            endpoints.ports.insert(key, port);
        }
        endpoints
    }

    /// The port; None where it cannot be used.
    #[must_use]
    pub fn port(&self, key: PortKey) -> Option<&LocalPort> {
        self.ports.get(&key)
    }

    /// The port of this name.
    #[must_use]
    pub fn named(&self, device: &str, number: PortNum) -> Option<&LocalPort> {
        self.ports.values().find(|port| port.device == device && port.number == number)
    }

    /// All ports that can be used.
    pub fn ports(&self) -> impl Iterator<Item = (&PortKey, &LocalPort)> {
        self.ports.iter()
    }

    /// All endpoints, those of the port of this number, 0 for all.
    pub fn all(&self, port: u8) -> impl Iterator<Item = &Endpoint> {
        let is = move |endpoint: &&Endpoint| port == 0 || endpoint.port.1 == PortNum(port.into());
        self.all.iter().filter(is)
    }

    /// Which has this name.
    #[must_use]
    pub fn of(&self, address: &Address) -> Option<&Endpoint> {
        self.all.get(*self.by_address.get(address)?)
    }

    /// The port that a path begins at, and the P_Key that it is of.
    #[must_use]
    pub fn of_path(&self, path: &PathRecord) -> Option<(&LocalPort, u16)> {
        let (sgid, dgid) = (u128::from_be_bytes(path.sgid), u128::from_be_bytes(path.dgid));
        let (slid, pkey) = (path.slid.get(), path.pkey.get());
        let prefix = |gid: u128| gid >> 64;
        let is_here = |gid| self.ports.values().any(|port| port.gids.iter().any(|g| g.0 == gid));
        self.ports.values().find_map(|port| {
            let fits = if sgid != 0 {
                port.gids.iter().any(|gid| gid.0 == sgid)
            } else if slid != 0 {
                slid >> port.lmc == port.lid >> port.lmc
            } else {
                dgid == 0
                    || is_here(dgid)
                    || port.gids.iter().any(|gid| prefix(gid.0) == prefix(dgid))
            };
            // 2027e60ff of rdma-core: partitions, not P_Keys; 76c7e5a38: without one the first.
            let member = port
                .pkeys
                .iter()
                .map(|(_, own)| *own)
                .find(|own| own & 0x7fff != 0 && (pkey == 0 || same_partition(*own, pkey)));
            Some((port, member?)).filter(|_| fits)
        })
    }
}

impl Assigned {
    fn is_of(&self, port: &LocalPort, pkey: u16) -> bool {
        let is_pkey = match self.pkey {
            // 71a5d7161 of rdma-core: IPoIB says the full member's always.
            Some(wanted) => same_partition(wanted, pkey),
            None => port.pkeys.first().is_some_and(|(_, first)| *first == pkey),
        };
        is_pkey && self.device.eq_ignore_ascii_case(&port.device) && self.port == port.number
    }
}

#[cfg(test)]
mod tests {
    use rdma_verbs::{Gid, Guid};

    use super::*;

    fn port(number: u32, pkeys: &[u16]) -> LocalPort {
        LocalPort {
            index: DevIndex(number),
            device: format!("mlx5_{number}"),
            node_guid: Guid(number.into()),
            ports: 1,
            number: PortNum(1),
            umad: "/dev/infiniband/umad0".into(),
            is_active: true,
            lid: 8 * u16::try_from(number).unwrap(),
            lmc: 2,
            sm_lid: 1,
            sm_sl: 0,
            gids: vec![Gid(0xfe80 << 112 | u128::from(number))],
            pkeys: (0..).zip(pkeys.iter().copied()).collect(),
        }
    }

    fn assigned(text: &str, device: u32, pkey: Option<u16>) -> Assigned {
        let address = Address::parse(text).unwrap();
        let device = format!("MLX5_{device}");
        Assigned { text: text.into(), address, device, port: PortNum(1), pkey, interface: None }
    }

    #[test]
    fn names_of_partitions() {
        let ports = vec![port(1, &[0xffff, 0, 0x8000, 0x0001]), port(2, &[0x7fff])];
        let names = [
            assigned("Node", 1, None),
            assigned("10.0.0.1", 1, Some(0xffff)),
            assigned("10.1.0.1", 1, Some(0x8001)),
            assigned("nobody", 3, None),
            assigned("node", 2, None),
            assigned("zero", 1, Some(0x8000)),
        ];
        let endpoints = Endpoints::new(ports, &names);
        let all: Vec<_> = endpoints.all(0).map(|e| (e.port.0.0, e.pkey, e.names.len())).collect();
        assert_eq!(all, [(1, 0xffff, 2), (1, 0x0001, 1), (2, 0x7fff, 1)]);
        let of = |text| endpoints.of(&Address::parse(text).unwrap()).map(|e| (e.port.0.0, e.pkey));
        assert_eq!(of("NODE"), Some((1, 0xffff)));
        assert_eq!(of("10.1.0.1"), Some((1, 1)));
        assert_eq!((of("nobody"), of("zero"), of("10.0.0.9")), (None, None, None));
        assert_eq!((endpoints.all(1).count(), endpoints.all(2).count()), (3, 0));
    }

    #[test]
    fn where_a_path_begins() {
        let down = LocalPort { is_active: false, ..port(3, &[0xffff]) };
        let other_subnet =
            LocalPort { gids: vec![Gid(0xfec0 << 112 | 4)], ..port(4, &[0xffff, 0x0005]) };
        let ports = vec![port(1, &[0, 0xffff]), port(2, &[0xffff, 0x8002]), down, other_subnet];
        let endpoints = Endpoints::new(ports, &[]);
        let of =
            |path: PathRecord| endpoints.of_path(&path).map(|(port, pkey)| (port.index.0, pkey));
        let gid = |prefix: u128, id: u128| (prefix << 112 | id).to_be_bytes();
        let any = PathRecord::default();
        assert_eq!(of(PathRecord { sgid: gid(0xfe80, 2), ..any }), Some((2, 0xffff)));
        assert_eq!(of(PathRecord { sgid: gid(0xfe80, 3), ..any }), None);
        assert_eq!(of(PathRecord { slid: 19.into(), ..any }), Some((2, 0xffff)));
        assert_eq!(of(PathRecord { slid: 20.into(), ..any }), None);
        assert_eq!(of(PathRecord { dgid: gid(0xfec0, 9), ..any }), Some((4, 0xffff)));
        assert_eq!(of(PathRecord { dgid: gid(0xfe81, 9), ..any }), None);
        assert_eq!(of(PathRecord { dgid: gid(0xfec0, 4), ..any }), Some((1, 0xffff)));
        let pkey = |pkey: u16| PathRecord { pkey: pkey.into(), ..any };
        assert_eq!((of(any), of(pkey(2))), (Some((1, 0xffff)), Some((2, 0x8002))));
        assert_eq!((of(pkey(0x8005)), of(pkey(9))), (Some((4, 5)), None));
    }
}
