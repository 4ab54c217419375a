// SPDX-License-Identifier: MIT OR Apache-2.0
//! `doctor`: what keeps RDMA from working, and what to do about it.

use std::collections::BTreeSet;
use std::fs;
use std::io::IsTerminal as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use rdma_config::{Config, Root, modules};
use rdma_load_modules::kernel::Kernel;
use rdma_load_modules::{Verdict, plan};
use rdma_udev_helper::world::{Lock, World};
use rdma_wait_online::{check, condition};
use rdmad::model::{self, Model};
use serde_json::{Value, json};

use crate::systemd::Properties;
use crate::users::{self, Process};
use crate::{diff, systemd};

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    /// What it is about: `names`, `memlock`, ...
    about: &'static str,
    what: String,
    /// What to do.
    remedy: String,
}

fn problem(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    debug_assert!(CHECKS.contains(&about), "{about} would not be shown");
    Problem { about, what: what.into(), remedy: remedy.into() }
}

/// What is looked at, in the order in which it matters.
const CHECKS: [&str; 10] = [
    "configuration",
    "devices",
    "drivers",
    "renamers",
    "modules",
    "units",
    "readiness",
    "addresses",
    "nodes",
    "memlock",
];

pub(crate) fn run(root: &Root, as_json: bool) -> Result<ExitCode> {
    let (config, warnings) = Config::load(root);
    let mut world = World::now(root, Lock::None)?;
    let model = model::all(&mut world);
    let mut problems: Vec<Problem> = warnings
        .iter()
        .map(|w| {
            problem(
                "configuration",
                w.to_string(),
                "correct it; rdmactl config check says the same",
            )
        })
        .collect();
    problems.extend(devices(&mut world, &config, &model));
    problems.extend(drivers(root));
    problems.extend(renamers(root));
    problems.extend(unloaded(root, &model));
    problems.extend(units());
    problems.extend(readiness(root, &config));
    problems.extend(addresses(&world, &model));
    problems.extend(nodes(root, &services()));
    problems.extend(memlock(root));
    if as_json {
        let value =
            |p: &Problem| json!({ "about": p.about, "problem": p.what, "remedy": p.remedy });
        println!("{:#}", Value::Array(problems.iter().map(value).collect()));
    } else {
        let all_seen = rustix::process::geteuid().is_root();
        print!("{}", text(&problems, all_seen, std::io::stdout().is_terminal()));
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line or more for each check. Without privilege, what other users' processes do is not seen.
fn text(problems: &[Problem], all_seen: bool, colours: bool) -> String {
    let painted = |colour: u8, word: &str| match colours {
        true => format!("\x1b[{colour}m{word}\x1b[0m"),
        false => word.to_owned(),
    };
    let mut out = String::new();
    for about in CHECKS {
        let mut any = false;
        for problem in problems.iter().filter(|p| p.about == about) {
            any = true;
            let Problem { what, remedy, .. } = problem;
            out += &format!("{about}: {} {what}\n  {remedy}\n", painted(31, "problem:"));
        }
        if !any && about == "memlock" && !all_seen {
            out += "memlock: good, of your own processes; root sees all\n";
        } else if !any {
            out += &format!("{about}: {}\n", painted(32, "good"));
        }
    }
    out
}

/// What the kernel has, against what the configuration says.
fn devices(world: &mut World, config: &Config, model: &Model) -> Vec<Problem> {
    let mut problems = Vec::new();
    if model.is_empty() {
        let what = "there is no RDMA device";
        problems.push(problem(
            "devices",
            what,
            "if there is hardware, is its driver loaded? See lspci -k and the kernel's journal; for RoCE on any \
             network interface there is [[link]] in the configuration",
        ));
    }
    for off in diff::all(world, config) {
        let is = if off.is.is_empty() { "not there".to_owned() } else { format!("'{}'", off.is) };
        let remedy = match off.key.as_str() {
            "name" => "rdmactl names --apply, or at the next boot",
            diff::DESCRIPTION => "somebody else has set it: rdmactl ndd --write sets it again",
            "link" | "netns" => "see the journal of rdmad.service",
            _ => {
                "somebody else has set it: systemctl reload rdmad sets it again, drift = \"repair\" always does"
            }
        };
        let wanted =
            format!("{} of '{}' is {is} and should be '{}'", off.key, off.about, off.should_be);
        problems.push(problem("devices", wanted, remedy));
    }
    problems
}

/// Modules from outside the kernel, and what such packages leave behind.
fn drivers(root: &Root) -> Vec<Problem> {
    let mut problems = Vec::new();
    for module in ["ib_core", "ib_uverbs", "rdma_cm", "mlx5_core", "mlx5_ib", "bnxt_re", "irdma"] {
        let taint = fs::read_to_string(root.path(&format!("/sys/module/{module}/taint")));
        if taint.is_ok_and(|taint| taint.contains('O')) {
            problems.push(problem(
                "drivers",
                format!("module {module} does not come with this kernel (MLNX_OFED, DOCA-OFED or another package)"),
                "such a package has its own boot scripts and udev rules: let only one of them load and rename",
            ));
        }
    }
    for path in [
        "/etc/init.d/openibd",
        "/usr/lib/systemd/system/openibd.service",
        "/etc/infiniband/openib.conf",
    ] {
        if root.path(path).exists() {
            problems.push(problem(
                "drivers",
                format!("{path} is of MLNX_OFED or DOCA-OFED: openibd unloads and loads the drivers at boot"),
                "without that package: remove the file; with it: systemctl disable openibd",
            ));
        }
    }
    problems
}

/// Rules of others that give names, too.
fn renamers(root: &Root) -> Vec<Problem> {
    let mut problems = Vec::new();
    for rule in rules(root) {
        let text = fs::read_to_string(&rule).unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        for line in
            lines.filter(|line| line.contains("rdma_rename") || line.contains("rdma dev set"))
        {
            let remedy = "rdmactl config import prints the configuration that says the same; then remove the rule";
            problems.push(problem(
                "renamers",
                format!("{} also renames: {line}", rule.display()),
                remedy,
            ));
        }
    }
    problems
}

/// udev's rules that are in force: of those with the same name that of the first directory.
fn rules(root: &Root) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let dirs = ["/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d"];
    let files =
        dirs.iter().flat_map(|dir| fs::read_dir(root.path(dir)).into_iter().flatten().flatten());
    let rules = files.filter(|file| file.path().extension().is_some_and(|e| e == "rules"));
    rules.filter(|file| seen.insert(file.file_name())).map(|file| file.path()).collect()
}

/// Modules of the lists for what is there.
fn unloaded(root: &Root, model: &Model) -> Vec<Problem> {
    let mut lists = BTreeSet::new();
    for port in model.values().flat_map(|device| device.ports.values()) {
        lists.insert("rdma");
        match port.protocol.as_str() {
            "ib" => lists.insert("infiniband"),
            "roce" => lists.insert("roce"),
            "iw" => lists.insert("iwarp"),
            "opa" => lists.insert("opa"),
            _ => false,
        };
    }
    let wanted = lists.iter().filter_map(|list| Some(modules::read(root, list)?.0));
    let steps = plan(wanted, &Kernel::running(root)).into_iter();
    let missing = steps.filter(|step| step.verdict == Verdict::Load).map(|step| {
        let module = &step.wanted.module;
        let place = format!("{}:{}", step.wanted.file.display(), step.wanted.line);
        let what = format!("module {module}, which {place} asks for, is not loaded");
        problem("modules", what, format!("rdmactl modules why {module} says why"))
    });
    missing.collect()
}

/// Units of ours that have failed.
fn units() -> Vec<Problem> {
    let units = match systemd::show("rdma*", &["Id", "ActiveState", "Result"]) {
        Ok(units) => units,
        Err(error) => {
            return vec![problem(
                "units",
                format!("{error:#}"),
                "without systemd, start what you need by hand",
            )];
        }
    };
    let failed = units.iter().filter(|unit| unit.get("ActiveState").is_some_and(|s| s == "failed"));
    let told = failed.map(|unit| {
        let value = |key: &str| unit.get(key).map_or("", String::as_str);
        let (id, result) = (value("Id"), value("Result"));
        let remedy = format!("journalctl -b -u {id} says why");
        problem("units", format!("{id} has failed ({result})"), remedy)
    });
    told.collect()
}

fn readiness(root: &Root, config: &Config) -> Vec<Problem> {
    let remedy =
        "rdma-online.target waits for this; [online] in the configuration says what is asked for";
    let missing = condition(config, None)
        .and_then(|online| Ok(check(&online, &rdma_wait_online::look(root, &online, |_| false)?)));
    match missing {
        Ok(missing) => missing.into_iter().map(|what| problem("readiness", what, remedy)).collect(),
        Err(error) => vec![problem("readiness", format!("{error:#}"), remedy)],
    }
}

/// RoCE needs a GID, InfiniBand for IP an interface that is up.
fn addresses(world: &World, model: &Model) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (device, number, port) in
        model.values().flat_map(|d| d.ports.iter().map(move |(number, port)| (d, *number, port)))
    {
        let about = format!("port {number} of '{}'", device.name);
        match port.protocol.as_str() {
            "roce" if port.gid_index.is_none() => problems.push(problem(
                "addresses",
                format!("{about} has no GID for RoCE v2"),
                format!("give its network interface {} an address and set it up", port.netdev),
            )),
            "ib" if port.state == "ACTIVE" && world.root.path("/sys/module/ib_ipoib").exists() => {
                let interfaces = world.sysfs.ipoib_interfaces_of(&device.name, number);
                let down = interfaces.iter().all(|name| !world.sysfs.netdev_is_up(name));
                if down && !interfaces.is_empty() {
                    problems.push(problem(
                        "addresses",
                        format!(
                            "{about} is ACTIVE, but its IPoIB interface {} is down",
                            interfaces.join(", ")
                        ),
                        "set it up, if IP over InfiniBand is wanted; rdma_cm needs it, too",
                    ));
                }
            }
            _ => {}
        }
    }
    problems
}

