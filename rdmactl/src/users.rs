// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has a character device open.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rdma_config::Root;

/// Processes by the device node that they have open, each as `name[pid]`. Without privilege those of other users
/// are not seen.
pub(crate) fn by_node(root: &Root) -> BTreeMap<PathBuf, Vec<String>> {
    let mut users: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    let processes = fs::read_dir(root.path("/proc")).into_iter().flatten().flatten();
    for process in processes.filter(|p| p.file_name().to_string_lossy().parse::<u32>().is_ok()) {
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let who = format!("{}[{}]", name.trim(), process.file_name().to_string_lossy());
        for fd in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            if target.starts_with("/dev/infiniband") {
                let users = users.entry(target).or_default();
                if !users.contains(&who) {
                    users.push(who.clone());
                }
            }
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    #[test]
    fn open_nodes() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, comm, fd, target) in [
            ("7", "ping pong\n", "3", "/dev/infiniband/uverbs0"),
            ("7", "ping pong\n", "4", "/dev/infiniband/uverbs0"),
            ("8", "sh\n", "0", "/dev/null"),
        ] {
            let process = dir.path().join("proc").join(pid);
            fs::create_dir_all(process.join("fd")).unwrap();
            fs::write(process.join("comm"), comm).unwrap();
            symlink(target, process.join("fd").join(fd)).unwrap();
        }
        let users = by_node(&Root::at(dir.path()));
        assert_eq!(users.len(), 1);
        assert_eq!(users[Path::new("/dev/infiniband/uverbs0")], ["ping pong[7]"]);
    }
}
