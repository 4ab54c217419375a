// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as rdma.toml, as a module list and as the kernel command line.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use rdma_config::{Config, Facts, Root, cmdline, modules};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let root = Root::at(dir.path());
    for path in ["/etc/rdma/rdma.toml", "/etc/rdma/modules/x.conf", "/proc/cmdline"] {
        let path = root.path(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    let (config, _) = Config::load(&root);
    let facts = Facts { driver: vec!["rxe".into()], ..Facts::default() };
    let _ = (config.name_of(&facts), config.policy_of(&facts));
    let _ = (modules::read(&root, "x"), cmdline::names_enabled(&root));
});