/// Services, as far as [`nodes`] needs them. That systemd cannot be asked is said among the units.
fn services() -> Vec<Properties> {
    systemd::show("*.service", &["Id", "User", "DeviceAllow"]).unwrap_or_default()
}

/// Nodes that services are allowed by name and cannot use. A capability of a card's firmware is such a node, too.
fn nodes(root: &Root, services: &[Properties]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for service in services {
        let value = |key: &str| service.get(key).map_or("", String::as_str);
        let id = value("Id");
        for node in value("DeviceAllow").split_whitespace() {
            let Some(name) = node.strip_prefix("/dev/infiniband/") else { continue };
            let is_capability = CAPABILITIES.contains(&name);
            match fs::metadata(root.path(node)) {
                Err(_) => problems.push(problem(
                    "nodes",
                    format!("{id} may use {node}, which is not there"),
                    if is_capability {
                        "no card here has this in its firmware, or the kernel is older than 6.15"
                    } else {
                        "is its device there? Names of nodes change; /dev/infiniband/by-port-guid has lasting ones"
                    },
                )),
                // The kernel lets nobody else use it, and no rule does.
                Ok(metadata)
                    if is_capability
                        && metadata.permissions().mode() & 0o077 == 0
                        && !matches!(value("User"), "" | "root" | "0") =>
                {
                    problems.push(problem(
                        "nodes",
                        format!("{id} may use {node}, but only root can open it"),
                        format!("a udev rule can let a group: KERNEL==\"{name}\", GROUP=\"...\", MODE=\"0660\""),
                    ));
                }
                Ok(_) => {}
            }
        }
    }
    problems
}

