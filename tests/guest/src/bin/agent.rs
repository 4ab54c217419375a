// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab's agent: runs the scripts that the host sends, one after the other, and streams back
//! what they print.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};
use guest::frame::{self, Kind};
use rustix::time::{ClockId, Timespec, clock_settime};

fn main() -> Result<()> {
    let port = guest::open_port("lab").context("cannot open the port to the host")?;
    let mut from = port.try_clone()?;
    let to = Mutex::new(port);
    send(&to, Kind::Hello, b"");
    loop {
        match frame::read(&mut from)? {
            (Kind::Time, data) => set_time(&data)?,
            (Kind::Run, script) => {
                let status = run(&to, &script).unwrap_or_else(|error| {
                    send(&to, Kind::Err, format!("agent: {error:#}\n").as_bytes());
                    127
                });
                send(&to, Kind::Exit, status.to_string().as_bytes());
            }
            (kind, _) => eprintln!("the host sent {kind:?}, which is not for a guest"),
        }
    }
}

fn run(to: &Mutex<File>, script: &[u8]) -> Result<i32> {
    let mut child = Command::new("bash")
        .arg("-s")
        .current_dir("/root")
        .env("HOME", "/root")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start bash")?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // A script that ends early does not read the rest of itself: not an error.
        scope.spawn(move || stdin.map(|mut s| s.write_all(script)));
        scope.spawn(move || stdout.map(|s| forward(to, Kind::Out, s)));
        scope.spawn(move || stderr.map(|s| forward(to, Kind::Err, s)));
    });
    let status = child.wait()?;
    Ok(status.code().unwrap_or_else(|| {
        128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)
    }))
}

fn forward(to: &Mutex<File>, kind: Kind, mut from: impl Read) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => send(to, kind, buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// A frame that cannot be sent means that the host is gone, and the guest with it.
fn send(to: &Mutex<File>, kind: Kind, data: &[u8]) {
    if let Ok(mut port) = to.lock() {
        frame::write(&mut *port, kind, data).ok();
    }
}

/// A guest that comes from a snapshot believes that it is still then.
fn set_time(data: &[u8]) -> Result<()> {
    let nanoseconds: i64 = String::from_utf8_lossy(data).parse().context("not a time")?;
    let time =
        Timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
    clock_settime(ClockId::Realtime, time).context("cannot set the clock")
}
