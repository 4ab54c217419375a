// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has a character device open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use rdma_config::Root;

/// Processes by the device node that they have open, each as `name[pid]`. Without privilege those of other users
/// are not seen.
pub(crate) fn by_node(root: &Root) -> BTreeMap<PathBuf, Vec<String>> {
    let mut users: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for process in processes(root) {
        for node in process.nodes {
            users.entry(node).or_default().push(process.who.clone());
        }
    }
    users
}

/// A process that has a device node open.
pub(crate) struct Process {
    /// `/proc/<pid>`
    pub(crate) path: PathBuf,
    /// `name[pid]`
    pub(crate) who: String,
    /// The nodes, each once.
    pub(crate) nodes: BTreeSet<PathBuf>,
}

/// All of them that are seen.
pub(crate) fn processes(root: &Root) -> Vec<Process> {
    let all = fs::read_dir(root.path("/proc")).into_iter().flatten().flatten();
    let process = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let path = entry.path();
        let fds = fs::read_dir(path.join("fd")).ok()?.flatten();
        let open = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        let nodes: BTreeSet<_> = open.filter(|file| file.starts_with("/dev/infiniband")).collect();
        let name = || fs::read_to_string(path.join("comm")).unwrap_or_default();
        (!nodes.is_empty()).then(|| Process {
            who: format!("{}[{pid}]", name().trim()),
            nodes,
            path: path.clone(),
        })
    };
    all.filter_map(process).collect()
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
