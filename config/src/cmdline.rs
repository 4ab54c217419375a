// SPDX-License-Identifier: MIT OR Apache-2.0
//! Switches on the kernel command line.

use std::fs;

use crate::Root;

/// Whether devices may be renamed at all: `rdma.names=0` (or `no`, `off`, `false`) says no. The last
/// one counts.
#[must_use]
pub fn names_enabled(root: &Root) -> bool {
    let bytes = fs::read(root.path("/proc/cmdline")).unwrap_or_default();
    value(&String::from_utf8_lossy(&bytes), "rdma.names")
        .is_none_or(|v| !matches!(v.as_str(), "0" | "n" | "no" | "off" | "false"))
}

/// The last value of `key`. Words end at blanks outside of double quotes; quotes are dropped.
fn value(line: &str, key: &str) -> Option<String> {
    let mut quoted = false;
    let words = line.split(|c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    });
    let found = words.filter_map(|word| {
        let word = word.replace('"', "");
        word.strip_prefix(key)?.strip_prefix('=').map(str::to_owned)
    });
    found.last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::tests::tree;

    #[test]
    fn names_switch() {
        for (line, enabled) in [
            ("", true),
            ("root=/dev/sda1 quiet", true),
            ("quiet rdma.names=0\n", false),
            ("rdma.names=off rdma.names=1", true),
            ("rdma.names=\"0\"", false),
            ("\"rdma.names=0\"", false),
            ("x=\"a rdma.names=0 b\"", true),
            ("xrdma.names=0", true),
            ("rdma.names", true),
        ] {
            let (_dir, root) = tree(&[("/proc/cmdline", line)]);
            assert_eq!(names_enabled(&root), enabled, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line(line: String) {
            value(&line, "rdma.names");
        }
    }
}
