// SPDX-License-Identifier: MIT OR Apache-2.0
//! The InfiniBand fabric of the lab is what the tests take it for: Debian's own opensm, diagnostics, verbs
//! programs and storage drivers work on it, and fail on it as on hardware.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::bed::{Bed, beside, sh, wait_for};
use super::hca::{VHCA, device, guid, live, netdev, plug, subnet_manager};
use super::srp::LUN;
use super::{Test, both};

pub(crate) const TESTS: &[Test] = &[
    both("opensm_and_the_diagnostics", diagnostics),
    both("subnet_managers_hand_over", hand_over),
    both("two_subnets", two_subnets),
    both("mads_lost_and_late", lost_and_late),
    both("verbs_programs_over_infiniband", verbs),
    both("srp_and_nvme_over_infiniband", storage),
];

/// The LID of a port.
fn lid(hca: &str, port: u8) -> Result<String> {
    let device = device(hca)?;
    sh(&format!("printf %d $(cat /sys/class/infiniband/{device}/ports/{port}/lid)"))
}

/// That the lab is what the tests take it for.
fn diagnostics(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 2, &[])?;
    let b = plug("b", 2, &[])?;
    subnet_manager(bed, "a")?;
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
        (&format!("ibportstate {to} 1 query"), "LinkState:.......................Active"),
        (
            &format!(
                "ibping -S -C {b} & trap \"kill $!\" EXIT
                 timeout 90 sh -c 'until ibping -C {a} -c 1 {to} | grep -q \"1 received\"; do :; done'
                 ibping -C {a} -c 5 {to}"
            ),
            "5 received, 0% packet loss",
        ),
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
    // So can a port of the switch be shut by hand.
    let far = sh(&format!("ibportstate {to} 1 query | sed -n 's/^LinkState:\\.*//p'"))?;
    ensure!(far == "Active", "the port is {far}");
    let of_b = guid("b", 1)?;
    let port = sh(&format!(
        "ibnetdiscover | sed -n 's/^\\[\\([0-9]*\\)\\].*\"\\[1\\]({}) .*/\\1/p'",
        of_b.trim_start_matches('0')
    ))?;
    ensure!(!port.is_empty(), "no port of the switch leads to {of_b}");
    for (order, state) in [("disable", "DOWN"), ("enable", "ACTIVE")] {
        sh(&format!("ibportstate {switch} {port} {order}"))?;
        wait_for(&format!("port 1 is {state} after '{order}'"), || {
            Ok(sh(&format!("cat /sys/class/infiniband/{b}/ports/1/state"))?.contains(state))
        })?;
    }
    // What opens issm is seen as a subnet manager by all, while it has it open.
    let caps = sh(&format!("cat /sys/class/infiniband/{a}/ports/1/cap_mask"))?;
    let caps = u32::from_str_radix(caps.trim_start_matches("0x"), 16)?;
    ensure!(caps & 2 != 0, "IsSM is not set: {caps:#x}");
    Ok(())
}

/// The one with the higher priority takes over, and when it is gone the other takes back.
fn hand_over(bed: &mut Bed) -> Result<()> {
    sh("modprobe ib_umad")?;
    let options = "/run/lab-opensm.conf";
    bed.file(options, "sminfo_polling_timeout 500\npolling_retry_number 2\nsweep_interval 1\n")?;
    let start = |unit: &str, hca: &str, priority: u8| -> Result<()> {
        sh(&format!(
            "mkdir -p /run/{unit}
             systemd-run -q --unit={unit} --collect -p KillSignal=SIGKILL -E OSM_CACHE_DIR=/run/{unit} \
                 opensm -F {options} -p {priority} -g 0x{} -f /run/{unit}/log",
            guid(hca, 1)?
        ))?;
        Ok(())
    };
    let master = |hca: &str| -> Result<()> {
        let guid = guid(hca, 1)?;
        wait_for(&format!("the subnet manager of '{hca}' is master"), || {
            let said =
                sh("timeout 5 sminfo -C $(ls /sys/class/infiniband | head -1) -P 1 || true")?;
            Ok(said.contains(guid.trim_start_matches('0')) && said.contains("SMINFO_MASTER"))
        })
    };
    plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    // It is killed.
    bed.provokes("lab-sm-high.service");
    bed.stop_later("lab-sm-low.service");
    bed.stop_later("lab-sm-high.service");
    start("lab-sm-low", "a", 1)?;
    master("a")?;
    start("lab-sm-high", "b", 14)?;
    master("b")?;
    sh("systemctl stop lab-sm-high.service")?;
    master("a")
}

/// Ports on another switch are in another subnet.
fn two_subnets(bed: &mut Bed) -> Result<()> {
    sh(&format!(
        "modprobe vhca; mountpoint -q /sys/kernel/config || mount -t configfs c /sys/kernel/config; mkdir {VHCA}/switches/other"
    ))?;
    let outcome = two_subnets_with(bed);
    for hca in ["a", "b"] {
        sh(&format!("[ ! -e {VHCA}/hcas/{hca} ] || rmdir {VHCA}/hcas/{hca}"))?;
    }
    sh(&format!("rmdir {VHCA}/switches/other"))?;
    outcome
}

