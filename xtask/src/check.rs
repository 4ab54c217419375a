// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that must pass, in one run.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::vm::{self, Boot, Suite};

/// What a run has counted, for the summary line.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Tally {
    /// Runs one step, shows how long it took, and counts it as a test of its own.
    pub(crate) fn step(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<()>) {
        let start = Instant::now();
        println!("\n== {name}");
        let outcome = run(self);
        let seconds = start.elapsed().as_secs();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("== {name}: ok ({seconds} s)");
            }
            Err(error) => {
                self.failed += 1;
                println!("== {name}: FAILED ({seconds} s): {error:#}");
            }
        }
    }

    /// Adds what a test program counted: its `test result:` lines.
    pub(crate) fn count(&mut self, output: &str) {
        for line in output.lines().filter(|l| l.starts_with("test result: ")) {
            let number = |what: &str| {
                let words: Vec<&str> =
                    line.split([' ', ';', '.']).filter(|w| !w.is_empty()).collect();
                words.windows(2).find(|w| w[1] == what).and_then(|w| w[0].parse::<u32>().ok())
            };
            self.passed += number("passed").unwrap_or(0);
            self.failed += number("failed").unwrap_or(0);
            self.ignored += number("ignored").unwrap_or(0);
        }
    }

    /// Prints the summary; an error when anything failed.
    pub(crate) fn finish(self) -> Result<()> {
        let verdict = if self.failed == 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {verdict}. {} passed; {} failed; {} ignored",
            self.passed, self.failed, self.ignored
        );
        if self.failed > 0 {
            bail!("{} failed", self.failed);
        }
        Ok(())
    }
}

/// Which part of it is run; everything, when nothing is said.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only what needs no guest.
    #[arg(long)]
    host: bool,
    /// Only the guest tests whose name contains this, in one guest.
    #[arg(long, value_name = "FILTER", conflicts_with = "host")]
    guest: Option<String>,
    /// Guest distribution, with --guest.
    #[arg(long, value_enum, default_value = "trixie", requires = "guest")]
    suite: Suite,
    /// Boot integration of the guest, with --guest.
    #[arg(long, value_enum, default_value = "ours", requires = "guest")]
    boot: Boot,
}

/// Runs it.
pub(crate) fn test(repo: &Path, options: &Options) -> Result<()> {
    let mut tally = Tally::default();
    if let Some(filter) = &options.guest {
        tally.step("guest tests", |tally| guest(repo, options.suite, options.boot, filter, tally));
        return tally.finish();
    }
    host(repo, &mut tally);
    if !options.host {
        tally.step("the lab tells how a command ended", |_| lab(repo));
        tally.step("network namespaces as configured, from the boot on", |_| netns_at_boot(repo));
        tally.step("an HCA is pulled in use, 20 times", |_| stress(repo));
        tally.step("the demonstration", |_| match crate::demo(repo, Suite::Trixie)? {
            0 => Ok(()),
            status => bail!("it ended with status {status}"),
        });
        for (suite, boot) in [
            (Suite::Trixie, Boot::Ours),
            (Suite::Bookworm, Boot::Ours),
            (Suite::Trixie, Boot::RdmaCore),
        ] {
            tally.step(&format!("guest tests: {suite:?}, {boot:?}"), |tally| {
                guest(repo, suite, boot, "", tally)
            });
        }
    }
    tally.finish()
}

/// A status comes through; of a panic and a hang the console's last lines do.
fn lab(repo: &Path) -> Result<()> {
    let exec = |timeout, script| {
        vm::exec(repo, &vm::Options::new(Suite::Trixie, Boot::Ours, timeout), script)
    };
    ensure!(exec(60, "exit 7")? == 7, "the status of a command is lost");
    for (timeout, script, said) in [
        (60, "echo c > /proc/sysrq-trigger", "Kernel panic - not syncing: sysrq triggered crash"),
        (5, "echo nothing more > /dev/console; sleep infinity", "nothing more"),
    ] {
        match exec(timeout, script) {
            Ok(status) => bail!("`{script}` ended with status {status}"),
            Err(error) => ensure!(format!("{error:#}").contains(said), "`{script}`: {error:#}"),
        }
    }
    Ok(())
}

/// A guest that has its configuration before it boots. The mode can be changed only while there is one namespace.
fn netns_at_boot(repo: &Path) -> Result<()> {
    let mut options = vm::Options::new(Suite::Trixie, Boot::Ours, 120);
    options.append = "systemd.set_credential=\"tmpfiles.extra:\
                      f /etc/rdma/rdma.toml - - - - [system]\\nnetns='exclusive'\""
        .into();
    let script = "systemctl is-system-running --wait; rdma system | grep 'netns exclusive'";
    match vm::exec(repo, &options, script)? {
        0 => Ok(()),
        status => bail!("it ended with status {status}"),
    }
}

