// SPDX-License-Identifier: MIT OR Apache-2.0
//! SRP targets (the kernel's `ib_srpt`) and who finds them.

use std::fs;

use anyhow::{Result, ensure};

use super::bed::{Bed, node, sh, wait_for};
use super::hca::{VHCA, plug, subnet_manager};
use super::rdmactl::status;
use super::{Test, better, both};

pub(crate) const TESTS: &[Test] = &[
    both("ibsrpdm_finds_what_debians_finds", same),
    better("srp_daemon_once_says_what_debians_says", "a bad rule ends it with status 1", once),
    better("srp_daemon_logs_in_once", "S16: what ib_srp answers is lost", login),
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
        until [ -b $1 ]; do sleep 0.1; done
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
