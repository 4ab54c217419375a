// SPDX-License-Identifier: MIT OR Apache-2.0
//! `config import`: the configuration that says what udev rules with `rdma_rename` say.
//!
//! A rule is understood as far as it matches by what an entry can match; of any other the reader is told, and
//! nothing is made of it: an entry without that condition would name more devices.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use rdma_config::Root;

pub(crate) fn run(root: &Root, files: &[PathBuf]) -> Result<ExitCode> {
    let files = if files.is_empty() { own_rules(root) } else { files.to_vec() };
    let mut left_out = false;
    for file in &files {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let (toml, remarks) = import(&file.display().to_string(), &String::from_utf8_lossy(&text));
        print!("{toml}");
        left_out |= !remarks.is_empty();
        for remark in remarks {
            eprintln!("rdmactl: {remark}");
        }
    }
    Ok(if left_out { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The administrator's own rules that call `rdma_rename`.
fn own_rules(root: &Root) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.path("/etc/udev/rules.d")).into_iter().flatten().flatten();
    let calls = |path: &Path| fs::read(path).is_ok_and(|t| find(&t, b"rdma_rename"));
    let rules = |path: &PathBuf| path.extension().is_some_and(|e| e == "rules") && calls(path);
    let mut files: Vec<PathBuf> = entries.map(|e| e.path()).filter(rules).collect();
    files.sort();
    files
}

fn find(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

/// The entries for a file's rules, and what could not be said.
fn import(file: &str, text: &str) -> (String, Vec<String>) {
    let (mut toml, mut remarks) = (String::new(), Vec::new());
    for (number, line) in lines(text) {
        if line.trim_start().starts_with('#') || !line.contains("rdma_rename") {
            continue;
        }
        match rule(&line) {
            Ok(entry) => {
                let _ = write!(toml, "# {file}:{number}\n{entry}\n");
            }
            Err(why) => remarks.push(format!("{file}:{number}: left out: {why}")),
        }
    }
    (toml, remarks)
}

/// Lines with those that end in a backslash joined, each with the number of its first.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (n, line) in text.lines().enumerate() {
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match joined.last_mut().filter(|_| goes_on) {
            Some((_, last)) => last.push_str(part),
            None => joined.push((n + 1, part.to_owned())),
        }
        goes_on = more;
    }
    joined
}

/// The entry for one rule; why there is none.
fn rule(line: &str) -> Result<String, String> {
    let (mut conditions, mut call) = (Vec::new(), None);
    for (key, operator, value) in keys(line)? {
        let pattern = |name: &str| format!("{name} = {}", patterns(&value));
        match (key.as_str(), operator.as_str()) {
            ("ACTION" | "SUBSYSTEM", "==") => {}
            ("PROGRAM" | "IMPORT{program}" | "RUN" | "RUN{program}", "=" | "+=" | "==" | ":=") => {
                call = Some(value);
            }
            ("KERNEL", "==") => conditions.push(pattern("sysname")),
            ("ATTR{board_id}" | "ATTRS{board_id}", "==") => conditions.push(pattern("board-id")),
            ("ATTR{node_guid}" | "ATTRS{node_guid}", "==") => {
                conditions.push(format!("node-guid = {}", patterns(&value.replace(':', ""))));
            }
            ("KERNELS", "==") => {
                let paths: Vec<String> = value.split('|').map(|v| format!("pci-{v}")).collect();
                conditions.push(format!("path = {}", patterns(&paths.join("|"))));
            }
            ("ENV{ID_PATH}", "==") => conditions.push(pattern("path")),
            ("NAME", _) => return Err("NAME= has never renamed an RDMA device".into()),
            _ => return Err(format!("no entry can say {key}{operator}\"{value}\"")),
        }
    }
    let call = call.ok_or("it does not call rdma_rename")?;
    let words: Vec<&str> = call.split_whitespace().filter(|word| *word != "-v").collect();
    let says = match words[..] {
        [_, _, "NAME_FIXED", name, ..] => format!("name = {}", quoted(name)),
        [_, _, "NAME_KERNEL", ..] => "policy = \"kernel\"".into(),
        [_, _, "NAME_PCI", ..] => "policy = \"path\"".into(),
        [_, _, "NAME_GUID", ..] => "policy = \"guid\"".into(),
        [_, _, "NAME_ONBOARD", ..] => "policy = \"onboard\"".into(),
        [_, _, "NAME_FALLBACK", ..] => "policy = [\"onboard\", \"path\"]".into(),
        _ => return Err(format!("'{call}' is no call of rdma_rename with a policy")),
    };
    match (conditions.is_empty(), says.starts_with("policy")) {
        (true, true) => Ok(format!("[naming]\n{says}\n")),
        (true, false) => Err("it would give one name to every device".into()),
        (false, _) => Ok(format!("[[device]]\nmatch = {{ {} }}\n{says}\n", conditions.join(", "))),
    }
}

