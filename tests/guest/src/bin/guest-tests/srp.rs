// SPDX-License-Identifier: MIT OR Apache-2.0
//! SRP targets (the kernel's `ib_srpt`) and who finds them.

use std::fs;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::bed::{Bed, Boot, node, sh, wait_for};
use super::hca::{VHCA, device, live, plug, subnet_manager};
use super::rdmactl::status;
use super::{Test, better, both};

pub(crate) const TESTS: &[Test] = &[
    both("ibsrpdm_finds_what_debians_finds", same),
    better("srp_daemon_once_says_what_debians_says", "a bad rule ends it with status 1", once),
    better("srp_daemon_logs_in_once", "S16: what ib_srp answers is lost", login),
    both("ibsrpdm_finds_many_targets", many),
    better("srp_scan_is_not_held_up_by_the_silent", "S1: it asks one after the other", silent_ones),
    better("srp_targets_that_cannot_be_believed", "S11: names become keys for ib_srp", hostile),
    better("srp_scan_asks_again_when_datagrams_are_lost", "S1: it never asks again", lost),
    better("srp_scan_ends_with_its_hca", "36256b81b: it asks on, and says nothing", unplugged),
    better("ibsrpdm_needs_no_verbs", "S15: it makes a queue pair that it does not use", no_verbs),
    better("srp_daemon_is_for_infiniband", "9943468d8: it does not say so", ethernet),
    better(
        "umad_is_loaded_when_it_is_asked_for",
        "its ibacm keeps ib_umad from the start",
        unloaded,
    ),
    better("ibsrpdm_passes_over_the_silent", "S1: who is silent is not told of", silent),
];

