// SPDX-License-Identifier: MIT OR Apache-2.0
//! `fingerprint`: whether a node's ports are named like another's, in one word for a scheduler's prolog.

use std::process::ExitCode;

use anyhow::Result;
use rdma_config::Root;
use rdma_udev_helper::world::{Lock, World};
use rdmad::model::{self, Model};
use serde_json::json;
use sha2::{Digest as _, Sha256};

pub(crate) fn run(root: &Root, with_lines: bool, as_json: bool) -> Result<ExitCode> {
    let lines = lines(&model::all(&mut World::now(root, Lock::None)?));
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    match (as_json, with_lines) {
        (true, _) => println!("{:#}", json!({ "sha256": hash, "ports": lines })),
        (false, true) => print!("{text}"),
        (false, false) => println!("{hash}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each port, by name. A software device is where its network interface is. GUIDs, firmware and states are
/// left out: they differ on nodes that are alike.
fn lines(model: &Model) -> Vec<String> {
    let ports = model.values().flat_map(|device| {
        device.ports.iter().map(move |(number, port)| {
            let place = match (device.path.as_str(), port.netdev.as_str()) {
                ("", "") => "-",
                ("", netdev) => netdev,
                (path, _) => path,
            };
            let protocol = if port.protocol.is_empty() { "-" } else { &port.protocol };
            (&device.name, *number, format!("{} {number} {protocol} {place}", device.name))
        })
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort();
    ports.into_iter().map(|(.., line)| line).collect()
}

#[cfg(test)]
mod tests {
    use rdma_verbs::{DevIndex, PortNum};
    use rdmad::model::{Device, Port};

    use super::*;

    #[test]
    fn by_name_and_place() {
        let device = |name: &str, path: &str, netdev: &str, guid: &str| {
            let port = Port { netdev: netdev.into(), protocol: "roce".into(), ..Port::default() };
            Device {
                name: name.into(),
                path: path.into(),
                node_guid: guid.into(),
                ports: [(PortNum(1), port)].into(),
                ..Device::default()
            }
        };
        let one = [
            (DevIndex(0), device("rail1", "pci-0000:c1:00.1", "eth1", "1")),
            (DevIndex(1), device("rail0", "pci-0000:c1:00.0", "eth0", "2")),
        ];
        // Another order of coming, other GUIDs.
        let other = [
            (DevIndex(4), device("rail0", "pci-0000:c1:00.0", "eth0", "3")),
            (DevIndex(5), device("rail1", "pci-0000:c1:00.1", "eth1", "4")),
            (DevIndex(6), device("rxe0", "", "eth0", "5")),
        ];
        let lines_of_one = lines(&one.into());
        let lines_of_other = lines(&other.into());
        assert_eq!(
            lines_of_one,
            ["rail0 1 roce pci-0000:c1:00.0", "rail1 1 roce pci-0000:c1:00.1"]
        );
        assert_eq!(lines_of_other[..2], lines_of_one);
        assert_eq!(lines_of_other[2], "rxe0 1 roce eth0");
    }
}
