// SPDX-License-Identifier: MIT OR Apache-2.0
//! One QEMU: started cold or from a snapshot of the booted guest, talked to, ended.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use guest::frame::{self, Kind};
use guest::qmp::Qmp;
use serde_json::json;

use super::{Options, digest};

/// The guest has nothing to do with time zones, consoles or firmware; under emulation each word here
/// is less code to run (figures: ARCHITECTURE.md). What the emulator has translated it finds again only at the same address:
/// with programs somewhere else each time nearly all of its time is spent on translating them anew.
const KERNEL: &str = "console=ttyS0 quiet loglevel=4 mitigations=off audit=0 lsm=yama tsc=reliable \
    nokaslr norandmaps rcupdate.rcu_expedited=1 cryptomgr.notests random.trust_cpu=on panic=-1 \
    systemd.show_status=0 systemd.firstboot=0";

/// How long the guest may take until its agent is there; some ten times what it takes.
const BOOT: Duration = Duration::from_secs(100);

/// How long QEMU may take to open its sockets.
const START: Duration = Duration::from_secs(20);

/// A running guest.
#[derive(Debug)]
pub(crate) struct Guest {
    child: Child,
    agent: UnixStream,
    dir: PathBuf,
    keep: Option<PathBuf>,
    deadline: Duration,
}

impl Guest {
    /// Boots the guest, or continues the snapshot that an earlier start with the same image,
    /// payload and devices left behind.
    pub(crate) fn start(
        repo: &Path,
        image: &Path,
        initrd: &Path,
        options: &Options,
    ) -> Result<Self> {
        let snapshot = (!options.cold && options.append.is_empty()).then(|| {
            let devices = format!("{} {} {KERNEL}", options.nic, options.mem);
            let name = initrd.file_name().unwrap_or_default().to_string_lossy().into_owned();
            image.join(format!("{name}.{}.snapshot", digest(&[devices.as_bytes()])))
        });
        if let Some(snapshot) = snapshot.as_ref().filter(|s| s.exists()) {
            let incoming = format!("exec:cat '{}'", snapshot.display());
            let mut guest = Self::launch(repo, image, initrd, options, Some(&incoming))?;
            match guest.set_time() {
                Ok(()) => return Ok(guest),
                Err(error) => {
                    println!("the snapshot cannot be continued ({error:#}), booting anew");
                    drop(guest);
                    fs::remove_file(snapshot)?;
                }
            }
        }
        let mut guest = Self::launch(repo, image, initrd, options, None)?;
        if let Err(error) = guest.wait_hello() {
            // About one early boot in fifteen dies in QEMU's emulation, before any of ours has run.
            println!("the guest ended before it was up, trying once more: {error:#}");
            drop(guest);
            guest = Self::launch(repo, image, initrd, options, None)?;
            guest.wait_hello()?;
        }
        if let Some(snapshot) = snapshot {
            guest.save(&snapshot)?;
        }
        Ok(guest)
    }

