// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GID table of a port.

use super::{Sysfs, SysfsError, entries, parsed, text};
use crate::{Gid, PortNum};

/// How packets with a GID are framed: `gid_attrs/types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidType {
    /// InfiniBand, or RoCE v1 (Ethertype 0x8915), which share a word.
    IbOrRoceV1,
    /// RoCE v2 (UDP).
    RoceV2,
}

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GidEntry {
    /// Its index: `sgid_index` of verbs programs.
    pub index: u32,
    /// The GID.
    pub gid: Gid,
    /// None for a word that is not known.
    pub kind: Option<GidType>,
    /// The network interface whose address it is made from.
    pub netdev: Option<String>,
}

impl Sysfs {
    /// The entries that are in use, by index.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it must.
    pub fn gids(&self, device: &str, port: PortNum) -> Result<Vec<GidEntry>, SysfsError> {
        let dir = self.port(device, port);
        let mut table = Vec::new();
        for file in entries(&dir.join("gids")) {
            let Some(index) = file.file_name().and_then(|n| n.to_str()?.parse().ok()) else {
                continue;
            };
            let Some(gid) = parsed::<Gid>(&file)?.filter(|gid| !gid.is_zero()) else { continue };
            let attribute = |of: &str| text(&dir.join(format!("gid_attrs/{of}/{index}")));
            let kind = match attribute("types")?.as_deref() {
                Some("IB/RoCE v1") => Some(GidType::IbOrRoceV1),
                Some("RoCE v2") => Some(GidType::RoceV2),
                _ => None,
            };
            table.push(GidEntry { index, gid, kind, netdev: attribute("ndevs")? });
        }
        table.sort_by_key(|entry| entry.index);
        Ok(table)
    }
}

/// The entry for RoCE v2 that reaches furthest: IPv4 before a global IPv6 address before a link-local one; of
/// equal ones one of the port's own interface before those of VLANs and bridges above it, then the first.
#[must_use]
pub fn best_roce_v2<'a>(table: &'a [GidEntry], netdev: Option<&str>) -> Option<&'a GidEntry> {
    let candidates = table.iter().filter(|entry| entry.kind == Some(GidType::RoceV2));
    candidates.min_by_key(|entry| {
        let address = entry.gid.address();
        let reach = match () {
            () if address.to_ipv4_mapped().is_some() => 0,
            () if !address.is_unicast_link_local() => 1,
            () => 2,
        };
        (reach, entry.netdev.as_deref() != netdev, entry.index)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_table() {
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("class/infiniband/rxe0/ports/1");
        for of in ["gids", "gid_attrs/types", "gid_attrs/ndevs"] {
            fs::create_dir_all(port.join(of)).unwrap();
        }
        for (index, gid, kind, netdev) in [
            (0, "fe80:0000:0000:0000:5054:00ff:fe12:3456", "RoCE v2\n", "ens8\n"),
            (2, "0000:0000:0000:0000:0000:ffff:0a01:0101", "RoCE v2\n", "ens8.5\n"),
            (1, "0000:0000:0000:0000:0000:0000:0000:0000", "", ""),
            (10, "0000:0000:0000:0000:0000:ffff:0a02:0101", "RoCE v2\n", "ens8\n"),
            (11, "0000:0000:0000:0000:0000:ffff:0a02:0101", "IB/RoCE v1\n", "ens8\n"),
            (12, "2001:0db8:0000:0000:0000:0000:0000:0001", "RoCE v2\n", "ens8\n"),
        ] {
            fs::write(port.join(format!("gids/{index}")), gid).unwrap();
            fs::write(port.join(format!("gid_attrs/types/{index}")), kind).unwrap();
            fs::write(port.join(format!("gid_attrs/ndevs/{index}")), netdev).unwrap();
        }
        let table = Sysfs::at(dir.path()).gids("rxe0", PortNum(1)).unwrap();
        let indexes: Vec<u32> = table.iter().map(|entry| entry.index).collect();
        assert_eq!(indexes, [0, 2, 10, 11, 12]);
        assert_eq!(table[1].gid.to_string(), "::ffff:10.1.1.1");
        let best = |table: &[GidEntry], netdev| best_roce_v2(table, netdev).map(|e| e.index);
        assert_eq!(best(&table, Some("ens8")), Some(10));
        assert_eq!(best(&table, None), Some(2));
        assert_eq!(best(&[table[0].clone(), table[4].clone()], None), Some(12));
        assert_eq!(best(&table[..1], None), Some(0));
        assert_eq!(best(&[table[3].clone()], None), None);
    }
}
