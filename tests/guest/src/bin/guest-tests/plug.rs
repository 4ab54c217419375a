// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device appears and disappears: properties, nodes, links, units.

use anyhow::{Result, ensure};

use super::bed::{
    Bed, beside, device_property, device_unit, leads_to, node, plug, port_guid, property, sh,
    unit_state, unplug, wait_active, wait_inactive, wait_target_stops,
};
use super::{Test, better, both};

pub(crate) const TESTS: &[Test] = &[
    both("plug_reaches_the_target_and_loads_the_lists", target_and_lists),
    better("plug_sets_identity_properties", "rdma-core exports no identity", identity),
    better("siw_is_iwarp", "D14: flags come from a driver table", siw_is_iwarp),
    better("rxe_of_any_name_is_roce", "D14: only rxe* by name", rxe_of_any_name_is_roce),
    better("plug_makes_port_guid_links", "rdma-core has no by-port-guid links", port_guid_links),
    better("device_units_bind", "rdma-core tags neither uverbs nor the device", device_units),
    better("netdev_knows_its_rdma_device", "rdma-core does not describe netdevs", netdev),
    better("umad_belongs_to_group_rdma", "the group exists but no rule uses it", umad_group),
    both("unplug_stops_the_target_once", unplug_stops),
    both("ten_quick_replugs_leave_no_unit_failed", quick_replugs),
    better("equal_port_guids_do_not_flap", "rdma-core has no by-port-guid links", equal_guids),
];

fn target_and_lists(bed: &mut Bed) -> Result<()> {
    plug("rxe", "rxe0", &bed.nics[0])?;
    wait_active("rdma-hw.target")?;
    wait_active("rdma-load-modules@rdma.service")?;
    wait_active("rdma-load-modules@roce.service")?;
    for module in ["ib_iser", "ib_uverbs", "rdma_ucm", "rpcrdma"] {
        ensure!(sh(&format!("cat /sys/module/{module}/initstate"))? == "live", "{module}");
    }
    ensure!(!node("infiniband_verbs", "rxe0")?.is_empty(), "no uverbs node");
    Ok(())
}

fn identity(bed: &mut Bed) -> Result<()> {
    let nic = bed.nics[0].clone();
    plug("rxe", "rxe0", &nic)?;
    let netlink = sh("rdma -j dev show rxe0")?;
    let netlink: serde_json::Value = serde_json::from_str(&netlink)?;
    let expected = [
        ("ID_RDMA_INDEX", netlink[0]["ifindex"].to_string()),
        ("ID_RDMA_KERNEL_NAME", "rxe0".into()),
        ("ID_RDMA_NAME", "rxe0".into()),
        ("ID_RDMA_NAME_STATUS", "kept".into()),
        ("ID_RDMA_DRIVER", "rxe".into()),
        ("ID_RDMA_PROTOCOL", "roce".into()),
        ("ID_RDMA_ROCE", "1".into()),
        ("ID_RDMA_INFINIBAND", String::new()),
        ("ID_RDMA_PORTS", "1".into()),
        ("ID_RDMA_PORT_1_GUID", port_guid("rxe0")?),
        ("ID_RDMA_PORT_1_LINK", "roce".into()),
        ("ID_RDMA_PORT_1_NETDEV", nic),
        ("ID_RDMA_NODE_GUID", sh("cat /sys/class/infiniband/rxe0/node_guid")?.replace(':', "")),
    ];
    for (name, value) in expected {
        let found = device_property("rxe0", name)?;
        ensure!(found == value, "{name} is '{found}', not '{value}'");
    }
    Ok(())
}

fn siw_is_iwarp(bed: &mut Bed) -> Result<()> {
    if sh("modinfo siw >/dev/null 2>&1 && echo yes || echo no")? == "no" {
        // Debian's 6.1 kernel does not have it, and the lab builds it for the newer one only.
        println!(
            "siw_is_iwarp: this kernel has no siw module, so there is no iWARP device to look at"
        );
        ensure!(bed.boot != super::Boot::RdmaCore, "no siw in this guest");
        return Ok(());
    }
    plug("siw", "siw0", &bed.nics[0])?;
    ensure!(device_property("siw0", "ID_RDMA_IWARP")? == "1", "not flagged as iWARP");
    ensure!(device_property("siw0", "ID_RDMA_ROCE")?.is_empty(), "flagged as RoCE");
    ensure!(device_property("siw0", "ID_RDMA_DRIVER")? == "siw", "driver");
    wait_active("rdma-load-modules@iwarp.service")
}

fn rxe_of_any_name_is_roce(bed: &mut Bed) -> Result<()> {
    plug("rxe", "storage-a", &bed.nics[0])?;
    ensure!(device_property("storage-a", "ID_RDMA_ROCE")? == "1", "not flagged as RoCE");
    wait_active("rdma-load-modules@roce.service")
}

fn port_guid_links(bed: &mut Bed) -> Result<()> {
    sh("modprobe ib_umad")?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    let dir = format!("/dev/infiniband/by-port-guid/{}", port_guid("rxe0")?);
    for (class, link) in [("infiniband_verbs", "uverbs"), ("infiniband_mad", "umad")] {
        let target = leads_to(format!("{dir}/{link}"))?;
        ensure!(target == node(class, "rxe0")?, "{dir}/{link} leads to {target}");
    }
    unplug("rxe0")?;
    ensure!(sh(&format!("ls {dir} 2>/dev/null | wc -l"))? == "0", "links are left in {dir}");
    Ok(())
}

