// SPDX-License-Identifier: MIT OR Apache-2.0
//! The name of an IPoIB interface by its RDMA device.
//!
//! ```text
//! device-port = DEVICE "p" PORT [ "." P_KEY ]
//! ```
//!
//! PORT is decimal, P_KEY four hex digits; the default P_Key is left out. What does not fit into the 15
//! characters that the kernel has for a name keeps its end, and as much of the device's name as there is
//! room for before `_` and five hex digits: the low 20 bits of the FNV-1a hash of the device's name, so
//! that devices whose names begin alike are told apart.

use rdma_verbs::PortNum;

/// `IFNAMSIZ` without the NUL.
const MAX: usize = 15;
/// `_` and five digits.
const HASH: usize = 6;

/// The name in full, and the one that fits.
#[must_use]
pub fn names(device: &str, port: PortNum, pkey: u16) -> (String, String) {
    let end = match pkey & 0x7fff {
        0x7fff => format!("p{port}"),
        _ => format!("p{port}.{pkey:04x}"),
    };
    let long = format!("{device}{end}");
    if long.len() <= MAX {
        return (long.clone(), long);
    }
    let room = MAX.saturating_sub(HASH + end.len());
    let head: String = device.chars().take(room).collect();
    (long, format!("{head}_{:05x}{end}", hash(device) & 0xf_ffff))
}

/// FNV-1a, 32 bits.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_device_port_and_pkey() {
        for (device, port, pkey, long, short) in [
            ("rail0", 1, 0xffff, "rail0p1", "rail0p1"),
            ("rail0", 2, 0x7fff, "rail0p2", "rail0p2"),
            ("ibp193s0", 1, 0x8001, "ibp193s0p1.8001", "ibp193s0p1.8001"),
            ("ibp193s0f1", 1, 0x0001, "ibp193s0f1p1.0001", "ib_25303p1.0001"),
            ("ibP1p161s0f0v12", 1, 0xffff, "ibP1p161s0f0v12p1", "ibP1p16_c7707p1"),
        ] {
            let (full, fits) = names(device, PortNum(port), pkey);
            assert_eq!((full.as_str(), fits.as_str()), (long, short));
        }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // The vectors of its authors.
        assert_eq!((hash(""), hash("a"), hash("foobar")), (0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968));
    }

    proptest::proptest! {
        #[test]
        fn always_fits(device in "[a-zA-Z0-9_.+@#=-]{1,63}", port in 1_u32..255, pkey: u16) {
            let (_, short) = names(&device, PortNum(port), pkey);
            proptest::prop_assert!((1..=MAX).contains(&short.len()), "{short}");
        }
    }
}
