// SPDX-License-Identifier: MIT OR Apache-2.0
//! `enable-service`: what a service needs to use RDMA, as one drop-in of its unit.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use rdma_config::Root;
use rdma_udev_helper::state::replace;

use crate::systemd::{Properties, show, systemctl};

const HEAD: &str = "# Made by rdmactl enable-service; rdmactl enable-service --undo removes it.\n";

pub(crate) fn enable(
    root: &Root,
    unit: &str,
    raw_packets: bool,
    only_show: bool,
) -> Result<ExitCode> {
    let unit = full_name(unit)?;
    let properties =
        ["LoadState", "DevicePolicy", "PrivateDevices", "CapabilityBoundingSet", "NoNewPrivileges"];
    // A template is not a unit; systemd knows what an instance of it would be.
    let asked = unit.replace("@.", "@rdmactl.");
    let found = show(&asked, &properties)?.pop().unwrap_or_default();
    let load = found.get("LoadState").map_or("", String::as_str);
    ensure!(load == "loaded", "there is no unit '{unit}' that could be loaded ({load})");
    let path = path(root, &unit);
    let before = fs::read_to_string(&path).unwrap_or_default();
    let text = drop_in(&found, &before, raw_packets);
    print!("{}", difference(&path.display().to_string(), &before, &text));
    if only_show || before == text {
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(is_ours(&before), "{} is not ours: it stays as it is", path.display());
    replace(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    systemctl(&["daemon-reload"])?;
    println!("It is in force when {unit} is started the next time.");
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn disable(root: &Root, unit: &str, only_show: bool) -> Result<ExitCode> {
    let unit = full_name(unit)?;
    let path = path(root, &unit);
    let before = fs::read_to_string(&path)
        .with_context(|| format!("'{unit}' was not enabled: cannot read {}", path.display()))?;
    print!("{}", difference(&path.display().to_string(), &before, ""));
    if only_show {
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(is_ours(&before), "{} is not ours: it stays as it is", path.display());
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    // With drop-ins of others in it, it stays.
    path.parent().map(fs::remove_dir);
    systemctl(&["daemon-reload"])?;
    println!("It is in force when {unit} is started the next time.");
    Ok(ExitCode::SUCCESS)
}

fn is_ours(text: &str) -> bool {
    text.is_empty() || text.starts_with(HEAD)
}

/// `slurmd`: `slurmd.service`
fn full_name(unit: &str) -> Result<String> {
    let unit = if unit.ends_with(".service") { unit.to_owned() } else { format!("{unit}.service") };
    // systemd.unit(5)
    let good = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    ensure!(unit.len() < 256 && unit.chars().all(good), "'{unit}' is not the name of a unit");
    Ok(unit)
}

fn path(root: &Root, unit: &str) -> PathBuf {
    root.path(&format!("/etc/systemd/system/{unit}.d/50-rdma.conf"))
}

/// What is to be said to systemd of a unit that is like this. What an earlier drop-in of ours says is in force already,
/// so the unit does not show any more that it is needed: it is said again.
fn drop_in(unit: &Properties, before: &str, raw_packets: bool) -> String {
    let is = |key: &str, value: &str| unit.get(key).is_some_and(|v| v == value);
    let said = |line: &str| before.lines().any(|l| l == line);
    let mut text = format!(
        "{HEAD}[Unit]\nWants=rdma-wait-online.service\nAfter=rdma-wait-online.service\n\n[Service]\n\
         # Memory that a device reads and writes must not move.\nLimitMEMLOCK=infinity\n"
    );
    let private = is("PrivateDevices", "yes") || said("PrivateDevices=no");
    if private || !is("DevicePolicy", "auto") {
        if private {
            text += "# Its /dev has no RDMA devices; these rules leave it as little as that.\n\
                     PrivateDevices=no\nDevicePolicy=closed\n";
        }
        // In a unit without rules these would be the only devices left to it.
        text += "DeviceAllow=char-infiniband_verbs rw\nDeviceAllow=/dev/infiniband/rdma_cm rw\n";
    }
    if raw_packets {
        let bounded = unit.get("CapabilityBoundingSet").is_some_and(|set| {
            !set.split_whitespace().any(|capability| capability == "cap_net_raw")
        });
        if bounded || said("CapabilityBoundingSet=CAP_NET_RAW") {
            text += "CapabilityBoundingSet=CAP_NET_RAW\n";
        }
        text += "AmbientCapabilities=CAP_NET_RAW\n";
    }
    text
}

/// The lines that go and come; nothing when there are none.
fn difference(path: &str, before: &str, after: &str) -> String {
    if before == after {
        return format!("{path} is as it should be.\n");
    }
    let lines = |sign: char, text: &str| -> String {
        text.lines().map(|line| format!("{sign}{line}\n")).collect()
    };
    let name = |text: &str| if text.is_empty() { "/dev/null".to_owned() } else { path.to_owned() };
    format!(
        "--- {}\n+++ {}\n@@ -{},{} +{},{} @@\n{}{}",
        name(before),
        name(after),
        usize::from(!before.is_empty()),
        before.lines().count(),
        usize::from(!after.is_empty()),
        after.lines().count(),
        lines('-', before),
        lines('+', after)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(properties: &[(&str, &str)], raw_packets: bool) -> String {
        let unit = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        drop_in(&unit, "", raw_packets)
    }

    #[test]
    fn what_a_unit_needs() {
        let open = text(&[("DevicePolicy", "auto"), ("PrivateDevices", "no")], false);
        assert!(open.contains("LimitMEMLOCK=infinity") && !open.contains("Device"), "{open}");
        let closed = text(&[("DevicePolicy", "closed"), ("PrivateDevices", "no")], false);
        assert!(closed.contains("DeviceAllow=char-infiniband_verbs rw\n"), "{closed}");
        assert!(!closed.contains("PrivateDevices"), "{closed}");
        let private = text(&[("DevicePolicy", "auto"), ("PrivateDevices", "yes")], false);
        assert!(private.contains("PrivateDevices=no\nDevicePolicy=closed\n"), "{private}");
        let now = [("DevicePolicy".to_owned(), "closed".to_owned())].into();
        assert_eq!(drop_in(&now, &private, false), private, "a second time");
        let raw = text(&[("CapabilityBoundingSet", "cap_chown cap_net_raw")], true);
        assert!(raw.ends_with("AmbientCapabilities=CAP_NET_RAW\n"), "{raw}");
        assert!(!raw.contains("CapabilityBoundingSet"), "{raw}");
        assert!(text(&[("CapabilityBoundingSet", "cap_chown")], true).contains("Set=CAP_NET_RAW"));
    }

    #[test]
    fn names_of_units() {
        assert_eq!(full_name("slurmd").unwrap(), "slurmd.service");
        assert_eq!(full_name("a@.service").unwrap(), "a@.service");
        assert!(full_name("../a").is_err() && full_name("a b").is_err());
    }

    #[test]
    fn differences() {
        assert_eq!(
            difference("f", "", "a\nb\n"),
            "--- /dev/null\n+++ f\n@@ -0,0 +1,2 @@\n+a\n+b\n"
        );
        assert_eq!(difference("f", "a\n", ""), "--- f\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-a\n");
        assert_eq!(difference("f", "a", "a"), "f is as it should be.\n");
    }
}
