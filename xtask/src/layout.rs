// SPDX-License-Identifier: MIT OR Apache-2.0
//! `packaging/layout.toml`: what is installed where, for the lab and for packages.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::made;

/// The table. Field meanings are described in the file itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    dir: BTreeMap<String, String>,
    file: Vec<Entry>,
    link: Vec<Link>,
    replaces: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    package: String,
    from: String,
    to: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    package: String,
    to: String,
    target: String,
}

/// What to install, from where, to where.
#[derive(Debug)]
pub(crate) struct Install<'a> {
    /// The repository.
    pub(crate) repo: &'a Path,
    /// Where the built programs are.
    pub(crate) bin: &'a Path,
    /// The root that is filled (`DESTDIR`).
    pub(crate) dest: &'a Path,
    /// Only this package's files; all when absent.
    pub(crate) package: Option<&'a str>,
}

impl Layout {
    /// Reads the table of the repository, with directories replaced as given (`role`, `path`).
    pub(crate) fn load(repo: &Path, dirs: &[(String, String)]) -> Result<Self> {
        let path = repo.join("packaging/layout.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut layout: Self = toml::from_str(&text)
            .with_context(|| format!("{} is not as expected", path.display()))?;
        for (role, dir) in dirs {
            if layout.dir.insert(role.clone(), dir.clone()).is_none() {
                bail!("no directory has the role '{role}': see [dir] in packaging/layout.toml");
            }
        }
        Ok(layout)
    }

    /// Paths of the distribution's boot integration that ours stands in for.
    pub(crate) fn replaced(&self) -> impl Iterator<Item = &str> {
        self.replaces.values().flatten().map(String::as_str)
    }

    /// Copies files and makes links below `dest`, the modes being 0755 for programs and 0644 for the rest.
    pub(crate) fn install(&self, to: &Install<'_>) -> Result<()> {
        let wanted = |package: &str| to.package.is_none_or(|p| p == package);
        for entry in self.file.iter().filter(|e| wanted(&e.package)) {
            let target = self.target(to.dest, &entry.to)?;
            if let Some(program) = entry.from.strip_prefix("bin:") {
                copy(&to.bin.join(program), &target, 0o755)?;
            } else if let Some(what) = entry.from.strip_prefix("made:") {
                made::write(what, &target)?;
            } else if entry.from.ends_with('/') {
                copy_tree(&to.repo.join(&entry.from), &target)?;
            } else {
                copy(&to.repo.join(&entry.from), &target, 0o644)?;
            }
        }
        for link in self.link.iter().filter(|l| wanted(&l.package)) {
            replace_link(&link.target, &self.target(to.dest, &link.to)?)?;
        }
        Ok(())
    }

    /// Enables what the presets enable, as a package's post-install step does on a live system.
    pub(crate) fn enable_presets(&self, dest: &Path) -> Result<()> {
        let presets = self.target(dest, "{preset}/90-rdmad.preset")?;
        for unit in fs::read_to_string(&presets)?.lines().filter_map(|l| l.strip_prefix("enable "))
        {
            let file = self.target(dest, &format!("{{unit}}/{unit}"))?;
            let text = fs::read_to_string(&file)
                .with_context(|| format!("the preset enables '{unit}', which is not installed"))?;
            let wanted_by = text
                .lines()
                .find_map(|l| l.strip_prefix("WantedBy="))
                .with_context(|| format!("the preset enables '{unit}', which has no WantedBy="))?;
            for target in wanted_by.split_whitespace() {
                let wants = dest.join(format!("etc/systemd/system/{target}.wants"));
                fs::create_dir_all(&wants)?;
                replace_link(&format!("{}/{unit}", self.dir["unit"]), &wants.join(unit))?;
            }
        }
        Ok(())
    }

    /// `{role}/name` below `dest`.
    fn target(&self, dest: &Path, to: &str) -> Result<PathBuf> {
        let (role, rest) = to
            .strip_prefix('{')
            .and_then(|t| t.split_once('}'))
            .with_context(|| format!("'{to}' does not begin with a {{directory role}}"))?;
        let dir = self.dir.get(role).with_context(|| format!("no directory '{role}' in [dir]"))?;
        Ok(dest.join(format!("{}{rest}", dir.trim_start_matches('/'))))
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let entries =
        fs::read_dir(from).with_context(|| format!("cannot read directory {}", from.display()))?;
    for entry in entries {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_tree(&path, &target)?;
        } else {
            copy(&path, &target, 0o644)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::copy(from, to)
        .and_then(|_| fs::set_permissions(to, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot install {} as {}", from.display(), to.display()))
}

fn replace_link(target: &str, link: &Path) -> Result<()> {
    if let Some(dir) = link.parent() {
        fs::create_dir_all(dir)?;
    }
    if link.is_symlink() {
        fs::remove_file(link)?;
    }
    symlink(target, link).with_context(|| format!("cannot make the link {}", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// Every rule, unit and default configuration file of the tree is installed by some row.
    #[test]
    fn every_source_of_the_table_exists() {
        let layout = Layout::load(&repo(), &[]).expect("the table is read");
        for entry in layout.file.iter().filter(|e| !e.from.contains(':')) {
            assert!(repo().join(&entry.from).exists(), "{} is not in the tree", entry.from);
        }
    }

    #[test]
    fn unknown_directory_role_is_refused() {
        let error =
            Layout::load(&repo(), &[("units".into(), "/x".into())]).expect_err("no such role");
        assert!(error.to_string().contains("'units'"), "{error}");
    }
}
