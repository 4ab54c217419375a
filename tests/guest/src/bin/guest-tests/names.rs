// SPDX-License-Identifier: MIT OR Apache-2.0
//! Renaming: who gives the name, what follows it, and when it is refused.

use anyhow::{Result, ensure};
use guest::qmp::Qmp;
use serde_json::json;

use super::bed::{
    Bed, device_property, device_unit, devices, leads_to, node, plug, port_guid, property, sh,
    unit_state, wait_active, wait_for,
};
use super::{Test, better, both};

pub(crate) const TESTS: &[Test] = &[
    better("device_entry_names_the_device", "rdma-core has no configuration", by_device_entry),
    better(
        "everything_follows_an_administrators_rename_rule",
        "D19, D20: aliases keep the old name; a device that was named when it was made is not renamed at all",
        by_own_rule,
    ),
    better("masked_naming_rules_disable_renaming", "rdma-core has no configuration", masked),
    better("kernel_command_line_disables_renaming", "rdma-core has no such switch", command_line),
    better("a_taken_name_is_refused", "D3: the kernel's answer is never read", collision),
    better("a_bad_name_is_refused", "D10: names are not checked", bad_names),
    both("a_name_given_by_hand_survives_a_replay", by_hand),
    better("two_devices_swap_names", "rdma-core cannot swap", swap),
    better("a_replay_of_add_changes_nothing", "rdma-core exports no identity", replay),
    better("one_entry_names_eight_rails", "rdma-core has no configuration", rails),
];

pub(crate) const CONFIG: &str = "/etc/rdma/rdma.toml.d/90-lab.toml";
const OWN_RULES: &str = "/etc/udev/rules.d/60-rdma-persistent-naming.rules";

fn entry(netdev: &str, name: &str) -> String {
    format!("[[device]]\nmatch = {{ netdev = \"{netdev}\" }}\nname = \"{name}\"\n")
}

/// What must be true of a device that udev has renamed.
fn follows(new: &str, old: &str) -> Result<()> {
    ensure!(devices()? == new, "the device is not called '{new}'");
    ensure!(device_property(new, "ID_RDMA_NAME")? == new, "ID_RDMA_NAME");
    ensure!(device_property(new, "ID_RDMA_NAME_STATUS")? == "renamed", "ID_RDMA_NAME_STATUS");
    ensure!(device_property(new, "ID_RDMA_KERNEL_NAME")? == old, "ID_RDMA_KERNEL_NAME");
    let uverbs = node("infiniband_verbs", new)?;
    let umad = node("infiniband_mad", new)?;
    let sys = format!("/sys/class/infiniband_verbs/{uverbs}");
    ensure!(property(&sys, "ID_RDMA_DEV")? == new, "ID_RDMA_DEV of {uverbs}");
    ensure!(leads_to(format!("/dev/infiniband/by-ibdev/uverbs-{new}"))? == uverbs, "by-ibdev");
    let link = format!("/dev/infiniband/by-port-guid/{}/umad", port_guid(new)?);
    ensure!(leads_to(&link)? == umad, "{link}");
    wait_active(&device_unit(&format!("/sys/subsystem/rdma/devices/{new}:1/umad"))?)?;
    wait_active(&device_unit(&format!("/sys/subsystem/rdma/devices/{new}"))?)?;
    wait_active("rdma-hw.target")?;
    wait_active("rdma-load-modules@roce.service")?;
    for stale in [format!("{old}:1/umad"), old.to_owned()] {
        let unit = device_unit(&format!("/sys/subsystem/rdma/devices/{stale}"))?;
        wait_for(&format!("{unit} is gone"), || Ok(unit_state(&unit) != "active"))?;
    }
    let units = sh("systemctl list-units --all --plain --no-legend --type=device")?;
    let old_path = format!("infiniband-{old}.device");
    ensure!(
        !units.lines().any(|l| l.contains(&old_path) && l.contains(" active ")),
        "a device unit under the old name is active: {units}"
    );
    Ok(())
}

