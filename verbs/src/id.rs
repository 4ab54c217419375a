// SPDX-License-Identifier: MIT OR Apache-2.0
//! Identifiers of devices and ports.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A text that is not the identifier it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a {1}")]
pub struct ParseIdError(String, &'static str);

/// IBTA EUI-64 identifier of a node, a port or a system image.
///
/// Written as 16 hex digits; read also as the four groups that sysfs prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub u64);

impl Guid {
    /// Whether no GUID is set, as with a virtual function that has not been given one.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Guid {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits = groups(text, 4).unwrap_or_else(|| text.to_owned());
        hex(&digits, 16)
            .and_then(|v| u64::try_from(v).ok())
            .map(Self)
            .ok_or_else(|| ParseIdError(text.to_owned(), "GUID"))
    }
}

/// IBTA global identifier of a port: subnet prefix and interface identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gid(pub u128);

impl Gid {
    /// The low 64 bits; of GID 0 of a port this is the port GUID.
    #[must_use]
    pub fn interface_id(self) -> Guid {
        let [.., a, b, c, d, e, f, g, h] = self.0.to_be_bytes();
        Guid(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl Gid {
    /// Whether the entry of the table is empty.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// As an IPv6 address, which it is in form; on RoCE v2 also in fact.
    #[must_use]
    pub fn address(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.0)
    }
}

impl fmt::Display for Gid {
    /// As an IPv6 address is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

impl FromStr for Gid {
    type Err = ParseIdError;

    /// Reads the eight groups of four hex digits that sysfs prints.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        groups(text, 8)
            .and_then(|digits| hex(&digits, 32))
            .map(Self)
            .ok_or_else(|| ParseIdError(text.to_owned(), "GID"))
    }
}

/// `RDMA_NLDEV_ATTR_DEV_INDEX`: the kernel's number of a device, not given out twice in one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevIndex(pub u32);

impl fmt::Display for DevIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a port of a device; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortNum(pub u32);

impl PortNum {
    /// As it stands in structures of the kernel's; 0, which no port has, for what does not fit there.
    pub(crate) fn of_kernel(self) -> u8 {
        u8::try_from(self.0).unwrap_or(0)
    }
}

impl fmt::Display for PortNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The digits of `count` groups of four, joined.
fn groups(text: &str, count: usize) -> Option<String> {
    let parts: Vec<&str> = text.split(':').collect();
    (parts.len() == count && parts.iter().all(|p| p.len() == 4)).then(|| parts.concat())
}

fn hex(digits: &str, length: usize) -> Option<u128> {
    let only_digits = digits.len() == length && digits.bytes().all(|b| b.is_ascii_hexdigit());
    only_digits.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guid_as_sysfs_and_as_links_write_it() {
        let guid = Guid(0x5254_00c0_fe12_3455);
        assert_eq!("5254:00c0:fe12:3455".parse(), Ok(guid));
        assert_eq!("525400c0fe123455".parse(), Ok(guid));
        assert_eq!(guid.to_string(), "525400c0fe123455");
        for bad in ["", "5254", "5254:00c0:fe12", "+25400c0fe123455", "5254:00c0:fe12:345g"] {
            assert!(bad.parse::<Guid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn gid_holds_the_port_guid() {
        let gid: Gid = "fe80:0000:0000:0000:5054:00ff:fe12:3456".parse().unwrap();
        assert_eq!(gid.interface_id(), Guid(0x5054_00ff_fe12_3456));
        assert!("fe80::1".parse::<Gid>().is_err());
    }
}