    fn launch(
        repo: &Path,
        image: &Path,
        initrd: &Path,
        options: &Options,
        incoming: Option<&str>,
    ) -> Result<Self> {
        let dir = repo.join(format!("target/vm/run-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let mut command = qemu(repo, image, initrd, options)?;
        command
            .args(["-display", "none"])
            .arg("-chardev")
            .arg(format!("file,id=console,path={}", dir.join("console").display()))
            .args(["-serial", "chardev:console", "-device", "virtio-serial-pci,addr=0x3"]);
        for port in ["lab", "qmp"] {
            command
                .arg("-chardev")
                .arg(format!(
                    "socket,id={port},path={},server=on,wait=off",
                    dir.join(port).display()
                ))
                .args(["-device", &format!("virtserialport,chardev={port},name={port}")]);
        }
        for monitor in ["host-monitor", "guest-monitor"] {
            command
                .arg("-qmp")
                .arg(format!("unix:{},server=on,wait=off", dir.join(monitor).display()));
        }
        if let Some(incoming) = incoming {
            command.args(["-incoming", incoming]);
        }
        let log = File::create(dir.join("qemu"))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start QEMU")?;
        let sockets = connect(&dir.join("lab"), &mut child).and_then(|agent| {
            let port = connect(&dir.join("qmp"), &mut child)?;
            let monitor = connect(&dir.join("guest-monitor"), &mut child)?;
            bridge(port, monitor)?;
            Ok(agent)
        });
        match sockets {
            Ok(agent) => {
                let (keep, deadline) = (options.keep.clone(), options.deadline());
                Ok(Self { child, agent, dir, keep, deadline })
            }
            Err(error) => {
                child.kill().ok();
                child.wait().ok();
                bail!("{error:#}: {}", fs::read_to_string(dir.join("qemu"))?.trim());
            }
        }
    }

    /// Runs a script as root; streams what it prints and returns its exit status.
    pub(crate) fn run(
        &mut self,
        script: &str,
        out: &mut impl Write,
        err: &mut impl Write,
    ) -> Result<i32> {
        frame::write(&mut self.agent, Kind::Run, script.as_bytes())?;
        let start = Instant::now();
        loop {
            match self.next(start, self.deadline)? {
                (Kind::Out, data) => pass(out, &data)?,
                (Kind::Err, data) => pass(err, &data)?,
                (Kind::Exit, data) => {
                    return String::from_utf8_lossy(&data).parse().context("not an exit status");
                }
                (kind, _) => bail!("the agent sent {kind:?} while a script was running"),
            }
        }
    }

    fn wait_hello(&mut self) -> Result<()> {
        match self.next(Instant::now(), BOOT)? {
            (Kind::Hello, _) => self.set_time(),
            (kind, _) => bail!("the agent began with {kind:?}"),
        }
    }

    fn set_time(&mut self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos().to_string();
        frame::write(&mut self.agent, Kind::Time, now.as_bytes())?;
        // A script that does nothing shows that the agent is there.
        let start = Instant::now();
        frame::write(&mut self.agent, Kind::Run, b"true")?;
        match self.next(start, BOOT)? {
            (Kind::Exit, status) if status == b"0" => Ok(()),
            (kind, data) => bail!("the agent answers {kind:?} {}", String::from_utf8_lossy(&data)),
        }
    }

    /// The next frame, as long as the guest lives and has time left.
    fn next(&mut self, start: Instant, deadline: Duration) -> Result<(Kind, Vec<u8>)> {
        let left = deadline.saturating_sub(start.elapsed());
        let outcome = if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            self.agent.set_read_timeout(Some(left))?;
            frame::read(&mut self.agent)
        };
        outcome.map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    format!("the guest did not finish within {} s", deadline.as_secs())
                }
                io::ErrorKind::UnexpectedEof => "the guest ended".to_owned(),
                _ => format!("the connection to the guest broke: {error}"),
            };
            anyhow::anyhow!("{what}; the last lines of its console:\n{}", self.console_tail())
        })
    }

    fn console_tail(&self) -> String {
        let text = fs::read(self.dir.join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        // All of a panic: its reason comes first.
        let last = lines.len().saturating_sub(30);
        let panic = lines.iter().position(|l| l.contains("Kernel panic - not syncing"));
        let tail = lines.get(panic.map_or(last, |p| p.min(last))..).unwrap_or_default();
        if tail.is_empty() {
            "    (it is empty)".into()
        } else {
            format!("    {}", tail.join("\n    "))
        }
    }

    /// Saves the booted, idle guest, and goes on.
    fn save(&mut self, snapshot: &Path) -> Result<()> {
        let socket = connect(&self.dir.join("host-monitor"), &mut self.child)?;
        let mut qmp = Qmp::new(socket.try_clone()?, socket)?;
        let unfinished = snapshot.with_extension("new");
        qmp.execute("migrate-set-parameters", &json!({ "max-bandwidth": 1_u64 << 40 }))?;
        qmp.execute(
            "migrate-set-capabilities",
            &json!({
                "capabilities": [{ "capability": "events", "state": true }]
            }),
        )?;
        qmp.execute("migrate", &json!({ "uri": format!("exec:cat >'{}'", unfinished.display()) }))?;
        loop {
            let event = qmp.wait_event("MIGRATION")?;
            match event["data"]["status"].as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => bail!("QEMU could not save the guest"),
                _ => {}
            }
        }
        fs::rename(&unfinished, snapshot)?;
        // Completed is said a moment before it is so.
        while qmp.execute("query-status", &json!({}))?["status"] != "postmigrate" {}
        qmp.execute("cont", &json!({}))?;
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(keep) = &self.keep {
            fs::create_dir_all(keep).ok();
            for file in ["console", "qemu"] {
                fs::copy(self.dir.join(file), keep.join(file)).ok();
            }
        }
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// The guest with this terminal as its serial console.
pub(crate) fn shell(repo: &Path, image: &Path, initrd: &Path, options: &Options) -> Result<()> {
    let mut command = qemu(repo, image, initrd, options)?;
    crate::check::run(command.args(["-nographic", "-serial", "mon:stdio"]))
}

/// What every guest has in common. The devices have fixed places, so that snapshots fit.
fn qemu(repo: &Path, image: &Path, initrd: &Path, options: &Options) -> Result<Command> {
    let mut command = Command::new("qemu-system-x86_64");
    let accelerator = if kvm_works(repo, image)? { "kvm" } else { "tcg,thread=multi" };
    command
        .args(["-machine", "pc", "-accel", accelerator, "-cpu", "max", "-smp", "2"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-m", &options.mem.to_string()])
        .arg("-kernel")
        .arg(image.join("vmlinux"))
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &format!("{KERNEL} {}", options.append)])
        .args(["-smbios", &format!("file={}", image.join("smbios").display())])
        .arg("-drive")
        .arg(format!(
            "file={},if=none,format=raw,readonly=on,id=root",
            image.join("root.erofs").display()
        ))
        .args([
            "-device",
            "virtio-blk-pci,drive=root,addr=0x4",
            "-device",
            "virtio-rng-pci,addr=0x5",
        ]);
    for n in 0..options.nic {
        command
            .args(["-netdev", &format!("hubport,hubid=0,id=nic{n}")])
            .args(["-device", &format!("virtio-net-pci,netdev=nic{n},addr={:#x}", 0x8 + n)]);
    }
    Ok(command)
}

/// Whether a kernel really starts under KVM: a device node alone does not tell. Found out once.
fn kvm_works(repo: &Path, image: &Path) -> Result<bool> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(false);
    }
    let known = repo.join("target/vm/kvm");
    if let Ok(answer) = fs::read_to_string(&known) {
        return Ok(answer.trim() == "works");
    }
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-machine", "pc", "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(image.join("vmlinux"))
        .arg("-initrd")
        .arg(image.join("initrd"))
        .args(["-append", "console=ttyS0 panic=-1 lab.probe"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start QEMU")?;
    let (tell, told) = std::sync::mpsc::channel();
    if let Some(mut console) = child.stdout.take() {
        thread::spawn(move || {
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = console.read(&mut buffer) {
                text.extend(buffer.get(..n).unwrap_or_default());
                if String::from_utf8_lossy(&text).contains("lab: alive") {
                    tell.send(()).ok();
                    return;
                }
            }
        });
    }
    let works = told.recv_timeout(Duration::from_secs(10)).is_ok();
    child.kill().ok();
    child.wait().ok();
    let answer = if works { "works" } else { "does not work" };
    println!("/dev/kvm {answer} here");
    fs::write(&known, answer)?;
    Ok(works)
}

/// Connects to a socket that QEMU is about to open.
fn connect(path: &Path, child: &mut Child) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if start.elapsed() > START => {
                return Err(error).with_context(|| format!("QEMU did not open {}", path.display()));
            }
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            bail!("QEMU ended at once: {status}");
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "QEMU does not tell when its sockets are there"
        )]
        thread::sleep(Duration::from_millis(10));
    }
}

/// Lets the guest speak to QEMU's monitor, for hot plug from inside a test.
fn bridge(port: UnixStream, monitor: UnixStream) -> Result<()> {
    let (mut port_in, mut monitor_in) = (port.try_clone()?, monitor.try_clone()?);
    let (mut port_out, mut monitor_out) = (port, monitor);
    // Both end with QEMU.
    thread::spawn(move || io::copy(&mut port_in, &mut monitor_out));
    thread::spawn(move || io::copy(&mut monitor_in, &mut port_out));
    Ok(())
}

fn pass(to: &mut impl Write, data: &[u8]) -> Result<()> {
    to.write_all(data)?;
    to.flush()?;
    Ok(())
}
