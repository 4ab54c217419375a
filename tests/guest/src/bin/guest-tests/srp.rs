// SPDX-License-Identifier: MIT OR Apache-2.0
//! SRP targets (the kernel's `ib_srpt`) and who finds them.

use std::fs;

use anyhow::{Result, ensure};

use super::bed::{Bed, node, sh, wait_for};
use super::hca::{VHCA, plug, subnet_manager};
use super::rdmactl::status;
use super::{Test, better};

pub(crate) const TESTS: &[Test] = &[
    better("ibsrpdm_finds_what_debians_finds", "nothing of ours is there to compare", same),
    better("ibsrpdm_passes_over_the_silent", "one silent port costs 5 s, and is not told", silent),
];

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
