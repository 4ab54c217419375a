// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether RDMA is ready to use, and what is missing where it is not.
//!
//! - [`condition`]: what is asked for: `[online]` of the configuration, or one device.
//! - [`look`]: the devices that it asks about, as they are now.
//! - [`check`]: whether they meet it; a pure function.
#![forbid(unsafe_code)]

mod check;
mod look;

pub use check::{Device, Port, check};
pub use look::look;

use anyhow::{Result, ensure};
use rdma_config::{Config, Online, Ports, check_device_name};

/// What is asked for: `[online]` when nothing is said, else `[online.SPEC]`, else the device of that name or
/// `device:port`.
///
/// # Errors
/// A specification that is none of these; a condition that was not understood.
pub fn condition(config: &Config, spec: Option<&str>) -> Result<Online> {
    if let Some(online) = config.online.get(spec.unwrap_or_default()) {
        let name = spec.map(|spec| format!(".{spec}")).unwrap_or_default();
        ensure!(!online.broken, BadCondition(format!("[online{name}] was not understood")));
        return Ok(online.clone());
    }
    let Some(spec) = spec else { return Ok(Online::default()) };
    let port = spec.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
    let (name, ports) = match port {
        Some((name, number)) => (name, Ports::One(number)),
        None => (spec, Ports::Any),
    };
    let good = check_device_name(name).is_ok();
    ensure!(
        good,
        BadCondition(format!("'{spec}' is neither [online.{spec}] nor the name of a device"))
    );
    Ok(Online { names: vec![name.to_owned()], ports, ..Online::default() })
}

/// A condition that cannot be used. To go without it would be to call ready what is not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadCondition(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let storage = Online { rate: 100, ..Online::default() };
        let broken = Online { broken: true, ..Online::default() };
        let mut config = Config::default();
        assert_eq!(condition(&config, None).unwrap(), Online::default());
        config.online =
            [("storage".to_owned(), storage.clone()), ("odd".to_owned(), broken)].into();
        assert_eq!(condition(&config, Some("storage")).unwrap(), storage);
        let of = |spec| condition(&config, Some(spec)).map(|o| (o.names.concat(), o.ports));
        assert_eq!(of("rail-0").unwrap(), ("rail-0".to_owned(), Ports::Any));
        assert_eq!(of("rail0:2").unwrap(), ("rail0".to_owned(), Ports::One(2)));
        for bad in ["odd", "", "rail*", "rail0:x", "a/b"] {
            assert!(of(bad).unwrap_err().is::<BadCondition>(), "{bad}");
        }
    }
}
