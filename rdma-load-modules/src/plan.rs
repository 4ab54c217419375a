// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is to be done with each module of a list.

use rdma_config::modules::Wanted;

use crate::kernel::Kernel;

/// What is done with a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is loaded.
    Loaded,
    /// Nothing: it is part of the kernel.
    Builtin,
    /// modprobe is asked, which may still find it blacklisted or missing.
    Load,
}

/// One module of the lists, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The module and where it is asked for.
    pub wanted: Wanted,
    /// What is done.
    pub verdict: Verdict,
}

/// Goes through lists; a module that several ask for stands where it is asked for first.
#[must_use]
pub fn plan(lists: impl IntoIterator<Item = Vec<Wanted>>, kernel: &Kernel) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for wanted in lists.into_iter().flatten() {
        if steps.iter().any(|step| step.wanted.module == wanted.module) {
            continue;
        }
        let verdict = if kernel.is_loaded(&wanted.module) {
            Verdict::Loaded
        } else if kernel.is_builtin(&wanted.module) {
            Verdict::Builtin
        } else {
            Verdict::Load
        };
        steps.push(Step { wanted, verdict });
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rdma_config::{Root, modules};

    use super::*;

    #[test]
    fn loaded_builtin_and_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        for (path, text) in [
            ("/proc/sys/kernel/osrelease", "6.12.1\n"),
            ("/lib/modules/6.12.1/modules.builtin", "kernel/drivers/infiniband/core/ib-core.ko\n"),
            (
                "/lib/modules/6.12.1/modules.alias",
                "alias pci:v*d* mlx5_core\nalias svcrdma rpcrdma\nalias xprtrdma2 none\n",
            ),
            ("/sys/module/rpcrdma/initstate", "live\n"),
            ("/sys/module/ib_iser/initstate", "live\n"),
            ("/sys/module/rdma_ucm/initstate", "coming\n"),
            ("/etc/rdma/modules/a.conf", "ib_iser\nib_core\nrdma_ucm\nxprtrdma\n"),
            ("/etc/rdma/modules/b.conf", "xprtrdma\nsvcrdma\n"),
        ] {
            fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
            fs::write(root.path(path), text).unwrap();
        }
        let lists = ["a", "b"].map(|name| modules::read(&root, name).unwrap().0);
        let steps = plan(lists, &Kernel::running(&root));
        let verdicts: Vec<_> =
            steps.iter().map(|s| (s.wanted.module.as_str(), s.verdict)).collect();
        assert_eq!(
            verdicts,
            [
                ("ib_iser", Verdict::Loaded),
                ("ib_core", Verdict::Builtin),
                ("rdma_ucm", Verdict::Load),
                ("xprtrdma", Verdict::Load),
                ("svcrdma", Verdict::Loaded),
            ]
        );
    }
}