/// Shell functions: a LUN on a port, given by its GUID, for one initiator; whether what is written to a disk is what is
/// read from it; no target port any more; and neither LUNs nor anything else of SRP.
pub(crate) const LUN: &str = r#"
    lun() {
        modprobe -a ib_srpt target_core_file sd_mod
        truncate -s 16M /run/lab/disk
        dd if=/dev/urandom of=/run/lab/data bs=1M count=4 2>/dev/null
        disk=/sys/kernel/config/target/core/fileio_0/disk
        port=/sys/kernel/config/target/srpt/0xfe80000000000000$1/0xfe80000000000000$1
        mkdir -p $disk
        if [ "$(cat $disk/enable)" = 0 ]; then
            echo fd_dev_name=/run/lab/disk,fd_dev_size=16777216 >$disk/control
            echo 1 >$disk/enable
        fi
        mkdir -p $port; mkdir $port/lun/lun_0 $port/acls/0x$2
        ln -s $disk $port/lun/lun_0/disk
        mkdir $port/acls/0x$2/lun_0
        ln -s $port/lun/lun_0 $port/acls/0x$2/lun_0/lun
        echo 1 >$port/enable
    }
    same() {
        n=0; until [ -b $1 ]; do n=$((n+1)); [ $n -lt 300 ] || { ls /dev; return 1; }; sleep 0.1; done
        dd if=/run/lab/data of=$1 bs=1M oflag=direct 2>/dev/null
        dd if=$1 bs=1M count=4 iflag=direct 2>/dev/null | cmp - /run/lab/data
    }
    no_port() {
        for t in /sys/kernel/config/target/srpt/0x*/0x*; do
            echo 0 >$t/enable; rm -f $t/acls/*/lun_0/lun; rmdir $t/acls/*/lun_0 $t/acls/0x*
            rm -f $t/lun/lun_0/disk; rmdir $t/lun/lun_0 $t ${t%/*}
        done
    }
    no_lun() {
        for r in /sys/class/srp_remote_ports/*/delete; do [ ! -e $r ] || echo 1 >$r; done
        no_port
        cd /sys/kernel/config/target
        rmdir srpt core/fileio_0/disk core/fileio_0
        rm -f /run/lab/disk /run/lab/data
        for m in ib_srp ib_srpt target_core_file; do rmmod $m; done; udevadm settle
        [ ! -e /sys/module/ib_srpt ] || { lsmod; exit 1; }
    }
"#;

const OURS: &str = "/usr/sbin/ibsrpdm";
/// Debian's, which lies beside where ours is installed.
const THEIRS: &str = "/usr/lib/lab/peers/ibsrpdm";

/// Two HCAs whose ports are targets; it goes with the test.
fn targets(bed: &mut Bed) -> Result<(String, String)> {
    let (a, b) = (plug("a", 2, &[])?, plug("b", 1, &[])?);
    subnet_manager(bed, "a")?;
    sh("modprobe ib_srpt; udevadm settle")?;
    wait_for("every port says that it has device management", || {
        let masks = sh("cat /sys/class/infiniband/*/ports/*/cap_mask")?;
        let bit = |mask: &str| u32::from_str_radix(mask.trim_start_matches("0x"), 16).unwrap_or(0);
        Ok(masks.lines().all(|mask| bit(mask) & 1 << 19 != 0))
    })?;
    Ok((a, b))
}

fn without_targets(outcome: Result<()>) -> Result<()> {
    let removed = sh(
        "udevadm settle; rmmod ib_srpt target_core_mod 2>/dev/null; [ ! -e /sys/module/ib_srpt ]",
    );
    outcome.and(removed.map(drop))
}

fn same(bed: &mut Bed) -> Result<()> {
    bed.provokes("Unable to load target_core");
    let (a, _) = targets(bed)?;
    let umad = format!("-d /dev/infiniband/{}", node("infiniband_mad", &a)?);
    let outcome = ["-c", ""].iter().try_for_each(|options| -> Result<()> {
        let [ours, theirs] =
            [OURS, THEIRS].map(|program| sh(&format!("{program} {options} {umad}")));
        let (ours, theirs) = (ours?, theirs?);
        let found = theirs.lines().filter(|l| l.contains("id_ext=") || l.contains("SRP.T10:"));
        ensure!(found.count() == 3, "Debian's finds {theirs}");
        ensure!(ours == theirs, "ibsrpdm {options}: ours says\n{ours}\nand theirs\n{theirs}");
        Ok(())
    });
    without_targets(outcome)
}

/// With each option that says something of the line, and with rules.
fn once(bed: &mut Bed) -> Result<()> {
    bed.provokes("Unable to load target_core");
    let (a, _) = targets(bed)?;
    let gid = format!("fe80000000000000{}", super::hca::guid("b", 1)?);
    bed.file(
        "/run/lab/srp.conf",
        &format!("# Some.\na dgid={gid},max_sect=65535,queue_size=4\nd pkey=7fff\na id_ext=0\nd\n"),
    )?;
    let outcome = ["", "-n", "-f /run/lab/srp.conf", "-f /run/lab/srp.conf -n -a"]
        .iter()
        .try_for_each(|options| -> Result<()> {
            let command = |program: &str| format!("{program}/srp_daemon -o -c -j {a}:1 {options}");
            let (ours, theirs) = (sh(&command("/usr/sbin"))?, sh(&command("/usr/lib/lab/peers"))?);
            let expected = if options.contains("-f") { 1 } else { 3 };
            ensure!(theirs.lines().count() == expected, "Debian's says {theirs}");
            ensure!(ours == theirs, "{options}: ours says\n{ours}\nand theirs\n{theirs}");
            Ok(())
        });
    bed.file("/run/lab/srp.conf", "d color=1\n")?;
    let wrong = status("srp_daemon -o -c -f /run/lab/srp.conf")?;
    let named = wrong.0 == 78 && wrong.1.contains("/run/lab/srp.conf:1: 'color' is not known");
    without_targets(outcome)?;
    ensure!(named, "{wrong:?}");
    Ok(())
}

/// Targets that have not been told of this initiator refuse it; that is said, and why.
fn login(bed: &mut Bed) -> Result<()> {
    for part in ["Unable to load target_core", "ib_srp", "srpt", "scsi host", "REJ"] {
        bed.provokes(part);
    }
    let (a, _) = targets(bed)?;
    sh("modprobe ib_srp; udevadm settle")?;
    let refused = status(&format!("srp_daemon -o -e -j {a}:1"));
    let outcome = sh("rmmod ib_srp").map(drop);
    without_targets(outcome)?;
    let (code, text) = refused?;
    ensure!(
        code == 1 && text.contains("cannot log in to id_ext=") && text.contains("refused"),
        "{code}: {text}"
    );
    let (code, text) = status(&format!("srp_daemon -o -e -j {a}:1"))?;
    ensure!(code == 1 && text.contains("is ib_srp loaded?"), "{code}: {text}");
    Ok(())
}

const TARGET: &str = "lab-target.service";

/// Has an HCA answer device management; see dm-target. What was there before goes.
pub(crate) fn target(bed: &mut Bed, hca: &str, what: &str) -> Result<()> {
    let umad = node("infiniband_mad", &device(hca)?)?;
    sh(&format!(
        "systemctl stop {TARGET} 2>/dev/null
         systemd-run -q --unit={TARGET} --collect -p Type=notify /usr/lib/lab/dm-target /dev/infiniband/{umad} {what}"
    ))?;
    bed.stop_later(TARGET);
    fs::write(format!("{VHCA}/hcas/{hca}/port1/device_management"), "1")?;
    wait_for("subnet administration knows of it", || {
        let of = sh(&format!("cat /sys/class/infiniband/{}/ports/1/lid", device(hca)?))?;
        let mask = sh(&format!(
            "saquery PIR $(({of})) | sed -n 's/.*[Cc]ap[a-z_]*[Mm]ask[^x]*0x//p' | head -1"
        ))?;
        Ok(u32::from_str_radix(mask.trim(), 16).unwrap_or(0) & 1 << 19 != 0)
    })
}

/// 1, 16 and 200 of them.
fn many(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "b")?;
    let umad = format!("-d /dev/infiniband/{}", node("infiniband_mad", &a)?);
    for (what, count) in [("1 1", 1), ("4 4", 16), ("50 4", 200)] {
        target(bed, "b", what)?;
        for command in [format!("ibsrpdm -c {umad}"), format!("srp_daemon -o -c -j {a}:1")] {
            let (ours, theirs) = (
                sh(&format!("/usr/sbin/{command}"))?,
                sh(&format!("/usr/lib/lab/peers/{command} 2>/dev/null"))?,
            );
            ensure!(theirs.lines().count() == count, "{command}: Debian's says {theirs}");
            ensure!(ours == theirs, "{command}: ours says\n{ours}\nand theirs\n{theirs}");
        }
    }
    Ok(())
}

