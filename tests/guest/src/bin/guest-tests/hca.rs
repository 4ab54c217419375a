// SPDX-License-Identifier: MIT OR Apache-2.0
//! InfiniBand HCAs (`tests/vhca`): properties, links, names and units of devices with several ports and nodes.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use super::bed::{
    Bed, Boot, beside, device_property, device_unit, devices, leads_to, linked_guids, node,
    property, sh, unit_state, wait_active, wait_for, wait_inactive, wait_target_stops,
};
use super::names::CONFIG;
use super::{Test, better, both};

pub(crate) const TESTS: &[Test] = &[
    both("hca_reaches_the_target_and_loads_the_lists", target_and_lists),
    better("hca_with_two_ports_has_two_guids", "rdma-core exports no identity", two_ports),
    better("hca_follows_a_rename_with_ib_umad_loaded", "D19: stale umad units", rename),
    better("hca_with_zero_guid_has_no_links", "rdma-core has no by-port-guid links", zero_guid),
    better("hca_port_guids_do_not_flap", "rdma-core has no by-port-guid links", equal_guids),
    better("ipoib_knows_its_rdma_device", "rdma-core does not describe netdevs", ipoib),
    better("ipoib_named_by_device_and_port", "rdma-core does not name netdevs", ipoib_names),
    better("infiniband_beside_roce", "rdma-core exports no identity", beside_roce),
    both("hca_unplugged_in_use", unplug_in_use),
    both("functions_are_named_by_path", names_by_path),
    better("functions_are_matched_by_numa_node", "rdma-core has no configuration", by_numa_node),
    better("functions_are_matched_by_serial", "rdma-core has no configuration", by_serial),
    better(
        "functions_have_their_card_and_port_in_the_name",
        "rdma-core has no configuration",
        by_card,
    ),
    better("virtual_functions_come_and_go", "D2: a VF gets the name of its PF", virtual_functions),
    better("function_removed_and_rescanned", "rdma-core has no by-port-guid links", rescan),
];

pub(crate) const VHCA: &str = "/sys/kernel/config/vhca";

/// Plugs in an HCA; its name in the kernel, or the one that udev has given it.
pub(crate) fn plug(hca: &str, ports: u8, settings: &[(&str, &str)]) -> Result<String> {
    sh(
        "modprobe vhca; mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config",
    )?;
    let dir = format!("{VHCA}/hcas/{hca}");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {dir}"))?;
    fs::write(format!("{dir}/ports"), ports.to_string())?;
    for (file, value) in settings {
        fs::write(format!("{dir}/{file}"), value).with_context(|| format!("{dir}/{file}"))?;
    }
    live(hca, true)?;
    device(hca)
}

pub(crate) fn live(hca: &str, live: bool) -> Result<()> {
    fs::write(format!("{VHCA}/hcas/{hca}/live"), if live { "1" } else { "0" })?;
    sh("udevadm settle")?;
    Ok(())
}

pub(crate) fn device(hca: &str) -> Result<String> {
    Ok(fs::read_to_string(format!("{VHCA}/hcas/{hca}/ibdev"))?.trim().to_owned())
}

pub(crate) fn guid(hca: &str, port: u8) -> Result<String> {
    Ok(fs::read_to_string(format!("{VHCA}/hcas/{hca}/port{port}/guid"))?.trim().to_owned())
}

/// Starts opensm on an HCA's first port; it goes with the test. All ports are ACTIVE then.
pub(crate) fn subnet_manager(bed: &mut Bed, hca: &str) -> Result<()> {
    sh("modprobe ib_umad; udevadm settle")?;
    // It acts on about ten traps in a row, and then waits for its next sweep: let that be soon.
    sh(&format!(
        // It does not end while its port is gone.
        "systemd-run -q --unit=lab-opensm --collect -p KillSignal=SIGKILL opensm -s 1 -g 0x{} -f /run/opensm.log",
        guid(hca, 1)?
    ))?;
    bed.stop_later("lab-opensm.service");
    wait_for("every port is ACTIVE", || {
        Ok(sh("cat /sys/class/infiniband/*/ports/*/state")?.lines().all(|s| s.contains("ACTIVE")))
    })
}

