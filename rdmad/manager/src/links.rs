// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[[link]]`: which software devices are to be made, and which of ours are to go.

use std::collections::BTreeMap;
use std::{fs, io};

use rdma_config::{Link, Root};
use rdma_udev_helper::state::{Run, replace};
use rdma_udev_helper::world::Look;
use rdma_verbs::DevIndex;

/// A device that is on a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnNetdev {
    /// Its number.
    pub index: DevIndex,
    /// What it is called now.
    pub name: String,
    /// `rxe` or `siw`, where it is such a one.
    pub driver: String,
    /// That it is on.
    pub netdev: String,
}

impl OnNetdev {
    /// None for a device without a driver or a network interface.
    #[must_use]
    pub fn of(look: &Look) -> Option<Self> {
        Some(Self {
            index: look.device.index,
            name: look.device.name.clone(),
            driver: look.driver.clone()?,
            netdev: look.ports.iter().find_map(|p| Some(p.netdev()?.name.clone()))?,
        })
    }

    /// Whether it is what a link asks for, whoever made it and under whatever name.
    #[must_use]
    pub fn is_for(&self, link: &Link) -> bool {
        self.driver == link.kind && self.netdev == link.netdev
    }
}

/// A device that we made, or were about to: `/run/rdma/links/<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// `rxe` or `siw`
    pub kind: String,
    /// That it is on.
    pub netdev: String,
    /// None until the kernel has said that it is there.
    pub index: Option<DevIndex>,
}

/// What is to be done about a link, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make the device.
    Make(Link),
    /// Remove the device: it is ours, and not asked for any more, or we were killed while the kernel made it. What
    /// the kernel could not start for a process that was being killed is missing from it for good.
    Remove(String, DevIndex),
    /// It went with its network interface, or somebody removed it.
    Forget(String),
}

/// Compares what is asked for with what is there. A device of the kind that is on the interface already is taken for
/// the one that is asked for, whoever made it; only what we made is ever removed.
#[must_use]
pub fn plan(
    wanted: &[Link],
    made: &BTreeMap<String, Made>,
    devices: &[OnNetdev],
    has_netdev: impl Fn(&str) -> bool,
) -> Vec<Act> {
    let mut acts = Vec::new();
    for (name, made) in made {
        let device = devices.iter().find(|d| {
            d.driver == made.kind
                && match made.index {
                    Some(index) => d.index == index,
                    None => d.name == *name && d.netdev == made.netdev,
                }
        });
        let still = wanted
            .iter()
            .any(|l| l.name == *name && l.kind == made.kind && l.netdev == made.netdev);
        match (device, still, made.index) {
            (Some(_), true, Some(_)) => {}
            (Some(device), ..) => acts.push(Act::Remove(name.clone(), device.index)),
            (None, ..) => acts.push(Act::Forget(name.clone())),
        }
    }
    let goes = |device: &OnNetdev| {
        acts.iter().any(|act| matches!(act, Act::Remove(_, index) if *index == device.index))
    };
    let makes = wanted.iter().filter(|link| {
        let there = devices.iter().any(|device| device.is_for(link) && !goes(device));
        has_netdev(&link.netdev) && !there
    });
    let makes: Vec<Act> = makes.cloned().map(Act::Make).collect();
    acts.extend(makes);
    acts
}

/// What was written down.
#[must_use]
pub fn made(root: &Root) -> BTreeMap<String, Made> {
    let files = fs::read_dir(Run::of(root).path("links")).into_iter().flatten().flatten();
    files
        .filter_map(|file| {
            let text = fs::read_to_string(file.path()).ok()?;
            Some((file.file_name().into_string().ok()?, Made::parse(&text)?))
        })
        .collect()
}

/// Writes down a link, or that it is no more.
///
/// # Errors
/// What the file system reports.
pub fn write(root: &Root, name: &str, made: Option<&Made>) -> io::Result<()> {
    let path = Run::of(root).path("links").join(name);
    match made {
        Some(made) => replace(&path, made.text().as_bytes()),
        None => fs::remove_file(path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }),
    }
}