fn device_units(bed: &mut Bed) -> Result<()> {
    sh("modprobe ib_umad")?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    let guid = port_guid("rxe0")?;
    let units = [
        device_unit(&format!("/dev/infiniband/by-port-guid/{guid}/uverbs"))?,
        device_unit(&format!("/dev/infiniband/by-port-guid/{guid}/umad"))?,
        device_unit("/sys/subsystem/rdma/devices/rxe0:1/umad")?,
        device_unit("/sys/subsystem/rdma/devices/rxe0")?,
        device_unit(&format!("/dev/infiniband/{}", node("infiniband_verbs", "rxe0")?))?,
    ];
    for unit in &units {
        wait_active(unit)?;
    }
    // A service that is bound to the port goes with it.
    bed.file(
        "/run/systemd/system/lab-bound.service",
        &format!("[Unit]\nBindsTo={0}\nAfter={0}\n[Service]\nExecStart=sleep infinity\n", units[0]),
    )?;
    sh("systemctl start lab-bound")?;
    unplug("rxe0")?;
    wait_inactive("lab-bound.service")?;
    for unit in &units {
        wait_inactive(unit)?;
    }
    Ok(())
}

fn netdev(bed: &mut Bed) -> Result<()> {
    let sys = format!("/sys/class/net/{}", bed.nics[0]);
    plug("rxe", "rxe0", &bed.nics[0])?;
    ensure!(property(&sys, "ID_RDMA_DEV")? == "rxe0", "ID_RDMA_DEV");
    ensure!(property(&sys, "ID_RDMA_PORT")? == "1", "ID_RDMA_PORT");
    ensure!(property(&sys, "ID_RDMA_PORT_GUID")? == port_guid("rxe0")?, "ID_RDMA_PORT_GUID");
    // They are still there when something else has udev look at the netdev again.
    sh(&format!("udevadm trigger --settle --action=change {sys}"))?;
    ensure!(property(&sys, "ID_RDMA_DEV")? == "rxe0", "ID_RDMA_DEV after another change event");
    unplug("rxe0")?;
    ensure!(
        property(&sys, "ID_RDMA_DEV")?.is_empty(),
        "the netdev still claims a device that is gone"
    );
    Ok(())
}

fn umad_group(bed: &mut Bed) -> Result<()> {
    sh("modprobe ib_umad")?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    let node = node("infiniband_mad", "rxe0")?;
    let mode = sh(&format!("stat -c '%U:%G %a' /dev/infiniband/{node}"))?;
    ensure!(mode == "root:rdma 660", "{node} is {mode}");
    Ok(())
}

fn unplug_stops(bed: &mut Bed) -> Result<()> {
    for round in 1..=3 {
        plug("rxe", "rxe0", &bed.nics[0])?;
        plug("rxe", "rxe1", &bed.nics[1])?;
        wait_active("rdma-hw.target")?;
        unplug("rxe0")?;
        ensure!(unit_state("rdma-hw.target") == "active", "the target stopped with a device left");
        unplug("rxe1")?;
        wait_target_stops()?;
        let stopped = bed.journal("-t systemd")?.matches("Stopped target rdma-hw.target").count();
        let expected = if beside()? { 0 } else { round };
        ensure!(stopped == expected, "after {round} rounds the target has stopped {stopped} times");
    }
    Ok(())
}

/// More often than systemd starts a unit within ten seconds unless it is told that it may.
fn quick_replugs(bed: &mut Bed) -> Result<()> {
    for _ in 0..10 {
        plug("rxe", "rxe0", &bed.nics[0])?;
        unplug("rxe0")?;
    }
    plug("rxe", "rxe0", &bed.nics[0])?;
    wait_active("rdma-hw.target")?;
    wait_active("rdma-load-modules@roce.service")
}

/// Two ports with one GUID, as with some VFs: the first keeps the link, whatever happens to the other.
fn equal_guids(bed: &mut Bed) -> Result<()> {
    bed.provokes("port GUID");
    for name in ["lab0", "lab1"] {
        sh(&format!(
            "ip link add {name} address 02:00:00:00:00:01 type dummy && ip link set {name} up"
        ))?;
    }
    plug("rxe", "first", "lab0")?;
    let link = format!("/dev/infiniband/by-port-guid/{}/uverbs", port_guid("first")?);
    let owner = leads_to(&link)?;
    plug("rxe", "second", "lab1")?;
    ensure!(port_guid("first")? == port_guid("second")?, "the two do not share a GUID here");
    for _ in 0..3 {
        sh("udevadm trigger --settle --action=change --subsystem-match=infiniband_verbs")?;
        ensure!(leads_to(&link)? == owner, "the link left its first owner");
    }
    let second = node("infiniband_verbs", "second")?;
    let conflict =
        property(&format!("/sys/class/infiniband_verbs/{second}"), "ID_RDMA_LINK_CONFLICT")?;
    ensure!(!conflict.is_empty(), "nothing reports that 'second' has no link");
    unplug("first")?;
    let heir = leads_to(&link)?;
    ensure!(heir == second, "with its owner gone the link leads to '{heir}'");
    Ok(())
}
