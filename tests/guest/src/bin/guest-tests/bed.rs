// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a test stands on: a guest without RDMA devices, commands, waiting, and the journal.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, fs};

use anyhow::{Context, Result, bail, ensure};

/// Which boot integration the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    Ours,
    RdmaCore,
}

impl Boot {
    pub(crate) fn installed() -> Result<Self> {
        let name = fs::read_to_string("/run/lab/boot").context("this is not the lab's guest")?;
        match name.trim() {
            "ours" => Ok(Self::Ours),
            "rdma-core" => Ok(Self::RdmaCore),
            other => bail!("no test is written for --boot {other}"),
        }
    }
}

/// The guest during one test.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) boot: Boot,
    /// The guest's virtio NICs, by name.
    pub(crate) nics: Vec<String>,
    /// When the test began.
    began: SystemTime,
    /// Files and directories that the test made and that must be gone after it.
    made: Vec<String>,
    /// Units that the test has started.
    started: Vec<&'static str>,
    /// Parts of warnings that the test provokes.
    provoked: Vec<&'static str>,
}

impl Bed {
    /// Runs a test on a guest without RDMA devices, cleans up after it and checks that nothing was
    /// logged at warning level that the test did not provoke, and that no unit has failed.
    pub(crate) fn with(boot: Boot, test: fn(&mut Self) -> Result<()>) -> Result<()> {
        // What the last test had said is in the journal before this one begins.
        sh("journalctl --sync")?;
        let mut bed = Self {
            boot,
            nics: nics()?,
            began: SystemTime::now(),
            made: Vec::new(),
            started: Vec::new(),
            provoked: Vec::new(),
        };
        let outcome = test(&mut bed).and_then(|()| bed.nothing_wrong());
        if outcome.as_ref().is_err_and(|error| !error.is::<LeftOut>()) {
            tell_what_hangs();
        }
        let cleaned = bed.clean();
        if cleaned.is_err() {
            tell_what_hangs();
        }
        outcome.and(cleaned)
    }

