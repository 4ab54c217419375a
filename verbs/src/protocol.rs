// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a port speaks.

use std::fmt;

/// What a device or a port speaks, in the words of `RDMA_NLDEV_ATTR_DEV_PROTOCOL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// InfiniBand, `ib`.
    InfiniBand,
    /// RDMA over Converged Ethernet, `roce`.
    Roce,
    /// Internet Wide Area RDMA Protocol, `iw`.
    Iwarp,
    /// Omni-Path, `opa`.
    Opa,
    /// Cisco's usNIC, `usnic`.
    Usnic,
}

impl Protocol {
    /// The kernel's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InfiniBand => "ib",
            Self::Roce => "roce",
            Self::Iwarp => "iw",
            Self::Opa => "opa",
            Self::Usnic => "usnic",
        }
    }

    /// Reads the kernel's word.
    #[must_use]
    pub fn from_kernel(word: &str) -> Option<Self> {
        [Self::InfiniBand, Self::Roce, Self::Iwarp, Self::Opa, Self::Usnic]
            .into_iter()
            .find(|p| p.as_str() == word)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `rdma_port_get_link_layer`, as sysfs prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// `InfiniBand`, also of Omni-Path.
    InfiniBand,
    /// `Ethernet`.
    Ethernet,
    /// `Unspecified`, or a word this crate does not know.
    Unspecified,
}

impl LinkLayer {
    /// Reads the word in sysfs.
    #[must_use]
    pub fn from_sysfs(word: &str) -> Self {
        match word {
            "InfiniBand" => Self::InfiniBand,
            "Ethernet" => Self::Ethernet,
            _ => Self::Unspecified,
        }
    }
}

/// What one port speaks.
///
/// Netlink names the protocol of the first port only. Ports of a device can differ just between
/// InfiniBand and RoCE, which their link layer tells apart. A device without a protocol (EFA) has
/// none on its Ethernet ports either.
#[must_use]
pub fn port_protocol(device: Option<Protocol>, link: LinkLayer) -> Option<Protocol> {
    match (device, link) {
        (Some(p @ (Protocol::Iwarp | Protocol::Opa | Protocol::Usnic)), _) => Some(p),
        (_, LinkLayer::InfiniBand) => Some(Protocol::InfiniBand),
        (Some(_), LinkLayer::Ethernet) => Some(Protocol::Roce),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_every_kind_of_device() {
        use LinkLayer::{Ethernet, InfiniBand, Unspecified};
        let cases = [
            (
                "mlx5 on InfiniBand",
                Some(Protocol::InfiniBand),
                InfiniBand,
                Some(Protocol::InfiniBand),
            ),
            (
                "mlx4 with port 1 on InfiniBand, port 2",
                Some(Protocol::InfiniBand),
                Ethernet,
                Some(Protocol::Roce),
            ),
            (
                "mlx4 with port 1 on Ethernet, port 2",
                Some(Protocol::Roce),
                InfiniBand,
                Some(Protocol::InfiniBand),
            ),
            ("irdma in RoCE mode", Some(Protocol::Roce), Ethernet, Some(Protocol::Roce)),
            ("irdma in iWARP mode", Some(Protocol::Iwarp), Ethernet, Some(Protocol::Iwarp)),
            ("hfi1", Some(Protocol::Opa), InfiniBand, Some(Protocol::Opa)),
            ("usnic", Some(Protocol::Usnic), Ethernet, Some(Protocol::Usnic)),
            ("efa", None, Unspecified, None),
            ("a driver that says nothing on Ethernet", None, Ethernet, None),
        ];
        for (what, device, link, expected) in cases {
            assert_eq!(port_protocol(device, link), expected, "{what}");
        }
    }
}
