// SPDX-License-Identifier: MIT OR Apache-2.0
//! What netlink does not tell: GIDs, board id, character devices, and where on the PCI bus a device
//! is ([`Place`]).

mod gid;
mod pci;
mod vpd;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use gid::{GidEntry, GidType, best_roce_v2};
pub use pci::{PciAddress, Place};
pub use vpd::serial_number;

use crate::{Gid, Guid, LinkLayer, PortNum};

/// `type` of IPoIB interfaces.
const ARPHRD_INFINIBAND: u32 = 32;

/// More than any attribute of a device; sysfs attributes are one page at most.
const PAGE: u64 = 4096;

/// An attribute that is there and cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {reason}", .path.display())]
pub struct SysfsError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A character device of an RDMA device: a directory of `class/infiniband_verbs` or `class/infiniband_mad`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name of the RDMA device at the moment.
    pub device: String,
    /// The port, of `umad` and `issm`.
    pub port: Option<PortNum>,
}

/// A mounted sysfs.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// The one that is mounted here.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory of an RDMA device.
    #[must_use]
    pub fn device(&self, name: &str) -> PathBuf {
        self.root.join("class/infiniband").join(name)
    }

    /// `node_guid`; None when absent.
    ///
    /// # Errors
    /// A file that cannot be read or is no GUID.
    pub fn node_guid(&self, device: &str) -> Result<Option<Guid>, SysfsError> {
        parsed(&self.device(device).join("node_guid"))
    }

    /// `board_id` of the card's maker; None when absent or empty.
    ///
    /// # Errors
    /// A file that cannot be read or is not text.
    pub fn board_id(&self, device: &str) -> Result<Option<String>, SysfsError> {
        text(&self.device(device).join("board_id"))
    }

    /// `node_desc`: what the fabric calls the node, IBTA NodeDescription.
    ///
    /// # Errors
    /// A file that cannot be read or is not text.
    pub fn node_description(&self, device: &str) -> Result<Option<String>, SysfsError> {
        text(&self.device(device).join("node_desc"))
    }

    /// Sets it: at most 64 bytes.
    ///
    /// # Errors
    /// What the driver says.
    pub fn set_node_description(&self, device: &str, description: &str) -> io::Result<()> {
        fs::write(self.device(device).join("node_desc"), description)
    }

    /// The ifindex of a network interface; None when there is none of this name.
    #[must_use]
    pub fn netdev_index(&self, netdev: &str) -> Option<u32> {
        parsed(&self.class_dir("net", netdev).join("ifindex")).ok().flatten()
    }

    /// Link layer of a port.
    ///
    /// # Errors
    /// A file that cannot be read or is not text.
    pub fn link_layer(&self, device: &str, port: PortNum) -> Result<LinkLayer, SysfsError> {
        let word = text(&self.port(device, port).join("link_layer"))?;
        Ok(word.map_or(LinkLayer::Unspecified, |w| LinkLayer::from_sysfs(&w)))
    }

    /// The port GUID: the interface identifier of GID 0. None when there is no GID or it is zero, as
    /// on iWARP, whose GID 0 holds a MAC address in its upper half.
    ///
    /// # Errors
    /// A file that cannot be read or is no GID.
    pub fn port_guid(&self, device: &str, port: PortNum) -> Result<Option<Guid>, SysfsError> {
        let gid: Option<Gid> = parsed(&self.port(device, port).join("gids/0"))?;
        Ok(gid.map(Gid::interface_id).filter(|guid| !guid.is_zero()))
    }

    /// `sm_sl`: the service level to the subnet manager.
    ///
    /// # Errors
    /// A file that cannot be read or is no number.
    pub fn sm_sl(&self, device: &str, port: PortNum) -> Result<Option<u8>, SysfsError> {
        parsed(&self.port(device, port).join("sm_sl"))
    }

    /// The P_Keys of a port that are set, each with its place in the table.
    ///
    /// # Errors
    /// A file that cannot be read or is no P_Key.
    pub fn pkeys(&self, device: &str, port: PortNum) -> Result<Vec<(u16, u16)>, SysfsError> {
        let mut table = Vec::new();
        for file in entries(&self.port(device, port).join("pkeys")) {
            let index = file.file_name().and_then(|n| n.to_str()?.parse().ok());
            let (Some(index), Some(word)) = (index, text(&file)?) else { continue };
            let digits = word.strip_prefix("0x").unwrap_or(&word);
            match u16::from_str_radix(digits, 16) {
                Ok(0) => {}
                Ok(pkey) => table.push((index, pkey)),
                Err(error) => return Err(SysfsError { path: file, reason: error.to_string() }),
            }
        }
        table.sort_unstable();
        Ok(table)
    }

    /// Reads a directory of `class/infiniband_verbs` or `class/infiniband_mad`; None when it is gone.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it must.
    pub fn node(&self, class: &str, name: &str) -> Result<Option<Node>, SysfsError> {
        let dir = self.class_dir(class, name);
        let port = parsed(&dir.join("port"))?.map(PortNum);
        Ok(text(&dir.join("ibdev"))?.map(|device| Node { device, port }))
    }

    /// The directory of a device of another class: `infiniband_verbs`, `infiniband_mad`, `net`.
    #[must_use]
    pub fn class_dir(&self, class: &str, name: &str) -> PathBuf {
        self.root.join("class").join(class).join(name)
    }

    /// The RDMA device, port and P_Key of an IPoIB interface; None when it is not one.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it must.
    pub fn ipoib(&self, netdev: &str) -> Result<Option<(Node, u16)>, SysfsError> {
        let dir = self.class_dir("net", netdev);
        if parsed::<u32>(&dir.join("type"))? != Some(ARPHRD_INFINIBAND) {
            return Ok(None);
        }
        // A child leads to its parent, by index, and the parent to the RDMA device.
        let (index, link) = (parsed::<u32>(&dir.join("ifindex"))?, parsed(&dir.join("iflink"))?);
        let is_parent = |d: &PathBuf| parsed(&d.join("ifindex")).ok().flatten() == link;
        let parent = match index == link {
            true => Some(dir.clone()),
            false => entries(&self.root.join("class/net")).find(is_parent),
        };
        let Some(parent) = parent else { return Ok(None) };
        let device = entries(&parent.join("device/infiniband")).next();
        let device = device.and_then(|d| Some(d.file_name()?.to_str()?.to_owned()));
        let (Some(device), Some(port)) = (device, parsed::<u32>(&parent.join("dev_port"))?) else {
            return Ok(None);
        };
        // The P_Key stands in the multicast GID of the broadcast group (RFC 4391), also where the kernel
        // has no file for it.
        let broadcast = dir.join("broadcast");
        let bytes = text(&broadcast)?.unwrap_or_default();
        let pkey = bytes
            .get(24..29)
            .and_then(|two| u16::from_str_radix(&two.replacen(':', "", 1), 16).ok())
            .ok_or_else(|| SysfsError {
                path: broadcast,
                reason: format!("'{bytes}' is no IPoIB address"),
            })?;
        // dev_port counts from 0.
        let port = PortNum(port.saturating_add(1));
        Ok(Some((Node { device, port: Some(port) }, pkey)))
    }

    /// Whether a network interface has a name that somebody gave it (`name_assign_type` 3, made under it, or
    /// 4, renamed since). The kernel does not tell for names of its own.
    #[must_use]
    pub fn netdev_is_named(&self, netdev: &str) -> bool {
        let how = parsed::<u32>(&self.class_dir("net", netdev).join("name_assign_type"));
        matches!(how, Ok(Some(3 | 4)))
    }

    /// The IPoIB interfaces of a port, by name. One whose files cannot be used is left out.
    #[must_use]
    pub fn ipoib_interfaces_of(&self, device: &str, port: PortNum) -> Vec<String> {
        let of_port = Node { device: device.to_owned(), port: Some(port) };
        self.ipoib_where(|node| *node == of_port)
    }

    /// Whether a network interface is up and has a link: `operstate`.
    #[must_use]
    pub fn netdev_is_up(&self, netdev: &str) -> bool {
        let state = text(&self.class_dir("net", netdev).join("operstate"));
        matches!(state, Ok(Some(state)) if state == "up")
    }

    /// The rate of a port in Mb/s: its active width and speed.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it must.
    pub fn rate(&self, device: &str, port: PortNum) -> Result<Option<u32>, SysfsError> {
        let path = self.port(device, port).join("rate");
        let Some(text) = text(&path)? else { return Ok(None) };
        // `100 Gb/sec (4X EDR)`, `2.5 Gb/sec (1X SDR)`
        let number = text.split(' ').next().unwrap_or_default();
        let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
        let rate = || {
            let whole = whole.parse::<u32>().ok()?.checked_mul(1000)?;
            whole.checked_add(tenths.parse::<u32>().ok().filter(|t| *t < 10)? * 100)
        };
        let broken = || SysfsError { path, reason: format!("'{text}' is no rate") };
        rate().ok_or_else(broken).map(Some)
    }

    /// The IPoIB interfaces of an RDMA device, by name. One whose files cannot be used is left out.
    #[must_use]
    pub fn ipoib_interfaces(&self, device: &str) -> Vec<String> {
        self.ipoib_where(|node| node.device == device)
    }

    fn ipoib_where(&self, is_it: impl Fn(&Node) -> bool) -> Vec<String> {
        entries(&self.root.join("class/net"))
            .filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned()))
            .filter(|name| matches!(self.ipoib(name), Ok(Some((node, _))) if is_it(&node)))
            .collect()
    }

    fn port(&self, device: &str, port: PortNum) -> PathBuf {
        self.device(device).join("ports").join(port.to_string())
    }
}