impl Made {
    fn text(&self) -> String {
        let index = self.index.map(|index| index.to_string()).unwrap_or_default();
        format!("{} {} {index}\n", self.kind, self.netdev)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.trim_end_matches('\n').split(' ');
        let (kind, netdev) = (words.next()?.to_owned(), words.next()?.to_owned());
        let index = match words.next()? {
            "" => None,
            number => Some(DevIndex(number.parse().ok()?)),
        };
        Some(Self { kind, netdev, index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, netdev: &str) -> Link {
        let source = ("rdma.toml".into(), 1);
        Link { name: name.into(), kind: "rxe", netdev: netdev.into(), source }
    }

    fn on(index: u32, name: &str, netdev: &str) -> OnNetdev {
        let driver = "rxe".into();
        OnNetdev { index: DevIndex(index), name: name.into(), driver, netdev: netdev.into() }
    }

    fn ours(name: &str, netdev: &str, index: Option<u32>) -> BTreeMap<String, Made> {
        let (kind, netdev) = ("rxe".to_owned(), netdev.to_owned());
        [(name.to_owned(), Made { kind, netdev, index: index.map(DevIndex) })].into()
    }

    #[test]
    fn plans() {
        let wanted = [link("rxe0", "eth0")];
        let none = BTreeMap::new();
        let forget = Act::Forget("rxe0".into());
        let remove = Act::Remove("rxe0".into(), DevIndex(3));
        let make = Act::Make(wanted[0].clone());
        let there = [on(3, "rxe0", "eth0")];
        let renamed = [on(3, "rail0", "eth0")];
        for (what, wanted, made, devices, netdev, acts) in [
            ("no interface", &wanted[..], &none, &[][..], false, vec![]),
            ("interface", &wanted, &none, &[], true, vec![make.clone()]),
            ("made by hand", &wanted, &none, &renamed, true, vec![]),
            ("made", &wanted, &ours("rxe0", "eth0", Some(3)), &there, true, vec![]),
            ("renamed", &wanted, &ours("rxe0", "eth0", Some(3)), &renamed, true, vec![]),
            (
                "interface went",
                &wanted,
                &ours("rxe0", "eth0", Some(3)),
                &[],
                false,
                vec![forget.clone()],
            ),
            (
                "replugged",
                &wanted,
                &ours("rxe0", "eth0", Some(3)),
                &[],
                true,
                vec![forget.clone(), make.clone()],
            ),
            (
                "killed during",
                &wanted,
                &ours("rxe0", "eth0", None),
                &there,
                true,
                vec![remove.clone(), make.clone()],
            ),
            (
                "killed before",
                &wanted,
                &ours("rxe0", "eth0", None),
                &[],
                true,
                vec![forget.clone(), make.clone()],
            ),
            (
                "not asked for",
                &[],
                &ours("rxe0", "eth0", Some(3)),
                &renamed,
                true,
                vec![remove.clone()],
            ),
            ("not asked for, not ours", &[], &none, &there, true, vec![]),
            (
                "gone and not asked for",
                &[],
                &ours("rxe0", "eth0", Some(3)),
                &[],
                true,
                vec![forget],
            ),
            (
                "another interface",
                &wanted,
                &ours("rxe0", "eth1", Some(3)),
                &[on(3, "rxe0", "eth1")],
                true,
                vec![remove.clone(), make],
            ),
        ] {
            assert_eq!(plan(wanted, made, devices, |_| netdev), acts, "{what}");
        }
    }

    #[test]
    fn written_down() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        assert_eq!(made(&root), BTreeMap::new());
        for index in [None, Some(7)] {
            let all = ours("rxe0", "eth0", index);
            write(&root, "rxe0", all.get("rxe0")).unwrap();
            assert_eq!(made(&root), all);
        }
        write(&root, "rxe0", None).unwrap();
        write(&root, "rxe0", None).unwrap();
        assert_eq!(made(&root), BTreeMap::new());
        for text in ["", "rxe", "rxe eth0", "rxe eth0 x"] {
            assert_eq!(Made::parse(text), None, "{text}");
        }
    }
}
