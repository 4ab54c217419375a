// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[[link]]`: software devices that are there whenever their network interface is; `[system]`.

use std::path::PathBuf;

use toml::de::DeTable;

use crate::check_device_name;
use crate::reader::{Reader, Value};
use crate::schema::Config;

/// `RDMA_NLDEV_ATTR_LINK_TYPE`
const KINDS: [(&str, &str); 2] = [("rxe", "rxe"), ("siw", "siw")];
/// `RDMA_NLDEV_SYS_ATTR_NETNS_MODE`
const NETNS: [(&str, bool); 2] = [("exclusive", false), ("shared", true)];

/// The words that may stand for a value.
pub(crate) fn allowed(key: &str) -> Vec<&'static str> {
    match key {
        "type" => KINDS.iter().map(|(word, _)| *word).collect(),
        "netns-mode" => NETNS.iter().map(|(word, _)| *word).collect(),
        _ => Vec::new(),
    }
}

/// One `[[link]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What the device is called when it is made.
    pub name: String,
    /// `rxe` or `siw`
    pub kind: &'static str,
    /// The network interface it is on.
    pub netdev: String,
    /// Where it stands: file and line.
    pub source: (PathBuf, usize),
}

impl Reader<'_> {
    /// None when something is missing or cannot be used.
    pub(crate) fn link(&mut self, entry: &Value<'_>) -> Option<Link> {
        let table = entry.get_ref().as_table();
        let table = self.or_wrong(table, entry, "link", "a table")?;
        let (mut name, mut kind, mut netdev) = (None, None, None);
        for (key, value) in table {
            let text = value.get_ref().as_str();
            match key.get_ref().as_ref() {
                "name" => {
                    let good = |name: &&str| check_device_name(name).is_ok();
                    name = self.or_wrong(text.filter(good), value, "link.name", "a device name");
                }
                "type" => kind = self.word(value, "link.type", &KINDS),
                "netdev" => {
                    let good = |n: &&str| !n.is_empty() && n.len() < 16 && !n.contains(['/', ' ']);
                    let expected = "the name of a network interface";
                    netdev = self.or_wrong(text.filter(good), value, "link.netdev", expected);
                }
                other => self.unknown(key, &format!("link.{other}")),
            }
        }
        let (Some(name), Some(kind), Some(netdev)) = (name, kind, netdev) else {
            let what = "this [[link]] has not all of name, type and netdev, ignoring it";
            self.warn(entry.span().start, what);
            return None;
        };
        let source = (self.fragment.path.clone(), self.line(entry.span().start));
        Some(Link { name: name.to_owned(), kind, netdev: netdev.to_owned(), source })
    }

    pub(crate) fn system(&mut self, table: &DeTable<'_>, config: &mut Config) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "netns" => {
                    let mode = self.word(value, "system.netns", &NETNS);
                    config.netns_shared = mode.or(config.netns_shared);
                }
                other => self.unknown(key, &format!("system.{other}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::tests::tree;

    fn load(files: &[(&str, &str)]) -> (Config, Vec<String>) {
        let (_dir, root) = tree(files);
        let (config, warnings) = Config::load(&root);
        (config, warnings.iter().map(|w| w.what.clone()).collect())
    }

    #[test]
    fn a_later_fragment_replaces_a_link_of_the_same_name() {
        let link = |netdev| format!("[[link]]\nname = 'rxe0'\ntype = 'rxe'\nnetdev = '{netdev}'\n");
        let (config, warnings) = load(&[
            ("/etc/rdma/rdma.toml", &(link("eth0") + "[system]\nnetns = 'exclusive'\n")),
            ("/etc/rdma/rdma.toml.d/1.toml", &link("eth1")),
        ]);
        assert_eq!(warnings, [""; 0]);
        let links: Vec<_> =
            config.links.iter().map(|l| (l.name.as_str(), l.netdev.as_str())).collect();
        assert_eq!(links, [("rxe0", "eth1")]);
        assert_eq!(config.netns_shared, Some(false));
    }

    #[test]
    fn what_cannot_be_used() {
        for (text, warning) in [
            (
                "[[link]]\nname = 'a b'\ntype = 'rxe'\nnetdev = 'x'\n",
                "link.name must be a device name",
            ),
            (
                "[[link]]\nname = 'a'\ntype = 'roce'\nnetdev = 'x'\n",
                "link.type must be one of rxe, siw",
            ),
            (
                "[[link]]\nname = 'a'\ntype = 'rxe'\nnetdev = 'a/b'\n",
                "link.netdev must be the name",
            ),
            ("[[link]]\nname = 'a'\n", "this [[link]] has not all of name, type and netdev"),
            ("[system]\nnetns = true\n", "system.netns must be one of exclusive, shared"),
            ("[system]\nx = true\n", "system.x is not known"),
            ("link = 1\n", "link must be an array of tables, [[link]]"),
        ] {
            let (config, warnings) = load(&[("/etc/rdma/rdma.toml", text)]);
            assert!(warnings.iter().any(|w| w.starts_with(warning)), "{text}: {warnings:?}");
            assert_eq!(config, Config::default());
        }
    }
}