/// 200 targets over 4 P_Keys, each 20th of them silent. With `LAB_SILENT_MS=5000` as long as by default.
fn silent_ones(bed: &mut Bed) -> Result<()> {
    ensure!(bed.boot == Boot::Ours, "it takes as long as all silent ones together");
    let partition = |n: u32| format!("lab{n}=0x{n:04x} : ALL=full ;\n");
    let partitions: String = (1..=3).map(partition).collect();
    bed.file("/etc/opensm/partitions.conf", &format!("Default=0x7fff : ALL=full ;\n{partitions}"))?;
    // Debian's, of who is silent.
    for part in ["umad_recv from", "bad MAD status", "failed to get"] {
        bed.provokes(part);
    }
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "b")?;
    wait_for("it has four P_Keys", || {
        let pkeys =
            sh(&format!("cat /sys/class/infiniband/{a}/ports/1/pkeys/* | grep -vc 0x0000"))?;
        Ok(pkeys == "4")
    })?;
    target(bed, "b", "200 1 20")?;
    let timeout = std::env::var("LAB_SILENT_MS").unwrap_or_else(|_| "1000".to_owned());
    let packets = || -> Result<u64> {
        let file = format!("/sys/class/infiniband/{a}/ports/1/counters/port_xmit_packets");
        Ok(sh(&format!("cat {file}"))?.parse()?)
    };
    let mut took = Vec::new();
    for program in ["/usr/sbin", "/usr/lib/lab/peers"] {
        let (before, start) = (packets()?, Instant::now());
        let found = sh(&format!("{program}/srp_daemon -o -c -j {a}:1 -t {timeout} 2>/dev/null"))?;
        let (milliseconds, sent) = (start.elapsed().as_millis(), packets()? - before);
        println!(
            "{program}: {} lines in {milliseconds} ms, {sent} datagrams",
            found.lines().count()
        );
        took.push((found, milliseconds, sent));
    }
    println!("ratio {:.1}", took[1].1 as f64 / took[0].1 as f64);
    ensure!(took[0].0.lines().count() == 760, "it has found {}", took[0].0.lines().count());
    // After some silence Debian's passes over answers.
    let more = took[1].0.lines().find(|line| !took[0].0.contains(line));
    ensure!(more.is_none(), "Debian's has found {more:?}");
    ensure!(took[0].1 < took[1].1, "it is slower than theirs");
    // One for what it can do, one for who there is, one for the way over each P_Key; theirs asks for the node, too.
    let asked = sh(&format!("srp_daemon -o -v -j {a}:1 -t {timeout} 2>&1 | grep questions"))?;
    ensure!(asked.ends_with("was asked 6 questions"), "{asked}");
    Ok(())
}

