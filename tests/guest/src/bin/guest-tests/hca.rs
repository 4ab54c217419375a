// SPDX-License-Identifier: MIT OR Apache-2.0
//! InfiniBand: virtual HCAs (`tests/vhca`) on a switch that Debian's own opensm manages.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use super::bed::{
    Bed, Boot, device_property, device_unit, leads_to, node, property, sh, unit_state, wait_active,
    wait_for, wait_inactive,
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
    both("opensm_and_the_diagnostics", diagnostics),
    both("verbs_programs_over_infiniband", verbs),
    both("srp_and_nvme_over_infiniband", storage),
    both("hca_unplugged_in_use", unplug_in_use),
    both("functions_are_named_by_path", names_by_path),
    better("virtual_functions_come_and_go", "D2: a VF gets the name of its PF", virtual_functions),
    better("function_removed_and_rescanned", "rdma-core has no by-port-guid links", rescan),
];

const VHCA: &str = "/sys/kernel/config/vhca";

/// Plugs in an HCA; its name in the kernel, or the one that udev has given it.
fn plug(hca: &str, ports: u8, settings: &[(&str, &str)]) -> Result<String> {
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

fn live(hca: &str, live: bool) -> Result<()> {
    fs::write(format!("{VHCA}/hcas/{hca}/live"), if live { "1" } else { "0" })?;
    sh("udevadm settle")?;
    Ok(())
}

fn device(hca: &str) -> Result<String> {
    Ok(fs::read_to_string(format!("{VHCA}/hcas/{hca}/ibdev"))?.trim().to_owned())
}

fn guid(hca: &str, port: u8) -> Result<String> {
    Ok(fs::read_to_string(format!("{VHCA}/hcas/{hca}/port{port}/guid"))?.trim().to_owned())
}

/// Starts opensm on an HCA's first port; it goes with the test. All ports are ACTIVE then.
fn subnet_manager(bed: &mut Bed, hca: &str) -> Result<()> {
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
fn netdev(device: &str, port: u8) -> Result<String> {
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
        uverbs.push(leads_to(&format!("{dir}/uverbs"))?);
        for kind in ["umad", "issm"] {
            let node = leads_to(&format!("{dir}/{kind}"))?;
            ensure!(node.starts_with(kind), "{dir}/{kind} leads to {node}");
            let of = sh(&format!("cat /sys/class/infiniband_mad/{node}/{{ibdev,port}} | xargs"))?;
            ensure!(of == format!("{name} {port}"), "{dir}/{kind} is of {of}");
            ensure!(sh(&format!("stat -c %G:%a /dev/infiniband/{node}"))? == "rdma:660", "{node}");
        }
    }
    ensure!(uverbs[0] == uverbs[1], "one device, two uverbs nodes: {uverbs:?}");
    live("a", false)?;
    ensure!(sh("ls /dev/infiniband/by-port-guid 2>/dev/null | wc -l")? == "0", "links are left");
    Ok(())
}

/// The nodes of ib_umad are announced before their device, and so under the name it is about to lose.
fn rename(bed: &mut Bed) -> Result<()> {
    sh("modprobe ib_umad")?;
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
    let stale = sh("systemctl list-units --all --plain --no-legend | grep 'devices-vhca' || true")?;
    ensure!(stale.is_empty(), "units have the old name: {stale}");
    wait_active(&device_unit("/sys/subsystem/rdma/devices/rail0")?)?;
    for port in [1, 2] {
        let dir = format!("/dev/infiniband/by-port-guid/{}", guid("a", port)?);
        for kind in ["umad", "issm", "uverbs"] {
            wait_active(&device_unit(&format!("{dir}/{kind}"))?)?;
        }
    }
    ensure!(device_property("rail0", "ID_RDMA_NAME_STATUS")? == "renamed", "not told as renamed");
    Ok(())
}

fn zero_guid(_: &mut Bed) -> Result<()> {
    let zero = "0000000000000000";
    let name = plug("a", 1, &[("port1/guid", zero), ("node_guid", zero)])?;
    ensure!(device_property(&name, "ID_RDMA_INFINIBAND")? == "1", "it is not described at all");
    ensure!(device_property(&name, "ID_RDMA_PORT_1_GUID")?.is_empty(), "a GUID of zero");
    ensure!(sh("ls /dev/infiniband/by-port-guid 2>/dev/null | wc -l")? == "0", "it has a link");
    // The links of one that has a GUID are not disturbed.
    plug("b", 1, &[])?;
    leads_to(&format!("/dev/infiniband/by-port-guid/{}/uverbs", guid("b", 1)?))?;
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

/// That the lab is what the tests take it for.
fn diagnostics(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 2, &[])?;
    plug("b", 2, &[])?;
    subnet_manager(bed, "a")?;
    let lid = |hca: &str, port: u8| -> Result<String> {
        let device = device(hca)?;
        sh(&format!("printf %d $(cat /sys/class/infiniband/{device}/ports/{port}/lid)"))
    };
    let (from, to) = (lid("a", 1)?, lid("b", 1)?);
    let switch = sh("ibswitches | sed 's/.* lid \\([0-9]*\\) .*/\\1/'")?;
    for (command, found) in [
        ("ibstat", "State: Active"),
        ("ibnetdiscover", "Switch\t36"),
        ("iblinkinfo", "Active/  LinkUp"),
        ("sminfo", "SMINFO_MASTER"),
        ("saquery", "NodeRecord"),
        (&format!("smpquery nodeinfo {to}"), "Channel Adapter"),
        ("smpquery -D nodeinfo 0,1", "Switch"),
        (&format!("smpquery -c nodeinfo {switch} 0,3"), "Channel Adapter"),
        (&format!("perfquery {to}"), "PortXmitData"),
        ("ibqueryerrors || true", "Summary"),
        (&format!("ibtracert {from} {to}"), "switch port"),
    ] {
        let text = sh(command)?;
        ensure!(text.contains(found), "`{command}` does not say '{found}': {text}");
    }
    // A cable is pulled and put back; opensm is told by trap 128.
    for (state, link) in [("DOWN", "down"), ("ACTIVE", "up")] {
        fs::write(format!("{VHCA}/hcas/a/port2/link"), link)?;
        wait_for(&format!("port 2 is {state}"), || {
            Ok(sh(&format!("cat /sys/class/infiniband/{a}/ports/2/state"))?.contains(state))
        })?;
    }
    // What opens issm is seen as a subnet manager by all, while it has it open.
    let caps = sh(&format!("cat /sys/class/infiniband/{a}/ports/1/cap_mask"))?;
    let caps = u32::from_str_radix(caps.trim_start_matches("0x"), 16)?;
    ensure!(caps & 2 != 0, "IsSM is not set: {caps:#x}");
    Ok(())
}

fn verbs(bed: &mut Bed) -> Result<()> {
    sh("modprobe -a rdma_ucm ib_ipoib")?;
    let (a, b) = (plug("a", 1, &[])?, plug("b", 1, &[])?);
    subnet_manager(bed, "a")?;
    for kind in ["rc", "uc", "ud", "srq"] {
        sh(&format!(
            "timeout 30 ibv_{kind}_pingpong -d {a} -n 200 >/dev/null & sleep 0.5
             timeout 30 ibv_{kind}_pingpong -d {b} -n 200 127.0.0.1 >/dev/null && wait $!"
        ))?;
    }
    let (ib_a, ib_b) = (netdev(&a, 1)?, netdev(&b, 1)?);
    sh(&format!(
        "ip netns add lab-peer; ip link set {ib_b} netns lab-peer
         ip addr add 10.9.0.1/24 dev {ib_a}; ip link set {ib_a} up
         ip -n lab-peer addr add 10.9.0.2/24 dev {ib_b}; ip -n lab-peer link set {ib_b} up"
    ))?;
    let outcome = wait_for("the peer answers over IPoIB", || {
        Ok(sh("ping -c 1 -W 1 10.9.0.2 >/dev/null && echo yes || echo no")? == "yes")
    })
    .and_then(|()| {
        sh("ping -q -c 5 -i 0.2 -s 1900 10.9.0.2
            timeout 30 rping -s -a 10.9.0.1 -C 5 & sleep 0.5
            timeout 30 ip netns exec lab-peer rping -c -a 10.9.0.1 -C 5 && wait $!")
    });
    sh("ip netns delete lab-peer")?;
    outcome.map(drop)
}

/// What is written to an SRP disk and to an NVMe namespace comes back.
fn storage(bed: &mut Bed) -> Result<()> {
    for part in ["ib_srp", "Unable to load target_core", "nvme nvme", "MODE SENSE"] {
        bed.provokes(part);
    }
    sh("modprobe -a ib_umad ib_ipoib")?;
    let (a, b) = (plug("a", 1, &[])?, plug("b", 1, &[])?);
    subnet_manager(bed, "a")?;
    sh(&format!(
        "ip addr add 10.9.2.1/24 dev {0}; ip link set {0} up; ip addr add 10.9.3.1/24 dev {1}; ip link set {1} up",
        netdev(&a, 1)?,
        netdev(&b, 1)?
    ))?;
    let (initiator, target) = (guid("a", 1)?, guid("b", 1)?);
    let outcome = sh(&format!(
        "set -e
         modprobe -a ib_srpt target_core_file sd_mod ib_srp nvmet_rdma nvme_rdma
         truncate -s 16M /run/lab/disk /run/lab/namespace
         dd if=/dev/urandom of=/run/lab/data bs=1M count=4 2>/dev/null
         same() {{
             until [ -b $1 ]; do sleep 0.1; done
             dd if=/run/lab/data of=$1 bs=1M oflag=direct 2>/dev/null
             dd if=$1 bs=1M count=4 iflag=direct 2>/dev/null | cmp - /run/lab/data
         }}
         cd /sys/kernel/config/target
         mkdir -p core/fileio_0/disk
         echo fd_dev_name=/run/lab/disk,fd_dev_size=16777216 >core/fileio_0/disk/control
         echo 1 >core/fileio_0/disk/enable
         gid=fe80000000000000{target}
         mkdir -p srpt/0x$gid/0x$gid; cd srpt/0x$gid/0x$gid
         mkdir lun/lun_0; ln -s /sys/kernel/config/target/core/fileio_0/disk lun/lun_0/disk
         mkdir acls/0x0000000000000000{initiator}; mkdir acls/0x0000000000000000{initiator}/lun_0
         ln -s $PWD/lun/lun_0 acls/0x0000000000000000{initiator}/lun_0/lun
         echo 1 >enable
         id=$(sed s/0x// /sys/module/ib_srpt/parameters/srpt_service_guid)
         echo id_ext=$id,ioc_guid=$id,dgid=$gid,pkey=ffff,service_id=$id >/sys/class/infiniband_srp/srp-{a}-1/add_target
         same /dev/sda
         cd /sys/kernel/config/nvmet
         mkdir subsystems/lab; echo 1 >subsystems/lab/attr_allow_any_host
         mkdir subsystems/lab/namespaces/1
         echo -n /run/lab/namespace >subsystems/lab/namespaces/1/device_path
         echo 1 >subsystems/lab/namespaces/1/enable
         mkdir ports/1; echo rdma >ports/1/addr_trtype; echo ipv4 >ports/1/addr_adrfam
         echo 10.9.3.1 >ports/1/addr_traddr; echo 4420 >ports/1/addr_trsvcid
         ln -s $PWD/subsystems/lab ports/1/subsystems/lab
         nvme connect -t rdma -a 10.9.3.1 -s 4420 -n lab -i 2
         same /dev/nvme0n1"
    ));
    sh("nvme disconnect -n lab
        for r in /sys/class/srp_remote_ports/*/delete; do [ ! -e $r ] || echo 1 >$r; done
        cd /sys/kernel/config/nvmet
        rm -f ports/1/subsystems/lab; rmdir ports/1 subsystems/lab/namespaces/1 subsystems/lab
        cd /sys/kernel/config/target
        for t in srpt/0x*/0x*; do
            echo 0 >$t/enable; rm -f $t/acls/*/lun_0/lun; rmdir $t/acls/*/lun_0 $t/acls/0x*
            rm -f $t/lun/lun_0/disk; rmdir $t/lun/lun_0 $t ${t%/*}
        done
        rmdir core/fileio_0/disk core/fileio_0
        rm -f /run/lab/disk /run/lab/namespace /run/lab/data; udevadm settle; true")?;
    outcome.map(drop)
}

/// opensm, an IPoIB session and a reader of umad are there when their HCA goes.
fn unplug_in_use(bed: &mut Bed) -> Result<()> {
    // They end with an error, as they may.
    bed.provokes("lab-async.service");
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
    ensure!(!sh("ls /sys/class/infiniband")?.contains(&a), "the device is still there");
    ensure!(unit_state("rdma-hw.target") == "active", "the target stopped with a device left");
    live("b", false)?;
    wait_inactive("rdma-hw.target")?;
    let left = sh("ls /dev/infiniband/by-port-guid 2>/dev/null | wc -l")?;
    ensure!(left == "0", "{left} links are left");
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
        wait_inactive("rdma-hw.target")?;
        sh("udevadm settle")?;
        ensure!(fs::symlink_metadata(&link).is_err(), "{link} is left");
        fs::write("/sys/bus/pci/rescan", "1")?;
        sh("udevadm settle")?;
        ensure!(device("a")? == "ibP1p161s0", "it comes back as '{}'", device("a")?);
    }
    Ok(())
}