/// The kernel's nodes for capabilities of a card's firmware (`drivers/infiniband/core/ucaps.c`).
const CAPABILITIES: [&str; 2] = ["mlx5_perm_ctrl_local", "mlx5_perm_ctrl_other_vhca"];

/// Programs that have a device open and may not lock the memory that they will register.
fn memlock(root: &Root) -> Vec<Problem> {
    let mut problems = Vec::new();
    for process in users::processes(root).into_iter().filter(has_uverbs) {
        let file = |name: &str| fs::read_to_string(process.path.join(name)).unwrap_or_default();
        let Some(limit) = memlock_of(&process.path) else { continue };
        let cgroup = file("cgroup");
        let unit = cgroup.trim().rsplit('/').find(|part| part.ends_with(".service"));
        // These listen to devices, and register nothing.
        if unit.is_some_and(|unit| unit == "rdmad.service" || unit.starts_with("rdma-wait-online"))
        {
            continue;
        }
        problems.push(problem(
            "memlock",
            format!(
                "{} has an RDMA device open and may lock only {} KiB of memory",
                process.who,
                limit / 1024
            ),
            match unit {
                Some(unit) => format!("rdmactl enable-service {unit}, and start it again"),
                None => "raise 'memlock' in /etc/security/limits.d, and log in again".to_owned(),
            },
        ));
    }
    problems
}

fn has_uverbs(process: &Process) -> bool {
    let is_uverbs = |node: &PathBuf| node.to_string_lossy().starts_with("/dev/infiniband/uverbs");
    process.nodes.iter().any(is_uverbs)
}

