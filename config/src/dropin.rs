// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configuration files of `/usr/lib`, `/run` and `/etc`, merged as systemd merges its own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Root, Warning};

/// The vendor's, the run time's and the administrator's directory; a later one goes before an earlier.
const DIRS: [&str; 3] = ["/usr/lib/rdma", "/run/rdma", "/etc/rdma"];
/// More than anybody writes by hand.
const MAX_SIZE: u64 = 1 << 20;

/// One file that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// The fragments of `name` (such as `rdma.toml`), in the order in which they apply.
///
/// First the file itself, from the last directory that has it. Then those of `name.d/`, by file name
/// over all directories; of two with the same name the one in the later directory. A file that is
/// empty or a link to `/dev/null` stands for its name and has nothing in it: it masks.
#[must_use]
pub fn read(root: &Root, name: &str) -> (Vec<Fragment>, Vec<Warning>) {
    let extension = Path::new(name).extension().unwrap_or_default();
    let mut warnings = Vec::new();
    let mut main = None;
    let mut dropins = BTreeMap::new();
    for dir in DIRS.map(|dir| root.path(dir)) {
        let path = dir.join(name);
        if path.symlink_metadata().is_ok() {
            main = Some(path);
        }
        let dir = dir.join(format!("{name}.d"));
        match fs::read_dir(&dir) {
            Ok(entries) => {
                for path in entries.flatten().map(|e| e.path()) {
                    if path.extension() == Some(extension) {
                        dropins.insert(path.file_name().map(ToOwned::to_owned), path);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warnings.push(Warning::new(&dir, None, format!("{error}, ignoring it"))),
        }
    }
    let mut fragments = Vec::new();
    for path in main.into_iter().chain(dropins.into_values()) {
        match text(&path) {
            Ok(text) if text.is_empty() => {}
            Ok(text) => fragments.push(Fragment { path, text }),
            Err(why) => warnings.push(Warning::new(&path, None, format!("{why}, ignoring it"))),
        }
    }
    (fragments, warnings)
}

/// Whether a file of this name is anywhere, be it masked.
#[must_use]
pub fn exists(root: &Root, name: &str) -> bool {
    DIRS.iter().any(|dir| {
        let dir = root.path(dir);
        dir.join(name).symlink_metadata().is_ok() || dir.join(format!("{name}.d")).is_dir()
    })
}

fn text(path: &Path) -> Result<String, String> {
    let metadata = fs::metadata(path).map_err(|e| e.to_string())?;
    if metadata.is_dir() {
        return Err("it is a directory".into());
    }
    // A link to /dev/null is a device, and empty.
    if !metadata.is_file() {
        return if fs::canonicalize(path).is_ok_and(|p| p == Path::new("/dev/null")) {
            Ok(String::new())
        } else {
            Err("it is not a file".into())
        };
    }
    if metadata.len() > MAX_SIZE {
        return Err("it is larger than 1 MiB".into());
    }
    String::from_utf8(fs::read(path).map_err(|e| e.to_string())?)
        .map_err(|_| "it is not text (UTF-8)".to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    pub(crate) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        for (path, text) in files {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (dir, root)
    }

    fn texts(root: &Root) -> Vec<String> {
        read(root, "rdma.toml").0.into_iter().map(|f| f.text).collect()
    }

    #[test]
    fn later_directories_and_drop_ins_by_name() {
        let (_dir, root) = tree(&[
            ("/usr/lib/rdma/rdma.toml", "vendor"),
            ("/etc/rdma/rdma.toml", "admin"),
            ("/usr/lib/rdma/rdma.toml.d/20-b.toml", "vendor b"),
            ("/run/rdma/rdma.toml.d/10-a.toml", "run a"),
            ("/etc/rdma/rdma.toml.d/20-b.toml", "admin b"),
            ("/etc/rdma/rdma.toml.d/30-c.toml.bak", "not a drop-in"),
        ]);
        assert_eq!(texts(&root), ["admin", "run a", "admin b"]);
    }

    #[test]
    fn masks() {
        let (_dir, root) = tree(&[
            ("/usr/lib/rdma/rdma.toml.d/10-a.toml", "a"),
            ("/usr/lib/rdma/rdma.toml.d/20-b.toml", "b"),
            ("/usr/lib/rdma/rdma.toml", "vendor"),
            ("/etc/rdma/rdma.toml.d/20-b.toml", ""),
        ]);
        symlink("/dev/null", root.path("/etc/rdma/rdma.toml.d/10-a.toml")).unwrap();
        symlink("/dev/null", root.path("/etc/rdma/rdma.toml")).unwrap();
        assert_eq!(texts(&root), [""; 0]);
        assert!(exists(&root, "rdma.toml") && !exists(&root, "other.toml"));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_stands() {
        let (_dir, root) =
            tree(&[("/etc/rdma/rdma.toml", "main"), ("/etc/rdma/rdma.toml.d/10-dir.toml/x", "")]);
        fs::write(root.path("/etc/rdma/rdma.toml.d/20-bin.toml"), b"\xff\xfe").unwrap();
        symlink("nowhere", root.path("/etc/rdma/rdma.toml.d/30-gone.toml")).unwrap();
        let (fragments, warnings) = read(&root, "rdma.toml");
        assert_eq!(fragments.len(), 1);
        let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("10-dir.toml: it is a directory"), "{told:?}");
        assert!(told[1].contains("20-bin.toml: it is not text"), "{told:?}");
    }
}