fn two_subnets_with(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 2, &[("port2/switch", "other")])?;
    plug("b", 2, &[("port2/switch", "other")])?;
    sh("modprobe ib_umad; udevadm settle")?;
    sh(&format!(
        "mkdir -p /run/lab-other
         systemd-run -q --unit=lab-other --collect -p KillSignal=SIGKILL -E OSM_CACHE_DIR=/run/lab-other \
             opensm -s 1 -g 0x{} -f /run/lab-other/log",
        guid("a", 2)?
    ))?;
    bed.stop_later("lab-other.service");
    subnet_manager(bed, "a")?;
    for port in [1, 2] {
        let nodes = sh(&format!("ibnetdiscover -l -C {a} -P {port}"))?;
        ensure!(nodes.matches("Switch").count() == 1, "port {port} sees {nodes}");
        // Others beside are on the first.
        let hcas = nodes.matches("Ca\t").count();
        ensure!(hcas == 2 || port == 1 && beside()?, "port {port} sees {nodes}");
        ensure!(nodes.contains("switch other") == (port == 2), "port {port} sees {nodes}");
    }
    Ok(())
}

/// A port can be told to lose management datagrams, and to send them late.
fn lost_and_late(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "b")?;
    let lid = lid("b", 1)?;
    // Long enough for a slow machine, or not, where nothing is to come.
    let ask = format!("smpquery -C {a} -t 3000 nodeinfo {lid} >/dev/null 2>&1");
    let ask_in_vain = format!("smpquery -C {a} -t 200 nodeinfo {lid} >/dev/null 2>&1");
    let set = |file: &str, value: &str| fs::write(format!("{VHCA}/hcas/a/port1/{file}"), value);
    sh(&ask)?;
    set("drop", "1000000")?;
    ensure!(sh(&ask_in_vain).is_err(), "an answer to what was lost");
    set("drop", "0")?;
    sh(&ask)?;
    set("delay_ms", "150")?;
    let start = Instant::now();
    sh(&ask)?;
    // Not a measurement: it cannot be sooner.
    ensure!(start.elapsed() >= Duration::from_millis(150), "an answer to what is still held back");
    // With some of them under way the HCA goes all the same.
    live("a", false)
}

fn verbs(bed: &mut Bed) -> Result<()> {
    sh("modprobe -a rdma_ucm ib_ipoib")?;
    let (a, b) = (plug("a", 1, &[])?, plug("b", 1, &[])?);
    subnet_manager(bed, "a")?;
    for kind in ["rc", "uc", "ud", "srq"] {
        sh(&format!(
            "timeout 90 ibv_{kind}_pingpong -d {a} -n 200 >/dev/null &
             timeout 90 sh -c 'until ss -ltn | grep -q :18515; do sleep 0.1; done'
             timeout 90 ibv_{kind}_pingpong -d {b} -n 200 127.0.0.1 >/dev/null && wait $!"
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
        sh("set -e
            peer() { timeout 90 ip netns exec lab-peer \"$@\"; }
            ping -q -c 5 -i 0.2 -s 1900 10.9.0.2
            listens() {
                timeout 90 sh -c 'until rdma resource show cm_id | grep -q LISTEN; do sleep 0.1; done'
            }
            timeout 90 rping -s -a 10.9.0.1 -C 5 & listens
            peer rping -c -a 10.9.0.1 -C 5; wait $!
            timeout 90 stdbuf -oL udaddy -b 10.9.0.1 & listens
            peer stdbuf -oL udaddy -s 10.9.0.1; wait $!
            timeout 90 stdbuf -oL mckey -m 239.9.9.9 -b 10.9.0.1 >/run/lab/mckey & receiver=$!
            timeout 90 sh -c 'until grep -q joined /run/lab/mckey; do sleep 0.1; done'
            # The group is told that it has joined before opensm has shown the switch the way.
            while kill -0 $receiver 2>/dev/null; do peer mckey -m 239.9.9.9 -b 10.9.0.2 -s; done
            wait $receiver
            grep 'return status 0' /run/lab/mckey")
    });
    sh("ip netns delete lab-peer")?;
    outcome.map(drop)
}

/// What is written to an SRP disk and to an NVMe namespace comes back. The initiator's HCA is pulled during an
/// SRP session, the target's with its services on.
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
         modprobe -a ib_srp nvmet_rdma nvme_rdma
         {LUN}
         lun {target} 0000000000000000{initiator}
         truncate -s 16M /run/lab/namespace
         printf 'a dgid=fe80000000000000%s\nd\n' {target} >/run/lab/srp.conf
         srp_daemon -o -e -j {a}:1 -f /run/lab/srp.conf
         same /dev/sda
         cd /sys/kernel/config/nvmet
         mkdir subsystems/lab; echo 1 >subsystems/lab/attr_allow_any_host
         mkdir subsystems/lab/namespaces/1
         echo -n /run/lab/namespace >subsystems/lab/namespaces/1/device_path
         # tmpfs of 6.1 has no direct I/O.
         echo 1 >subsystems/lab/namespaces/1/buffered_io
         echo 1 >subsystems/lab/namespaces/1/enable
         mkdir ports/1; echo rdma >ports/1/addr_trtype; echo ipv4 >ports/1/addr_adrfam
         echo 10.9.3.1 >ports/1/addr_traddr; echo 4420 >ports/1/addr_trsvcid
         ln -s $PWD/subsystems/lab ports/1/subsystems/lab
         nvme connect -t rdma -a 10.9.3.1 -s 4420 -n lab -i 2
         same /dev/nvme0n1"
    ))
    .and_then(|_| {
        sh("nvme disconnect -n lab")?;
        live("a", false)?;
        wait_for("the SRP disk goes with its HCA", || Ok(!Path::new("/dev/sda").exists()))?;
        live("b", false)
    });
    sh(&format!(
        "nvme disconnect -n lab 2>/dev/null
         cd /sys/kernel/config/nvmet
         rm -f ports/1/subsystems/lab; rmdir ports/1 subsystems/lab/namespaces/1 subsystems/lab
         rm -f /run/lab/srp.conf /run/lab/namespace
         rmmod nvme_rdma; rmmod nvmet_rdma
         {LUN} no_lun"
    ))?;
    outcome
}
