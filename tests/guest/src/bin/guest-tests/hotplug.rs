// SPDX-License-Identifier: MIT OR Apache-2.0
//! PCI hot plug: QEMU pushes a NIC in and pulls it out with an RDMA device on it.

use anyhow::{Result, ensure};
use guest::qmp::Qmp;
use serde_json::json;

use super::bed::{
    Bed, device_property, devices, plug, port_guid, sh, wait_active, wait_for, wait_target_stops,
};
use super::{Test, better};

pub(crate) const TESTS: &[Test] =
    &[better("pci_hot_plug_and_unplug", "rdma-core has no by-port-guid links", pci)];

fn pci(_: &mut Bed) -> Result<()> {
    let before = sh("ls /sys/class/net")?;
    let mut qemu = Qmp::in_guest()?;
    for round in 0..2 {
        qemu.execute(
            "device_add",
            &json!({"driver": "virtio-net-pci", "id": "hot", "addr": "0x1e"}),
        )?;
        let mut nic = String::new();
        wait_for("the NIC is there", || {
            nic = sh("for n in /sys/class/net/*; do
                          case $(readlink -f $n/device/..) in */0000:00:1e.0*) basename $n;; esac; done")?;
            Ok(!nic.is_empty())
        })?;
        sh("udevadm settle")?;
        let nic = sh("for n in /sys/class/net/*; do
                          case $(readlink -f $n/device/..) in */0000:00:1e.0*) basename $n;; esac; done")?;
        sh(&format!("ip link set {nic} up"))?;
        plug("rxe", "hot0", &nic)?;
        let dir = format!("/dev/infiniband/by-port-guid/{}", port_guid("hot0")?);
        ensure!(
            std::path::Path::new(&dir).join("uverbs").exists(),
            "round {round}: no {dir}/uverbs"
        );
        ensure!(device_property("hot0", "ID_RDMA_PORT_1_NETDEV")? == nic, "ID_RDMA_PORT_1_NETDEV");
        wait_active("rdma-hw.target")?;

        qemu.execute("device_del", &json!({"id": "hot"}))?;
        wait_for("the NIC is gone", || Ok(sh("ls /sys/class/net")? == before))?;
        wait_for("the RDMA device goes with its NIC", || Ok(devices()?.is_empty()))?;
        sh("udevadm settle")?;
        ensure!(!std::path::Path::new(&dir).join("uverbs").is_symlink(), "a link is left in {dir}");
        wait_target_stops()?;
    }
    Ok(())
}
