// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs crate on real devices, by its examples, beside libibverbs' own.

use anyhow::{Context, Result, ensure};

use super::bed::{self, Bed, sh};
use super::hca::{plug, subnet_manager};
use super::{Test, both};

pub(crate) const TESTS: &[Test] = &[
    both("devinfo_says_what_ibv_devinfo_says", devinfo),
    both("pingpong_with_theirs_at_either_end", pingpong),
];

/// What libibverbs' drivers make up in user space, or only say to be unknown: not the kernel's.
const THEIRS: [&str; 11] = [
    "tso_caps:",
    "max_tso:",
    "rss_caps:",
    "max_rwq_indirection_table",
    "rx_hash_",
    "packet_pacing_caps:",
    "qp_rate_limit_",
    "tag matching not supported",
    "Unknown flags:",
    "supported_qp",
    "cq moderation",
];

fn devinfo(bed: &mut Bed) -> Result<()> {
    plug("a", 2, &[])?;
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    bed::plug("siw", "siw0", &bed.nics[1])?;
    for options in ["", "-i 1", "-d rxe0", "-v", "-v -d siw0"] {
        let [ours, theirs] = ["/usr/lib/lab/rdma-devinfo", "ibv_devinfo"]
            .map(|program| sh(&format!("udevadm settle; {program} {options}")));
        let (ours, theirs) = (ours?, theirs?);
        ensure!(theirs.matches("hca_id:").count() >= 1, "theirs says {theirs}");
        let mut rest = ours.lines();
        for line in theirs.lines() {
            if THEIRS.iter().any(|word| line.trim_start().starts_with(word)) {
                continue;
            }
            let next = rest.next().with_context(|| format!("ours has no '{line}'"))?;
            // Ours has the kernel's text, theirs makes one of a number.
            let is_text = line.trim_start().starts_with("fw_ver:");
            ensure!(next == line || is_text, "{options}: ours says '{next}', theirs '{line}'");
        }
        ensure!(rest.next().is_none(), "ours says more: {ours}");
    }
    Ok(())
}

/// Ours with ours, and with libibverbs' as server and as client; asleep and awake; messages of several packets, and of one
/// byte. On rxe, whose queues are mapped, and on an HCA that takes system calls.
fn pingpong(bed: &mut Bed) -> Result<()> {
    const OURS: &str = "/usr/lib/lab/rdma-pingpong";
    const THEIRS: &str = "ibv_rc_pingpong";
    bed::plug("rxe", "rxe0", &bed.nics[0])?;
    let (a, b) = (plug("a", 1, &[])?, plug("b", 1, &[])?);
    subnet_manager(bed, "a")?;
    // The first GID is that of the interface's own address.
    let (rxe, a, b) = ("-d rxe0 -g 0".to_owned(), format!("-d {a}"), format!("-d {b}"));
    for (server, client) in [(OURS, OURS), (OURS, THEIRS), (THEIRS, OURS)] {
        for (at, from) in [(&rxe, &rxe), (&a, &b)] {
            for options in ["-n 50 -s 100000", "-n 600 -s 1 -e"] {
                let said = sh(&format!(
                    "{server} {at} {options} >/run/lab/server 2>&1 &
                     until ss -tln | grep -q :18515; do sleep 0.05; done
                     timeout 60 {client} {from} {options} 127.0.0.1 || {{ cat /run/lab/server; exit 1; }}
                     wait $! || {{ cat /run/lab/server; exit 1; }}"
                ));
                let said = said.with_context(|| format!("{server} {at}, {client} {options}"))?;
                ensure!(said.contains("usec/iter"), "{server} {at}, {client} {options}: {said}");
            }
        }
    }
    Ok(())
}