/// What is written for ib_srp has the keys that it should have, whatever a target says; and it comes to an end.
fn hostile(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "b")?;
    for what in ["4 3 0 hostile", "8 4 0 wrong", "2 2 0 late"] {
        target(bed, "b", what)?;
        let (code, text) = status(&format!("timeout 100 srp_daemon -o -c -j {a}:1 -t 1000"))?;
        ensure!(code == 0, "{what}: {code} {text}");
        for line in text.lines() {
            let keys: Vec<&str> =
                line.split(',').filter_map(|item| Some(item.split_once('=')?.0)).collect();
            let good = ["id_ext", "ioc_guid", "dgid", "pkey", "service_id"];
            ensure!(keys.starts_with(&good) && keys.len() <= 7, "{what}: {line}");
            ensure!(keys.iter().filter(|key| **key == "dgid").count() == 1, "{what}: {line}");
        }
        if what.contains("late") {
            ensure!(text.lines().count() == 4, "{what}: {text}");
        }
        let people =
            sh(&format!("timeout 100 ibsrpdm -d /dev/infiniband/{}", node("infiniband_mad", &a)?))?;
        ensure!(!people.contains('\u{1b}'), "{what}: {people}");
    }
    Ok(())
}

/// The first two datagrams that a target is sent are lost.
fn lost(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "a")?;
    target(bed, "b", "4 4")?;
    fs::write(format!("{VHCA}/hcas/b/port1/drop"), "2")?;
    let found = sh(&format!("timeout 100 srp_daemon -o -c -j {a}:1"))?;
    ensure!(found.lines().count() == 16, "of 16 targets it has found {found}");
    Ok(())
}

/// Its HCA is pulled while it asks a target that takes its time.
fn unplugged(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "b")?;
    target(bed, "b", "60 4 0 late")?;
    sh(&format!(
        "rm -f /run/lab/said; (timeout 100 srp_daemon -o -c -j {a}:1 >/run/lab/said 2>&1
         echo status $? >>/run/lab/said) >/dev/null 2>&1 &
         sleep 1"
    ))?;
    ensure!(sh("cat /run/lab/said")?.is_empty(), "it had ended: {}", sh("cat /run/lab/said")?);
    live("a", false)?;
    wait_for("it ends", || Ok(sh("cat /run/lab/said")?.contains("status")))?;
    let said = sh("cat /run/lab/said")?;
    ensure!(
        said.contains("status 1") && said.contains(&format!("RDMA device '{a}' has gone")),
        "{said}"
    );
    Ok(())
}

/// It may use its umad node, and nothing else.
fn no_verbs(bed: &mut Bed) -> Result<()> {
    let a = plug("a", 1, &[])?;
    plug("b", 1, &[])?;
    subnet_manager(bed, "a")?;
    target(bed, "b", "1 1")?;
    let umad = format!("/dev/infiniband/{}", node("infiniband_mad", &a)?);
    let found = sh(&format!(
        "systemd-run -q --pipe --wait -p DevicePolicy=closed -p 'DeviceAllow={umad} rw' /usr/sbin/ibsrpdm -c -d {umad}"
    ))?;
    ensure!(found.lines().count() == 1, "{found}");
    Ok(())
}

fn ethernet(bed: &mut Bed) -> Result<()> {
    super::bed::plug("rxe", "rxe0", &bed.nics[0])?;
    let (code, text) = status("srp_daemon -o -c -j rxe0:1")?;
    ensure!(
        code == 1 && text.contains("port 1 of RDMA device 'rxe0' is not InfiniBand"),
        "{code}: {text}"
    );
    Ok(())
}

/// The kernel loads ib_umad when it is asked for a node.
fn unloaded(_: &mut Bed) -> Result<()> {
    let a = plug("a", 1, &[])?;
    sh("udevadm settle; modprobe -r ib_umad")?;
    let (code, text) = status(&format!("srp_daemon -o -c -j {a}:1"))?;
    ensure!(code == 1 && text.contains("has no subnet manager yet"), "{code}: {text}");
    sh("lsmod | grep ^ib_umad")?;
    Ok(())
}

fn silent(bed: &mut Bed) -> Result<()> {
    bed.provokes("Unable to load target_core");
    let (a, _) = targets(bed)?;
    fs::write(format!("{VHCA}/hcas/b/port1/drop"), "1000000")?;
    let umad = format!("-d /dev/infiniband/{}", node("infiniband_mad", &a)?);
    let (code, text) = status(&format!("{OURS} -c -v {umad}"))?;
    let good = code == 0
        && text.matches("id_ext=").count() == 2
        && text.contains("P_Key 0xffff, I/O unit: no answer");
    let outcome = if good { Ok(()) } else { Err(anyhow::anyhow!("{code}: {text}")) };
    without_targets(outcome)
}