fn by_device_entry(bed: &mut Bed) -> Result<()> {
    sh("modprobe ib_umad")?;
    bed.file(CONFIG, &entry(&bed.nics[0].clone(), "rail-0"))?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    follows("rail-0", "rxe0")?;
    ensure!(device_property("rail-0", "ID_RDMA_NAME_POLICY")? == "fixed", "ID_RDMA_NAME_POLICY");
    let netdev = format!("/sys/class/net/{}", bed.nics[0]);
    ensure!(property(&netdev, "ID_RDMA_DEV")? == "rail-0", "the netdev names another device");
    Ok(())
}

fn by_own_rule(bed: &mut Bed) -> Result<()> {
    sh("modprobe ib_umad")?;
    bed.file(
        OWN_RULES,
        "ACTION==\"add\", SUBSYSTEM==\"infiniband\", KERNEL!=\"vhca*\", PROGRAM=\"rdma_rename %k NAME_FIXED fixed-0\"\n",
    )?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    follows("fixed-0", "rxe0")?;
    sh("udevadm trigger --settle --action=add --subsystem-match=infiniband")?;
    ensure!(devices()? == "fixed-0", "a replay renamed it");
    Ok(())
}

fn masked(bed: &mut Bed) -> Result<()> {
    bed.file(CONFIG, &entry(&bed.nics[0].clone(), "rail0"))?;
    sh(&format!("ln -s /dev/null {OWN_RULES} && udevadm control --reload"))?;
    bed.remove_later(OWN_RULES);
    kept_with_identity(&bed.nics[0].clone())
}

fn command_line(bed: &mut Bed) -> Result<()> {
    bed.file(CONFIG, &entry(&bed.nics[0].clone(), "rail0"))?;
    bed.file("/run/lab/cmdline", &format!("{} rdma.names=0\n", sh("cat /proc/cmdline")?))?;
    sh("mount --bind /run/lab/cmdline /proc/cmdline")?;
    let outcome = kept_with_identity(&bed.nics[0].clone());
    sh("umount /proc/cmdline")?;
    outcome
}

fn kept_with_identity(nic: &str) -> Result<()> {
    plug("rxe", "rxe0", nic)?;
    ensure!(devices()? == "rxe0", "it was renamed");
    ensure!(device_property("rxe0", "ID_RDMA_ROCE")? == "1", "no identity");
    ensure!(device_property("rxe0", "ID_RDMA_NAME_STATUS")? == "kept", "ID_RDMA_NAME_STATUS");
    wait_active("rdma-hw.target")
}

fn collision(bed: &mut Bed) -> Result<()> {
    bed.provokes("'taken'");
    plug("rxe", "taken", &bed.nics[1])?;
    bed.file(CONFIG, &entry(&bed.nics[0].clone(), "taken"))?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    refused("rxe0", bed)?;
    let log = bed.journal("-p warning")?;
    ensure!(
        log.contains("'rxe0'") && log.contains("'taken'"),
        "the journal does not say why: {log}"
    );
    Ok(())
}

fn bad_names(bed: &mut Bed) -> Result<()> {
    for part in ["name", "rxe0"] {
        bed.provokes(part);
    }
    for bad in ["a/b", "50%d", "two\\nlines", "..", "", &"x".repeat(64)] {
        bed.file(CONFIG, &entry(&bed.nics[0].clone(), bad))?;
        plug("rxe", "rxe0", &bed.nics[0])?;
        ensure!(devices()? == "rxe0", "'{bad}' was accepted");
        refused("rxe0", bed)?;
        sh("rdma link delete rxe0 && udevadm settle")?;
    }
    Ok(())
}

/// The device keeps its name, says so, and works.
fn refused(device: &str, bed: &Bed) -> Result<()> {
    let status = device_property(device, "ID_RDMA_NAME_STATUS")?;
    ensure!(status.starts_with("refused:"), "ID_RDMA_NAME_STATUS is '{status}'");
    wait_active("rdma-hw.target")?;
    wait_active(&device_unit(&format!("/sys/subsystem/rdma/devices/{device}"))?)?;
    ensure!(!bed.journal("-p warning")?.is_empty(), "nothing in the journal");
    Ok(())
}

