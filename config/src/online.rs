// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[online]`: what "RDMA is ready" means on this machine.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::matching::Match;
use crate::reader::{Reader, Value, strings};

/// How many devices must be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Every one that is there, and at least one.
    All,
    /// This many or more.
    AtLeast(u32),
}

/// Which ports of a device must be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// One of them, whichever.
    Any,
    /// Every one.
    All,
    /// The one of this number.
    One(u32),
}

/// A kind of GID that a port must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidWanted {
    /// RoCE v1.
    RoceV1,
    /// RoCE v2, made from any address.
    RoceV2,
    /// RoCE v2, made from an IPv4 address.
    RoceV2Ipv4,
    /// RoCE v2, made from an IPv6 address that is not link-local.
    RoceV2Ipv6,
}

const GIDS: [(&str, GidWanted); 4] = [
    ("roce-v1", GidWanted::RoceV1),
    ("roce-v2", GidWanted::RoceV2),
    ("roce-v2-ipv4", GidWanted::RoceV2Ipv4),
    ("roce-v2-ipv6", GidWanted::RoceV2Ipv6),
];

impl GidWanted {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        GIDS.iter().find(|(_, g)| *g == self).map_or("", |(word, _)| word)
    }
}

/// IBTA PortInfo:PortState, by the words for it; `present` asks for no state.
const STATES: [(&str, u8); 4] = [("present", 0), ("init", 2), ("armed", 3), ("active", 4)];
const PORTS: [(&str, Ports); 2] = [("any", Ports::Any), ("all", Ports::All)];
const COUNTS: [(&str, Count); 1] = [("all", Count::All)];

/// The words that may stand for a value.
pub(crate) fn allowed(key: &str) -> Vec<&'static str> {
    match key {
        "state" => STATES.iter().map(|(word, _)| *word).collect(),
        "gid" => GIDS.iter().map(|(word, _)| *word).collect(),
        "ports" => PORTS.iter().map(|(word, _)| *word).collect(),
        "devices" => COUNTS.iter().map(|(word, _)| *word).collect(),
        _ => Vec::new(),
    }
}

/// `[online]` or `[online.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Online {
    /// Which devices are asked about; by default every one.
    pub matches: Match,
    /// Their names or patterns of names; by default any. Of a name that is no pattern there must be a device.
    pub names: Vec<String>,
    /// How many must be ready.
    pub devices: Count,
    /// Which ports of each.
    pub ports: Ports,
    /// The least state of a port, IBTA PortInfo:PortState; 4 is ACTIVE.
    pub state: u8,
    /// A GID that the port must have.
    pub gid: Option<GidWanted>,
    /// Whether an IPoIB interface of the port must be up.
    pub ipoib: bool,
    /// The least rate of the port, in Gb/s.
    pub rate: u32,
    /// How long to wait.
    pub timeout: Duration,
    /// Something in it was not understood: to go without it would be to call ready what is not.
    pub broken: bool,
}

impl Default for Online {
    fn default() -> Self {
        Self {
            matches: Match::default(),
            names: Vec::new(),
            devices: Count::All,
            ports: Ports::Any,
            state: 4,
            gid: None,
            ipoib: false,
            rate: 0,
            timeout: Duration::from_secs(120),
            broken: false,
        }
    }
}

impl Online {
    /// Whether a device of this name is asked about.
    #[must_use]
    pub fn is_about(&self, name: &str) -> bool {
        let fits = |p: &String| glob::Pattern::new(p).is_ok_and(|pattern| pattern.matches(name));
        self.names.is_empty() || self.names.iter().any(fits)
    }

    /// The names that are no patterns.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| !name.contains(['*', '?', '[']))
    }
}

