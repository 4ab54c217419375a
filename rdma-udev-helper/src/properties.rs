// SPDX-License-Identifier: MIT OR Apache-2.0
//! `KEY=VALUE` lines for udev's `IMPORT{program}` and `IMPORT{file}`.

use std::fmt::{Display, Write as _};

/// Properties in the order in which they are printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(String);

impl Properties {
    /// Adds a property. What a property must not hold, because it would end the line or mean
    /// something to udev or a shell, becomes `_`: values come from firmware, too.
    pub fn set(&mut self, key: impl Display, value: impl Display) {
        let safe = |c: char| c.is_ascii_graphic() && !"\"'\\$%`".contains(c) || c == ' ';
        let value: String =
            value.to_string().chars().map(|c| if safe(c) { c } else { '_' }).collect();
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{key}={}", value.trim());
    }

    /// Adds a property that is there.
    pub fn set_some(&mut self, key: impl Display, value: Option<impl Display>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Adds what is the instance of a unit, in systemd's escaping (systemd.unit(5)).
    pub fn set_instance(&mut self, key: impl Display, instance: &str) {
        let _ = write!(self.0, "{key}=");
        for (place, byte) in instance.bytes().enumerate() {
            let _ = match byte {
                b'/' => write!(self.0, "-"),
                b'.' if place == 0 => write!(self.0, "\\x2e"),
                b':' | b'_' | b'.' => write!(self.0, "{}", char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => write!(self.0, "{}", char::from(byte)),
                _ => write!(self.0, "\\x{byte:02x}"),
            };
        }
        let _ = writeln!(self.0);
    }

    /// The lines.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Properties;

    #[test]
    fn a_value_stays_on_its_line() {
        let mut properties = Properties::default();
        properties.set("FW", "16.35\nSYSTEMD_WANTS=\"evil.service\" $env{X} %k\u{e9}");
        properties.set_some("NONE", None::<u8>);
        assert_eq!(properties.as_str(), "FW=16.35_SYSTEMD_WANTS=_evil.service_ _env{X} _k_\n");
    }

    /// As systemd-escape has them.
    #[test]
    fn instances() {
        let mut properties = Properties::default();
        properties.set_instance("A", "mlx5_0:1");
        properties.set_instance("B", "rail-0.a:1");
        properties.set_instance("C", ".a/b\n");
        assert_eq!(properties.as_str(), "A=mlx5_0:1\nB=rail\\x2d0.a:1\nC=\\x2ea-b\\x0a\n");
    }

    proptest::proptest! {
        #[test]
        fn any_value_is_one_line(value: String) {
            let mut properties = Properties::default();
            properties.set("K", value);
            proptest::prop_assert_eq!(properties.as_str().lines().count(), 1);
        }
    }
}
