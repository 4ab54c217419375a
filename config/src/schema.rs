// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma.toml`: its keys, and what they are when nobody sets them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use crate::dropin;
use crate::links::{self, Link};
use crate::matching::{Condition, Facts, Match, NUMBER_KEYS, PATTERN_KEYS};
use crate::online::{self, Online};
use crate::reader::{Key, Reader, Value, strings, words};
use crate::settings::{self, Settings};
use crate::{Root, Warning};

/// How a name is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Keep the kernel's.
    Kernel,
    /// The firmware's number of the function.
    Onboard,
    /// The PCI address.
    Path,
    /// The hot-plug slot.
    Slot,
    /// The node GUID.
    Guid,
    /// The name of the network interface, for devices with one port.
    Netdev,
}

/// The words for them.
const POLICIES: [(&str, Policy); 6] = [
    ("kernel", Policy::Kernel),
    ("onboard", Policy::Onboard),
    ("path", Policy::Path),
    ("slot", Policy::Slot),
    ("guid", Policy::Guid),
    ("netdev", Policy::Netdev),
];

impl Policy {
    /// The word for it in configuration and properties.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        POLICIES.iter().find(|(_, p)| *p == self).map_or("", |(word, _)| word)
    }
}

/// How IPoIB interfaces are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpoibNames {
    /// Not by us: the kernel's names, or those that systemd gives.
    Kernel,
    /// By RDMA device, port and P_Key.
    DevicePort,
}

/// The words for them.
const IPOIB_NAMES: [(&str, IpoibNames); 2] =
    [("kernel", IpoibNames::Kernel), ("device-port", IpoibNames::DevicePort)];

/// Versions of the rules by which a policy makes a name, as systemd has them: a later one may make other
/// names, and machines that name theirs keep it.
pub(crate) const SCHEMES: [&str; 1] = ["v1"];

/// What may stand in a name for something of the device: its place among the devices of the entry, that of its card among
/// their cards, both from 0 and by PCI address; the number of the function on the card; the path, as the policy writes it.
pub const NAME_TEMPLATES: [&str; 4] = ["{index}", "{rail}", "{port}", "{path}"];

/// The words that may stand for a value, by the name of the key.
#[must_use]
pub fn allowed(key: &str) -> Vec<&'static str> {
    match key {
        "policy" => POLICIES.iter().map(|(word, _)| *word).collect(),
        "ipoib" => IPOIB_NAMES.iter().map(|(word, _)| *word).collect(),
        "scheme" => SCHEMES.into_iter().chain(["latest"]).collect(),
        _ => [online::allowed(key), settings::allowed(key), links::allowed(key)].concat(),
    }
}

/// The configuration that is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[naming] scheme`; the newest one is also called `latest`.
    pub scheme: &'static str,
    /// `[naming] policy`: tried in this order until one gives a name.
    pub policy: Vec<Policy>,
    /// `[naming] ipoib`
    pub ipoib: IpoibNames,
    /// `[[device]]`, those that go before others first.
    pub devices: Vec<DeviceEntry>,
    /// `[[link]]`, each name once.
    pub links: Vec<Link>,
    /// `[system] netns`: whether every network namespace sees all devices; None leaves that as it is.
    pub netns_shared: Option<bool>,
    /// `[online]`, under the empty name, and `[online.NAME]`.
    pub online: BTreeMap<String, Online>,
}

/// One `[[device]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceEntry {
    /// Which devices it is about.
    pub matches: Match,
    /// What such a device is to be called, with [templates](NAME_TEMPLATES).
    pub name: Option<String>,
    /// Or how its name is found.
    pub policy: Option<Vec<Policy>>,
    /// What it sets.
    pub settings: Settings,
    /// Where it stands: file and line.
    pub source: (PathBuf, usize),
}