impl Reader<'_> {
    /// `[online]`: its own keys, and a table for each other name.
    pub(crate) fn online(&mut self, table: &DeTable<'_>, all: &mut BTreeMap<String, Online>) {
        for (key, value) in table {
            let (name, value) = (key.get_ref().as_ref(), value);
            match value.get_ref() {
                DeValue::Table(conditions) if name != "match" => {
                    let online = all.entry(name.to_owned()).or_default();
                    for (key, value) in conditions {
                        self.online_key(key.get_ref(), value, &format!("online.{name}"), online);
                    }
                }
                _ => self.online_key(name, value, "online", all.entry(String::new()).or_default()),
            }
        }
    }

    fn online_key(&mut self, key: &str, value: &Value<'_>, of: &str, online: &mut Online) {
        let full = &format!("{of}.{key}");
        let is_word = value.get_ref().is_str();
        let read = match key {
            "match" => self.matches(value, of).map(|read| online.matches = read),
            "name" => {
                let good =
                    |names: &Vec<String>| names.iter().all(|n| glob::Pattern::new(n).is_ok());
                let names = strings(value.get_ref()).filter(good);
                self.or_wrong(names, value, full, "a pattern or a list of patterns")
                    .map(|read| online.names = read)
            }
            "devices" if is_word => {
                self.word(value, full, &COUNTS).map(|read| online.devices = read)
            }
            "devices" => self
                .number(value, full, "a number or 'all'")
                .map(|read| online.devices = Count::AtLeast(read)),
            "ports" if is_word => self.word(value, full, &PORTS).map(|read| online.ports = read),
            "ports" => self
                .number(value, full, "a number, 'any' or 'all'")
                .map(|read| online.ports = Ports::One(read)),
            "state" => self.word(value, full, &STATES).map(|read| online.state = read),
            "gid" => self.word(value, full, &GIDS).map(|read| online.gid = Some(read)),
            "ipoib" => self
                .or_wrong(value.get_ref().as_bool(), value, full, "true or false")
                .map(|read| online.ipoib = read),
            "rate" => self.number(value, full, "a number of Gb/s").map(|read| online.rate = read),
            "timeout" => self
                .number(value, full, "a number of seconds")
                .map(|read| online.timeout = Duration::from_secs(read.into())),
            _ => {
                self.warn(value.span().start, format!("{full} is not known"));
                None
            }
        };
        online.broken |= read.is_none();
    }

    fn number(&mut self, value: &Value<'_>, key: &str, expected: &str) -> Option<u32> {
        let number = match value.get_ref() {
            DeValue::Integer(n) => u32::from_str_radix(n.as_str(), n.radix()).ok(),
            _ => None,
        };
        self.or_wrong(number, value, key, expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::dropin::tests::tree;

    fn load(text: &str) -> (BTreeMap<String, Online>, Vec<String>) {
        let (_dir, root) = tree(&[("/etc/rdma/rdma.toml", text)]);
        let (config, warnings) = Config::load(&root);
        (config.online, warnings.iter().map(|w| w.what.clone()).collect())
    }

    #[test]
    fn the_default_and_others_by_name() {
        let (online, warnings) = load(
            "[online]\ndevices = 8\nmatch = {driver = 'mlx5'}\n\
             [online.storage]\nname = ['rail0', 'rail[1-3]']\nports = 2\ngid = 'roce-v2-ipv4'\n\
             rate = 100\nipoib = true\nstate = 'init'\ntimeout = 5\n",
        );
        assert_eq!(warnings, [""; 0]);
        assert_eq!(online[""].devices, Count::AtLeast(8));
        assert_ne!(online[""].matches, Match::default());
        let storage = &online["storage"];
        assert!(storage.is_about("rail2") && !storage.is_about("rail4"));
        assert_eq!(storage.named().collect::<Vec<_>>(), ["rail0"]);
        let expected = Online {
            names: storage.names.clone(),
            ports: Ports::One(2),
            gid: Some(GidWanted::RoceV2Ipv4),
            rate: 100,
            ipoib: true,
            state: 2,
            timeout: Duration::from_secs(5),
            ..Online::default()
        };
        assert_eq!(*storage, expected);
    }

    #[test]
    fn what_is_not_understood_breaks_the_condition() {
        for (text, warning) in [
            ("[online]\ndevice = 8\n", "online.device is not known"),
            ("[online]\ndevices = -1\n", "online.devices must be a number or 'all'"),
            ("[online]\nstate = 'up'\n", "online.state must be one of present, init"),
            ("[online]\ngid = 2\n", "online.gid must be one of roce-v1"),
            ("[online]\nname = '[a'\n", "online.name must be a pattern"),
            ("[online]\nmatch = 'x'\n", "online.match must be a table"),
            ("[online]\nmatch = {x = 'x'}\n", "match.x is not known, ignoring this online"),
            ("[online]\nipoib = 1\n", "online.ipoib must be true or false"),
            ("[online]\ntimeout = 'long'\n", "online.timeout must be a number of seconds"),
            ("[online]\nrate = 1.5\n", "online.rate must be a number of Gb/s"),
        ] {
            let (online, warnings) = load(text);
            assert!(
                warnings.len() == 1 && warnings[0].starts_with(warning),
                "{text}: {warnings:?}"
            );
            assert!(online[""].broken, "{text}");
        }
        assert_eq!(load("online = 1\n").1, ["online must be a table, ignoring it"]);
    }
}
