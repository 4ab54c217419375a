// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's image: made by `tests/vm/image.sh`, kept by a hash of what it is made of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Suite, digest, name};
use crate::check::run;

/// Everything in `tests/vm` and `tests/vhca` goes into the image, but for what is to be read.
pub(crate) fn get(repo: &Path, suite: Suite) -> Result<PathBuf> {
    let source = repo.join("tests/vm");
    let mut files: Vec<PathBuf> = Vec::new();
    for dir in [&source, &repo.join("tests/vhca")] {
        let entries =
            fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in entries {
            files.push(entry?.path());
        }
    }
    files.sort();
    let contents: Vec<Vec<u8>> = files
        .iter()
        .filter(|f| f.is_file() && f.extension() != Some("md".as_ref()))
        .map(fs::read)
        .collect::<Result<_, _>>()?;
    let parts: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let suite = name(suite);
    let dir = repo.join(format!("target/vm/{suite}-{}", digest(&parts)));
    if dir.exists() {
        return Ok(dir);
    }
    remove_others(&dir, &suite)?;
    println!("making the {suite} guest; this is done once");
    let unfinished = dir.with_extension("new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&unfinished)?;
    run(Command::new(source.join("image.sh")).arg(&suite).arg(&unfinished))?;
    fs::rename(&unfinished, &dir)?;
    Ok(dir)
}

/// Images of the same suite that were made of something else.
fn remove_others(dir: &Path, suite: &str) -> Result<()> {
    let Some(parent) = dir.parent().filter(|p| p.exists()) else { return Ok(()) };
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&format!("{suite}-")) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