/// Has the kernel announce a device again, as a `change`.
///
/// # Errors
/// What the file system reports; `NotFound` when the device is gone.
pub fn announce_change(device: &Path) -> io::Result<()> {
    fs::write(device.join("uevent"), "change")
}

/// The entries of a directory, in their order; none when it is not there.
fn entries(dir: &Path) -> std::vec::IntoIter<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.into_iter()
}

/// An attribute's text without the newline at its end; None when it is absent or empty.
fn text(path: &Path) -> Result<Option<String>, SysfsError> {
    let broken = |reason: String| SysfsError { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| {
        use std::io::Read as _;
        file.take(PAGE).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => {}
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(broken(error.to_string())),
    }
    let text = String::from_utf8(bytes).map_err(|_| broken("it is not text".into()))?;
    let text = text.trim();
    if text.contains(char::is_control) {
        return Err(broken("it is not one line of text".into()));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// A value that is written as text; None when the file is absent or empty.
fn parsed<T: std::str::FromStr>(path: &Path) -> Result<Option<T>, SysfsError> {
    let Some(text) = text(path)? else { return Ok(None) };
    let value = text.parse().map_err(|_| SysfsError {
        path: path.to_owned(),
        reason: format!("'{text}' is not what belongs there"),
    })?;
    Ok(Some(value))
}

/// The file, or the device it belongs to, is not there, or goes away while it is read.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // EINVAL is what an attribute answers that is there and has no value at the moment (a GID's netdev).
    [Errno::NOENT, Errno::NOTDIR, Errno::NODEV, Errno::NXIO, Errno::INVAL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Sysfs) {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let sysfs = Sysfs::at(dir.path());
        (dir, sysfs)
    }

    #[test]
    fn port_guid_is_the_interface_id_of_gid_0() {
        let (_dir, sysfs) = tree(&[
            ("class/infiniband/a/ports/1/gids/0", b"fe80:0000:0000:0000:5054:00ff:fe12:3456\n"),
            ("class/infiniband/a/ports/2/gids/0", b"5254:0012:3456:0000:0000:0000:0000:0000\n"),
        ]);
        let guid = |port| sysfs.port_guid("a", PortNum(port)).unwrap();
        assert_eq!(guid(1), Some(Guid(0x5054_00ff_fe12_3456)));
        assert_eq!((guid(2), guid(3)), (None, None));
    }

    #[test]
    fn absent_empty_and_binary_files() {
        let (_dir, sysfs) = tree(&[
            ("class/infiniband/a/board_id", b"\n"),
            ("class/infiniband/b/board_id", b"x\x00\xffy"),
            ("class/infiniband/c/board_id", b"MT_0000000436\n"),
            ("class/infiniband/b/node_guid", b"nonsense\n"),
        ]);
        assert_eq!(sysfs.board_id("a").unwrap(), None);
        assert_eq!(sysfs.board_id("gone").unwrap(), None);
        assert_eq!(sysfs.board_id("c").unwrap().as_deref(), Some("MT_0000000436"));
        let error = sysfs.board_id("b").unwrap_err().to_string();
        assert!(error.ends_with("class/infiniband/b/board_id: it is not text"), "{error}");
        assert!(sysfs.node_guid("b").is_err());
    }

    #[test]
    fn rates() {
        let (_dir, sysfs) = tree(&[
            ("class/infiniband/a/ports/1/rate", b"100 Gb/sec (4X EDR)\n"),
            ("class/infiniband/a/ports/2/rate", b"2.5 Gb/sec (1X SDR)\n"),
            ("class/infiniband/a/ports/3/rate", b"fast\n"),
            ("class/infiniband/a/ports/4/rate", b"9999999999 Gb/sec\n"),
        ]);
        let rate = |port| sysfs.rate("a", PortNum(port));
        assert_eq!((rate(1).unwrap(), rate(2).unwrap()), (Some(100_000), Some(2500)));
        assert!(rate(3).is_err() && rate(4).is_err() && rate(5).unwrap().is_none());
    }

    #[test]
    fn character_devices() {
        let (_dir, sysfs) = tree(&[
            ("class/infiniband_verbs/uverbs0/ibdev", b"a\n"),
            ("class/infiniband_mad/umad3/ibdev", b"a\n"),
            ("class/infiniband_mad/umad3/port", b"2\n"),
        ]);
        let node = |class, name| sysfs.node(class, name).unwrap();
        let umad = Node { device: "a".into(), port: Some(PortNum(2)) };
        assert_eq!(node("infiniband_mad", "umad3"), Some(umad));
        let uverbs = Node { device: "a".into(), port: None };
        assert_eq!(node("infiniband_verbs", "uverbs0"), Some(uverbs));
        assert_eq!(node("infiniband_mad", "umad9"), None);
    }

    /// By their place in the table, whatever order and gaps the files have.
    #[test]
    fn pkeys_by_place() {
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("class/infiniband/mlx5_0/ports/1/pkeys");
        fs::create_dir_all(&port).unwrap();
        for (file, text) in [("10", "0x8001"), ("2", "0x7fff"), ("0", "0xffff"), ("1", "0x0000")] {
            fs::write(port.join(file), format!("{text}\n")).unwrap();
        }
        let table = Sysfs::at(dir.path()).pkeys("mlx5_0", PortNum(1)).unwrap();
        assert_eq!(table, [(0, 0xffff), (2, 0x7fff), (10, 0x8001)]);
    }

    #[test]
    fn ipoib_interface() {
        let address =
            |pkey| format!("00:ff:ff:ff:ff:12:40:1b:{pkey}:00:00:00:00:00:00:ff:ff:ff:ff\n");
        let (_dir, sysfs) = tree(&[
            ("class/net/ib0/device/infiniband/mlx5_0/node_type", b"1: CA\n"),
            ("class/net/ib0/type", b"32\n"),
            ("class/net/ib0/ifindex", b"5\n"),
            ("class/net/ib0/iflink", b"5\n"),
            ("class/net/ib0/dev_port", b"1\n"),
            ("class/net/ib0/broadcast", address("ff:ff").as_bytes()),
            ("class/net/child/type", b"32\n"),
            ("class/net/child/ifindex", b"6\n"),
            ("class/net/child/iflink", b"5\n"),
            ("class/net/child/broadcast", address("80:01").as_bytes()),
            ("class/net/orphan/type", b"32\n"),
            ("class/net/orphan/ifindex", b"7\n"),
            ("class/net/orphan/iflink", b"4\n"),
            ("class/net/odd/type", b"32\n"),
            ("class/net/odd/ifindex", b"8\n"),
            ("class/net/odd/iflink", b"5\n"),
            ("class/net/odd/broadcast", b"ff:ff:ff:ff:ff:ff\n"),
            ("class/net/eth0/device/infiniband/mlx5_0/node_type", b"1: CA\n"),
            ("class/net/eth0/type", b"1\n"),
        ]);
        let node = Node { device: "mlx5_0".into(), port: Some(PortNum(2)) };
        assert_eq!(sysfs.ipoib("ib0").unwrap(), Some((node.clone(), 0xffff)));
        assert_eq!(sysfs.ipoib("child").unwrap(), Some((node, 0x8001)));
        assert_eq!(sysfs.ipoib_interfaces("mlx5_0"), ["child", "ib0"]);
        assert_eq!(sysfs.ipoib("orphan").unwrap(), None);
        assert!(sysfs.ipoib("odd").is_err());
        assert_eq!(sysfs.ipoib("eth0").unwrap(), None);
    }
}
