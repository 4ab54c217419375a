// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames on the virtio-serial port between the host and the guest's agent: one byte of kind, four
//! bytes of length (little endian), the data.

use std::io::{self, Read, Write};

/// The longest data of a frame; more is a broken stream.
const MAX: u32 = 1 << 20;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Guest to host: the agent is there.
    Hello,
    /// Host to guest: the time, as nanoseconds since 1970 in decimal.
    Time,
    /// Host to guest: a script for bash.
    Run,
    /// Guest to host: a piece of the script's standard output.
    Out,
    /// Guest to host: a piece of its standard error.
    Err,
    /// Guest to host: it has ended; its exit status in decimal.
    Exit,
}

const KINDS: [(u8, Kind); 6] = [
    (b'h', Kind::Hello),
    (b't', Kind::Time),
    (b'r', Kind::Run),
    (b'o', Kind::Out),
    (b'e', Kind::Err),
    (b'x', Kind::Exit),
];

/// Writes one frame.
///
/// # Errors
/// What the stream reports, and `InvalidInput` for data that is too long.
pub fn write(to: &mut impl Write, kind: Kind, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).ok().filter(|l| *l <= MAX);
    let (Some(length), Some((byte, _))) = (length, KINDS.iter().find(|(_, k)| *k == kind)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut frame = Vec::with_capacity(data.len() + 5);
    frame.push(*byte);
    frame.extend(length.to_le_bytes());
    frame.extend(data);
    to.write_all(&frame)?;
    to.flush()
}

/// Reads one frame.
///
/// # Errors
/// What the stream reports, and `InvalidData` for bytes that are not a frame.
pub fn read(from: &mut impl Read) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [byte, length @ ..] = head;
    let length = u32::from_le_bytes(length);
    let kind = KINDS.iter().find(|(b, _)| *b == byte).map(|(_, k)| *k);
    let (Some(kind), true) = (kind, length <= MAX) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut data = Vec::new();
    from.take(length.into()).read_to_end(&mut data)?;
    if data.len() as u64 == u64::from(length) {
        Ok((kind, data))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_way() {
        for (_, kind) in KINDS {
            let mut stream = Vec::new();
            write(&mut stream, kind, b"data").unwrap();
            assert_eq!(read(&mut stream.as_slice()).unwrap(), (kind, b"data".to_vec()));
        }
    }

    #[test]
    fn a_broken_stream_is_an_error() {
        for bytes in [&b"z\0\0\0\0"[..], b"o\xff\xff\xff\xff", b"o\x02\0\0\0x", b"o"] {
            assert!(read(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }
}