/// The short form of tests/guest/stress.sh, with the kernel's allocator watching.
fn stress(repo: &Path) -> Result<()> {
    let mut options = vm::Options::new(Suite::Trixie, Boot::Ours, 400);
    options.append = "slub_debug=FZPU".into();
    let script = std::fs::read_to_string(repo.join("tests/guest/stress.sh"))?;
    match vm::exec(repo, &options, &format!("set -- 20\n{script}"))? {
        0 => Ok(()),
        status => bail!("it ended with status {status}"),
    }
}

/// The guest tests, in one boot.
fn guest(repo: &Path, suite: Suite, boot: Boot, filter: &str, tally: &mut Tally) -> Result<()> {
    let mut options = vm::Options::new(suite, boot, 2700);
    // What is tested is a boot.
    options.cold = filter.is_empty();
    let mut guest = vm::boot(repo, &options)?;
    let mut output = Vec::new();
    let status = guest.run(
        &format!("/usr/lib/lab/guest-tests {filter}"),
        &mut Tee { kept: &mut output },
        &mut std::io::stderr().lock(),
    )?;
    tally.count(&String::from_utf8_lossy(&output));
    if status == 0 { Ok(()) } else { bail!("the guest tests ended with status {status}") }
}

/// Shows what is written, and keeps it.
struct Tee<'a> {
    kept: &'a mut Vec<u8>,
}

impl Write for Tee<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().write_all(data)?;
        self.kept.extend(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

/// Format, lints, dependency rules, unit tests: what needs no guest.
fn host(repo: &Path, tally: &mut Tally) {
    let cargo = |arguments: &'static [&'static str]| {
        move |_: &mut Tally| run(Command::new("cargo").args(arguments).current_dir(repo))
    };
    tally.step("format", cargo(&["fmt", "--all", "--check"]));
    let lints = ["clippy", "--workspace", "--all-targets", "--quiet"];
    for (name, features) in [("lints", &[][..]), ("lints of all features", &["--all-features"])] {
        let arguments = [&lints, features, &["--", "-D", "warnings"]].concat();
        tally.step(name, |_| run(Command::new("cargo").args(arguments).current_dir(repo)));
    }
    tally.step("documentation", |_| {
        run(Command::new("cargo")
            .args(["doc", "--workspace", "--all-features", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings")
            .current_dir(repo))
    });
    tally.step("dependencies", |_| dependencies(repo));
    tally.step("unit tests", |tally| {
        cargo_test(repo, &["--workspace", "--all-features", "--no-fail-fast"], tally)
    });
    tally.step("a fabric of two thousand nodes", |tally| {
        vm::install(&vm::FOR_FABRICS)?;
        let test = ["-p", "rdma-verbs", "--test", "ibsim", "--", "--ignored", "--nocapture"];
        cargo_test(repo, &test, tally)
    });
}

fn cargo_test(repo: &Path, arguments: &[&str], tally: &mut Tally) -> Result<()> {
    let mut command = Command::new("cargo");
    command.arg("test").args(arguments).current_dir(repo);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    tally.count(&text);
    if output.status.success() { Ok(()) } else { bail!("cargo test: {}", output.status) }
}

/// Licences, sources and duplicates. Advisories are left out: their database is not in the tree.
fn dependencies(repo: &Path) -> Result<()> {
    let tools = repo.join("target/tools");
    let deny = tools.join("bin/cargo-deny");
    if !deny.exists() {
        println!("installing cargo-deny");
        run(Command::new("cargo")
            .args([
                "install",
                "cargo-deny",
                "--version",
                "0.20.2",
                "--locked",
                "--debug",
                "--quiet",
            ])
            .arg("--root")
            .arg(&tools))?;
    }
    // Also what no build here needs: it reads every crate of the lock file.
    run(Command::new("cargo").args(["fetch", "--locked", "--quiet"]).current_dir(repo))?;
    run(Command::new(deny)
        .args(["--offline", "--log-level", "warn", "check", "bans", "licenses", "sources"])
        .current_dir(repo))
}

/// Runs a command with its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?}: {status}") }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::Tally;

    /// Each name with an underscore in the tables is a test's.
    #[test]
    fn regressions_have_tests() {
        fn sources(dir: &Path, text: &mut String) {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() && entry.file_name() != "target" && entry.file_name() != ".git" {
                    sources(&path, text);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    text.push_str(&fs::read_to_string(path).unwrap());
                }
            }
        }
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut all = String::new();
        sources(repo, &mut all);
        let table = fs::read_to_string(repo.join("docs/regressions.md")).unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| ") && !line.contains("---"));
        let mut seen = 0;
        for row in rows.filter(|row| !row.starts_with("| Defect")) {
            let tests = row.rsplit('|').nth(1).unwrap();
            for name in tests.split('`').skip(1).step_by(2) {
                let is_test =
                    all.contains(&format!("fn {name}()")) || all.contains(&format!("\"{name}\""));
                assert!(is_test, "'{name}' is no test: {row}");
                seen += 1;
            }
        }
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn counts_result_lines() {
        let mut tally = Tally::default();
        tally.count(
            "x\ntest result: FAILED. 12 passed; 3 failed; 4 ignored; finished in 1.00s\ny\n",
        );
        assert_eq!((tally.passed, tally.failed, tally.ignored), (12, 3, 4));
    }
}