/// The IPoIB interface of a port.
pub(crate) fn netdev(device: &str, port: u8) -> Result<String> {
    let name = sh(&format!(
        "for n in /sys/class/net/*; do
             [ \"$(cat $n/type)\" = 32 ] && [ $(($(cat $n/dev_port) + 1)) = {port} ] &&
             [ -e $n/device/infiniband/{device} ] && basename $n; done; true"
    ))?;
    if name.is_empty() {
        bail!("port {port} of '{device}' has no IPoIB interface")
    } else {
        Ok(name)
    }
}

fn target_and_lists(bed: &mut Bed) -> Result<()> {
    // rdma-core flags by the name of the PCI driver, which these have none of.
    plug("a", 1, &[])?;
    wait_active("rdma-hw.target")?;
    if bed.boot == Boot::Ours {
        wait_active("rdma-load-modules@infiniband.service")?;
        for module in ["ib_umad", "ib_ipoib"] {
            ensure!(sh(&format!("cat /sys/module/{module}/initstate"))? == "live", "{module}");
        }
    }
    Ok(())
}

fn two_ports(_: &mut Bed) -> Result<()> {
    sh("modprobe ib_umad")?;
    let name = plug("a", 2, &[("fw_ver", "20.1.3"), ("board_id", "LAB0000000001")])?;
    for (key, value) in [
        ("ID_RDMA_PROTOCOL", "ib".to_owned()),
        ("ID_RDMA_INFINIBAND", "1".into()),
        ("ID_RDMA_ROCE", String::new()),
        ("ID_RDMA_DRIVER", "qib".into()),
        ("ID_RDMA_FW_VERSION", "20.1.3".into()),
        ("ID_RDMA_PORTS", "2".into()),
        ("ID_RDMA_PORT_1_GUID", guid("a", 1)?),
        ("ID_RDMA_PORT_2_GUID", guid("a", 2)?),
        ("ID_RDMA_PORT_2_LINK", "ib".into()),
    ] {
        let found = device_property(&name, key)?;
        ensure!(found == value, "{key} is '{found}', not '{value}'");
    }
    let mut uverbs = Vec::new();
    for port in [1, 2] {
        let dir = format!("/dev/infiniband/by-port-guid/{}", guid("a", port)?);
        uverbs.push(leads_to(format!("{dir}/uverbs"))?);
        for kind in ["umad", "issm"] {
            let node = leads_to(format!("{dir}/{kind}"))?;
            ensure!(node.starts_with(kind), "{dir}/{kind} leads to {node}");
            let of = sh(&format!("cat /sys/class/infiniband_mad/{node}/{{ibdev,port}} | xargs"))?;
            ensure!(of == format!("{name} {port}"), "{dir}/{kind} is of {of}");
            ensure!(sh(&format!("stat -c %G:%a /dev/infiniband/{node}"))? == "rdma:660", "{node}");
        }
    }
    ensure!(uverbs[0] == uverbs[1], "one device, two uverbs nodes: {uverbs:?}");
    live("a", false)?;
    ensure!(linked_guids()?.is_empty(), "links are left");
    Ok(())
}

/// The nodes of ib_umad are announced before their device, and so under the name it is about to lose.
fn rename(bed: &mut Bed) -> Result<()> {
    sh("modprobe -a ib_umad ib_ipoib")?;
    if bed.boot == Boot::Ours {
        let entry = "[[device]]\nmatch = { board-id = 'RAIL*' }\nname = 'rail0'\n";
        bed.file(CONFIG, entry)?;
    } else {
        bed.file(
            "/etc/udev/rules.d/60-rdma-persistent-naming.rules",
            "ACTION==\"add\", SUBSYSTEM==\"infiniband\", PROGRAM=\"rdma_rename %k NAME_FIXED rail0\"\n",
        )?;
    }
    let name = plug("a", 2, &[("board_id", "RAIL-1")])?;
    ensure!(name == "rail0", "the device is called '{name}'");
    for port in [1, 2] {
        wait_active(&device_unit(&format!("/sys/subsystem/rdma/devices/rail0:{port}/umad"))?)?;
    }
    // rdma-core does not tell; alone it was the first.
    let was = device_property("rail0", "ID_RDMA_KERNEL_NAME")?;
    let was = if was.is_empty() { "vhca0" } else { &was };
    let stale = sh(&format!(
        "systemctl list-units --all --plain --no-legend | grep 'devices-{was}[.:]' || true"
    ))?;
    ensure!(stale.is_empty(), "units have the old name: {stale}");
    wait_active(&device_unit("/sys/subsystem/rdma/devices/rail0")?)?;
    for port in [1, 2] {
        let dir = format!("/dev/infiniband/by-port-guid/{}", guid("a", port)?);
        for kind in ["umad", "issm", "uverbs"] {
            wait_active(&device_unit(&format!("{dir}/{kind}"))?)?;
        }
    }
    ensure!(device_property("rail0", "ID_RDMA_NAME_STATUS")? == "renamed", "not told as renamed");
    for port in [1, 2] {
        let netdev = netdev("rail0", port)?;
        let of = property(&format!("/sys/class/net/{netdev}"), "ID_RDMA_DEV")?;
        ensure!(of == "rail0", "{netdev} says that it is of '{of}'");
    }
    Ok(())
}

fn zero_guid(_: &mut Bed) -> Result<()> {
    let zero = "0000000000000000";
    let name = plug("a", 1, &[("port1/guid", zero), ("node_guid", zero)])?;
    ensure!(device_property(&name, "ID_RDMA_INFINIBAND")? == "1", "it is not described at all");
    ensure!(device_property(&name, "ID_RDMA_PORT_1_GUID")?.is_empty(), "a GUID of zero");
    ensure!(linked_guids()?.is_empty(), "it has a link");
    // The links of one that has a GUID are not disturbed.
    plug("b", 1, &[])?;
    leads_to(format!("/dev/infiniband/by-port-guid/{}/uverbs", guid("b", 1)?))?;
    Ok(())
}

fn equal_guids(bed: &mut Bed) -> Result<()> {
    bed.provokes("port GUID");
    plug("a", 1, &[])?;
    let shared = guid("a", 1)?;
    let link = format!("/dev/infiniband/by-port-guid/{shared}/uverbs");
    let owner = leads_to(&link)?;
    plug("b", 1, &[("port1/guid", &shared)])?;
    ensure!(leads_to(&link)? == owner, "the link left its first owner");
    live("a", false)?;
    ensure!(leads_to(&link)? != owner, "the link did not go to the heir");
    live("a", true)?;
    let heir = leads_to(&link)?;
    live("b", false)?;
    ensure!(leads_to(&link)? != heir, "the link did not come back");
    Ok(())
}

fn ipoib(_: &mut Bed) -> Result<()> {
    sh("modprobe ib_ipoib")?;
    let name = plug("a", 2, &[])?;
    sh("udevadm settle")?;
    let parent = netdev(&name, 2)?;
    sh(&format!(
        "ip link add link {parent} name lab-child type ipoib pkey 0x8001; udevadm settle"
    ))?;
    for (netdev, pkey) in [(parent.as_str(), "0xffff"), ("lab-child", "0x8001")] {
        for (key, value) in [
            ("ID_RDMA_DEV", name.as_str()),
            ("ID_RDMA_PORT", "2"),
            ("ID_RDMA_PORT_GUID", &guid("a", 2)?),
            ("ID_RDMA_PKEY", pkey),
        ] {
            let found = property(&format!("/sys/class/net/{netdev}"), key)?;
            ensure!(found == value, "{netdev}: {key} is '{found}', not '{value}'");
        }
    }
    Ok(())
}

/// The interfaces are announced before their device is renamed, and have its new name all the same.
fn ipoib_names(bed: &mut Bed) -> Result<()> {
    sh("modprobe ib_ipoib")?;
    bed.file(CONFIG, "[naming]\nipoib = 'device-port'\n")?;
    let name = plug("a", 2, &[("function", "0001:a1:00.0"), ("multi_function", "1")])?;
    ensure!(name == "ibP1p161s0f0", "the device is called '{name}'");
    for port in [1, 2] {
        let found = netdev(&name, port)?;
        ensure!(found == format!("ibP1p161s0f0p{port}"), "port {port} has '{found}'");
    }
    sh("ip link add link ibP1p161s0f0p2 name lab-child type ipoib pkey 0x8001
        echo 0x8002 >/sys/class/net/ibP1p161s0f0p2/create_child; udevadm settle")?;
    ensure!(
        sh("ls /sys/class/net | grep lab-child")? == "lab-child",
        "a name given by hand is gone"
    );
    let long = "ibP1p161s0f0p2.8002";
    let short = sh(&format!("ip -o link show {long} | sed 's/^[0-9]*: \\([^@:]*\\).*/\\1/'"))?;
    ensure!(short.starts_with("ib_") && short.ends_with("p2.8002"), "{long} is called '{short}'");
    // Neither a replay nor another name of the device changes them.
    sh(&format!(
        "rdma dev set {name} name lab0; udevadm settle; udevadm trigger --action=add -s net -w"
    ))?;
    ensure!(netdev("lab0", 1)? == "ibP1p161s0f0p1", "port 1 has '{}'", netdev("lab0", 1)?);
    let of = property("/sys/class/net/ibP1p161s0f0p1", "ID_RDMA_DEV")?;
    ensure!(of == "lab0", "it says that it is of '{of}'");
    Ok(())
}

/// Each device is what it is, and each list is loaded.
fn beside_roce(bed: &mut Bed) -> Result<()> {
    let hca = plug("a", 1, &[])?;
    super::bed::plug("rxe", "rxe0", &bed.nics[0])?;
    for (device, flag, other) in [
        (hca.as_str(), "ID_RDMA_INFINIBAND", "ID_RDMA_ROCE"),
        ("rxe0", "ID_RDMA_ROCE", "ID_RDMA_INFINIBAND"),
    ] {
        ensure!(device_property(device, flag)? == "1", "{device} has no {flag}");
        ensure!(device_property(device, other)?.is_empty(), "{device} has {other}");
    }
    wait_active("rdma-load-modules@infiniband.service")?;
    wait_active("rdma-load-modules@roce.service")?;
    // With the last device of a kind its list goes, and the target stays.
    live("a", false)?;
    if !beside()? {
        wait_inactive("rdma-load-modules@infiniband.service")?;
    }
    ensure!(unit_state("rdma-hw.target") == "active", "the target stopped with a device left");
    Ok(())
}

/// opensm, an IPoIB session and a reader of umad are there when their HCA goes.
fn unplug_in_use(bed: &mut Bed) -> Result<()> {
    // They end with an error, as they may.
    bed.provokes("lab-async.service");
    bed.provokes("lab-reader.service");
    bed.provokes("lab-opensm.service");
    sh("modprobe -a ib_umad ib_ipoib")?;
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "a")?;
    let ib = netdev(&a, 1)?;
    let umad = node("infiniband_mad", &a)?;
    sh(&format!("ip addr add 10.9.1.1/24 dev {ib}; ip link set {ib} up"))?;
    sh(&format!(
        "systemd-run -q --collect --unit=lab-ping ping -q 10.9.1.2
         systemd-run -q --collect --unit=lab-reader sh -c 'exec cat </dev/infiniband/{umad}'
         systemd-run -q --collect --unit=lab-async ibv_asyncwatch -d {a}"
    ))?;
    for unit in ["lab-ping.service", "lab-reader.service", "lab-async.service"] {
        bed.stop_later(unit);
    }
    live("a", false)?;
    ensure!(!devices()?.contains(&a), "the device is still there");
    ensure!(unit_state("rdma-hw.target") == "active", "the target stopped with a device left");
    live("b", false)?;
    wait_target_stops()?;
    let left = linked_guids()?;
    ensure!(left.is_empty(), "links are left: {left}");
    live("a", true)?;
    wait_active("rdma-hw.target")
}

/// PCI functions of vhca's own, so that the whole way from the bus to the name is the kernel's.
fn names_by_path(_: &mut Bed) -> Result<()> {
    for (hca, function, multi_function, name) in [
        ("a", "0001:a1:00.0", "1", "ibP1p161s0f0"),
        ("b", "0001:a1:00.1", "1", "ibP1p161s0f1"),
        ("c", "0002:41:1f.0", "0", "ibP2p65s31"),
        ("d", "10000:01:00.0", "0", "ibP65536p1s0"),
    ] {
        let found = plug(hca, 1, &[("function", function), ("multi_function", multi_function)])?;
        ensure!(found == name, "the device on {function} is called '{found}', not '{name}'");
    }
    // With ARI a slot has 256 functions.
    for (hca, function, name) in [
        ("e", "0003:b2:00.0", "ibP3p178s0"),
        ("f", "0003:b2:01.2", "ibP3p178s1f10"),
        ("g", "0003:b2:1f.7", "ibP3p178s31f255"),
    ] {
        let found = plug(hca, 1, &[("function", function), ("ari", "1")])?;
        ensure!(found == name, "the device on {function} is called '{found}', not '{name}'");
    }
    // The firmware's table says of this one that it is onboard device 3.
    let found = plug("h", 1, &[("function", "0004:44:00.0")])?;
    ensure!(found == "ibo3", "the onboard device is called '{found}'");
    Ok(())
}

fn by_numa_node(bed: &mut Bed) -> Result<()> {
    // The kernel about who writes there.
    bed.provokes("Overriding NUMA node");
    bed.file(CONFIG, "[[device]]\nmatch = { numa-node = 0 }\nname = 'near'\n")?;
    let function = "/sys/bus/pci/devices/0001:a1:00.0";
    ensure!(plug("a", 1, &[("function", "0001:a1:00.0")])? == "ibP1p161s0", "it has no node");
    fs::write(format!("{function}/numa_node"), "0")?;
    sh("rdmactl names --apply; udevadm settle")?;
    ensure!(device("a")? == "near", "on node 0 it is called '{}'", device("a")?);
    Ok(())
}

/// From the vital product data, as the kernel reads them of the function. One without any is another's.
fn by_serial(bed: &mut Bed) -> Result<()> {
    bed.file(
        CONFIG,
        "[[device]]\nmatch = { serial = 'MT2012X*' }\nname = 'mine'\nnode-description = '%d [%{serial}]'\n",
    )?;
    // A card may fill it up with blanks.
    for (hca, serial, function, name) in [
        ("a", "MT2012X07700  ", "0001:a1:00.0", "mine"),
        ("b", "MT2013X00001", "0002:41:00.0", "ibP2p65s0"),
    ] {
        plug(hca, 1, &[("serial", serial), ("function", function)])?;
        ensure!(device(hca)? == name, "{serial} is called '{}'", device(hca)?);
    }
    ensure!(
        plug("c", 1, &[("function", "0003:b2:00.0")])? == "ibP3p178s0",
        "no vital product data"
    );
    let wanted = "mine [MT2012X07700]";
    wait_for("it is described", || Ok(super::ndd::description("mine")? == wanted))?;
    Ok(())
}

/// Plugged in another order than that of their addresses.
fn by_card(bed: &mut Bed) -> Result<()> {
    let entry =
        |name: &str| format!("[[device]]\nmatch = {{ board-id = 'LAB*' }}\nname = '{name}'\n");
    bed.file(CONFIG, &entry("rail{rail}p{port}"))?;
    for (hca, function) in [("c", "0002:41:00.0"), ("b", "0001:a1:00.1"), ("a", "0001:a1:00.0")] {
        plug(hca, 1, &[("function", function), ("multi_function", "1"), ("board_id", "LAB-1")])?;
    }
    let are = |expected: &str| -> Result<()> {
        sh("rdmactl names --apply; udevadm settle")?;
        let names = ["a", "b", "c"].map(device).into_iter().collect::<Result<Vec<_>>>()?.join(" ");
        ensure!(names == expected, "they are called {names}, not {expected}");
        Ok(())
    };
    are("rail0p0 rail0p1 rail1p0")?;
    bed.file(CONFIG, &entry("x{path}"))?;
    are("xP1p161s0f0 xP1p161s0f1 xP2p65s0f0")?;
    // A software device has no such thing.
    super::bed::plug("rxe", "rxe0", &bed.nics[0])?;
    bed.file(CONFIG, "[[device]]\nmatch = { driver = 'rxe' }\nname = 'x{path}'\n")?;
    let plan = sh("rdmactl names")?;
    ensure!(plan.contains("x{path}") && plan.contains("refused"), "{plan}");
    Ok(())
}

fn virtual_functions(_: &mut Bed) -> Result<()> {
    for (hca, function, multi_function, name) in
        [("a", "0001:a1:00.0", "1", "ibP1p161s0f0"), ("b", "0002:41:00.0", "0", "ibP2p65s0")]
    {
        plug(hca, 1, &[("function", function), ("multi_function", multi_function), ("vfs", "16")])?;
        let vfs = format!("/sys/bus/pci/devices/{function}/sriov_numvfs");
        let there =
            || sh(&format!("udevadm settle; ls /sys/class/infiniband | grep {name} | xargs"));
        // The ninth is in the next slot, which is no part of its name.
        fs::write(&vfs, "9")?;
        let expected: Vec<String> = (0..9).map(|vf| format!("{name}v{vf}")).collect();
        let expected = format!("{name} {}", expected.join(" "));
        ensure!(there()? == expected, "there are {}", there()?);
        fs::write(&vfs, "0")?;
        ensure!(there()? == name, "there are {}", there()?);
    }
    Ok(())
}

fn rescan(_: &mut Bed) -> Result<()> {
    let function = "/sys/bus/pci/devices/0001:a1:00.0";
    plug("a", 1, &[("function", "0001:a1:00.0")])?;
    let link = format!("/dev/infiniband/by-port-guid/{}/uverbs", guid("a", 1)?);
    for _ in 0..3 {
        leads_to(&link)?;
        wait_active("rdma-hw.target")?;
        fs::write(format!("{function}/remove"), "1")?;
        wait_target_stops()?;
        sh("udevadm settle")?;
        ensure!(fs::symlink_metadata(&link).is_err(), "{link} is left");
        fs::write("/sys/bus/pci/rescan", "1")?;
        sh("udevadm settle")?;
        ensure!(device("a")? == "ibP1p161s0", "it comes back as '{}'", device("a")?);
    }
    Ok(())
}
