// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that can be missing, refused or garbled: one clear message, and the device works on
//! under its kernel name.

use std::process::{Command, Output};

use anyhow::{Result, ensure};

use super::bed::{
    Bed, Boot, LeftOut, beside, device_property, devices, plug, sh, unit_state, wait_active,
};
use super::{Test, better};

const NONE: &str = "rdma-core has neither the configuration nor the helper";

pub(crate) const TESTS: &[Test] = &[
    better("config_not_toml", NONE, not_toml),
    better("config_is_a_directory", NONE, is_a_directory),
    better("config_with_wrong_types", NONE, wrong_types),
    better("module_list_of_garbage", NONE, garbage_list),
    better("helper_without_ib_core", NONE, no_ib_core),
    better("helper_without_permission", NONE, no_permission),
    better("helper_device_gone", NONE, gone),
    better("helper_usage_errors", NONE, usage),
    better("rdma_rename_usage_error_is_not_a_crash", "D4: -v NAME crashes", rename_usage),
];

const HELPER: &str = "/usr/lib/udev/rdma-udev-helper";
const CONFIG: &str = "/etc/rdma/rdma.toml.d/90-lab.toml";

/// Plugs a device and checks that it works under its kernel name, and that exactly one warning
/// of each program that reads it names the culprit.
fn still_works(bed: &mut Bed, culprit: &'static str) -> Result<()> {
    bed.provokes(culprit);
    plug("rxe", "rxe0", &bed.nics[0])?;
    ensure!(devices()? == "rxe0", "the device lost its name");
    ensure!(device_property("rxe0", "ID_RDMA_ROCE")? == "1", "no identity");
    wait_active("rdma-hw.target")?;
    if bed.boot == Boot::Ours {
        sh("systemctl start rdmad.service")?;
    }
    let said = |of: &str| -> Result<usize> {
        let log = bed.journal(&format!("-p warning {of}"))?;
        Ok(log.lines().filter(|line| line.contains(culprit)).count())
    };
    let (all, rdmad, ndd) = (said("")?, said("-u rdmad.service")?, said("-u rdma-ndd.service")?);
    ensure!(
        all - rdmad - ndd == 1 && rdmad <= 1 && ndd <= 1,
        "{all} warnings name '{culprit}', {rdmad} of rdmad, {ndd} of rdma-ndd"
    );
    Ok(())
}

fn not_toml(bed: &mut Bed) -> Result<()> {
    bed.file(CONFIG, "[naming\npolicy = \u{1}\n")?;
    still_works(bed, "90-lab.toml")
}

fn is_a_directory(bed: &mut Bed) -> Result<()> {
    sh(&format!("mkdir -p {CONFIG}"))?;
    bed.remove_later(CONFIG);
    still_works(bed, "90-lab.toml")
}

fn wrong_types(bed: &mut Bed) -> Result<()> {
    bed.file(CONFIG, "[naming]\npolicy = 7\n")?;
    still_works(bed, "90-lab.toml")
}

fn garbage_list(bed: &mut Bed) -> Result<()> {
    bed.provokes("lab.conf");
    bed.file("/etc/rdma/modules/lab.conf", "../../etc/passwd\n\u{7f}\u{0}\u{1}\n8021q\n")?;
    sh("systemctl start rdma-load-modules@lab.service")?;
    ensure!(unit_state("rdma-load-modules@lab.service") != "failed", "the unit failed");
    let log = bed.journal("-p warning")?;
    ensure!(log.matches("lab.conf").count() == 2, "not one warning for each bad line: {log}");
    ensure!(sh("cat /sys/module/8021q/initstate")? == "live", "the good line was lost");
    Ok(())
}

/// A kernel whose ib_core cannot be loaded.
fn no_ib_core(bed: &mut Bed) -> Result<()> {
    ensure!(!beside()?, LeftOut("other devices keep ib_core in the kernel"));
    bed.file("/etc/modprobe.d/lab.conf", "install ib_core /bin/false\n")?;
    sh("for i in 1 2 3 4 5 6 7 8; do
            for m in $(ls /sys/module | grep -E '^(ib|iw|rds)_|rdma|siw|vhca'); do rmmod $m 2>/dev/null; done
        done
        [ ! -e /sys/module/ib_core ] || { lsmod; exit 1; }")?;
    let output = helper(&["device", "mlx5_0"])?;
    says(&output, &["ib_core"])
}

fn no_permission(bed: &mut Bed) -> Result<()> {
    plug("rxe", "rxe0", &bed.nics[0])?;
    let index = device_property("rxe0", "ID_RDMA_INDEX")?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups", HELPER, "rename", &index])
        .output()?;
    ensure!(output.status.code() == Some(77), "exit status {}, not 77", output.status);
    says(&output, &["ermission"])
}

fn gone(_: &mut Bed) -> Result<()> {
    sh("modprobe rdma_rxe")?;
    let output = helper(&["device", "mlx5_77"])?;
    // Nothing is known of it, and nothing is to be started for it.
    ensure!(output.stdout == b"SYSTEMD_READY=0\n", "properties of a device that does not exist");
    says(&output, &["mlx5_77"])
}

fn usage(_: &mut Bed) -> Result<()> {
    for arguments in [&["nonsense"][..], &[][..], &["device"][..], &["rename", "x"][..]] {
        let output = helper(arguments)?;
        ensure!(output.status.code() == Some(2), "{arguments:?}: exit status {}", output.status);
        says(&output, &[])?;
    }
    Ok(())
}

fn rename_usage(_: &mut Bed) -> Result<()> {
    let output = Command::new("/usr/lib/udev/rdma_rename").args(["-v", "mlx5_0"]).output()?;
    ensure!(output.status.code() == Some(1), "exit status {}", output.status);
    Ok(())
}

fn helper(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(HELPER).args(arguments).output()?)
}

/// The program ended by itself with one line that has all the words.
fn says(output: &Output, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code().is_some(), "it crashed: {}", output.status);
    ensure!(said.lines().count() == 1, "not one line: {said}");
    for word in words {
        ensure!(said.contains(word), "the message does not say '{word}': {said}");
    }
    Ok(())
}
