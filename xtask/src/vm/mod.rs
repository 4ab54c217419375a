// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab: a Debian guest with a real kernel, udev and systemd.

mod host;
mod image;
mod payload;
mod qemu;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

pub(crate) use host::{FOR_FABRICS, install};
pub(crate) use qemu::Guest;

/// Which Debian the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Debian 13, with the 6.12 kernel.
    Trixie,
    /// Debian 12, with its 6.1 kernel.
    Bookworm,
}

/// Which boot integration is installed in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Boot {
    /// This suite, in place of rdma-core's.
    Ours,
    /// The distribution's rdma-core as it is.
    RdmaCore,
    /// Neither.
    None,
}

/// What the guest is to be.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Guest distribution.
    #[arg(long, value_enum, default_value = "trixie")]
    pub(crate) suite: Suite,
    /// Which boot integration is installed.
    #[arg(long, value_enum, default_value = "ours")]
    pub(crate) boot: Boot,
    /// Number of virtio NICs; they are on one Ethernet segment.
    #[arg(long, default_value_t = 2)]
    pub(crate) nic: u8,
    /// Virtual InfiniBand HCAs to plug in, with so many ports each.
    #[arg(long, value_name = "N[xP]", value_parser = hcas)]
    pub(crate) hca: Option<(u8, u8)>,
    /// Have opensm bring their ports up.
    #[arg(long, requires = "hca")]
    pub(crate) sm: bool,
    /// Memory in MiB.
    #[arg(long, default_value_t = 4096)]
    pub(crate) mem: u32,
    /// Seconds after which a guest that has not finished is lost.
    #[arg(long, default_value_t = 300)]
    pub(crate) timeout: u64,
    /// Boot, even where a snapshot of the booted guest exists, and make none.
    #[arg(long)]
    pub(crate) cold: bool,
    /// Further words for the kernel command line; implies --cold.
    #[arg(long, default_value = "")]
    pub(crate) append: String,
    /// Keep the console's log in this directory.
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
}

impl Options {
    pub(crate) fn new(suite: Suite, boot: Boot, timeout: u64) -> Self {
        Self {
            suite,
            boot,
            nic: 2,
            hca: None,
            sm: false,
            mem: 4096,
            timeout,
            cold: false,
            append: String::new(),
            keep: None,
        }
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// `2x2`: two HCAs with two ports each; `3`: three with one.
fn hcas(text: &str) -> Result<(u8, u8), String> {
    let (hcas, ports) = text.split_once('x').unwrap_or((text, "1"));
    match (hcas.parse(), ports.parse()) {
        (Ok(hcas @ 1..), Ok(ports @ 1..=4)) => Ok((hcas, ports)),
        _ => Err("N or NxP, N from 1 on and P from 1 to 4, such as 2x2".into()),
    }
}

/// Makes the guest's image, or finds it made.
pub(crate) fn image(repo: &Path, suite: Suite) -> Result<PathBuf> {
    install(&host::FOR_GUESTS)?;
    image::get(repo, suite)
}

/// Boots a guest with what is built from the working tree.
pub(crate) fn boot(repo: &Path, options: &Options) -> Result<Guest> {
    let image = image(repo, options.suite)?;
    let payload = payload::make(repo, &image, options.boot)?;
    Guest::start(repo, &image, &payload, options)
}

/// Runs a script in a guest of its own; its exit status.
pub(crate) fn exec(repo: &Path, options: &Options, script: &str) -> Result<i32> {
    let mut guest = boot(repo, options)?;
    if let Some((hcas, ports)) = options.hca {
        let sm = if options.sm { "sm" } else { "" };
        let fabric = format!("/usr/lib/lab/fabric {hcas} {ports} {sm}");
        let status = guest.run(&fabric, &mut io::stdout().lock(), &mut io::stderr().lock())?;
        ensure!(status == 0, "the InfiniBand fabric did not come up");
    }
    guest.run(script, &mut io::stdout().lock(), &mut io::stderr().lock())
}

/// A guest whose serial console is this terminal.
pub(crate) fn shell(repo: &Path, options: &Options) -> Result<()> {
    ensure!(
        options.hca.is_none(),
        "a shell has no HCAs at first: run `/usr/lib/lab/fabric 2 2 sm` in it"
    );
    let image = image(repo, options.suite)?;
    let payload = payload::make(repo, &image, options.boot)?;
    println!("Ctrl-A X ends the guest.");
    io::stdout().flush()?;
    qemu::shell(repo, &image, &payload, options)
}

/// A name for a set of bytes; not for security.
fn digest(parts: &[&[u8]]) -> String {
    // FNV-1a, 64 bit: names of cache entries.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|p| p.iter().chain(&[0xff])) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// The lower-case name under which a choice is written on the command line.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}
