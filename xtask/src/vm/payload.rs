// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is laid over the image's root for one boot: the suite, the agent, the guest tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Boot, digest, name};
use crate::check::run;
use crate::layout::{Install, Layout};

/// Programs of the lab itself, and where the guest has them.
const LAB: [&str; 14] = [
    "agent",
    "bench-boot",
    "dm-target",
    "path-load",
    "path-responder",
    "guest-tests",
    "listeners",
    "examples/rdma-cost",
    "examples/rdma-devinfo",
    "examples/rdma-events",
    "examples/rdma-ping",
    "examples/rdma-pingpong",
    "examples/rdma-rate",
    "examples/rdma-unplug",
];

const AGENT_UNIT: &str = "[Unit]
Description=Lab agent
DefaultDependencies=no
After=multi-user.target

[Service]
Type=exec
ExecStart=/usr/lib/lab/agent
";

/// Builds what runs in the guest, statically linked, and says where it is.
fn build_programs(repo: &Path) -> Result<PathBuf> {
    let target = repo.join("target/guest");
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--quiet", "--target", "x86_64-unknown-linux-gnu"])
        .args(["--workspace", "--exclude", "xtask", "--bins", "--examples"])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(repo))?;
    Ok(target.join("x86_64-unknown-linux-gnu/release"))
}

/// Builds what is linked dynamically: the library for C with its example, the tests of verbs by the C library, and what
/// is compared with that.
fn with_c(repo: &Path, lab: &Path) -> Result<()> {
    const LIBRARY: &str = "librdma-sysevent.so.1";
    let target = repo.join("target/guest-c");
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--quiet", "--package", "rdma-sysevent", "--package", "guest"])
        .args(["--package", "rdma-verbs", "--lib", "--bin", "guest-tests"])
        .args(["--example", "rdma-pingpong", "--features", "guest/libibverbs", "--target-dir"])
        .arg(&target)
        .current_dir(repo))?;
    fs::create_dir_all(lab.join("dynamic"))?;
    for program in ["guest-tests", "examples/rdma-pingpong"] {
        let name = program.rsplit('/').next().unwrap_or(program);
        fs::copy(target.join("release").join(program), lab.join("dynamic").join(name))?;
    }
    fs::copy(target.join("release/librdma_sysevent.so"), lab.join(LIBRARY))?;
    const STRICT: [&str; 6] = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2"];
    run(Command::new("cc")
        .args(STRICT)
        .arg("-o")
        .arg(lab.join("cost"))
        .arg(repo.join("tests/guest/cost.c"))
        .arg("-libverbs"))?;
    run(Command::new("cc")
        .args(STRICT)
        .arg("-I")
        .arg(repo.join("sysevent/include"))
        .arg("-o")
        .arg(lab.join("c-events"))
        .arg(repo.join("sysevent/examples/events.c"))
        .arg(lab.join(LIBRARY))
        .arg("-Wl,-rpath,$ORIGIN"))
}

/// The initrd with the payload for this boot integration, kept by a hash of its contents.
pub(crate) fn make(repo: &Path, image: &Path, boot: Boot) -> Result<PathBuf> {
    let bin = build_programs(repo)?;
    let layout = Layout::load(repo, &[])?;
    let tree = image.join(format!("payload-{}", name(boot)));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let root = tree.join("payload");
    let lab = root.join("usr/lib/lab");
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(&lab)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    for program in LAB {
        let name = program.rsplit('/').next().unwrap_or(program);
        fs::copy(bin.join(program), lab.join(name))
            .with_context(|| format!("cannot copy the program '{program}'"))?;
    }
    with_c(repo, &lab)?;
    fs::copy(repo.join("tests/guest/fabric.sh"), lab.join("fabric"))?;
    fs::write(units.join("lab-agent.service"), AGENT_UNIT)?;
    std::os::unix::fs::symlink(
        "../lab-agent.service",
        units.join("multi-user.target.wants/lab-agent.service"),
    )?;
    // Beside rdma-core, for the benchmark, which changes from one to the other while it runs.
    let ours = if boot == Boot::Ours { root.clone() } else { lab.join("ours") };
    layout.install(&Install { repo, bin: &bin, dest: &ours, package: None })?;
    layout.enable_presets(&ours)?;
    let replaced: String =
        layout.replaced().map(|p| format!("{}\n", p.trim_start_matches('/'))).collect();
    fs::write(lab.join("replaced"), &replaced)?;
    if boot != Boot::RdmaCore {
        // Ours lie above: only what we do not install under the same name is really to go.
        let gone: String =
            replaced.lines().filter(|p| !root.join(p).exists()).map(|p| format!("{p}\n")).collect();
        fs::write(tree.join("removed"), gone)?;
    }
    fs::write(tree.join("boot-integration"), format!("{}\n", name(boot)))?;
    let archive = tree.with_extension("cpio");
    run(Command::new("sh")
        .current_dir(&tree)
        .args([
            "-c",
            "find . -mindepth 1 | sort | cpio -o -H newc -R 0:0 --quiet --reproducible >\"$0\"",
        ])
        .arg(&archive))?;
    let mut initrd = fs::read(image.join("initrd"))?;
    let payload = fs::read(&archive)?;
    let path = image.join(format!("initrd-{}-{}", name(boot), digest(&[&stable(&tree)?])));
    if !path.exists() {
        remove_older(image, &format!("initrd-{}-", name(boot)))?;
        initrd.extend(payload);
        fs::write(&path, initrd)?;
    }
    Ok(path)
}

/// Paths and contents of a tree, without its times.
fn stable(tree: &Path) -> Result<Vec<u8>> {
    let listing = Command::new("sh")
        .current_dir(tree)
        .args(["-c", "find . -printf '%p %M %l\\n' | sort; find . -type f | sort | xargs cksum"])
        .output()?;
    Ok(listing.stdout)
}

/// Initrds and snapshots of an older payload.
fn remove_older(image: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(image)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
