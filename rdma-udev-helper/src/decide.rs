// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which name a device should have, and who says so.

use rdma_config::{Config, DeviceEntry, Facts};

use crate::naming::{Choice, Identity, choose, function_number, path};

/// The place of a device among those that an entry names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rank {
    /// Among the devices, from 0.
    pub index: usize,
    /// That of its card among their cards, from 0.
    pub rail: usize,
}

/// What a device should be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The name.
    pub name: String,
    /// Who says so: a policy's word, `fixed` for a `[[device]]` entry, `user`.
    pub policy: &'static str,
    /// The file and line of the entry.
    pub source: Option<String>,
}

/// What there is to decide on.
#[derive(Debug)]
pub struct Case<'a> {
    /// What it is called.
    pub current: &'a str,
    /// Somebody named it: when it was made, or since.
    pub named_by_user: bool,
    /// Renaming is not switched off.
    pub enabled: bool,
    /// The configuration.
    pub config: &'a Config,
    /// The device, to be matched.
    pub facts: &'a Facts,
    /// The device, to be named.
    pub identity: &'a Identity,
}

/// Decides. A person's name stays unless an entry names the device; without any policy that gives
/// a name the kernel's stays. `rank` is asked only for a name that has it.
#[must_use]
pub fn decide(case: &Case<'_>, rank: impl FnOnce(&DeviceEntry) -> Rank) -> Decision {
    let keep = |policy| Decision { name: case.current.to_owned(), policy, source: None };
    if !case.enabled {
        return keep("kernel");
    }
    if let Some((name, entry)) = case.config.name_of(case.facts) {
        let (file, line) = &entry.source;
        let source = Some(format!("{}:{line}", file.display()));
        let name = expand(name, case.identity, || rank(entry));
        return Decision { name, policy: "fixed", source };
    }
    if case.named_by_user {
        return keep("user");
    }
    match choose(case.config.policy_of(case.facts), case.identity) {
        Choice::Name(name, policy) => Decision { name, policy: policy.as_str(), source: None },
        Choice::Keep => keep("kernel"),
    }
}

/// Fills in the templates of a name. Those of which the device has nothing stay, and the name is refused for its braces.
fn expand(name: &str, identity: &Identity, rank: impl FnOnce() -> Rank) -> String {
    let mut name = name.to_owned();
    if name.contains("{index}") || name.contains("{rail}") {
        let Rank { index, rail } = rank();
        name = name.replace("{index}", &index.to_string()).replace("{rail}", &rail.to_string());
    }
    if let Some(place) = &identity.place {
        name = name.replace("{port}", &function_number(place).to_string());
        name = name.replace("{path}", &path(place));
    }
    name
}

#[cfg(test)]
mod tests {
    use rdma_config::{NAME_TEMPLATES, Policy, Root};
    use rdma_verbs::sysfs::{PciAddress, Place};

    use super::*;

    fn config(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        std::fs::create_dir_all(root.path("/etc/rdma")).unwrap();
        std::fs::write(root.path("/etc/rdma/rdma.toml"), text).unwrap();
        let (config, warnings) = Config::load(&root);
        assert_eq!(warnings, []);
        config
    }

    #[test]
    fn who_has_the_last_word() {
        let entry = config(
            "[naming]\npolicy = 'netdev'\n[[device]]\nmatch = {netdev = 'ens3'}\nname = 'rail0'\n",
        );
        let policy = Config { policy: vec![Policy::Netdev], ..Config::default() };
        let facts = Facts { netdev: vec!["ens3".into()], ..Facts::default() };
        let identity = Identity { netdev: Some("ens3".into()), ..Identity::default() };
        for (what, config, user, enabled, name, who) in [
            ("a policy", &policy, false, true, "ens3", "netdev"),
            ("a person before a policy", &policy, true, true, "rxe0", "user"),
            ("an entry before a policy", &entry, false, true, "rail0", "fixed"),
            ("an entry before a person", &entry, true, true, "rail0", "fixed"),
            ("nobody, when switched off", &entry, false, false, "rxe0", "kernel"),
        ] {
            let case = Case {
                current: "rxe0",
                named_by_user: user,
                enabled,
                config,
                facts: &facts,
                identity: &identity,
            };
            let decision = decide(&case, |_| panic!("no name has a place in it"));
            assert_eq!((decision.name.as_str(), decision.policy), (name, who), "{what}");
        }
    }

    #[test]
    fn a_place_in_a_name() {
        let config = config("[[device]]\nmatch = {netdev = 'ens*'}\nname = 'rail{index}'\n");
        let facts = Facts { netdev: vec!["ens3".into()], ..Facts::default() };
        let case = Case {
            current: "rxe0",
            named_by_user: false,
            enabled: true,
            config: &config,
            facts: &facts,
            identity: &Identity::default(),
        };
        let decision = decide(&case, |entry| {
            assert_eq!(entry.name.as_deref(), Some("rail{index}"));
            Rank { index: 3, rail: 1 }
        });
        assert_eq!(decision.name, "rail3");
    }

    #[test]
    fn templates() {
        let address = PciAddress::parse("0000:c1:00.1").unwrap();
        let place = Place {
            address,
            own_address: address,
            ari: false,
            multi_function: true,
            vf: None,
            sf: None,
            onboard: None,
        };
        let on_pci = Identity { place: Some(place), ..Identity::default() };
        let rank = || Rank { index: 5, rail: 2 };
        for (template, expected) in NAME_TEMPLATES.into_iter().zip(["x5", "x2", "x1", "xp193s0f1"])
        {
            assert_eq!(expand(&format!("x{template}"), &on_pci, rank), expected);
        }
        assert_eq!(expand("r{rail}p{port}", &on_pci, rank), "r2p1");
        assert_eq!(expand("x{path}", &Identity::default(), rank), "x{path}");
    }
}
