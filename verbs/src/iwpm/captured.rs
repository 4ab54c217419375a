// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a kernel (6.12, x86_64) and a port mapper said to each other: a listener at 10.9.0.2:7174, a connection to it from
//! 10.9.0.1, another listener.

use std::net::SocketAddr;

use super::{Connection, Failure, LIBRARY, Malformed, Message, Request, decode};

/// A message: its header and its payload, of which each number stands for as many zeros.
fn message(header: (u32, u16, u16, u32, u32), payload: &[(&[u8], usize)]) -> Vec<u8> {
    let (length, kind, flags, sequence, port) = header;
    let mut bytes = [length.to_ne_bytes().to_vec(), kind.to_ne_bytes().to_vec()].concat();
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([sequence.to_ne_bytes(), port.to_ne_bytes()].concat());
    for (part, zeros) in payload {
        bytes.extend(*part);
        bytes.resize(bytes.len() + zeros, 0);
    }
    assert_eq!(bytes.len(), length as usize);
    bytes
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn one(datagram: &[u8]) -> Request {
    let mut requests = decode(datagram).unwrap();
    assert_eq!(requests.len(), 1);
    requests.remove(0).unwrap()
}

#[test]
fn who_is_there() {
    let register = message(
        (116, 0x800, 1, 10, 0),
        &[
            (b"\x08\0\x01\0\x03\0\0\0\x14\0\x02\0laba0", 11),
            (b"\x24\0\x03\0siwa", 28),
            (b"\x24\0\x04\0iWarpPortMapperUser", 13),
        ],
    );
    let (device, library) = ("siwa".to_owned(), LIBRARY.to_owned());
    assert_eq!(one(&register), Request::Register { sequence: 10, device: device.clone(), library });
    let registered = message(
        (76, 0x800, 1, 4, 375),
        &[
            (b"\x08\0\x01\0\x0a\0\0\0\x09\0\x02\0siwa\0\0\0\0", 0),
            (b"\x18\0\x03\0iWarpPortMapperUser\0", 0),
            (b"\x06\0\x04\0\x04\0\0\0\x06\0\x05\0\0\0\0\0", 0),
        ],
    );
    assert_eq!(Message::Registered { sequence: 10, device }.encode(4, 375, 4), registered);
    let hello = message((24, 0x808, 1, 1, 375), &[(b"\x06\0\x01\0\x04\0\0\0", 0)]);
    assert_eq!(Message::Hello.encode(1, 375, 4), hello);
    assert_eq!(one(&hello), Request::Hello { version: 4 });
}

#[test]
fn a_listener() {
    let local = address("10.9.0.2:7175");
    let add = message(
        (164, 0x801, 1, 14, 0),
        &[
            (b"\x08\0\x01\0\x06\0\0\0\x84\0\x02\0\x02\0\x1c\x07\x0a\x09\0\x02", 120),
            (b"\x08\0\x03\0\0\0\0\0", 0),
        ],
    );
    assert_eq!(one(&add), Request::Add { sequence: 14, local, reserve: true });
    // Version 3 has no flags, and flag 1 asks for no reservation.
    let mut before = add[..156].to_vec();
    before[0] = 156;
    assert_eq!(one(&before), Request::Add { sequence: 14, local, reserve: true });
    let mut flagged = add;
    flagged[160] = 1;
    assert_eq!(one(&flagged), Request::Add { sequence: 14, local, reserve: false });
    let added = message(
        (296, 0x801, 1, 7, 375),
        &[
            (b"\x08\0\x01\0\x0e\0\0\0\x84\0\x02\0\x02\0\x1c\x07\x0a\x09\0\x02", 120),
            (b"\x84\0\x03\0\x02\0\xb4\x61\x0a\x09\0\x02", 120),
            (b"\x06\0\x04\0\0\0\0\0", 0),
        ],
    );
    let mapped = address("10.9.0.2:46177");
    assert_eq!(Message::Added { sequence: 14, local, mapped }.encode(7, 375, 4), added);
    let remove = message(
        (156, 0x803, 1, 13, 0),
        &[(b"\x08\0\x01\0\x06\0\0\0\x84\0\x02\0\x02\0\x1c\x06\x0a\x09\0\x02", 120)],
    );
    assert_eq!(one(&remove), Request::Remove { local: address("10.9.0.2:7174") });
}

const CONNECTION: [&[u8]; 4] = [
    b"\x84\0\x02\0\x02\0\xce\x6b\x0a\x09\0\x01",
    b"\x84\0\x03\0\x02\0\x1c\x06\x0a\x09\0\x02",
    b"\x84\0\x04\0\x02\0\xdb\x4f\x0a\x09\0\x01",
    b"\x84\0\x05\0\x02\0\x9b\xe7\x0a\x09\0\x02",
];

#[test]
fn a_connection() {
    let (local, remote) = (address("10.9.0.1:52843"), address("10.9.0.2:7174"));
    let query = message(
        (296, 0x802, 1, 11, 0),
        &[
            (b"\x08\0\x01\0\x04\0\0\0", 0),
            (CONNECTION[0], 120),
            (CONNECTION[1], 120),
            (b"\x08\0\x04\0\0\0\0\0", 0),
        ],
    );
    assert_eq!(one(&query), Request::Query { sequence: 11, local, remote, reserve: true });
    let (mapped_local, mapped_remote) = (address("10.9.0.1:56143"), address("10.9.0.2:39911"));
    let connection = Connection { local, remote, mapped_local, mapped_remote };
    for (error, message_of) in [
        (0, Message::Found { sequence: 11, connection }),
        (16, Message::NotFound { sequence: 11, connection }),
    ] {
        let found = message(
            (560, 0x802, 1, 6, 375),
            &[
                (b"\x08\0\x01\0\x0b\0\0\0", 0),
                (CONNECTION[0], 120),
                (CONNECTION[1], 120),
                (CONNECTION[2], 120),
                (CONNECTION[3], 120),
                (&[6, 0, 6, 0, error, 0, 0, 0], 0),
            ],
        );
        assert_eq!(message_of.encode(6, 375, 4), found);
    }
    let told = message(
        (560, 0x804, 1, 5, 375),
        &[
            (b"\x08\0\x01\0\0\0\0\0", 0),
            (b"\x84\0\x02\0\x02\0\x1c\x06\x0a\x09\0\x02", 120),
            (b"\x84\0\x03\0\x02\0\xce\x6b\x0a\x09\0\x01", 120),
            (b"\x84\0\x04\0\x02\0\x9b\xe7\x0a\x09\0\x02", 120),
            (b"\x84\0\x05\0\x02\0\xdb\x4f\x0a\x09\0\x01", 120),
            (b"\x06\0\x06\0\0\0\0\0", 0),
        ],
    );
    let other_end = Connection {
        local: remote,
        remote: local,
        mapped_local: mapped_remote,
        mapped_remote: mapped_local,
    };
    assert_eq!(Message::Remote(other_end).encode(5, 375, 4), told);
    let failed = Message::Failed { sequence: 11, failure: Failure::NoPort }.encode(8, 375, 4);
    let failure = b"\x08\0\x01\0\x0b\0\0\0\x06\0\x02\0\x0b\0\0\0";
    assert_eq!(failed, message((32, 0x805, 1, 8, 375), &[(failure, 0)]));
}

/// I8: one that makes no sense, between others; and I10: however many there are.
#[test]
fn what_there_is_already() {
    let tell = b"\x18\0\x01\0iWarpPortMapperUser\0\x06\0\x02\0\x04\0\0\0";
    let tell = message((48, 0x806, 1, 2, 375), &[(tell, 0)]);
    assert_eq!(Message::TellMappings.encode(2, 375, 4), tell);
    let mapping = message(
        (288, 0x806, 2, 0, 0),
        &[
            (b"\x84\0\x01\0\x02\0\x1c\x06\x0a\x09\0\x02", 120),
            (b"\x84\0\x02\0\x02\0\x9b\xe7\x0a\x09\0\x02", 120),
            (b"\x08\0\x03\0\0\0\0\0", 0),
        ],
    );
    let end = message((16, 3, 2, 0, 0), &[]);
    let mut bad = mapping.clone();
    bad[20] = 99; // the family of an address
    let datagram = [mapping.clone(), bad, mapping.repeat(100), end].concat();
    let all = decode(&datagram).unwrap();
    let (local, mapped) = (address("10.9.0.2:7174"), address("10.9.0.2:39911"));
    assert_eq!((all.len(), &all[1]), (102, &Err(Malformed { sequence: 0, operation: 6 })));
    let one_of_them = Ok(Request::Mapping { local, mapped, reserve: true });
    assert_eq!(all.iter().filter(|request| **request == one_of_them).count(), 101);
    let number =
        message((32, 0x807, 1, 9, 0), &[(b"\x08\0\x01\0\0\0\0\0\x08\0\x02\0\x01\0\0\0", 0)]);
    assert_eq!(one(&number), Request::Mappings { sequence: 9, sent: 1 });
    let taken = b"\x08\0\x01\0\x09\0\0\0\x08\0\x02\0\x01\0\0\0\x08\0\x03\0\x01\0\0\0";
    let message_of = Message::MappingsTaken { sequence: 9, sent: 1, taken: 1 };
    assert_eq!(message_of.encode(3, 375, 4), message((40, 0x807, 1, 3, 375), &[(taken, 0)]));
}

proptest::proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(0u8.., 0..700)) {
        decode(&bytes).ok();
    }

    /// Whatever is in a message that is well framed.
    #[test]
    fn any_request(operation in 0u16..12, payload in proptest::collection::vec(0u8.., 0..300)) {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let bytes = message((length, 0x800 | operation, 1, 7, 0), &[(&payload, 0)]);
        proptest::prop_assert_eq!(decode(&bytes).unwrap().len(), 1);
    }
}
