// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who asks for a module, and what becomes of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use rdma_config::{Root, modules};

use crate::kernel::Kernel;
use crate::servers;

/// Where modprobe reads its configuration, in the order of precedence of modprobe.d(5).
const MODPROBE_DIRS: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// What there is to say about a module, as lines.
///
/// # Errors
/// When modprobe cannot be run.
pub fn explain(root: &Root, kernel: &Kernel, module: &str) -> Result<String> {
    let mut text = String::new();
    let mut asked = false;
    for list in list_names(root) {
        let (wanted, _) = modules::read(root, &list).unwrap_or_default();
        for w in wanted.iter().filter(|w| same(&w.module, module)) {
            asked = true;
            write!(text, "asked for by {}:{}", w.file.display(), w.line)?;
            if !servers::wants(root, &list).0 {
                write!(
                    text,
                    ", which is not loaded: the server's configuration does not ask for RDMA"
                )?;
            }
            writeln!(text)?;
        }
    }
    if !asked {
        writeln!(text, "no list asks for it")?;
    }
    for (file, line, words) in modprobe_lines(root, module) {
        writeln!(text, "{words} ({file}:{line})")?;
    }
    let state = if kernel.is_loaded(module) {
        "it is loaded".to_owned()
    } else if kernel.is_builtin(module) {
        "it is part of the kernel".to_owned()
    } else {
        resolve(module)?
    };
    write!(text, "{state}")?;
    Ok(text)
}

/// What modprobe would do with a module that is not there.
fn resolve(module: &str) -> Result<String> {
    let output = Command::new("modprobe")
        .args(["-b", "--show-depends", "--", module])
        .output()
        .context("cannot run modprobe")?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(if !output.status.success() {
        "this kernel does not have it".to_owned()
    } else if said.trim().is_empty() {
        "it is not loaded: it is blacklisted".to_owned()
    } else {
        let words: Vec<&str> = said.lines().map(str::trim).collect();
        format!("it is not loaded; modprobe would run: {}", words.join("; "))
    })
}

/// The names of all lists.
#[must_use]
pub fn list_names(root: &Root) -> BTreeSet<String> {
    let dirs = ["/etc/rdma/modules", "/run/rdma/modules", "/usr/lib/rdma/modules"];
    let entries =
        dirs.iter().flat_map(|dir| fs::read_dir(root.path(dir)).into_iter().flatten().flatten());
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(".d").unwrap_or(&name);
            name.strip_suffix(".conf").map(str::to_owned)
        })
        .collect()
}

/// Lines of modprobe's configuration about a module.
fn modprobe_lines(root: &Root, module: &str) -> Vec<(String, usize, String)> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for dir in MODPROBE_DIRS {
        let mut paths: Vec<_> = fs::read_dir(root.path(dir))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        paths.sort();
        for path in paths {
            // A file of the same name in an earlier directory stands for this one.
            if path.extension().is_none_or(|e| e != "conf")
                || !seen.insert(path.file_name().map(ToOwned::to_owned))
            {
                continue;
            }
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            for (number, line) in text.lines().enumerate() {
                let mut words = line.split_whitespace();
                let command = words.next().unwrap_or_default();
                let about =
                    matches!(command, "blacklist" | "install" | "options" | "softdep" | "remove");
                if about && words.next().is_some_and(|name| same(name, module)) {
                    found.push((path.display().to_string(), number + 1, line.trim().to_owned()));
                }
            }
        }
    }
    found
}

/// `-` and `_` are the same in module names.
fn same(a: &str, b: &str) -> bool {
    a.replace('-', "_") == b.replace('-', "_")
}
