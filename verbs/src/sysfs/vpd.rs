// SPDX-License-Identifier: MIT OR Apache-2.0
//! The card's serial number, from the vital product data of its PCI function.

use std::fs::File;
use std::io::Read as _;

use super::{Sysfs, SysfsError, is_absent};

/// The address in the capability has 15 bits.
const SIZE: u64 = 1 << 15;
/// PCI Local Bus 3.0, appendix I: tags of large resources, and the keyword.
const READ_ONLY: u8 = 0x90;
const END: u8 = 0x0f;
const SERIAL: &[u8] = b"SN";

impl Sysfs {
    /// The serial number of the card that a device is on; None when it has none. Asking the card can take a second, and
    /// needs root.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn serial(&self, device: &str) -> Result<Option<String>, SysfsError> {
        let Some(place) = self.place(device)? else { return Ok(None) };
        let path = self.function_dir(place.address).join("vpd");
        let mut bytes = Vec::new();
        // A card may stop answering half way; what it has said counts.
        let read = File::open(&path).map(|file| file.take(SIZE).read_to_end(&mut bytes));
        match read {
            Ok(Err(error)) if bytes.is_empty() => {
                Err(SysfsError { path, reason: error.to_string() })
            }
            Ok(_) => Ok(serial_number(&bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(SysfsError { path, reason: error.to_string() }),
        }
    }
}

/// The serial number in vital product data: the field SN of the read-only part, without the blanks it is filled up with.
/// None when there is none, or the data end before.
#[must_use]
pub fn serial_number(data: &[u8]) -> Option<String> {
    let mut rest = data;
    loop {
        let (tag, length, header) = match rest {
            [tag, ..] if tag & 0x80 == 0 => (*tag >> 3, usize::from(tag & 7), 1),
            [tag, low, high, ..] => (*tag, usize::from(u16::from_le_bytes([*low, *high])), 3),
            _ => return None,
        };
        if tag == END {
            return None;
        }
        let resource = rest.get(header..header + length)?;
        if tag == READ_ONLY {
            return field(resource, SERIAL);
        }
        rest = rest.get(header + length..)?;
    }
}

fn field(mut fields: &[u8], keyword: &[u8]) -> Option<String> {
    loop {
        let (head, rest) = fields.split_at_checked(3)?;
        let length = usize::from(*head.get(2)?);
        let value = rest.get(..length)?;
        if head.starts_with(keyword) {
            let text = std::str::from_utf8(value).ok()?;
            let text = text.trim_matches([' ', '\0']);
            let good = !text.is_empty() && !text.contains(char::is_control);
            return good.then(|| text.to_owned());
        }
        fields = rest.get(length..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// The example of the specification, shortened: identifier, part number, serial number, checksum, end.
    fn data(serial: &[u8]) -> Vec<u8> {
        let length = u8::try_from(serial.len()).unwrap();
        let fields = [b"PN\x046181".as_slice(), b"SN", &[length], serial, b"RV\x01\x00"];
        let fields = fields.concat();
        let length = u16::try_from(fields.len()).unwrap().to_le_bytes();
        [b"\x82\x04\x00Card".as_slice(), &[READ_ONLY], &length, &fields, &[0x78]].concat()
    }

    #[test]
    fn a_serial_number() {
        for (serial, expected) in [
            (b"MT2052X00001   ".as_slice(), Some("MT2052X00001")),
            (b"A\0\0", Some("A")),
            (b"   ", None),
            (b"a\nb", None),
            (b"\xff", None),
        ] {
            assert_eq!(serial_number(&data(serial)).as_deref(), expected);
        }
        let good = data(b"S");
        for end in 0..good.len() - 8 {
            assert_eq!(serial_number(&good[..end]), None, "cut at {end}");
        }
        assert_eq!(serial_number(&[0x78]), None);
        assert_eq!(serial_number(&[0xff; 64]), None);
    }

    #[test]
    fn of_the_physical_function() {
        let dir = tempfile::tempdir().unwrap();
        let sysfs = Sysfs::at(dir.path());
        let (pf, vf) = ("0000:c1:00.0", "0000:c1:00.2");
        let devices = dir.path().join("devices");
        for function in [pf, vf] {
            fs::create_dir_all(devices.join(function)).unwrap();
            symlink("../../bus/pci", devices.join(function).join("subsystem")).unwrap();
        }
        symlink(format!("../{pf}"), devices.join(vf).join("physfn")).unwrap();
        symlink(format!("../{vf}"), devices.join(pf).join("virtfn0")).unwrap();
        fs::create_dir_all(dir.path().join("bus/pci")).unwrap();
        symlink("../../devices", dir.path().join("bus/pci/devices")).unwrap();
        for (name, function) in [("mlx5_0", pf), ("mlx5_1", vf)] {
            let device = dir.path().join("class/infiniband").join(name);
            fs::create_dir_all(&device).unwrap();
            symlink(devices.join(function), device.join("device")).unwrap();
        }
        assert_eq!(sysfs.serial("mlx5_1").unwrap(), None);
        fs::write(devices.join(pf).join("vpd"), data(b"S7")).unwrap();
        assert_eq!(sysfs.serial("mlx5_0").unwrap().as_deref(), Some("S7"));
        assert_eq!(sysfs.serial("mlx5_1").unwrap().as_deref(), Some("S7"));
        assert_eq!(sysfs.serial("rxe0").unwrap(), None);
    }

    proptest::proptest! {
        #[test]
        fn any_data(bytes: Vec<u8>) {
            if let Some(serial) = serial_number(&bytes) {
                proptest::prop_assert!(!serial.is_empty());
            }
        }
    }
}
