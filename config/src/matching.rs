// SPDX-License-Identifier: MIT OR Apache-2.0
//! `match = { ... }`: which devices an entry is about.

/// What part of a card a device is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// A physical function.
    Physical,
    /// A virtual function, by its number on the physical one.
    Virtual(u32),
    /// A sub-function, by its `sfnum`.
    Sub(u32),
}

/// A device, in the words in which it is matched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's name for it.
    pub sysname: Vec<String>,
    /// `pci-0000:c1:00.0`, the function it is on.
    pub path: Vec<String>,
    /// Hot-plug slot.
    pub slot: Vec<String>,
    /// Of every port, 16 hex digits.
    pub port_guid: Vec<String>,
    /// 16 hex digits.
    pub node_guid: Vec<String>,
    /// `mlx5`, `rxe`.
    pub driver: Vec<String>,
    /// Of every port: `ib`, `roce`, `iw`, `opa`.
    pub protocol: Vec<String>,
    /// Of every port.
    pub netdev: Vec<String>,
    /// The card's maker's name for the board.
    pub board_id: Vec<String>,
    /// Of the card. Asking for it takes time: empty unless the configuration [asks](crate::Config::matches_serials).
    pub serial: Vec<String>,
    /// None for devices without a PCI function below them.
    pub function: Option<Function>,
    /// The NUMA node of the function.
    pub numa_node: Option<u32>,
}

/// The keys of `match` that take one pattern or a list of them.
pub const PATTERN_KEYS: [&str; 10] = [
    "sysname",
    "path",
    "slot",
    "port-guid",
    "node-guid",
    "driver",
    "protocol",
    "netdev",
    "board-id",
    "serial",
];
/// The keys of `match` that take a boolean or a number.
pub const NUMBER_KEYS: [&str; 4] = ["pf", "vf", "sf", "numa-node"];

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    /// Some value of this key fits some pattern.
    Patterns(&'static str, Vec<glob::Pattern>),
    /// The device is, or is not, on such a function.
    Is(&'static str, bool),
    /// It has this number: of its function, of its NUMA node.
    Number(&'static str, u32),
}

/// All conditions of an entry; a device must meet every one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match(pub(crate) Vec<Condition>);

impl Match {
    /// Whether there is no condition: every device meets it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a condition on the serial number of the card.
    #[must_use]
    pub fn asks_for_serial(&self) -> bool {
        self.0.iter().any(|condition| matches!(condition, Condition::Patterns("serial", _)))
    }

    /// Whether a device meets all conditions.
    #[must_use]
    pub fn fits(&self, facts: &Facts) -> bool {
        self.0.iter().all(|condition| match condition {
            Condition::Patterns(key, patterns) => {
                facts.values(key).iter().any(|v| patterns.iter().any(|p| p.matches(v)))
            }
            Condition::Is(key, wanted) => facts.number(key).is_some() == *wanted,
            Condition::Number(key, number) => facts.number(key) == Some(Some(*number)),
        })
    }
}

impl Facts {
    fn values(&self, key: &str) -> &[String] {
        match key {
            "sysname" => &self.sysname,
            "path" => &self.path,
            "slot" => &self.slot,
            "port-guid" => &self.port_guid,
            "node-guid" => &self.node_guid,
            "driver" => &self.driver,
            "protocol" => &self.protocol,
            "netdev" => &self.netdev,
            "board-id" => &self.board_id,
            "serial" => &self.serial,
            _ => &[],
        }
    }

    /// The number, where the device has it or is on a function of this kind.
    fn number(&self, key: &str) -> Option<Option<u32>> {
        match (key, self.function) {
            ("pf", Some(Function::Physical)) => Some(None),
            ("vf", Some(Function::Virtual(n))) | ("sf", Some(Function::Sub(n))) => Some(Some(n)),
            ("numa-node", _) => self.numa_node.map(Some),
            _ => None,
        }
    }
}
