// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/etc/srp_daemon.conf`: which targets are allowed, and what is said of them to `ib_srp`.
//!
//! ```text
//! a id_ext=200100a0b81146a1,ioc_guid=00a0b80200402bd7,max_sect=65535
//! d
//! ```
//!
//! The first line that fits a target decides; without any it is allowed.

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};

use crate::unit::Target;

/// More would not fit into the line for `ib_srp`.
const OPTIONS: usize = 127;
const LINE: usize = 254;

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    allow: bool,
    id_ext: Option<u64>,
    ioc_guid: Option<u64>,
    dgid: Option<u128>,
    service_id: Option<u64>,
    pkey: Option<u64>,
    options: String,
}

/// All lines, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Reads a file; one that is not there has no lines.
    ///
    /// # Errors
    /// A file that cannot be read; a line that is not understood. To go without it could be to log in where one must not.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let lines = text.lines().enumerate();
        let rules = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let rule = |(number, line): (usize, &str)| {
            let place = || format!("{}:{}", path.display(), number + 1);
            Rule::parse(line).with_context(place)
        };
        rules.map(rule).collect::<Result<_>>().map(Self)
    }

    /// What is to be said of a target beside where it is; None when it is not allowed.
    #[must_use]
    pub fn options(&self, target: &Target) -> Option<&str> {
        match self.0.iter().find(|rule| rule.fits(target)) {
            Some(rule) => rule.allow.then_some(rule.options.as_str()),
            None => Some(""),
        }
    }
}

impl Rule {
    fn parse(line: &str) -> Result<Self> {
        ensure!(line.len() <= LINE, "a line has at most {LINE} characters");
        let mut rule = Self::default();
        let (verdict, items) = line.split_at_checked(1).unwrap_or((line, ""));
        rule.allow = match verdict {
            "a" | "A" => true,
            "d" | "D" => false,
            _ => bail!("a line begins with 'a' (allow) or 'd' (disallow)"),
        };
        let good = items.is_empty() || items.starts_with([' ', '\t']);
        ensure!(good, "'{verdict}' must be followed by a blank");
        for item in items.split([' ', '\t', ',']).filter(|item| !item.is_empty()) {
            let (key, value) =
                item.split_once('=').with_context(|| format!("'{item}' has no '='"))?;
            rule.item(key, value)?;
        }
        Ok(rule)
    }

    fn item(&mut self, key: &str, value: &str) -> Result<()> {
        let hex = |digits: usize| {
            let good =
                (1..=digits).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_hexdigit());
            let number = good.then(|| u128::from_str_radix(value, 16).ok()).flatten();
            number.with_context(|| format!("{key} must be a number of at most {digits} hex digits"))
        };
        let word = || anyhow::Ok(Some(u64::try_from(hex(16)?)?));
        match key {
            "id_ext" => self.id_ext = word()?,
            "ioc_guid" => self.ioc_guid = word()?,
            "service_id" => self.service_id = word()?,
            "dgid" => self.dgid = Some(hex(32)?),
            "pkey" => self.pkey = Some(u64::try_from(hex(9)?)?),
            "allow_ext_sg" | "ch_count" | "cmd_sg_entries" | "comp_vector" | "max_cmd_per_lun"
            | "max_sect" | "queue_size" | "sg_tablesize" | "tl_retry_count" => {
                ensure!(self.allow, "{key} is for lines with 'a'");
                let good =
                    (1..=16).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
                ensure!(good, "{key} must be a decimal number");
                self.options += &format!(",{key}={value}");
                ensure!(self.options.len() <= OPTIONS, "there is no room for so many options");
            }
            _ => bail!("'{key}' is not known"),
        }
        Ok(())
    }

    fn fits(&self, target: &Target) -> bool {
        self.id_ext.is_none_or(|id| u64::from_str_radix(&target.id_ext, 16) == Ok(id))
            && self.ioc_guid.is_none_or(|guid| guid == target.ioc_guid)
            && self.dgid.is_none_or(|gid| gid == target.gid.0)
            && self.service_id.is_none_or(|id| id == target.service_id)
            && self.pkey.is_none_or(|pkey| pkey == u64::from(target.pkey))
    }
}

#[cfg(test)]
mod tests {
    use rdma_verbs::Gid;

    use super::*;

    fn rules(text: &str) -> Result<Rules> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("srp_daemon.conf");
        fs::write(&path, text).unwrap();
        Rules::read(&path)
    }

    fn target() -> Target {
        Target {
            id_ext: "0002C9".into(),
            ioc_guid: 7,
            gid: Gid(0xfe80 << 112 | 9),
            pkey: 0xffff,
            service_id: 10,
            io_class: 0x0100,
            send_size: 0,
        }
    }

    #[test]
    fn the_first_that_fits_decides() {
        for (text, said) in [
            ("", Some("")),
            ("# d\n\n", Some("")),
            ("d\n", None),
            ("a\nd\n", Some("")),
            ("d id_ext=2c9\n", None),
            (
                "d id_ext=2c8\na ioc_guid=07,max_sect=65535,queue_size=4\nd\n",
                Some(",max_sect=65535,queue_size=4"),
            ),
            ("d\tdgid=fe800000000000000000000000000009\n", None),
            // rdma-core takes the first 16 digits for the prefix, whatever there is.
            ("d dgid=9\n", Some("")),
            // 0586bab1b of rdma-core: only the last counted.
            ("d pkey=FFFF, service_id=a\n", None),
            ("d pkey=7fff,service_id=a\n", Some("")),
            ("d service_id=a,pkey=7fff\n", Some("")),
            ("d pkey=7fff\n", Some("")),
        ] {
            assert_eq!(rules(text).unwrap().options(&target()), said, "{text}");
        }
        assert_eq!(Rules::read(Path::new("/nonexistent")).unwrap(), Rules::default());
    }

    #[test]
    fn what_is_not_understood() {
        for (text, why) in [
            ("x\n", "begins with 'a'"),
            ("allow\n", "followed by a blank"),
            ("a\nd id_ext\n", "srp_daemon.conf:2: 'id_ext' has no '='"),
            ("d id_ext=\n", "at most 16 hex digits"),
            ("d id_ext=+1\n", "at most 16 hex digits"),
            ("d ioc_guid=10000000000000000\n", "at most 16 hex digits"),
            ("d max_sect=1\n", "for lines with 'a'"),
            ("a max_sect=1f\n", "a decimal number"),
            ("a color=1\n", "'color' is not known"),
        ] {
            let error = format!("{:#}", rules(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(rules(&format!("a {}\n", "max_sect=1,".repeat(30))).is_err());
        assert!(rules(&format!("a {}\n", "max_sect=1,".repeat(12))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_line(line: String) {
            if let Ok(rule) = Rule::parse(&line) {
                proptest::prop_assert!(rule.options.len() <= OPTIONS);
            }
        }
    }
}
