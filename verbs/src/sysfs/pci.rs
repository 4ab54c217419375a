// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where on the PCI bus an RDMA device is.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Sysfs, SysfsError, entries, parsed, text};

/// Address of a PCI function, as sysfs writes it: `0000:c1:00.0`, all hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    /// Domain (segment); 0 on most machines, above 0xffff behind Intel VMD.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Slot, 0 to 31.
    pub slot: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl PciAddress {
    /// Reads the name of a directory in `bus/pci/devices`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (domain, rest) = name.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (slot, function) = rest.split_once('.')?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        if ![domain, bus, slot, function].into_iter().all(digits) {
            return None;
        }
        Some(Self {
            domain: u32::from_str_radix(domain, 16).ok()?,
            bus: u8::from_str_radix(bus, 16).ok()?,
            slot: u8::from_str_radix(slot, 16).ok().filter(|s| *s < 32)?,
            function: function.parse().ok().filter(|f| *f < 8)?,
        })
    }
}

/// Where a device is. Facts of the physical function, and what of it the device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The physical function.
    pub address: PciAddress,
    /// The function that the device is on: the physical one, or a virtual one of it.
    pub own_address: PciAddress,
    /// Alternative routing-ID interpretation: slot and function are one number of 8 bits.
    pub ari: bool,
    /// The card has several functions: bit 7 of the header type.
    pub multi_function: bool,
    /// The device is on a virtual function: N of the physical one's `virtfn<N>`.
    pub vf: Option<u32>,
    /// The device is on a sub-function (`sfnum`).
    pub sf: Option<u32>,
    /// The firmware's number of the function: `acpi_index`, else SMBIOS `index`.
    pub onboard: Option<u32>,
}

impl Sysfs {
    /// Where a device is; None when it has no PCI function below it (rxe, siw, platform devices).
    ///
    /// # Errors
    /// A file that is there and cannot be used.
    pub fn place(&self, device: &str) -> Result<Option<Place>, SysfsError> {
        let link = self.device(device).join("device");
        let Ok(start) = fs::canonicalize(&link) else { return Ok(None) };
        // Between the device and its function there may be auxiliary devices, one below the other;
        // that of a sub-function has its number.
        let mut sf = None;
        let mut function = None;
        for dir in start.ancestors() {
            match subsystem(dir).as_deref() {
                Some("pci") => {
                    function = Some(dir);
                    break;
                }
                Some(_) => sf = sf.or(parsed(&dir.join("sfnum"))?),
                None => {}
            }
        }
        let Some((own, own_address)) = function.and_then(|dir| Some((dir, address(dir)?))) else {
            return Ok(None);
        };
        let onboard = if own == start { onboard(own)? } else { None };
        let pf = fs::canonicalize(own.join("physfn")).ok();
        let vf = match &pf {
            Some(pf) => Some(vf_number(pf, own_address)?),
            None => None,
        };
        let pf = pf.as_deref().unwrap_or(own);
        let Some(pf_address) = address(pf) else { return Ok(None) };
        Ok(Some(Place {
            address: pf_address,
            own_address,
            ari: parsed::<u32>(&pf.join("ari_enabled"))? == Some(1),
            multi_function: multi_function(&pf.join("config"))?,
            vf,
            sf,
            onboard,
        }))
    }

    /// `numa_node` of what a device is on; None when there is none, or only one and the kernel does not number it.
    ///
    /// # Errors
    /// A file that is there and cannot be used.
    pub fn numa_node(&self, device: &str) -> Result<Option<u32>, SysfsError> {
        let Ok(start) = fs::canonicalize(self.device(device).join("device")) else {
            return Ok(None);
        };
        // Auxiliary devices have none of their own.
        for dir in start.ancestors().take_while(|dir| dir.join("subsystem").exists()) {
            if let Some(node) = parsed::<i32>(&dir.join("numa_node"))? {
                return Ok(u32::try_from(node).ok());
            }
        }
        Ok(None)
    }

