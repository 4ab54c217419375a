// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings of a device: what rdmad gives it when it comes, is renamed, or the configuration is read again.

use std::collections::BTreeMap;

use crate::description::unknown_description_words;
use crate::matching::Facts;
use crate::reader::{Reader, Value, strings};
use crate::schema::{Config, DeviceEntry};

/// The keys of a `[[device]]` that are settings. Each has a word as its value, in the spelling of whatever
/// it is given to.
pub const SETTING_KEYS: [&str; 5] =
    ["roce-mode", "tos", "adaptive-moderation", "optional-counters", "netns"];

/// The kernel's words for them, in configfs.
const ROCE_MODES: [(&str, &str); 2] = [("v1", "IB/RoCE v1"), ("v2", "RoCE v2")];
/// What is done when a setting is found changed by somebody else.
const DRIFTS: [(&str, bool); 2] = [("report", false), ("repair", true)];

/// The words that may stand for a value.
pub(crate) fn allowed(key: &str) -> Vec<&'static str> {
    match key {
        "roce-mode" => ROCE_MODES.iter().map(|(word, _)| *word).collect(),
        "drift" => DRIFTS.iter().map(|(word, _)| *word).collect(),
        _ => Vec::new(),
    }
}

/// What one entry sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// By key.
    pub(crate) values: BTreeMap<&'static str, String>,
    /// Format of the node description, which is rdma-ndd's business.
    pub(crate) description: Option<String>,
    /// Whether a value that somebody else has changed is set again.
    pub(crate) repair: Option<bool>,
    /// Units that a device wants; `{name}` is its name.
    pub(crate) wants: Option<Vec<String>>,
}

impl Config {
    fn entries_for<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = &'a DeviceEntry> {
        self.devices.iter().filter(|entry| entry.matches.fits(facts))
    }

    /// The settings of a device, by key; of several entries the first that has the key counts.
    #[must_use]
    pub fn settings_of<'a>(&'a self, facts: &'a Facts) -> BTreeMap<&'static str, &'a str> {
        let mut settings = BTreeMap::new();
        for (key, value) in self.entries_for(facts).flat_map(|entry| &entry.settings.values) {
            settings.entry(*key).or_insert(value.as_str());
        }
        settings
    }

    /// The format of a device's node description; of several entries the first that has one counts.
    #[must_use]
    pub fn description_of<'a>(&'a self, facts: &'a Facts) -> Option<&'a str> {
        self.entries_for(facts).find_map(|entry| entry.settings.description.as_deref())
    }

    /// All formats of node descriptions.
    pub fn descriptions(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().filter_map(|entry| entry.settings.description.as_deref())
    }

    /// Whether settings of a device that somebody else has changed are set again.
    #[must_use]
    pub fn repairs(&self, facts: &Facts) -> bool {
        self.entries_for(facts).find_map(|entry| entry.settings.repair).unwrap_or(false)
    }

    /// The units that a device of this name wants.
    #[must_use]
    pub fn wants_of(&self, facts: &Facts, name: &str) -> Vec<String> {
        let wants = self.entries_for(facts).find_map(|entry| entry.settings.wants.as_ref());
        wants.into_iter().flatten().map(|unit| unit.replace("{name}", name)).collect()
    }
}

impl Reader<'_> {
    /// Reads a key of `[[device]]` into `settings`; false when it is none of these.
    pub(crate) fn setting(
        &mut self,
        key: &str,
        value: &Value<'_>,
        settings: &mut Settings,
    ) -> bool {
        let full = &format!("device.{key}");
        let text = value.get_ref().as_str();
        let read = match key {
            "node-description" => {
                let good = |text: &&str| !text.contains(char::is_control);
                let format = self.or_wrong(text.filter(good), value, full, "a line");
                for word in format.into_iter().flat_map(unknown_description_words) {
                    self.warn(
                        value.span().start,
                        format!("{full} has '{word}', which is not known"),
                    );
                }
                settings.description = format.map(str::to_owned).or(settings.description.take());
                return true;
            }
            "roce-mode" => self.word(value, full, &ROCE_MODES).map(str::to_owned),
            "tos" => {
                let number = value.get_ref().as_integer();
                let number = number.and_then(|n| u8::from_str_radix(n.as_str(), n.radix()).ok());
                self.or_wrong(number, value, full, "a number from 0 to 255").map(|n| n.to_string())
            }
            "adaptive-moderation" => {
                let wanted = value.get_ref().as_bool();
                self.or_wrong(wanted, value, full, "true or false").map(|on| on.to_string())
            }
            "optional-counters" => {
                let good = |name: &String| {
                    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                };
                let names = strings(value.get_ref()).filter(|names| names.iter().all(good));
                self.or_wrong(names, value, full, "the name of a counter or a list of names").map(
                    |mut names| {
                        names.sort();
                        names.dedup();
                        names.join(",")
                    },
                )
            }
            "netns" => {
                let good = |name: &&str| !name.is_empty() && !name.contains('/') && *name != "..";
                self.or_wrong(text.filter(good), value, full, "the name of a network namespace")
                    .map(str::to_owned)
            }
            "drift" => {
                settings.repair = self.word(value, full, &DRIFTS).or(settings.repair);
                return true;
            }
            "wants" => {
                let units =
                    strings(value.get_ref()).filter(|units| units.iter().all(|u| is_unit(u)));
                let units = self.or_wrong(units, value, full, "a unit or a list of units");
                settings.wants = units.or(settings.wants.take());
                return true;
            }
            _ => return false,
        };
        let known = SETTING_KEYS.into_iter().find(|known| *known == key);
        settings.values.extend(known.zip(read));
        true
    }
}

