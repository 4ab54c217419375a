// SPDX-License-Identifier: MIT OR Apache-2.0
//! `boot`: what happened to each device, and when.
//!
//! Nobody writes this down as such. The kernel's part is in its own messages and in the ages of the files in `/dev`,
//! udev's in its database, ours in the journal and the ages of the files in `/run/rdma`, and systemd knows its units.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use anyhow::{Context, Result};
use rdma_config::Root;
use rdma_udev_helper::world::{Lock, Look, World};
use rdma_verbs::netlink::Netdev;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{plot, systemd, table};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    /// Microseconds since the kernel began (`CLOCK_MONOTONIC`).
    pub(crate) at: u64,
    /// The same, of what took some time.
    pub(crate) until: Option<u64>,
    /// The device or the unit.
    pub(crate) of: String,
    pub(crate) what: String,
}

pub(crate) fn run(root: &Root, svg: Option<&Path>, as_json: bool) -> Result<ExitCode> {
    let moments = moments(root)?;
    if let Some(path) = svg {
        let text = plot::svg(&moments);
        match path.to_str() {
            Some("-") => print!("{text}"),
            _ => {
                fs::write(path, text)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    } else if as_json {
        let value = |m: &Moment| json!({ "at_usec": m.at, "until_usec": m.until, "of": m.of, "what": m.what });
        println!("{:#}", Value::Array(moments.iter().map(value).collect()));
    } else {
        let seconds = |usec: u64| format!("{}.{:06}", usec / 1_000_000, usec % 1_000_000);
        let row = |m: &Moment| {
            let until = m.until.map(seconds).unwrap_or_default();
            vec![seconds(m.at), until, m.of.clone(), m.what.clone()]
        };
        let rows: Vec<Vec<String>> = moments.iter().map(row).collect();
        print!("{}", table::render(&["SECONDS", "UNTIL", "OF", "WHAT"], &rows));
    }
    Ok(ExitCode::SUCCESS)
}

/// All of it, in order.
fn moments(root: &Root) -> Result<Vec<Moment>> {
    let mut world = World::now(root, Lock::None)?;
    let clocks = Clocks::now();
    let journal = journal();
    let mut moments = units();
    for device in world.devices.clone() {
        let look = world.look(&device);
        let mut of_device = files(root, &look, &clocks);
        // Lines of a device that had the name before are not this one's.
        const BEFORE: u64 = 1_000_000;
        let since = of_device.iter().map(|m| m.at).min().unwrap_or(0).saturating_sub(BEFORE);
        of_device.extend(journal.iter().filter_map(|line| line.of(&look, since)));
        moments.extend(of_device);
        moments.extend(netdevs(root, &look));
    }
    moments.sort();
    moments.dedup();
    Ok(moments)
}

/// What the files of a device tell by their ages.
fn files(root: &Root, look: &Look, clocks: &Clocks) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut tell = |at: Option<u64>, what: String| {
        let of = look.device.name.clone();
        moments.extend(at.map(|at| Moment { at, until: None, of, what }));
    };
    let created = |path: &Path| fs::metadata(path).and_then(|m| m.created()).ok();
    tell(udev(root, &format!("+infiniband:{}", look.device.name)), "udev has seen it".into());
    for node in &look.nodes {
        let name = &node.name;
        let made = created(&root.path("/dev/infiniband").join(name));
        tell(made.and_then(|time| clocks.monotonic(time)), format!("kernel: node {name}"));
        let number = root.path("/sys/class").join(node.class).join(name).join("dev");
        if let Ok(number) = fs::read_to_string(number) {
            tell(udev(root, &format!("c{}", number.trim())), format!("udev has seen {name}"));
        }
    }
    let link = root.path("/run/rdma/names").join(&look.device.name);
    let named = link.symlink_metadata().and_then(|m| m.modified()).ok();
    let how = &look.state.policy;
    let was = match &look.state.kernel_name {
        was if *was == look.device.name => String::new(),
        was => format!(", was {was}"),
    };
    tell(named.and_then(|time| clocks.monotonic(time)), format!("has its name ({how}{was})"));
    moments
}

/// Its network interfaces, which may be older than it is.
fn netdevs(root: &Root, look: &Look) -> Vec<Moment> {
    let netdevs = look.ports.iter().filter_map(|port| port.netdev());
    let moment = |netdev: &Netdev| {
        let at = udev(root, &format!("n{}", netdev.index))?;
        let (of, what) = (look.device.name.clone(), format!("udev has seen {}", netdev.name));
        Some(Moment { at, until: None, of, what })
    };
    netdevs.filter_map(moment).collect()
}

/// When udev first saw something, by its entry in the database.
fn udev(root: &Root, entry: &str) -> Option<u64> {
    let text = fs::read_to_string(root.path("/run/udev/data").join(entry)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("I:"))?.parse().ok()
}

/// Our units, from start to active.
fn units() -> Vec<Moment> {
    let properties = ["Id", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"];
    let units = systemd::show("rdma*", &properties).unwrap_or_else(|error| {
        eprintln!("rdmactl: {error:#}; going on without the units");
        Vec::new()
    });
    let moment = |unit: systemd::Properties| {
        let time = |key: &str| unit.get(key)?.parse::<u64>().ok().filter(|usec| *usec > 0);
        let active = time(properties[2]);
        let at = time(properties[1]).or(active)?;
        let (until, what) = match active {
            Some(active) if active >= at => (Some(active), "active"),
            _ => (None, "started"),
        };
        Some(Moment { at, until, of: unit.get("Id")?.clone(), what: what.into() })
    };
    units.into_iter().filter_map(moment).collect()
}

/// A line of the journal.
#[derive(Debug)]
struct Line {
    at: u64,
    /// `kernel`, `rdmad`, ...
    who: String,
    message: String,
}

impl Line {
    /// The moment of a device that it tells of.
    fn of(&self, look: &Look, since: u64) -> Option<Moment> {
        let name = &look.device.name;
        let what = if self.who == "kernel" {
            let names = [name, &look.state.kernel_name];
            let words = || self.message.split([' ', ':', '\'']);
            names.into_iter().find(|name| words().any(|word| word == name.as_str()))?;
            self.message.as_str()
        } else {
            let rest = self.message.split_once(&format!("RDMA device '{name}'"))?.1;
            rest.trim_start_matches([':', ' '])
        };
        let (of, what) = (name.clone(), format!("{}: {what}", self.who));
        (self.at >= since).then_some(Moment { at: self.at, until: None, of, what })
    }
}

/// What rdmad, the udev helper and the kernel said since the machine was started.
fn journal() -> Vec<Line> {
    let output = Command::new("journalctl")
        .args(["-b", "-q", "-o", "json", "--output-fields=MESSAGE,SYSLOG_IDENTIFIER"])
        .args(["_SYSTEMD_UNIT=rdmad.service", "+", "SYSLOG_IDENTIFIER=rdma-udev-helper"])
        .args(["+", "_TRANSPORT=kernel"])
        .output();
    match output {
        Ok(output) => lines(&String::from_utf8_lossy(&output.stdout)),
        Err(error) => {
            let error: io::Error = error;
            eprintln!("rdmactl: cannot run journalctl: {error}; going on without the journal");
            Vec::new()
        }
    }
}

/// A message that is not text is an array of numbers: nothing of ours, and left out.
fn lines(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| value.get(key)?.as_str();
        Some(Line {
            at: text("__MONOTONIC_TIMESTAMP")?.parse().ok()?,
            who: text("SYSLOG_IDENTIFIER")?.to_owned(),
            message: text("MESSAGE")?.to_owned(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// One moment by both clocks. The wall clock may have been set since a file was made: what is off by that is off here.
#[derive(Debug)]
struct Clocks {
    wall: u64,
    monotonic: u64,
}

impl Clocks {
    fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let part = |n: i64| u64::try_from(n).unwrap_or(0);
        let monotonic = part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1000;
        Self { wall: usec(SystemTime::now()), monotonic }
    }

    /// None for what would be before the kernel began.
    fn monotonic(&self, time: SystemTime) -> Option<u64> {
        self.monotonic.checked_sub(self.wall.checked_sub(usec(time))?)
    }
}

fn usec(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_journal() {
        let text = r#"{"__MONOTONIC_TIMESTAMP":"7","MESSAGE":"RDMA device 'a': added","SYSLOG_IDENTIFIER":"rdmad"}
{"__MONOTONIC_TIMESTAMP":"8","MESSAGE":[255,0],"SYSLOG_IDENTIFIER":"kernel"}
{"__MONOTONIC_TIMESTAMP":"x","MESSAGE":"","SYSLOG_IDENTIFIER":"kernel"}
no JSON
{"__MONOTONIC_TIMESTAMP":"9","MESSAGE":"infiniband a: hello","SYSLOG_IDENTIFIER":"kernel"}"#;
        let lines = lines(text);
        let lines: Vec<_> =
            lines.iter().map(|l| (l.at, l.who.as_str(), l.message.as_str())).collect();
        assert_eq!(
            lines,
            [(7, "rdmad", "RDMA device 'a': added"), (9, "kernel", "infiniband a: hello")]
        );
    }

    #[test]
    fn two_clocks() {
        let clocks = Clocks { wall: 5_000_000, monotonic: 2_000_000 };
        let at = |seconds| clocks.monotonic(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!((at(4), at(5)), (Some(1_000_000), Some(2_000_000)));
        assert_eq!((at(2), at(6)), (None, None));
    }
}
