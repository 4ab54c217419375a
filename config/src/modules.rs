// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of kernel modules, in the format of modules-load.d(5): one name a line, `#` and `;` comments.

use std::path::PathBuf;

use crate::dropin;
use crate::{Root, Warning};

/// `MODULE_NAME_LEN` of the kernel, which is the shortest limit on any name here.
const MAX_NAME: usize = 56;

/// A module that a list asks for, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The module, or an alias of one.
    pub module: String,
    /// Which file.
    pub file: PathBuf,
    /// Which line, from 1.
    pub line: usize,
}

/// The list `modules/<name>.conf` with its drop-ins in `modules/<name>.conf.d/`. None when there is no
/// such list; a masked one is there and empty.
#[must_use]
pub fn read(root: &Root, name: &str) -> Option<(Vec<Wanted>, Vec<Warning>)> {
    let file = format!("modules/{name}.conf");
    if !is_name(name) || !dropin::exists(root, &file) {
        return None;
    }
    let (fragments, mut warnings) = dropin::read(root, &file);
    let mut wanted: Vec<Wanted> = Vec::new();
    for fragment in fragments {
        for (number, line) in fragment.text.lines().enumerate() {
            let (module, line_number) = (line.trim(), number + 1);
            if module.is_empty() || module.starts_with(['#', ';']) {
                continue;
            }
            if !is_name(module) {
                let what = format!("{module:.60?} is no module name, ignoring the line");
                warnings.push(Warning::new(&fragment.path, Some(line_number), what));
            } else if !wanted.iter().any(|w| w.module == module) {
                let (module, file) = (module.to_owned(), fragment.path.clone());
                wanted.push(Wanted { module, file, line: line_number });
            }
        }
    }
    Some((wanted, warnings))
}

/// Modules, and aliases such as `rdma-client-uverbs`.
fn is_name(word: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    !word.is_empty() && word.len() < MAX_NAME && !word.starts_with('-') && word.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::tests::tree;

    #[test]
    fn names_comments_and_drop_ins() {
        let (_dir, root) = tree(&[
            ("/usr/lib/rdma/modules/rdma.conf", "# vendor\nib_vendor\n"),
            (
                "/etc/rdma/modules/rdma.conf",
                "# comment\n; another\n\n  ib_iser \nrdma-client-uverbs\nib_iser\n",
            ),
            ("/run/rdma/modules/rdma.conf.d/x.conf", "more\n"),
        ]);
        let (wanted, warnings) = read(&root, "rdma").unwrap();
        assert_eq!(warnings, []);
        let lines: Vec<_> = wanted.iter().map(|w| (w.module.as_str(), w.line)).collect();
        assert_eq!(lines, [("ib_iser", 4), ("rdma-client-uverbs", 5), ("more", 1)]);
        assert_eq!(read(&root, "none"), None);
        assert_eq!(read(&root, "../../x"), None);
    }

    #[test]
    fn garbage_lines_are_told_and_skipped() {
        let long = "x".repeat(80);
        let text = format!("../../etc/passwd\ngood\na b\n\u{7f}\u{0}\n-r\n{long}\n");
        let (_dir, root) = tree(&[("/etc/rdma/modules/x.conf", &text)]);
        let (wanted, warnings) = read(&root, "x").unwrap();
        assert_eq!(wanted.len(), 1);
        assert_eq!(warnings.len(), 5, "{warnings:?}");
        assert!(
            warnings[0]
                .to_string()
                .ends_with("x.conf:1: \"../../etc/passwd\" is no module name, ignoring the line"),
            "{}",
            warnings[0]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text(text: String) {
            let (dir, root) = tree(&[("/etc/rdma/modules/x.conf", &text)]);
            if let Some((wanted, _)) = read(&root, "x") {
                proptest::prop_assert!(wanted.iter().all(|w| is_name(&w.module)));
            }
            drop(dir);
        }
    }
}
