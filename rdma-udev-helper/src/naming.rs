// SPDX-License-Identifier: MIT OR Apache-2.0
//! The name that a policy gives to a device.
//!
//! ```text
//! onboard = PROTOCOL "o" INDEX
//! path    = PROTOCOL [ "P" DOMAIN ] "p" BUS "s" SLOT [ "f" FUNCTION ] [ "v" VF ] [ "S" SF ]
//! slot    = PROTOCOL [ "P" DOMAIN ] "s" HOTPLUG-SLOT [ "f" FUNCTION ] [ "v" VF ] [ "S" SF ]
//! guid    = PROTOCOL "x" 16 hex digits
//! netdev  = the name of the network interface
//! ```
//!
//! PROTOCOL is the kernel's word (`ib`, `roce`, `iw`, `opa`, `usnic`), or `rdma` where it has none.
//! Numbers are decimal. FUNCTION is there on cards with several functions, VF on virtual functions, SF
//! on sub-functions. These are the names that rdma-core gives, except where its own collide or cannot
//! come about: see the tests.

use std::fmt::Write as _;

use rdma_config::Policy;
use rdma_verbs::sysfs::Place;
use rdma_verbs::{Guid, Protocol};

/// systemd ignores larger numbers as firmware mistakes, and so does rdma-core.
const ONBOARD_MAX: u32 = 16 * 1024 - 1;

/// What of a device a name can be made from.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// What its first port speaks.
    pub protocol: Option<Protocol>,
    /// Where it is on the PCI bus.
    pub place: Option<Place>,
    /// The hot-plug slot it is in.
    pub slot: Option<String>,
    /// Its node GUID.
    pub node_guid: Option<Guid>,
    /// The network interface of its only port, on RoCE and iWARP.
    pub netdev: Option<String>,
}

/// What a list of policies comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The kernel's name stays.
    Keep,
    /// A name, and the policy that gave it.
    Name(String, Policy),
}

/// The name of the first policy that gives one.
#[must_use]
pub fn choose(policies: &[Policy], identity: &Identity) -> Choice {
    for policy in policies {
        if *policy == Policy::Kernel {
            return Choice::Keep;
        }
        if let Some(name) = name(*policy, identity) {
            return Choice::Name(name, *policy);
        }
    }
    Choice::Keep
}

/// The name that one policy gives, if it gives one.
#[must_use]
pub fn name(policy: Policy, identity: &Identity) -> Option<String> {
    let prefix = identity.protocol.map_or("rdma", Protocol::as_str);
    match policy {
        Policy::Kernel => None,
        Policy::Onboard => {
            let index = identity.place.as_ref()?.onboard.filter(|i| *i <= ONBOARD_MAX)?;
            Some(format!("{prefix}o{index}"))
        }
        Policy::Path => Some(format!("{prefix}{}", path(identity.place.as_ref()?))),
        Policy::Slot => {
            let place = identity.place.as_ref()?;
            let slot = identity.slot.as_ref().filter(|s| s.bytes().all(|b| b.is_ascii_digit()))?;
            Some(format!("{prefix}{}s{slot}{}", domain(place), function(place)))
        }
        Policy::Guid => {
            identity.node_guid.filter(|g| !g.is_zero()).map(|g| format!("{prefix}x{g}"))
        }
        Policy::Netdev => identity.netdev.clone(),
    }
}

/// The path policy's name without the protocol.
pub(crate) fn path(place: &Place) -> String {
    let at = format!("p{}s{}", place.address.bus, place.address.slot);
    format!("{}{at}{}", domain(place), function(place))
}

/// The number of the function on its card.
pub(crate) fn function_number(place: &Place) -> u32 {
    let above = if place.ari { 8 * u32::from(place.address.slot) } else { 0 };
    u32::from(place.address.function) + above
}

fn domain(place: &Place) -> String {
    if place.address.domain == 0 { String::new() } else { format!("P{}", place.address.domain) }
}

fn function(place: &Place) -> String {
    let mut text = String::new();
    let number = function_number(place);
    if number > 0 || place.multi_function {
        // Writing to a string does not fail.
        let _ = write!(text, "f{number}");
    }
    if let Some(vf) = place.vf {
        let _ = write!(text, "v{vf}");
    }
    if let Some(sf) = place.sf {
        let _ = write!(text, "S{sf}");
    }
    text
}

#[cfg(test)]
mod tests {
    use rdma_verbs::sysfs::PciAddress;

    use super::*;

    fn at(address: &str) -> Place {
        let address = PciAddress::parse(address).unwrap();
        Place {
            address,
            own_address: address,
            ari: false,
            multi_function: false,
            vf: None,
            sf: None,
            onboard: None,
        }
    }

    fn multi(address: &str) -> Place {
        Place { multi_function: true, ..at(address) }
    }