/// `KEY OPERATOR "VALUE"`, parted by commas.
fn keys(line: &str) -> Result<Vec<(String, String, String)>, String> {
    let mut keys = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let broken = || format!("'{rest}' is no rule");
        let at = rest.find(['=', '!', '+', '-', ':']).ok_or_else(broken)?;
        let (key, tail) = rest.split_at(at);
        let quote = tail.find('"').ok_or_else(broken)?;
        let (operator, tail) = tail.split_at(quote);
        let (value, tail) = tail.get(1..).and_then(|t| t.split_once('"')).ok_or_else(broken)?;
        keys.push((key.trim().into(), operator.trim().into(), value.into()));
        rest = tail.trim_start_matches([',', ' ', '\t']);
    }
    Ok(keys)
}

/// udev's alternatives as a list.
fn patterns(value: &str) -> String {
    let words: Vec<String> = value.split('|').map(quoted).collect();
    match words.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use rdma_config::Config;

    use super::*;

    const PROGRAM: &str = "PROGRAM=\"rdma_rename %k";

    #[test]
    fn what_rules_say() {
        for (rule, entry) in [
            (
                "ATTR{board_id}==\"MSF*\", PROGRAM=\"rdma_rename %k NAME_FIXED rail0\"",
                "[[device]]\nmatch = { board-id = \"MSF*\" }\nname = \"rail0\"\n",
            ),
            (
                "KERNELS==\"0000:c1:00.0|0000:c2:00.0\", PROGRAM=\"rdma_rename %k NAME_PCI\"",
                "[[device]]\nmatch = { path = [\"pci-0000:c1:00.0\", \"pci-0000:c2:00.0\"] }\npolicy = \"path\"\n",
            ),
            (
                "ATTR{node_guid}==\"5254:00c0:fe12:3455\", KERNEL==\"mlx5_*\", PROGRAM=\"rdma_rename -v %k NAME_GUID\"",
                "[[device]]\nmatch = { node-guid = \"525400c0fe123455\", sysname = \"mlx5_*\" }\npolicy = \"guid\"\n",
            ),
            ("PROGRAM=\"rdma_rename %k NAME_KERNEL\"", "[naming]\npolicy = \"kernel\"\n"),
            (
                "PROGRAM=\"rdma_rename %k NAME_FALLBACK\"",
                "[naming]\npolicy = [\"onboard\", \"path\"]\n",
            ),
        ] {
            let text = format!("# old\nACTION==\"add\", SUBSYSTEM==\"infiniband\", \\\n  {rule}\n");
            let (toml, remarks) = import("own.rules", &text);
            assert_eq!((toml, remarks), (format!("# own.rules:2\n{entry}\n"), vec![]));
        }
    }

    #[test]
    fn what_no_entry_can_say_is_left_out_and_told() {
        for (rule, why) in [
            ("ATTR{hca_type}==\"MT41*\", ", "no entry can say ATTR{hca_type}==\"MT41*\""),
            ("KERNEL!=\"mlx5_0\", ", "no entry can say KERNEL!=\"mlx5_0\""),
            ("", "it would give one name to every device"),
        ] {
            let text = format!("{rule}{PROGRAM} NAME_FIXED x\"\n");
            let (toml, remarks) = import("own.rules", &text);
            assert_eq!((toml.as_str(), remarks.len()), ("", 1));
            assert_eq!(remarks[0], format!("own.rules:1: left out: {why}"));
        }
        for broken in ["rdma_rename", "KERNEL==\"rdma_rename", "PROGRAM=\"rdma_rename %k\""] {
            assert_eq!(import("own.rules", broken).1.len(), 1, "{broken}");
        }
    }

    proptest::proptest! {
        /// Whatever a rule matches by, the entry is TOML that means it.
        #[test]
        fn entries_are_good(value in "[^\"|\\n\\\\]{1,20}", name in "[a-z0-9]{1,8}") {
            let text = format!("ATTR{{board_id}}==\"{value}\", {PROGRAM} NAME_FIXED {name}\"\n");
            let dir = tempfile::tempdir().unwrap();
            let root = Root::at(dir.path());
            fs::create_dir_all(root.path("/etc/rdma")).unwrap();
            let (toml, _) = import("own.rules", &text);
            fs::write(root.path("/etc/rdma/rdma.toml"), toml).unwrap();
            let (config, warnings) = Config::load(&root);
            // A pattern that udev takes and glob does not is told when it is read.
            if warnings.is_empty() {
                proptest::prop_assert_eq!(config.devices.len(), 1);
                proptest::prop_assert_eq!(config.devices[0].name.as_deref(), Some(name.as_str()));
            } else {
                let what = &warnings[0].what;
                proptest::prop_assert!(what.starts_with("match.board-id must be"), "{}", what);
            }
        }

        #[test]
        fn any_text(text: String) {
            let _ = import("own.rules", &format!("{text}rdma_rename{text}"));
        }
    }
}