/// Whether systemd, and the udev rule that passes it on, can take this for a unit.
fn is_unit(text: &str) -> bool {
    let name = text.replace("{name}", "");
    let good = |c: char| c.is_ascii_alphanumeric() || ":-_.@\\".contains(c);
    text.contains('.') && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropin::tests::tree;

    fn load(text: &str) -> (Config, Vec<String>) {
        let text = format!("[[device]]\nmatch = {{driver = 'rxe'}}\n{text}");
        let (_dir, root) = tree(&[("/etc/rdma/rdma.toml", &text)]);
        let (config, warnings) = Config::load(&root);
        (config, warnings.iter().map(|w| w.what.clone()).collect())
    }

    fn rxe() -> Facts {
        Facts { driver: vec!["rxe".into()], ..Facts::default() }
    }

    #[test]
    fn first_of_several_entries_for_each_key() {
        let (config, warnings) = load(
            "node-description = '%h %d'\nroce-mode = 'v1'\ntos = 0x6a\n\
             [[device]]\nmatch = {driver = '*'}\ntos = 1\nadaptive-moderation = false\nnetns = 'blue'\n\
             optional-counters = ['b', 'a', 'b']\nwants = ['agent@{name}.service', 'x.target']\ndrift = 'repair'\n",
        );
        assert_eq!(warnings, [""; 0]);
        let rxe = rxe();
        let settings: Vec<_> = config.settings_of(&rxe).into_iter().collect();
        assert_eq!(
            settings,
            [
                ("adaptive-moderation", "false"),
                ("netns", "blue"),
                ("optional-counters", "a,b"),
                ("roce-mode", "IB/RoCE v1"),
                ("tos", "106"),
            ]
        );
        assert_eq!(config.description_of(&rxe), Some("%h %d"));
        assert_eq!(config.descriptions().count(), 1);
        assert!(config.repairs(&rxe) && !config.repairs(&Facts::default()));
        assert_eq!(config.wants_of(&rxe, "rail0"), ["agent@rail0.service", "x.target"]);
    }

    #[test]
    fn what_cannot_be_used() {
        for (text, warning) in [
            ("roce-mode = 2\n", "device.roce-mode must be one of v1, v2"),
            ("tos = 256\n", "device.tos must be a number from 0 to 255"),
            ("tos = '1'\n", "device.tos must be a number"),
            ("adaptive-moderation = 'on'\n", "device.adaptive-moderation must be true or false"),
            ("optional-counters = 'a b'\n", "device.optional-counters must be the name of a"),
            ("netns = 'a/b'\n", "device.netns must be the name of a network namespace"),
            ("netns = '..'\n", "device.netns must be the name"),
            ("node-description = \"a\\nb\"\n", "device.node-description must be a line"),
            (
                "node-description = '%h %x'\n",
                "device.node-description has '%x', which is not known",
            ),
            ("wants = 'a b.service'\n", "device.wants must be a unit"),
            ("wants = 'service'\n", "device.wants must be a unit"),
            ("drift = true\n", "device.drift must be one of report, repair"),
        ] {
            let (config, warnings) = load(text);
            assert!(
                warnings.len() == 1 && warnings[0].starts_with(warning),
                "{text}: {warnings:?}"
            );
            let rxe = rxe();
            assert!(config.settings_of(&rxe).is_empty(), "{text}");
            assert!(config.wants_of(&rxe, "x").is_empty(), "{text}");
        }
    }
}