    /// The PCI function below a network interface; None for one without (bridge, bond, dummy).
    #[must_use]
    pub fn netdev_function(&self, netdev: &str) -> Option<PciAddress> {
        let start = fs::canonicalize(self.class_dir("net", netdev).join("device")).ok()?;
        start.ancestors().find(|dir| subsystem(dir).as_deref() == Some("pci")).and_then(address)
    }

    pub(super) fn function_dir(&self, at: PciAddress) -> PathBuf {
        let PciAddress { domain, bus, slot, function } = at;
        self.root.join(format!("bus/pci/devices/{domain:04x}:{bus:02x}:{slot:02x}.{function}"))
    }

    /// Name of the hot-plug slot that an address is in.
    ///
    /// # Errors
    /// A file that is there and cannot be used.
    pub fn slot(&self, at: PciAddress) -> Result<Option<String>, SysfsError> {
        let wanted = format!("{:04x}:{:02x}:{:02x}", at.domain, at.bus, at.slot);
        for slot in entries(&self.root.join("bus/pci/slots")) {
            if text(&slot.join("address"))?.as_ref() == Some(&wanted) {
                return Ok(slot.file_name().and_then(|n| n.to_str()).map(str::to_owned));
            }
        }
        Ok(None)
    }

    /// Name of the driver that is bound to the function or the auxiliary device under an RDMA device.
    #[must_use]
    pub fn bus_driver(&self, device: &str) -> Option<String> {
        let driver = fs::read_link(self.device(device).join("device/driver")).ok()?;
        Some(driver.file_name()?.to_str()?.to_owned())
    }
}

fn subsystem(dir: &Path) -> Option<String> {
    let link = fs::read_link(dir.join("subsystem")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

fn address(dir: &Path) -> Option<PciAddress> {
    PciAddress::parse(dir.file_name()?.to_str()?)
}

fn onboard(function: &Path) -> Result<Option<u32>, SysfsError> {
    match parsed(&function.join("acpi_index"))? {
        Some(index) => Ok(Some(index)),
        None => parsed(&function.join("index")),
    }
}

/// The N of the `virtfn<N>` that leads to an address. With many virtual functions they are on several
/// buses, so that only the whole address tells them apart.
fn vf_number(pf: &Path, vf: PciAddress) -> Result<u32, SysfsError> {
    let number = |path: &PathBuf| -> Option<u32> {
        path.file_name()?.to_str()?.strip_prefix("virtfn")?.parse().ok()
    };
    entries(pf)
        .filter_map(|path| number(&path).map(|n| (n, path)))
        .find(|(_, path)| fs::read_link(path).is_ok_and(|target| address(&target) == Some(vf)))
        .map(|(n, _)| n)
        .ok_or_else(|| SysfsError {
            path: pf.to_owned(),
            reason: "none of its virtfn links leads to the virtual function".into(),
        })
}

/// Bit 7 of the header type, byte 0x0e of the configuration space.
fn multi_function(config: &Path) -> Result<bool, SysfsError> {
    let mut byte = [0];
    let read = fs::File::open(config).and_then(|mut file| {
        file.seek(SeekFrom::Start(0x0e))?;
        file.read(&mut byte)
    });
    match read {
        Ok(_) => Ok(byte[0] & 0x80 != 0),
        Err(error) if super::is_absent(&error) => Ok(false),
        Err(error) => Err(SysfsError { path: config.to_owned(), reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let at = PciAddress { domain: 0x10000, bus: 0xc1, slot: 0x1f, function: 7 };
        assert_eq!(PciAddress::parse("10000:c1:1f.7"), Some(at));
        for bad in ["", "0000:c1:00", "0000:c1:20.0", "0000:c1:00.8", "0000:c1:+1.0", "eth0", "a:b"]
        {
            assert_eq!(PciAddress::parse(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_name(name: String) {
            proptest::prop_assert!(PciAddress::parse(&name).is_none_or(|a| a.slot < 32));
        }
    }
}
