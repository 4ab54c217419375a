// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module lists: what is loaded, when, and what is not.

use anyhow::{Result, ensure};

use super::bed::{Bed, LeftOut, beside, plug, sh, unit_state, unplug, wait_active, wait_for};
use super::{Test, better, both};

pub(crate) const TESTS: &[Test] = &[
    both("a_missing_module_is_one_warning", missing),
    both("a_blacklisted_module_is_not_loaded", blacklisted),
    better("lists_are_loaded_again_on_replug", "D21: the unit stays active for ever", replug),
    better("lists_are_loaded_again_after_an_edit", "D21: nothing watches the lists", edited),
    better("nothing_to_load_starts_no_process", "systemd-modules-load is another program", idle),
    better("dry_run_and_explain", "rdma-core cannot explain", explain),
    better("servers_get_their_transport_when_asked", "rdma-core loads them for everybody", servers),
];

const LOADER: &str = "/usr/libexec/rdma/rdma-load-modules";

fn loaded(module: &str) -> bool {
    std::fs::read_to_string(format!("/sys/module/{module}/initstate"))
        .is_ok_and(|s| s.trim() == "live")
}

fn missing(bed: &mut Bed) -> Result<()> {
    bed.provokes("no_such_module");
    // Both read this file: in ours it stands for a list whose name is in nobody's defaults.
    let list = sh("cat /etc/rdma/modules/roce.conf")?;
    bed.file("/etc/rdma/modules/lab.conf", &format!("{list}\nno_such_module\n8021q\n"))?;
    sh("modprobe -r 8021q 2>/dev/null; systemctl start rdma-load-modules@lab.service")?;
    ensure!(unit_state("rdma-load-modules@lab.service") != "failed", "the unit failed");
    ensure!(loaded("8021q"), "the module after the missing one is not loaded");
    let told = bed.journal("")?.lines().filter(|l| l.contains("no_such_module")).count();
    // Beside other devices the lists are watched, and it is loaded again for the edit just made.
    ensure!(told == 1 || told == 2 && beside()?, "{told} lines about one missing module");
    Ok(())
}

fn blacklisted(bed: &mut Bed) -> Result<()> {
    sh("modprobe -r ib_iser")?;
    bed.file("/etc/modprobe.d/lab.conf", "blacklist ib_iser\n")?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    wait_active("rdma-hw.target")?;
    wait_active("rdma-load-modules@rdma.service")?;
    ensure!(!loaded("ib_iser"), "a blacklisted module is loaded");
    ensure!(loaded("rdma_ucm"), "the others are not loaded");
    Ok(())
}

fn replug(bed: &mut Bed) -> Result<()> {
    ensure!(
        !beside()?,
        LeftOut("the list of all devices goes with the last, and there are others")
    );
    plug("rxe", "rxe0", &bed.nics[0])?;
    wait_active("rdma-load-modules@rdma.service")?;
    unplug("rxe0")?;
    wait_for("the unit goes with the device", || {
        Ok(unit_state("rdma-load-modules@rdma.service") != "active")
    })?;
    sh("modprobe -r ib_iser")?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    wait_for("ib_iser is loaded again", || Ok(loaded("ib_iser")))
}

fn edited(bed: &mut Bed) -> Result<()> {
    sh("modprobe -r 8021q 2>/dev/null || true")?;
    plug("rxe", "rxe0", &bed.nics[0])?;
    wait_active("rdma-hw.target")?;
    wait_active("rdma-load-modules.path")?;
    ensure!(!loaded("8021q"), "8021q is loaded already");
    let list = "/etc/rdma/modules/roce.conf";
    let before = std::fs::read_to_string(list)?;
    std::fs::write(list, format!("{before}\n8021q\n"))?;
    let outcome = wait_for("8021q is loaded after the edit", || Ok(loaded("8021q")));
    std::fs::write(list, before)?;
    outcome
}

fn idle(bed: &mut Bed) -> Result<()> {
    plug("rxe", "rxe0", &bed.nics[0])?;
    wait_active("rdma-load-modules@rdma.service")?;
    let started =
        sh(&format!("strace -f -qq -e trace=execve {LOADER} rdma roce 2>&1 | grep -c execve"))?;
    ensure!(started == "1", "{started} programs were run to load nothing");
    Ok(())
}

fn explain(bed: &mut Bed) -> Result<()> {
    sh("modprobe -r ib_iser")?;
    bed.file("/etc/modprobe.d/lab.conf", "blacklist ib_iser\n")?;
    let text = sh(&format!("{LOADER} --explain ib_iser"))?;
    for part in ["/etc/rdma/modules/rdma.conf", "blacklist", "/etc/modprobe.d/lab.conf"] {
        ensure!(text.contains(part), "--explain does not say '{part}': {text}");
    }
    sh(&format!("{LOADER} --dry-run rdma"))?;
    ensure!(!loaded("ib_iser"), "--dry-run loaded a module");
    Ok(())
}

fn servers(bed: &mut Bed) -> Result<()> {
    let asked = [
        ("nfs-server", "/etc/nfs.conf", "[nfsd]\nrdma=y\n", "rpcrdma"),
        (
            "rtslib-fb-targetctl",
            "/etc/rtslib-fb-target/saveconfig.json",
            r#"{"fabric_modules": [], "storage_objects": [], "targets": [{"fabric": "srpt", "wwn": "ib.fe80"}]}"#,
            "ib_srpt",
        ),
        (
            "nvmet",
            "/etc/nvmet/config.json",
            r#"{"ports": [{"addr": {"trtype": "rdma", "traddr": "10.0.0.1"}, "portid": 1}]}"#,
            "nvmet_rdma",
        ),
    ];
    for (service, config, text, module) in asked {
        let start = format!("systemctl restart {service}.service");
        bed.file(
            &format!("/run/systemd/system/{service}.service"),
            "[Service]\nType=oneshot\nExecStart=/bin/true\n",
        )?;
        sh(&format!("modprobe -r {module}; rm -f {config}; {start}"))?;
        ensure!(!loaded(module), "{module} is loaded though {config} does not ask for it");
        bed.file(config, text)?;
        sh(&start)?;
        ensure!(loaded(module), "{module} is not loaded though {config} asks for it");
        sh(&format!("modprobe -r {module}"))?;
    }
    Ok(())
}
