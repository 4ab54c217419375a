// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the host must have.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::check::run;

/// A program, and the Debian package that has it.
pub(crate) type Needed = (&'static str, &'static str);

pub(crate) const FOR_GUESTS: [Needed; 11] = [
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/mkfs.erofs", "erofs-utils"),
    ("/bin/busybox", "busybox-static"),
    ("/sbin/modprobe", "kmod"),
    ("/usr/bin/cpio", "cpio"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/make", "make"),
    ("/usr/include/infiniband/verbs.h", "libibverbs-dev"),
];

/// What simulates a fabric, without a guest.
pub(crate) const FOR_FABRICS: [Needed; 2] =
    [("/usr/bin/ibsim", "ibsim-utils"), ("/usr/sbin/opensm", "opensm")];

/// Installs what of it is missing when this is root, and else says how to.
pub(crate) fn install(needed: &[Needed]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !std::path::Path::new(program).exists())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    let id = Command::new("id").arg("-u").output().context("cannot run id")?;
    if id.stdout != b"0\n" {
        bail!("this needs packages that are not installed: run\n    sudo {install}");
    }
    println!("installing {}", missing.join(", "));
    // The lists of a fresh machine may be empty or old.
    run(Command::new("apt-get").args(["-qq", "update"]))?;
    run(Command::new("sh")
        .args(["-c", &format!("{install} >/dev/null")])
        .env("DEBIAN_FRONTEND", "noninteractive"))
}
