// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether devices meet a condition, and if not, what is missing.

use rdma_config::{Count, GidWanted, Online, Ports};
use rdma_verbs::netlink::{PhysicalState, PortState};
use rdma_verbs::sysfs::{GidEntry, GidType};
use rdma_verbs::{PortNum, Protocol};

/// A device that is asked about.
#[derive(Clone, Debug)]
pub struct Device {
    /// What it is called.
    pub name: String,
    /// Whether udev is done with it: it has its name, its links and its properties.
    pub settled: bool,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// What can be asked of a port.
#[derive(Clone, Debug)]
pub struct Port {
    /// From 1.
    pub number: PortNum,
    /// What it speaks.
    pub protocol: Option<Protocol>,
    /// IBTA PortInfo:PortState.
    pub state: Option<PortState>,
    /// IBTA PortInfo:PortPhysicalState.
    pub physical: Option<PhysicalState>,
    /// In Mb/s.
    pub rate: Option<u32>,
    /// The GID table.
    pub gids: Vec<GidEntry>,
    /// The network interface of a RoCE or iWARP port.
    pub netdev: Option<String>,
    /// IPoIB interfaces, and whether each is up.
    pub ipoib: Vec<(String, bool)>,
}

/// What is missing, a line for each thing; nothing when the condition is met.
#[must_use]
pub fn check(online: &Online, devices: &[Device]) -> Vec<String> {
    let lacks: Vec<Vec<String>> =
        devices.iter().map(|device| device_lacks(online, device)).collect();
    let ready = lacks.iter().filter(|lacks| lacks.is_empty()).count();
    let mut missing = Vec::new();
    match online.devices {
        Count::AtLeast(wanted) => {
            if ready >= usize::try_from(wanted).unwrap_or(usize::MAX) {
                return Vec::new();
            }
            missing.push(format!("{ready} of {wanted} RDMA devices are ready"));
        }
        Count::All => {
            let absent = |name: &&str| devices.iter().all(|device| device.name != **name);
            missing.extend(
                online
                    .named()
                    .filter(absent)
                    .map(|name| format!("there is no RDMA device '{name}'")),
            );
            if devices.is_empty() && missing.is_empty() {
                missing.push(match online.names.is_empty() && online.matches.is_empty() {
                    true => "there is no RDMA device".to_owned(),
                    false => "there is no such RDMA device as is asked for".to_owned(),
                });
            }
        }
    }
    missing.extend(lacks.into_iter().flatten());
    missing
}

fn device_lacks(online: &Online, device: &Device) -> Vec<String> {
    let of = |what: &str| format!("RDMA device '{}' {what}", device.name);
    if !device.settled {
        return vec![of("is not yet set up by udev")];
    }
    let asked: Vec<&Port> = match online.ports {
        Ports::One(number) => device.ports.iter().filter(|p| p.number.0 == number).collect(),
        Ports::Any | Ports::All => device.ports.iter().collect(),
    };
    if asked.is_empty() {
        return vec![match online.ports {
            Ports::One(number) => of(&format!("has no port {number}")),
            Ports::Any | Ports::All => of("has no port"),
        }];
    }
    let lacks: Vec<Option<String>> = asked.iter().map(|port| port_lacks(online, port)).collect();
    if online.ports == Ports::Any && lacks.iter().any(Option::is_none) {
        return Vec::new();
    }
    let line = |(port, what): (&&Port, Option<String>)| {
        Some(format!("port {} of RDMA device '{}' {}", port.number, device.name, what?))
    };
    asked.iter().zip(lacks).filter_map(line).collect()
}

/// The first thing that a port lacks; the others mostly follow from it.
fn port_lacks(online: &Online, port: &Port) -> Option<String> {
    let state = port.state.unwrap_or(PortState(0));
    if state.0 < online.state {
        let wanted = PortState(online.state);
        return Some(format!("is {state}, not {wanted}{}", why_not_active(port)));
    }
    let rate = port.rate.unwrap_or(0);
    if rate < online.rate.saturating_mul(1000) {
        return Some(format!("has {} Gb/s, not {}", f64::from(rate) / 1000.0, online.rate));
    }
    if let Some(wanted) =
        online.gid.filter(|kind| !port.gids.iter().any(|gid| is(*kind, gid, port)))
    {
        let of = port.netdev.as_ref();
        let hint = of.map(|n| format!("; has '{n}' an address?")).unwrap_or_default();
        return Some(format!("has no GID of kind {}{hint}", wanted.as_str()));
    }
    if online.ipoib && !port.ipoib.iter().any(|(_, up)| *up) {
        let names: Vec<&str> = port.ipoib.iter().map(|(name, _)| name.as_str()).collect();
        return Some(match names.as_slice() {
            [] => "has no IPoIB interface".to_owned(),
            names => format!("has no IPoIB interface that is up ({} is not)", names.join(", ")),
        });
    }
    None
}

/// What keeps a port from becoming ACTIVE.
fn why_not_active(port: &Port) -> String {
    let physical = port.physical.map(|p| format!(" (the link is {p})")).unwrap_or_default();
    match (port.protocol, port.state, &port.netdev) {
        (Some(Protocol::InfiniBand | Protocol::Opa), Some(PortState(2 | 3)), _) => {
            ": no subnet manager has brought it up".to_owned()
        }
        (_, _, Some(netdev)) => format!(": is '{netdev}' up, with a link?"),
        _ => physical,
    }
}

fn is(kind: GidWanted, entry: &GidEntry, port: &Port) -> bool {
    let address = entry.gid.address();
    let v2 = entry.kind == Some(GidType::RoceV2);
    match kind {
        // The word is that of InfiniBand's GIDs, too.
        GidWanted::RoceV1 => {
            entry.kind == Some(GidType::IbOrRoceV1) && port.protocol == Some(Protocol::Roce)
        }
        GidWanted::RoceV2 => v2,
        GidWanted::RoceV2Ipv4 => v2 && address.to_ipv4_mapped().is_some(),
        GidWanted::RoceV2Ipv6 => {
            v2 && address.to_ipv4_mapped().is_none() && !address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u32, state: u8) -> Port {
        Port {
            number: PortNum(number),
            protocol: Some(Protocol::InfiniBand),
            state: Some(PortState(state)),
            physical: Some(PhysicalState(2)),
            rate: Some(2500),
            gids: Vec::new(),
            netdev: None,
            ipoib: Vec::new(),
        }
    }

    fn device(name: &str, ports: Vec<Port>) -> Device {
        Device { name: name.to_owned(), settled: true, ports }
    }

    fn rxe(kind: GidType, gid: &str) -> Vec<Device> {
        let gid = GidEntry { index: 0, gid: gid.parse().unwrap(), kind: Some(kind), netdev: None };
        let roce = Some(Protocol::Roce);
        let netdev = Some("ens8".to_owned());
        vec![device("rxe0", vec![Port { protocol: roce, netdev, gids: vec![gid], ..port(1, 4) }])]
    }

    #[test]
    fn devices() {
        let all = Online::default();
        let two = Online { devices: Count::AtLeast(2), ..Online::default() };
        let named = Online { names: vec!["a".into(), "b".into()], ..Online::default() };
        let pattern = Online { names: vec!["x*".into()], ..Online::default() };
        let (up, init) = (device("a", vec![port(1, 4)]), device("b", vec![port(1, 2)]));
        let late = Device { settled: false, ..device("c", vec![port(1, 4)]) };
        let waits =
            "port 1 of RDMA device 'b' is INIT, not ACTIVE: no subnet manager has brought it up";
        for (online, devices, missing) in [
            (&all, vec![], vec!["there is no RDMA device"]),
            (&all, vec![up.clone()], vec![]),
            (&all, vec![up.clone(), init.clone()], vec![waits]),
            (&all, vec![late], vec!["RDMA device 'c' is not yet set up by udev"]),
            (&two, vec![up.clone(), init.clone()], vec!["1 of 2 RDMA devices are ready", waits]),
            (&two, vec![up.clone(), init.clone(), up.clone()], vec![]),
            (&named, vec![init], vec!["there is no RDMA device 'a'", waits]),
            (&pattern, vec![], vec!["there is no such RDMA device as is asked for"]),
        ] {
            assert_eq!(check(online, &devices), missing);
        }
    }

    #[test]
    fn ports() {
        let of = |ports| Online { ports, ..Online::default() };
        let half = [device("a", vec![port(1, 4), port(2, 1)])];
        let down = "port 2 of RDMA device 'a' is DOWN, not ACTIVE (the link is POLLING)";
        for (ports, missing) in [
            (Ports::Any, vec![]),
            (Ports::All, vec![down]),
            (Ports::One(1), vec![]),
            (Ports::One(2), vec![down]),
            (Ports::One(3), vec!["RDMA device 'a' has no port 3"]),
        ] {
            assert_eq!(check(&of(ports), &half), missing, "{ports:?}");
        }
        assert_eq!(check(&of(Ports::Any), &[device("a", vec![])]), ["RDMA device 'a' has no port"]);
        assert_eq!(check(&Online { state: 0, ..of(Ports::All) }, &half), [""; 0]);
    }

    #[test]
    fn gids() {
        let of = |gid| Online { gid: Some(gid), ..Online::default() };
        let v4 = "0000:0000:0000:0000:0000:ffff:0a01:0101";
        let local = "fe80:0000:0000:0000:5054:00ff:fe12:3456";
        for (wanted, kind, gid, met) in [
            (GidWanted::RoceV1, GidType::IbOrRoceV1, v4, true),
            (GidWanted::RoceV2, GidType::IbOrRoceV1, v4, false),
            (GidWanted::RoceV2, GidType::RoceV2, local, true),
            (GidWanted::RoceV2Ipv4, GidType::RoceV2, v4, true),
            (GidWanted::RoceV2Ipv4, GidType::RoceV2, local, false),
            (GidWanted::RoceV2Ipv6, GidType::RoceV2, v4, false),
            (GidWanted::RoceV2Ipv6, GidType::RoceV2, local, false),
        ] {
            assert_eq!(check(&of(wanted), &rxe(kind, gid)).is_empty(), met, "{wanted:?} {gid}");
        }
        let missing = check(&of(GidWanted::RoceV2Ipv4), &rxe(GidType::RoceV2, local));
        let expected =
            "port 1 of RDMA device 'rxe0' has no GID of kind roce-v2-ipv4; has 'ens8' an address?";
        assert_eq!(missing, [expected]);
        // On InfiniBand there is no RoCE.
        let ib = device(
            "a",
            vec![Port {
                gids: rxe(GidType::IbOrRoceV1, v4)[0].ports[0].gids.clone(),
                ..port(1, 4)
            }],
        );
        assert!(!check(&of(GidWanted::RoceV1), &[ib]).is_empty());
    }

    #[test]
    fn rate_and_ipoib() {
        let rate = Online { rate: 100, ..Online::default() };
        let slow = [device("a", vec![port(1, 4)])];
        assert_eq!(check(&rate, &slow), ["port 1 of RDMA device 'a' has 2.5 Gb/s, not 100"]);
        let fast = [device("a", vec![Port { rate: Some(100_000), ..port(1, 4) }])];
        assert_eq!(check(&rate, &fast), [""; 0]);
        let ipoib = Online { ipoib: true, ..Online::default() };
        for (interfaces, missing) in [
            (vec![], Some("has no IPoIB interface")),
            (vec![("ib0", false)], Some("has no IPoIB interface that is up (ib0 is not)")),
            (vec![("ib0", false), ("ib1", true)], None),
        ] {
            let ipoib_of = interfaces.iter().map(|(n, up)| ((*n).to_owned(), *up)).collect();
            let devices = [device("a", vec![Port { ipoib: ipoib_of, ..port(1, 4) }])];
            let expected = missing.map(|m| format!("port 1 of RDMA device 'a' {m}"));
            assert_eq!(check(&ipoib, &devices), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
