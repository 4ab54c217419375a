// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is installed is well-formed in the eyes of the programs that read it.

use anyhow::{Result, ensure};

use super::bed::{Bed, Boot, sh};
use super::{Test, both};

pub(crate) const TESTS: &[Test] = &[
    both("rules_verify", rules),
    both("units_verify", units),
    both("units_are_confined", confined),
    both("nothing_world_writable", modes),
];

fn rules(bed: &mut Bed) -> Result<()> {
    if sh("udevadm verify --help >/dev/null 2>&1 && echo yes || echo no")? == "no" {
        println!("rules_verify: this udev ({}) has no 'udevadm verify'", sh("udevadm --version")?);
        return Ok(());
    }
    if bed.boot == Boot::Ours {
        sh(
            "udevadm verify --resolve-names=late /usr/lib/udev/rules.d/*rdma*.rules /usr/lib/udev/rules.d/90-iwpmd.rules",
        )?;
    }
    Ok(())
}

fn units(bed: &mut Bed) -> Result<()> {
    if bed.boot == Boot::Ours {
        let said = sh("cd /usr/lib/systemd/system && systemd-analyze verify --man=no \
                       rdma-hw.target rdma.service rdma-load-modules@rdma.service rdma-load-modules.path \
                       rdmad.service rdma-ndd.service rdma-ndd.socket srp_daemon.service srp_daemon_port@x.service iwpmd.service iwpmd.socket ibacm.service ibacm.socket rdma-online.target rdma-wait-online@x.service 2>&1")?;
        ensure!(said.is_empty(), "{said}");
    }
    Ok(())
}

/// How exposed each service is at most, in tenths, as `systemd-analyze security` counts it. The loader of
/// modules is what it is; its unit says why.
const EXPOSURE: [(&str, u32); 11] = [
    ("ibacm.service", 16),
    ("iwpmd.service", 13),
    ("rdmad.service", 23),
    ("rdma-ndd.service", 15),
    ("srp_daemon.service", 11),
    ("srp_daemon_port@x:1.service", 17),
    ("rdma-wait-online.service", 21),
    ("rdma-wait-online@x.service", 21),
    ("rdma-load-modules@rdma.service", 75),
    ("rdma-load-modules-edited.service", 18),
    ("rdma.service", 18),
];

fn confined(bed: &mut Bed) -> Result<()> {
    if bed.boot == Boot::Ours {
        for (unit, most) in EXPOSURE {
            sh(&format!("systemd-analyze security --no-pager --threshold={most} {unit}"))?;
        }
    }
    Ok(())
}

fn modes(_: &mut Bed) -> Result<()> {
    let open = sh(
        "find /run/rdma /etc/rdma /usr/lib/rdma /usr/lib/udev /usr/libexec/rdma -perm /0002 ! -type l 2>/dev/null || true",
    )?;
    ensure!(open.is_empty(), "anybody may write to: {open}");
    Ok(())
}