    #[test]
    fn names_by_path() {
        let card = "0000:c1:00.0";
        let cases = [
            (Some(Protocol::InfiniBand), at("0000:00:0c.4"), "ibp0s12f4"),
            (Some(Protocol::Roce), multi(card), "rocep193s0f0"),
            (Some(Protocol::Roce), at(card), "rocep193s0"),
            (Some(Protocol::Roce), at("0001:c1:00.0"), "roceP1p193s0"),
            (Some(Protocol::InfiniBand), at("0101:00:00.0"), "ibP257p0s0"),
            (Some(Protocol::InfiniBand), at("10000:01:00.0"), "ibP65536p1s0"),
            (None, at("0000:00:06.0"), "rdmap0s6"),
            (Some(Protocol::Roce), Place { vf: Some(2), ..multi(card) }, "rocep193s0f0v2"),
            // rdma-core D2: it gives rocep193s0 here, which is the physical function's own name, so
            // that the kernel refuses it; nobody can have come to rely on it.
            (Some(Protocol::Roce), Place { vf: Some(2), ..at(card) }, "rocep193s0v2"),
            (Some(Protocol::Roce), Place { sf: Some(88), ..multi(card) }, "rocep193s0f0S88"),
            (
                Some(Protocol::Roce),
                Place { vf: Some(0), sf: Some(99), ..multi(card) },
                "rocep193s0f0v0S99",
            ),
            (Some(Protocol::Roce), Place { sf: Some(88), ..at(card) }, "rocep193s0S88"),
            (Some(Protocol::Roce), Place { ari: true, ..at("0000:c1:01.0") }, "rocep193s1f8"),
        ];
        for (protocol, place, expected) in cases {
            let identity = Identity { protocol, place: Some(place), ..Identity::default() };
            assert_eq!(name(Policy::Path, &identity).as_deref(), Some(expected));
        }
    }

    #[test]
    fn names_by_onboard_index() {
        let with = |onboard| Identity {
            protocol: Some(Protocol::Opa),
            place: Some(Place { onboard, ..at("0000:01:00.0") }),
            ..Identity::default()
        };
        for (index, expected) in
            [(3, Some("opao3")), (0, Some("opao0")), (16383, Some("opao16383")), (16384, None)]
        {
            assert_eq!(name(Policy::Onboard, &with(Some(index))).as_deref(), expected);
        }
        // rdma-core D5: an empty file there made a name of whatever was in memory.
        assert_eq!(name(Policy::Onboard, &with(None)), None);
    }

    #[test]
    fn names_by_guid_are_the_same_in_either_byte_order() {
        // rdma-core D6: word-swapped on big endian.
        let identity = Identity {
            protocol: Some(Protocol::Roce),
            node_guid: Some(Guid(0x5254_00c0_fe12_3455)),
            ..Identity::default()
        };
        assert_eq!(name(Policy::Guid, &identity).as_deref(), Some("rocex525400c0fe123455"));
        let zero = Identity { node_guid: Some(Guid(0)), ..identity };
        assert_eq!(name(Policy::Guid, &zero), None);
    }

    #[test]
    fn names_by_slot_only_when_asked_for() {
        // rdma-core D1: documented, and never reached by its code. Were the path policy to use slots now,
        // names would change on real machines.
        let mut identity = Identity {
            protocol: Some(Protocol::InfiniBand),
            place: Some(multi("0000:c1:00.1")),
            slot: Some("4".into()),
            ..Identity::default()
        };
        assert_eq!(name(Policy::Slot, &identity).as_deref(), Some("ibs4f1"));
        assert_eq!(name(Policy::Path, &identity).as_deref(), Some("ibp193s0f1"));
        identity.slot = Some("PCIe/4".into());
        assert_eq!(name(Policy::Slot, &identity), None);
    }

    #[test]
    fn the_first_policy_that_gives_a_name() {
        let identity = Identity {
            protocol: Some(Protocol::Roce),
            place: Some(at("0000:c1:00.0")),
            netdev: Some("ens3".into()),
            ..Identity::default()
        };
        let choice = |policies: &[Policy]| choose(policies, &identity);
        let path = Choice::Name("rocep193s0".into(), Policy::Path);
        assert_eq!(choice(&[Policy::Onboard, Policy::Path]), path);
        assert_eq!(
            choice(&[Policy::Netdev, Policy::Path]),
            Choice::Name("ens3".into(), Policy::Netdev)
        );
        assert_eq!(choice(&[Policy::Guid]), Choice::Keep);
        assert_eq!(choice(&[Policy::Kernel, Policy::Path]), Choice::Keep);
        // Virtual devices have no place.
        assert_eq!(choose(&[Policy::Onboard, Policy::Path], &Identity::default()), Choice::Keep);
    }
}
