// SPDX-License-Identifier: MIT OR Apache-2.0
//! What systemd knows of units, asked of `systemctl`.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Properties of a unit, by name; of one that is a list a line each.
pub(crate) type Properties = BTreeMap<String, String>;

/// Runs `systemctl`; what it prints.
pub(crate) fn systemctl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.context("cannot run systemctl")?;
    ensure!(
        output.status.success(),
        "systemctl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Some properties of the units that fit a pattern, a map for each.
pub(crate) fn show(pattern: &str, properties: &[&str]) -> Result<Vec<Properties>> {
    let text = systemctl(&["show", "-p", &properties.join(","), "--", pattern])?;
    let unit = |block: &str| {
        let lines = block.lines().filter_map(|line| line.split_once('='));
        let mut unit = Properties::new();
        for (key, value) in lines {
            let values = unit.entry(key.to_owned()).or_default();
            *values += if values.is_empty() { "" } else { "\n" };
            *values += value;
        }
        unit
    };
    Ok(text.split("\n\n").map(unit).filter(|unit| !unit.is_empty()).collect())
}
