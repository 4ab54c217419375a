// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are made from the programs' own command lines: manual pages, completions.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result, bail};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

/// Writes what `made:WHAT` in `packaging/layout.toml` stands for: `man/` into a directory, `bash`, `zsh` or `fish`
/// into a file.
pub(crate) fn write(what: &str, to: &Path) -> Result<()> {
    let context = || format!("cannot write {}", to.display());
    let mut command = rdmactl::Arguments::command();
    let dir = if what == "man/" { Some(to) } else { to.parent() };
    fs::create_dir_all(dir.unwrap_or(to)).with_context(context)?;
    let shell = match what {
        "man/" => {
            command.build();
            return man(&command, to).with_context(context);
        }
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        other => bail!("packaging/layout.toml asks for 'made:{other}', which nothing makes"),
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "rdmactl", &mut text);
    fs::write(to, text).with_context(context)
}

/// A page for the command, and one for each of its subcommands.
fn man(command: &Command, dir: &Path) -> io::Result<()> {
    let page = Man::new(command.clone()).section("8").manual("rdmad");
    let mut text = Vec::new();
    page.render(&mut text)?;
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    fs::write(dir.join(format!("{name}.8")), text)?;
    command.get_subcommands().try_for_each(|c| man(c, dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_completions() {
        let dir = std::env::temp_dir().join(format!("rdmactl-made-{}", std::process::id()));
        write("man/", &dir).expect("pages");
        let page = |name: &str| fs::read_to_string(dir.join(name)).expect("a page");
        assert!(page("rdmactl.8").contains("rdmactl\\-names(8)"), "{}", page("rdmactl.8"));
        assert!(page("rdmactl-config-check.8").contains("exit status 78"));
        for shell in ["bash", "zsh", "fish"] {
            write(shell, &dir.join(shell)).expect("a completion");
            assert!(page(shell).contains("gid"), "{shell}");
        }
        assert!(write("pdf", &dir.join("pdf")).is_err());
        fs::remove_dir_all(dir).expect("it was there");
    }
}