    fn clean(&mut self) -> Result<()> {
        if !self.made.is_empty() {
            sh(&format!("rm -rf {}", self.made.join(" ")))?;
        }
        for unit in self.started.drain(..) {
            // One that has ended is gone.
            sh(&format!("systemctl stop {unit} 2>/dev/null || true"))?;
        }
        sh("for h in $(ls /sys/kernel/config/vhca/hcas 2>/dev/null | grep -vx 'hca[0-9]*'); do
                rmdir /sys/kernel/config/vhca/hcas/$h
            done
            for d in $(rdma link | sed -n 's,^link \\([^/]*\\)/.* netdev .*,\\1,p'); do rdma link delete $d; done
            for n in $(ls -d /sys/class/net/lab* 2>/dev/null); do ip link delete ${n##*/}; done")?;
        read_anew(&self.made)?;
        self.made.clear();
        sh("systemctl reset-failed; udevadm settle")?;
        if beside()? {
            return Ok(());
        }
        if self.boot == Boot::RdmaCore {
            // Its daemons can keep the target for longer than anybody waits. What it does at an unplug has a test of its own.
            sh("systemctl stop rdma-hw.target")?;
            return Ok(());
        }
        wait_for("rdma-hw.target stops with the last device", || {
            Ok(unit_state("rdma-hw.target") != "active")
        })
    }

    /// Writes a file for the length of the test, and makes udev and systemd read it where they must.
    pub(crate) fn file(&mut self, path: &str, text: &str) -> Result<()> {
        if let Some(dir) = Path::new(path).parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(path, text).with_context(|| format!("cannot write {path}"))?;
        self.remove_later(path);
        read_anew(&[path.to_owned()])
    }

    /// Has a path removed when the test is over.
    pub(crate) fn remove_later(&mut self, path: &str) {
        self.made.push(path.to_owned());
    }

    /// Has a unit stopped when the test is over.
    pub(crate) fn stop_later(&mut self, unit: &'static str) {
        self.started.push(unit);
    }

    /// Has warnings that contain `part` accepted: the test provokes them.
    pub(crate) fn provokes(&mut self, part: &'static str) {
        self.provoked.push(part);
    }

    /// What was logged since the test began.
    pub(crate) fn journal(&self, options: &str) -> Result<String> {
        let began = self.began.duration_since(SystemTime::UNIX_EPOCH)?;
        sh(&format!(
            "journalctl --sync; journalctl -q -o cat {options} --since=@{}.{:06}",
            began.as_secs(),
            began.subsec_micros()
        ))
    }

    fn nothing_wrong(&self) -> Result<()> {
        // rdma-core D26: its ibacm ends with an error on every machine without an InfiniBand port. S6: its srp_daemon
        // ends with one when a subnet manager goes at the wrong moment.
        let known = if self.boot == Boot::RdmaCore { "ibacm\\|srp_daemon_port@" } else { "^$" };
        let failed = sh(&format!(
            "systemctl list-units --failed --plain --no-legend | grep -v '{known}' || true"
        ))?;
        ensure!(failed.is_empty(), "failed units: {failed}");
        if self.boot == Boot::RdmaCore {
            return Ok(());
        }
        for line in self.journal("-p warning")?.lines() {
            ensure!(
                self.provoked.iter().chain(EXPLAINED).any(|part| line.contains(part)),
                "an unexplained warning in the journal: {line}"
            );
        }
        Ok(())
    }
}

/// Makes udev and systemd read what was written, or is gone, where they read such files.
fn read_anew(paths: &[String]) -> Result<()> {
    let any = |dir| paths.iter().any(|path| path.contains(dir));
    if any("/udev/") {
        sh("udevadm control --reload")?;
    }
    // It takes two seconds and more under an emulated processor.
    if any("/systemd/") {
        sh("systemctl daemon-reload")?;
    }
    Ok(())
}

/// Warnings that the guest itself makes, each with its reason.
const EXPLAINED: &[&str] = &[
    // Debian's kernel has no signature for a module that is built outside its tree.
    "loading out-of-tree module taints kernel",
    "module verification failed: signature and/or required key missing",
    // The kernel's target core says so whenever ib_isert or ib_srpt is loaded.
    "Rounding down aligned max_sectors",
    // The guest has no locale.
    "Unable to open env file: /etc/default/locale",
    // The kernel, when its target core is loaded without targetcli installed.
    "db_root: cannot open",
    // rxe about an interface without a link speed (dummy).
    "speed is unknown, defaulting to 1000",
    // The kernel itself, about a device whose NIC has been pulled.
    "ib_query_port failed (-19)",
    // Under an emulated processor.
    "hrtimer: interrupt took",
];

/// Shows what has been under way for longer than anything here takes, and where in the kernel it is.
fn tell_what_hangs() {
    if PATIENCE.load(Ordering::Relaxed) < 30 {
        // Known to fail, and why.
        return;
    }
    let said = sh("for p in $(pgrep 'rdma|modprobe|rmmod|^ip$|nvme' | grep -vx \"$(pgrep -x rdmad)\"); do
             [ \"$(ps -o etimes= -p $p)\" -ge 8 ] && [ -e /proc/$p/exe ] || continue
             ps -o pid=,ppid=,stat=,etimes=,args= -p $p; cat /proc/$p/{syscall,stack}; ls -l /proc/$p/fd
         done 2>/dev/null; grep FLOCK /proc/locks; ls -i /run/rdma/lock; true");
    println!("{}", said.unwrap_or_else(|error| format!("{error:#}")));
}

/// Runs a shell command; its standard output, without the last newline.
pub(crate) fn sh(command: &str) -> Result<String> {
    let output = Command::new("bash").args(["-c", command]).output()?;
    let stdout = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    ensure!(
        output.status.success(),
        "`{command}`: {}: {} {stdout}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(stdout)
}

/// Seconds that [`wait_for`] waits: so many that only a broken guest reaches them.
static PATIENCE: AtomicU64 = AtomicU64::new(30);

/// Waits no longer than that, where a test is known to fail.
pub(crate) fn patience(seconds: u64) {
    PATIENCE.store(seconds, Ordering::Relaxed);
}

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    let patience = PATIENCE.load(Ordering::Relaxed);
    loop {
        if is_so()? {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(patience),
            "still not so after {patience} s: {what}"
        );
        #[expect(
            clippy::disallowed_methods,
            reason = "a test may look again, the product may not"
        )]
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `active`, `inactive`, `failed`, ...
pub(crate) fn unit_state(unit: &str) -> String {
    let output = Command::new("systemctl").args(["is-active", unit]).output();
    output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// What a test ends with that cannot be done here: why.
#[derive(Debug)]
pub(crate) struct LeftOut(pub(crate) &'static str);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for LeftOut {}

/// For what no boot integration has a part in: beside rdma-core's it would be the same once more.
pub(crate) fn with_ours_alone(bed: &Bed) -> Result<()> {
    ensure!(bed.boot != Boot::RdmaCore, LeftOut("it is the crate's own, whatever boots"));
    Ok(())
}

/// HCAs that were there before the tests, and stay: `cargo xtask vm exec --hca 2x2 -- /usr/lib/lab/guest-tests`.
const BESIDE: &str = "/sys/kernel/config/vhca/hcas/hca[0-9]*";

/// Whether there are any.
pub(crate) fn beside() -> Result<bool> {
    Ok(!sh(&format!("ls -d {BESIDE} 2>/dev/null || true"))?.is_empty())
}

/// The names of all other devices.
pub(crate) fn devices() -> Result<String> {
    sh(&format!("ls /sys/class/infiniband | grep -vxFf <(cat {BESIDE}/ibdev 2>/dev/null) | xargs"))
}

/// The port GUIDs of all other devices that have links.
pub(crate) fn linked_guids() -> Result<String> {
    sh(&format!(
        "ls /dev/infiniband/by-port-guid 2>/dev/null | grep -vxFf <(cat {BESIDE}/port*/guid 2>/dev/null) | xargs"
    ))
}

/// The target goes with the last device: only now, and not while there are others beside.
pub(crate) fn wait_target_stops() -> Result<()> {
    if beside()? {
        ensure!(unit_state("rdma-hw.target") == "active", "the target stopped with devices left");
        return Ok(());
    }
    wait_inactive("rdma-hw.target")
}

/// The unit of a device path, in systemd's escaping.
pub(crate) fn device_unit(path: &str) -> Result<String> {
    sh(&format!("systemd-escape -p --suffix=device '{path}'"))
}

pub(crate) fn wait_active(unit: &str) -> Result<()> {
    wait_for(&format!("{unit} is active"), || Ok(unit_state(unit) == "active"))
}

pub(crate) fn wait_inactive(unit: &str) -> Result<()> {
    wait_for(&format!("{unit} is inactive"), || {
        Ok(matches!(unit_state(unit).as_str(), "inactive" | "unknown"))
    })
}

/// A udev property of a device, given by its path in sysfs; empty when it has none.
pub(crate) fn property(sys: &str, name: &str) -> Result<String> {
    sh(&format!("udevadm info -q property -p '{sys}' | sed -n 's/^{name}=//p'"))
}

/// The properties of an RDMA device.
pub(crate) fn device_property(device: &str, name: &str) -> Result<String> {
    property(&format!("/sys/class/infiniband/{device}"), name)
}

/// The character device of an RDMA device: `uverbs0`, `umad0`.
pub(crate) fn node(class: &str, device: &str) -> Result<String> {
    let nodes = fs::read_dir(format!("/sys/class/{class}"))?;
    for node in nodes.flatten().filter(|n| !n.file_name().to_string_lossy().starts_with("issm")) {
        if fs::read_to_string(node.path().join("ibdev")).is_ok_and(|name| name.trim() == device) {
            return Ok(node.file_name().to_string_lossy().into_owned());
        }
    }
    bail!("'{device}' has no node in {class}")
}

/// Interface identifier of GID 0, as 16 hex digits.
pub(crate) fn port_guid(device: &str) -> Result<String> {
    let path = format!("/sys/class/infiniband/{device}/ports/1/gids/0");
    let gid = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(gid.trim().split(':').skip(4).collect())
}

/// The name of the file that a link leads to; an error when it leads nowhere.
pub(crate) fn leads_to(link: impl AsRef<Path>) -> Result<String> {
    let link = link.as_ref();
    let target =
        fs::canonicalize(link).with_context(|| format!("{} leads nowhere", link.display()))?;
    Ok(target.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Adds a software device and lets udev finish with it.
pub(crate) fn plug(kind: &str, name: &str, netdev: &str) -> Result<()> {
    sh(&format!("rdma link add {name} type {kind} netdev {netdev} && udevadm settle"))?;
    Ok(())
}

pub(crate) fn unplug(name: &str) -> Result<()> {
    sh(&format!("rdma link delete {name} && udevadm settle"))?;
    Ok(())
}

fn nics() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for net in fs::read_dir("/sys/class/net")? {
        let net = net?;
        if leads_to(net.path().join("device/driver")).is_ok_and(|driver| driver == "virtio_net") {
            names.push(net.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    ensure!(names.len() >= 2, "the guest needs two virtio NICs and has {names:?}");
    sh(&names.iter().map(|name| format!("ip link set {name} up; ")).collect::<String>())?;
    Ok(names)
}