fn by_hand(bed: &mut Bed) -> Result<()> {
    plug("rxe", "rxe0", &bed.nics[0])?;
    sh("rdma dev set rxe0 name mine && udevadm settle")?;
    sh("udevadm trigger --settle --action=add --subsystem-match=infiniband")?;
    ensure!(devices()? == "mine", "the name given by hand is lost");
    if bed.boot == super::Boot::Ours {
        ensure!(device_property("mine", "ID_RDMA_NAME_POLICY")? == "user", "ID_RDMA_NAME_POLICY");
    }
    Ok(())
}

fn swap(bed: &mut Bed) -> Result<()> {
    let (first, second) = (bed.nics[0].clone(), bed.nics[1].clone());
    plug("rxe", "a", &first)?;
    plug("rxe", "b", &second)?;
    bed.file(CONFIG, &format!("{}{}", entry(&first, "b"), entry(&second, "a")))?;
    sh("udevadm trigger --settle --action=add --subsystem-match=infiniband; udevadm settle")?;
    for (name, nic) in [("b", &first), ("a", &second)] {
        let found = sh(&format!("rdma -j link show {name}/1"))?;
        ensure!(found.contains(&format!("\"{nic}\"")), "'{name}' is not on {nic}: {found}");
        ensure!(device_property(name, "ID_RDMA_NAME_STATUS")? == "renamed", "status of '{name}'");
    }
    Ok(())
}

fn replay(bed: &mut Bed) -> Result<()> {
    bed.file(CONFIG, &entry(&bed.nics[0].clone(), "rail0"))?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    let all = "udevadm info -q property -p /sys/class/infiniband/rail0 | grep ID_RDMA | sort";
    let before = sh(all)?;
    ensure!(!before.is_empty(), "no properties");
    for action in ["add", "change"] {
        sh(&format!("udevadm trigger --settle --action={action} --subsystem-match=infiniband"))?;
        let after = sh(all)?;
        ensure!(after == before, "after a replay of '{action}':\n{after}\nbefore:\n{before}");
    }
    Ok(())
}

/// By PCI address, whatever the order in which they come; each time from nothing remembered, as after a boot.
fn rails(bed: &mut Bed) -> Result<()> {
    let mut qemu = Qmp::in_guest()?;
    let hot: Vec<String> = (0..6).map(|n| format!("hot{n}")).collect();
    for (n, id) in hot.iter().enumerate() {
        let addr = format!("{:#x}", 0x18 + n);
        qemu.execute("device_add", &json!({"driver": "virtio-net-pci", "id": id, "addr": addr}))?;
    }
    let outcome = rails_with(bed);
    for id in &hot {
        qemu.execute("device_del", &json!({ "id": id }))?;
    }
    wait_for("the NICs are gone", || Ok(by_address()?.len() == 2))?;
    outcome
}

/// The virtio NICs in the order of their PCI addresses.
fn by_address() -> Result<Vec<String>> {
    let names = sh(
        "for d in $(ls -d /sys/bus/pci/devices/*/virtio*/net/* 2>/dev/null | sort); do basename $d; done",
    )?;
    Ok(names.lines().map(str::to_owned).collect())
}

fn rails_with(bed: &mut Bed) -> Result<()> {
    bed.file(CONFIG, "[[device]]\nmatch = { driver = 'rxe' }\nname = 'rail{index}'\n")?;
    wait_for("eight NICs are there", || Ok(by_address()?.len() == 8))?;
    sh("udevadm settle")?;
    let nics = by_address()?;
    for nic in &nics {
        sh(&format!("ip link set {nic} up"))?;
    }
    for round in 0..3 {
        // Each a different order: 3 and 8 have no common divisor, nor have 5 and 8, 7 and 8.
        for n in 0..8 {
            let nic = &nics[(n * [3, 5, 7][round % 3] + round) % 8];
            sh(&format!("rdma link add rxe{n} type rxe netdev {nic}"))?;
        }
        sh("udevadm settle")?;
        for (n, nic) in nics.iter().enumerate() {
            let of = device_property(&format!("rail{n}"), "ID_RDMA_PORT_1_NETDEV")?;
            ensure!(
                of == *nic,
                "round {round}: rail{n} is on '{of}', not on {nic}: {}",
                devices()?
            );
        }
        sh(
            "for n in 0 1 2 3 4 5 6 7; do rdma link delete rail$n; done; udevadm settle; rm -rf /run/rdma/devices /run/rdma/names",
        )?;
    }
    Ok(())
}
