// SPDX-License-Identifier: MIT OR Apache-2.0
//! The targets that `ib_srp` has a connection to, and how it is given one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rdma_config::Root;
use rdma_udev_helper::local_port::LocalPort;
use rdma_verbs::Gid;

use crate::unit::Target;

/// Whether there is a connection through this port; over `any_pkey`, or that of the target.
#[must_use]
pub fn is_connected(root: &Root, port: &LocalPort, target: &Target, any_pkey: bool) -> bool {
    let hosts = fs::read_dir(root.path("/sys/class/scsi_host")).into_iter().flatten().flatten();
    hosts.map(|host| host.path()).any(|host| is_to(&host, port, target, any_pkey))
}

fn is_to(host: &Path, port: &LocalPort, target: &Target, any_pkey: bool) -> bool {
    let text = |name: &str| {
        let text = fs::read_to_string(host.join(name)).ok()?;
        Some(text.trim().to_owned())
    };
    let number = |name: &str| {
        let text = text(name)?;
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
    };
    // The one that was asked for: a target can send the login elsewhere.
    let gid = text("orig_dgid").or_else(|| text("dgid")).and_then(|gid| gid.parse::<Gid>().ok());
    number("id_ext") == u64::from_str_radix(&target.id_ext, 16).ok()
        && number("id_ext").is_some()
        && number("ioc_guid") == Some(target.ioc_guid)
        && number("service_id") == Some(target.service_id)
        && (any_pkey || number("pkey") == Some(target.pkey.into()))
        && gid == Some(target.gid)
        // All of the name: rdma-core takes the targets of mlx5_10 for those of mlx5_1 (S8).
        && text("local_ib_device").is_none_or(|device| device == port.device)
        && text("local_ib_port").is_none_or(|number| number == port.number.to_string())
}

/// Where `ib_srp` is told of targets that are to be reached through a port.
#[must_use]
pub fn add_target(root: &Root, port: &LocalPort) -> PathBuf {
    let name = format!("srp-{}-{}", port.device, port.number);
    root.path("/sys/class/infiniband_srp").join(name).join("add_target")
}

/// Has `ib_srp` log in; it answers when it has, or cannot.
///
/// # Errors
/// What `ib_srp` says; see [`why`].
pub fn log_in(root: &Root, port: &LocalPort, line: &str) -> io::Result<()> {
    fs::write(add_target(root, port), line)
}

/// What an error of [`log_in`] means.
#[must_use]
pub fn why(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "ib_srp is not loaded, or the device has gone",
        io::ErrorKind::AlreadyExists => "there is a connection to it",
        io::ErrorKind::ConnectionReset => "the target has refused the login; its own log says why",
        io::ErrorKind::TimedOut => "the target does not answer",
        io::ErrorKind::InvalidInput => {
            "ib_srp does not understand what it was told; is it too old?"
        }
        _ => "the kernel's journal may say more",
    }
}

#[cfg(test)]
mod tests {
    use rdma_verbs::{DevIndex, Guid, PortNum};

    use super::*;

    #[test]
    fn connections() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let host = root.path("/sys/class/scsi_host/host3");
        fs::create_dir_all(&host).unwrap();
        for (file, text) in [
            ("id_ext", "0x00000000000002c9"),
            ("ioc_guid", "0x0000000000000007"),
            ("service_id", "0x000000000000000a"),
            ("pkey", "0x7fff"),
            ("orig_dgid", "fe80:0000:0000:0000:0000:0000:0000:0009"),
            ("dgid", "fe80:0000:0000:0000:0000:0000:0000:0010"),
            ("local_ib_device", "mlx5_1"),
            ("local_ib_port", "1"),
        ] {
            fs::write(host.join(file), format!("{text}\n")).unwrap();
        }
        let port = |device: &str| LocalPort {
            index: DevIndex(0),
            device: device.into(),
            node_guid: Guid(1),
            ports: 1,
            number: PortNum(1),
            umad: PathBuf::new(),
            is_active: true,
            lid: 1,
            sm_lid: 1,
            sm_sl: 0,
            lmc: 0,
            gids: vec![Gid(1)],
            pkeys: Vec::new(),
        };
        let target = Target {
            id_ext: "2c9".into(),
            ioc_guid: 7,
            gid: Gid(0xfe80 << 112 | 9),
            pkey: 0x7fff,
            service_id: 10,
            io_class: 0x0100,
            send_size: 0,
        };
        let is =
            |device: &str, target: &Target, any| is_connected(&root, &port(device), target, any);
        assert!(is("mlx5_1", &target, false));
        // rdma-core S8.
        assert!(!is("mlx5_10", &target, false) && !is("mlx5_", &target, false));
        let other = Target { pkey: 0xffff, ..target.clone() };
        assert!(!is("mlx5_1", &other, false) && is("mlx5_1", &other, true));
        let other = Target { gid: Gid(0xfe80 << 112 | 0x10), ..target.clone() };
        assert!(!is("mlx5_1", &other, true));
        fs::write(host.join("id_ext"), "").unwrap();
        assert!(!is("mlx5_1", &target, true));
        let error = log_in(&root, &port("mlx5_1"), "").unwrap_err();
        assert!(why(&error).starts_with("ib_srp is not loaded"));
    }
}