impl Default for Config {
    /// The names that rdma-core gives.
    fn default() -> Self {
        let [.., latest] = SCHEMES;
        let policy = vec![Policy::Onboard, Policy::Path];
        Self {
            scheme: latest,
            policy,
            ipoib: IpoibNames::Kernel,
            devices: Vec::new(),
            links: Vec::new(),
            netns_shared: None,
            online: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads `rdma.toml` and its drop-ins. What cannot be used is told, and the rest is in force.
    #[must_use]
    pub fn load(root: &Root) -> (Self, Vec<Warning>) {
        let (fragments, mut warnings) = dropin::read(root, "rdma.toml");
        let mut config = Self::default();
        for fragment in &fragments {
            let before = warnings.len();
            let mut reader = Reader { fragment, warnings: &mut warnings };
            let devices = reader.apply(&mut config);
            // The first that fits counts, and a later fragment goes before an earlier one.
            config.devices.splice(0..0, devices);
            // Tables are read by their names, files from above.
            if let Some(of_fragment) = warnings.get_mut(before..) {
                of_fragment.sort_by_key(|warning| (warning.line, warning.column));
            }
        }
        (config, warnings)
    }

    /// Whether any `[[device]]` is matched by the serial number of its card.
    #[must_use]
    pub fn matches_serials(&self) -> bool {
        self.devices.iter().any(|entry| entry.matches.asks_for_serial())
    }

    /// The name that an entry gives to a device, and the entry.
    #[must_use]
    pub fn name_of(&self, facts: &Facts) -> Option<(&str, &DeviceEntry)> {
        let mut entries = self.devices.iter().filter(|entry| entry.matches.fits(facts));
        entries.find_map(|entry| Some((entry.name.as_deref()?, entry)))
    }

    /// The policies for a device.
    #[must_use]
    pub fn policy_of(&self, facts: &Facts) -> &[Policy] {
        let mut entries = self.devices.iter().filter(|entry| entry.matches.fits(facts));
        entries.find_map(|entry| entry.policy.as_deref()).unwrap_or(&self.policy)
    }
}

impl Reader<'_> {
    fn apply(&mut self, config: &mut Config) -> Vec<DeviceEntry> {
        let mut devices = Vec::new();
        let text = &self.fragment.text;
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                let why = error.message().replace('\n', ", ");
                self.warn(at, format!("this is not TOML ({why}), ignoring the file"));
                return devices;
            }
        };
        for (key, value) in table.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("naming", DeValue::Table(naming)) => self.naming(naming, config),
                ("device", DeValue::Array(entries)) => {
                    devices.extend(entries.iter().filter_map(|entry| self.device(entry)));
                }
                ("online", DeValue::Table(online)) => self.online(online, &mut config.online),
                ("link", DeValue::Array(entries)) => {
                    for link in entries.iter().filter_map(|entry| self.link(entry)) {
                        config.links.retain(|earlier| earlier.name != link.name);
                        config.links.push(link);
                    }
                }
                ("system", DeValue::Table(system)) => self.system(system, config),
                ("naming" | "online" | "system", _) => {
                    self.wrong(value, key.get_ref(), "a table");
                }
                (list @ ("device" | "link"), _) => {
                    self.wrong(value, list, &format!("an array of tables, [[{list}]]"));
                }
                (other, _) => self.unknown(key, other),
            }
        }
        devices
    }

    fn naming(&mut self, table: &DeTable<'_>, config: &mut Config) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "policy" => {
                    if let Some(policy) = self.policies(value) {
                        config.policy = policy;
                    }
                }
                "scheme" => {
                    let [.., latest] = SCHEMES;
                    let word = value.get_ref().as_str();
                    match SCHEMES.into_iter().find(|known| word == Some(*known)) {
                        Some(known) => config.scheme = known,
                        None if word == Some("latest") => config.scheme = latest,
                        None => self.wrong(
                            value,
                            "scheme",
                            &format!("'latest' or one of {}", SCHEMES.join(", ")),
                        ),
                    }
                }
                "ipoib" => {
                    if let Some(names) = self.word(value, "ipoib", &IPOIB_NAMES) {
                        config.ipoib = names;
                    }
                }
                other => self.unknown(key, &format!("naming.{other}")),
            }
        }
    }

    /// None when the entry cannot be used; one that would fit more devices than were meant is not used.
    fn device(&mut self, entry: &Value<'_>) -> Option<DeviceEntry> {
        let Some(table) = entry.get_ref().as_table() else {
            self.wrong(entry, "device", "a table");
            return None;
        };
        let line = self.line(entry.span().start);
        let source = (self.fragment.path.clone(), line);
        let mut device = DeviceEntry {
            matches: Match::default(),
            name: None,
            policy: None,
            settings: Settings::default(),
            source,
        };
        for (key, value) in table {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("match", _) => device.matches = self.matches(value, "device")?,
                ("name", DeValue::String(name)) => {
                    let rest = NAME_TEMPLATES
                        .iter()
                        .fold(name.to_string(), |rest, template| rest.replace(template, ""));
                    if rest.contains(['{', '}']) {
                        let templates = NAME_TEMPLATES.join(", ");
                        self.wrong(value, "name", &format!("text with no braces but {templates}"));
                    } else {
                        device.name = Some(name.to_string());
                    }
                }
                ("name", _) => self.wrong(value, "name", "a string"),
                ("policy", _) => device.policy = self.policies(value),
                (other, _) if self.setting(other, value, &mut device.settings) => {}
                (other, _) => self.unknown(key, &format!("device.{other}")),
            }
        }
        if device.matches.0.is_empty() {
            self.warn(entry.span().start, "this [[device]] matches nothing, ignoring it");
            return None;
        }
        Some(device)
    }

    /// None when a condition cannot be used: without it, more devices would fit than were meant.
    pub(crate) fn matches(&mut self, value: &Value<'_>, of: &str) -> Option<Match> {
        let Some(conditions) = value.get_ref().as_table() else {
            self.wrong(value, &format!("{of}.match"), "a table");
            return None;
        };
        let read = conditions.iter().map(|(key, value)| self.condition(key, value, of));
        read.collect::<Option<Vec<_>>>().map(Match)
    }

    fn condition(&mut self, key: &Key<'_>, value: &Value<'_>, of: &str) -> Option<Condition> {
        let word = key.get_ref().as_ref();
        if let Some(known) = PATTERN_KEYS.into_iter().find(|k| *k == word) {
            let patterns = strings(value.get_ref()).map(|words| {
                words.iter().map(|w| glob::Pattern::new(w)).collect::<Result<Vec<_>, _>>()
            });
            if let Some(Ok(patterns)) = patterns {
                return Some(Condition::Patterns(known, patterns));
            }
            self.warn(
                value.span().start,
                format!(
                    "match.{known} must be a pattern or a list of patterns, ignoring this {of}"
                ),
            );
        } else if let Some(known) = NUMBER_KEYS.into_iter().find(|k| *k == word) {
            match value.get_ref() {
                DeValue::Boolean(wanted) => return Some(Condition::Is(known, *wanted)),
                DeValue::Integer(n) if known != "pf" => {
                    if let Ok(n) = u32::from_str_radix(n.as_str(), n.radix()) {
                        return Some(Condition::Number(known, n));
                    }
                }
                _ => {}
            }
            let expected = if known == "pf" { "true or false" } else { "true, false or a number" };
            self.warn(
                value.span().start,
                format!("match.{known} must be {expected}, ignoring this {of}"),
            );
        } else {
            self.warn(key.span().start, format!("match.{word} is not known, ignoring this {of}"));
        }
        None
    }

    fn policies(&mut self, value: &Value<'_>) -> Option<Vec<Policy>> {
        let known = |word: &String| POLICIES.iter().find(|(w, _)| w == word).map(|(_, p)| *p);
        let policies = strings(value.get_ref())
            .and_then(|words| words.iter().map(known).collect::<Option<Vec<Policy>>>());
        if policies.is_none() {
            self.wrong(value, "policy", &format!("a list of {}", words(&POLICIES)));
        }
        policies
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Function;
    use crate::dropin::tests::tree;
    use crate::settings::SETTING_KEYS;

    fn load(files: &[(&str, &str)]) -> (Config, Vec<String>) {
        let (dir, root) = tree(files);
        let (config, warnings) = Config::load(&root);
        let prefix = format!("{}/", dir.path().display());
        (config, warnings.iter().map(|w| w.to_string().replace(&prefix, "/")).collect())
    }

    fn one(text: &str) -> (Config, Vec<String>) {
        load(&[("/etc/rdma/rdma.toml", text)])
    }

    #[test]
    fn nothing_is_the_default() {
        let (config, warnings) = one("");
        assert_eq!((config, warnings), (Config::default(), vec![]));
    }

    #[test]
    fn the_example_is_good() {
        let example = include_str!("../../docs/rdma.toml.example");
        assert_eq!(one(example), (Config::default(), vec![]));
        let lines = example.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        });
        let (config, warnings) = one(&lines.collect::<Vec<_>>().join("\n"));
        assert_eq!(warnings, [""; 0]);
        assert_eq!((config.devices.len(), config.links.len()), (9, 1));
        // What it calls the default is it.
        assert_eq!(config.online[""], Online::default());
        let online = BTreeMap::new();
        let rest = Config { devices: vec![], links: vec![], netns_shared: None, online, ..config };
        assert_eq!(rest, Config::default());
        for key in SETTING_KEYS {
            assert!(example.contains(&format!("\n#{key} = ")), "it does not show '{key}'");
        }
        for key in PATTERN_KEYS.iter().chain(&NUMBER_KEYS) {
            assert!(example.contains(&format!("{key} = ")), "it does not show '{key}'");
        }
        for (word, _) in &POLICIES {
            assert!(example.contains(&format!("#   {word} ")), "it does not explain '{word}'");
        }
    }

    #[test]
    fn later_fragments_replace_keys_and_put_their_devices_first() {
        let (config, warnings) = load(&[
            (
                "/usr/lib/rdma/rdma.toml",
                "[naming]\npolicy = 'kernel'\n[[device]]\nmatch = {driver = 'rxe'}\nname = 'vendor'\n",
            ),
            (
                "/etc/rdma/rdma.toml.d/10.toml",
                "[[device]]\nmatch = {driver = 'rxe'}\nname = 'first'\n[[device]]\nmatch = {driver = 'r*'}\nname = 'second'\n",
            ),
        ]);
        assert_eq!(warnings, [""; 0]);
        assert_eq!(config.policy, [Policy::Kernel]);
        let names: Vec<_> = config.devices.iter().filter_map(|d| d.name.as_deref()).collect();
        assert_eq!(names, ["first", "second", "vendor"]);
        let facts = Facts { driver: vec!["rxe".into()], ..Facts::default() };
        assert_eq!(config.name_of(&facts).map(|(name, _)| name), Some("first"));
    }

    #[test]
    fn conditions() {
        let vf = Facts {
            path: vec!["pci-0000:c1:00.2".into()],
            protocol: vec!["ib".into(), "roce".into()],
            function: Some(Function::Virtual(3)),
            numa_node: Some(1),
            ..Facts::default()
        };
        for (text, fits) in [
            ("path = 'pci-0000:c1:*'", true),
            ("path = ['nothing', 'pci-0000:c1:00.2']", true),
            ("protocol = 'roce'", true),
            ("protocol = 'roce', path = 'pci-0001:*'", false),
            ("netdev = '*'", false),
            ("vf = true", true),
            ("vf = 3", true),
            ("vf = 4", false),
            ("vf = false", false),
            ("pf = true", false),
            ("pf = false", true),
            ("sf = 3", false),
            ("numa-node = 1", true),
            ("numa-node = 0", false),
        ] {
            let (config, warnings) =
                one(&format!("[[device]]\nmatch = {{ {text} }}\nname = 'x'\n"));
            assert_eq!(warnings, [""; 0], "{text}");
            assert_eq!(config.name_of(&vf).is_some(), fits, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_with_file_line_and_column() {
        for (text, warning) in [
            ("[naming\n", "/etc/rdma/rdma.toml:1:8: this is not TOML"),
            (
                "\n[naming]\npolicy = 7\n",
                "/etc/rdma/rdma.toml:3:10: policy must be a list of kernel, onboard",
            ),
            (
                "[naming]\npolicy = ['path', 'nonsense']\n",
                "/etc/rdma/rdma.toml:2:10: policy must be a list",
            ),
            (
                "[naming]\nscheme = 'v0'\n",
                "/etc/rdma/rdma.toml:2:10: scheme must be 'latest' or one of v1",
            ),
            (
                "[naming]\nipoib = true\n",
                "/etc/rdma/rdma.toml:2:9: ipoib must be one of kernel, device-port",
            ),
            ("naming = 1\n", "/etc/rdma/rdma.toml:1:10: naming must be a table"),
            ("[sytsem]\nnetns = 'shared'\n", "/etc/rdma/rdma.toml:1:2: sytsem is not known"),
            (
                "[[device]]\nmatch = {driver = 'rxe'}\nnmae = 'x'\n",
                "/etc/rdma/rdma.toml:3:1: device.nmae is not known",
            ),
            (
                "[[device]]\nname = 'x'\n",
                "/etc/rdma/rdma.toml:1:1: this [[device]] matches nothing",
            ),
            (
                "[[device]]\nmatch = {drvier = 'rxe'}\nname = 'x'\n",
                "/etc/rdma/rdma.toml:2:10: match.drvier is not known",
            ),
            (
                "[[device]]\nmatch = {driver = '[a'}\nname = 'x'\n",
                "/etc/rdma/rdma.toml:2:19: match.driver must be",
            ),
            (
                "[[device]]\nmatch = {vf = -1}\nname = 'x'\n",
                "/etc/rdma/rdma.toml:2:15: match.vf must be",
            ),
        ] {
            let (config, warnings) = one(text);
            assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
            assert!(warnings[0].starts_with(warning), "{text}: {warnings:?}");
            assert_eq!(config, Config { devices: config.devices.clone(), ..Config::default() });
            let facts = Facts { driver: vec!["rxe".into()], ..Facts::default() };
            assert_eq!(config.name_of(&facts), None, "{text}");
        }
    }

    #[test]
    fn the_rest_of_a_file_with_a_mistake_is_in_force() {
        let (config, warnings) = one("[naming]\npolicy = 'guid'\nscheme = {}\n");
        assert_eq!((config.policy, warnings.len()), (vec![Policy::Guid], 1));
    }

    proptest::proptest! {
        #[test]
        fn any_text(text: String) {
            let (dir, root) = tree(&[("/etc/rdma/rdma.toml", &text)]);
            let _ = Config::load(&root);
            drop(dir);
        }
    }
}