/// The limit in bytes of a process; None when it has none, or need not care.
fn memlock_of(process: &Path) -> Option<u64> {
    /// `CAP_IPC_LOCK`
    const IPC_LOCK: u32 = 14;
    let status = fs::read_to_string(process.join("status")).ok()?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    if effective & (1 << IPC_LOCK) != 0 {
        return None;
    }
    let limits = fs::read_to_string(process.join("limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        for (path, text) in files {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn leftovers_and_other_renamers() {
        let (_dir, root) = tree(&[
            ("/sys/module/mlx5_core/taint", "OE\n"),
            ("/sys/module/ib_core/taint", "\n"),
            ("/etc/init.d/openibd", ""),
            (
                "/etc/udev/rules.d/60-a.rules",
                "# rdma_rename\nRUN+=\"/usr/bin/rdma dev set x name y\"\n",
            ),
            ("/usr/lib/udev/rules.d/60-a.rules", "PROGRAM=\"rdma_rename %k NAME_KERNEL\"\n"),
            ("/usr/lib/udev/rules.d/60-b.rules", "PROGRAM=\"rdma_rename %k NAME_KERNEL\"\n"),
        ]);
        let found: Vec<String> = drivers(&root).into_iter().map(|p| p.what).collect();
        assert!(found.len() == 2 && found[0].contains("mlx5_core"), "{found:?}");
        let found: Vec<String> = renamers(&root).into_iter().map(|p| p.what).collect();
        assert!(found.len() == 2 && found[0].contains("dev set"), "{found:?}");
        let (_dir, clean) = tree(&[]);
        assert_eq!((drivers(&clean), renamers(&clean)), (vec![], vec![]));
    }

    #[test]
    fn locked_memory() {
        const LIMIT: &str =
            "Max locked memory         8388608              8388608              bytes\n";
        const NONE: &str =
            "Max locked memory         unlimited            unlimited            bytes\n";
        let process = |pid: &str, cap: &str, limits: &str| -> Vec<(String, String)> {
            [
                ("status", format!("CapEff:\t{cap}\n")),
                ("limits", limits.to_owned()),
                ("comm", "app\n".to_owned()),
                ("cgroup", "0::/system.slice/app.service\n".to_owned()),
                ("fd/0", String::new()),
            ]
            .map(|(file, text)| (format!("/proc/{pid}/{file}"), text))
            .into()
        };
        let files = [
            process("1", "0000000000000000", LIMIT),
            process("2", "0000000000004000", LIMIT),
            process("3", "0000000000000000", NONE),
            process("4", "0000000000000000", LIMIT),
        ]
        .concat();
        let files: Vec<(&str, &str)> =
            files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let (_dir, root) = tree(&files);
        for pid in [1, 2, 3] {
            symlink("/dev/infiniband/uverbs0", root.path(&format!("/proc/{pid}/fd/3"))).unwrap();
        }
        let found = memlock(&root);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            found[0].what,
            "app[1] has an RDMA device open and may lock only 8192 KiB of memory"
        );
        assert!(found[0].remedy.contains("enable-service app.service"));
    }

    #[test]
    fn nodes_of_services() {
        const LOCAL: &str = "/dev/infiniband/mlx5_perm_ctrl_local";
        let (_dir, root) = tree(&[(LOCAL, ""), ("/dev/infiniband/umad0", "")]);
        let mode = |mode| {
            fs::set_permissions(root.path(LOCAL), fs::Permissions::from_mode(mode)).unwrap();
        };
        let found = |user: &str, allowed: &str| {
            let service = [("Id", "a.service"), ("User", user), ("DeviceAllow", allowed)];
            let service = service.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let found = nodes(&root, &[service.into()]);
            found.into_iter().map(|p| p.what + ": " + &p.remedy).collect::<Vec<_>>().join("\n")
        };
        mode(0o600);
        let local = &format!("char-rtc r\n{LOCAL} rw");
        assert!(found("app", local).contains("only root can open it: a udev rule"));
        assert_eq!(found("", local), "");
        mode(0o660);
        assert_eq!(found("app", local), "");
        let other = "/dev/infiniband/mlx5_perm_ctrl_other_vhca rw\n/dev/infiniband/umad0 rw";
        let said = found("app", other);
        assert!(said.contains("which is not there: no card here has this"), "{said}");
        let said = found("app", "/dev/infiniband/umad7 rw");
        assert!(said.contains("umad7, which is not there: is its device there?"), "{said}");
    }

    #[test]
    fn for_people() {
        let problems = [problem("memlock", "what", "remedy")];
        let plain = text(&problems, true, false);
        assert!(plain.ends_with("memlock: problem: what\n  remedy\n"), "{plain}");
        assert!(plain.starts_with("configuration: good\n"), "{plain}");
        assert!(text(&[], true, false).ends_with("memlock: good\n"));
        assert!(text(&[], false, false).ends_with("root sees all\n"));
        assert!(text(&problems, true, true).contains("\x1b[31mproblem:\x1b[0m"));
    }
}
