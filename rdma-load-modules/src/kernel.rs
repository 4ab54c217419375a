// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which modules the kernel has already.

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;

use rdma_config::Root;

/// What the kernel has, read without starting a program.
#[derive(Debug)]
pub struct Kernel {
    root: Root,
    /// `/lib/modules/<release>`; without it everything is left to modprobe, which knows as well.
    modules: PathBuf,
    /// Text of `modules.builtin`, once it is asked for: one path a line.
    builtin: OnceCell<String>,
    /// Text of `modules.alias`, once it is asked for: `alias NAME MODULE`, a line each.
    aliases: OnceCell<String>,
}

impl Kernel {
    /// The running one.
    #[must_use]
    pub fn running(root: &Root) -> Self {
        let release =
            fs::read_to_string(root.path("/proc/sys/kernel/osrelease")).unwrap_or_default();
        let modules = root.path("/lib/modules").join(release.trim());
        Self { root: root.clone(), modules, builtin: OnceCell::new(), aliases: OnceCell::new() }
    }

    /// Whether a module, or the one that a name is an alias of, is loaded and ready.
    #[must_use]
    pub fn is_loaded(&self, name: &str) -> bool {
        self.is_live(name) || self.alias_of(name).is_some_and(|module| self.is_live(module))
    }

    fn is_live(&self, module: &str) -> bool {
        let state = format!("/sys/module/{}/initstate", module.replace('-', "_"));
        fs::read_to_string(self.root.path(&state)).is_ok_and(|s| s.trim() == "live")
    }

    /// Whether a module is part of the kernel itself.
    #[must_use]
    pub fn is_builtin(&self, module: &str) -> bool {
        let module = module.replace('-', "_");
        self.text(&self.builtin, "modules.builtin").lines().any(|path| {
            let file = path.rsplit('/').next().unwrap_or_default();
            file.strip_suffix(".ko").is_some_and(|name| name.replace('-', "_") == module)
        })
    }

    fn alias_of(&self, name: &str) -> Option<&str> {
        let mut lines = self.text(&self.aliases, "modules.alias").lines();
        lines.find_map(|line| line.strip_prefix("alias ")?.strip_prefix(name)?.strip_prefix(' '))
    }

    fn text<'a>(&self, cell: &'a OnceCell<String>, file: &str) -> &'a str {
        cell.get_or_init(|| fs::read_to_string(self.modules.join(file)).unwrap_or_default())
    }
}
