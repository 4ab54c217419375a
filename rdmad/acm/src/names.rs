// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/etc/rdma/ibacm_addr.cfg`: what the ports of this host are called; `ibacm_hosts.data`: the GIDs of others.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::PortNum;

use crate::address::Address;
use crate::endpoints::Assigned;

/// Lines of `name device port pkey`; with what could not be read, a line each. IP addresses are those of IPoIB interfaces,
/// unless `with_ips` are wanted from here.
#[must_use]
pub fn parse(text: &str, with_ips: bool) -> (Vec<Assigned>, Vec<String>) {
    let (mut names, mut problems) = (Vec::new(), Vec::new());
    for (number, line) in lines(text) {
        match assigned(line) {
            Some(name) if with_ips || !matches!(name.address, Address::Ip(_)) => names.push(name),
            Some(_) => problems.push(format!(
                "line {number}: an IP address, without support_ips_in_addr_cfg in ibacm_opts.cfg"
            )),
            None => problems.push(format!("line {number}: not 'name device port pkey'")),
        }
    }
    (names, problems)
}

fn assigned(line: &str) -> Option<Assigned> {
    let mut words = line.split_whitespace();
    let (text, device, port, pkey) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let pkey = match pkey {
        _ if pkey.eq_ignore_ascii_case("default") => None,
        _ => Some(u16::from_str_radix(pkey.strip_prefix("0x").unwrap_or(pkey), 16).ok()?),
    };
    Some(Assigned {
        address: Address::parse(text)?,
        text: text.to_owned(),
        device: device.to_owned(),
        port: PortNum(port.parse().ok()?),
        pkey,
        interface: None,
    })
}

/// Where there is no such file: the name of the host for the first port that can be used, and with a number for each.
#[must_use]
pub fn of_host(host: &str, ports: &[LocalPort]) -> Vec<Assigned> {
    let host = host.split('.').next().unwrap_or_default();
    let first = ports.iter().find(|port| port.ready().is_ok()).map(|port| (host.to_owned(), port));
    let each = (1..).zip(ports).map(|(number, port)| (format!("{host}-{number}"), port));
    let names = first.into_iter().chain(each).filter_map(|(text, port)| {
        let (device, address) = (port.device.clone(), Address::name(&text)?);
        Some(Assigned { text, address, device, port: port.number, pkey: None, interface: None })
    });
    names.collect()
}

/// Lines of `address gid`; with what could not be read, a line each.
#[must_use]
pub fn hosts(text: &str) -> (HashMap<Address, u128>, Vec<String>) {
    let (mut hosts, mut problems) = (HashMap::new(), Vec::new());
    for (number, line) in lines(text) {
        let mut words = line.split_whitespace();
        let address = words.next().and_then(Address::parse);
        let gid = words.next().and_then(|gid| gid.parse::<Ipv6Addr>().ok());
        match (address, gid) {
            (Some(address), Some(gid)) => {
                hosts.insert(address, gid.to_bits());
            }
            _ => problems.push(format!("line {number}: not 'address gid'")),
        }
    }
    (hosts, problems)
}

fn lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let is_said = |(_, line): &(u32, &str)| !line.starts_with('#') && !line.trim().is_empty();
    (1..).zip(text.lines()).filter(is_said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_this_host() {
        let text = "# ib_acme -A\nnode mlx5_0 1 default\nnode-b MLX5_1 2 0x8001 and more\nx y z\n10.0.0.1 a 1 7fff\nn a 1 g";
        let (names, problems) = parse(text, false);
        let told = |a: &Assigned| (a.text.clone(), a.device.clone(), a.port.0, a.pkey);
        let names: Vec<_> = names.iter().map(told).collect();
        let expected = [("node", "mlx5_0", 1, None), ("node-b", "MLX5_1", 2, Some(0x8001))];
        assert_eq!(names, expected.map(|(n, d, p, k)| (n.to_owned(), d.to_owned(), p, k)));
        assert_eq!(problems.len(), 3);
        assert_eq!(parse(text, true).0.len(), 3);
    }

    #[test]
    fn others() {
        let (hosts, problems) =
            hosts("# comment\n10.0.0.2 fe80::2\nNODE fe80::3\nfd00::1 fe80::4\nx\n");
        let of = |text| hosts[&Address::parse(text).unwrap()] & 0xff;
        assert_eq!((of("10.0.0.2"), of("node"), of("fd00::1")), (2, 3, 4));
        assert_eq!(problems, ["line 5: not 'address gid'"]);
    }
}
