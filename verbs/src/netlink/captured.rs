// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages that a kernel (6.12, x86_64) sent for an rxe device on `ens8`, renamed to `rail0`, and a siw
//! device on `ens9`: read, and written again to the same bytes.

use super::attribute::{decode_all, encode_all};
use super::model::{Event, NameAssign, Netdev, NodeType, PhysicalState, PortState};
use super::{Chardev, Command, Device, Frame, Message, Port, System, decode};
use crate::{DevIndex, Guid, PortNum, Protocol, driver_name};

const RXE: &[u8] = b"\x08\x00\x01\x00\x00\x00\x00\x00\x0a\x00\x02\x00rail0\x00\x00\x00\
    \x08\x00\x03\x00\x01\x00\x00\x00\x0c\x00\x04\x00\x76\x3c\x22\x01\xc0\x01\x00\x00\
    \x0c\x00\x06\x00\x56\x34\x12\xfe\xff\x00\x54\x50\x0c\x00\x07\x00\x56\x34\x12\xfe\xff\x00\x54\x50\
    \x05\x00\x0e\x00\x01\x00\x00\x00\x05\x00\x54\x00\x00\x00\x00\x00\x05\x00\x65\x00\x01\x00\x00\x00\
    \x09\x00\x43\x00roce\x00\x00\x00\x00";
const SIW: &[u8] = b"\x08\x00\x01\x00\x01\x00\x00\x00\x09\x00\x02\x00siw0\x00\x00\x00\x00\
    \x08\x00\x03\x00\x01\x00\x00\x00\x0c\x00\x04\x00\x00\x00\x20\x00\x00\x00\x00\x00\
    \x0c\x00\x06\x00\x57\x34\x12\xfe\xff\x00\x54\x50\x0c\x00\x07\x00\x57\x34\x12\xfe\xff\x00\x54\x50\
    \x05\x00\x0e\x00\x04\x00\x00\x00\x05\x00\x54\x00\x00\x00\x00\x00\x05\x00\x65\x00\x01\x00\x00\x00\
    \x07\x00\x43\x00iw\x00\x00";
const RXE_PORT: &[u8] = b"\x08\x00\x01\x00\x00\x00\x00\x00\x0a\x00\x02\x00rail0\x00\x00\x00\
    \x08\x00\x03\x00\x01\x00\x00\x00\x05\x00\x0c\x00\x04\x00\x00\x00\x05\x00\x0d\x00\x05\x00\x00\x00\
    \x08\x00\x32\x00\x02\x00\x00\x00\x09\x00\x33\x00ens8\x00\x00\x00\x00";
const SIW_UVERBS: &[u8] = b"\x08\x00\x49\x00\x12\x00\x00\x00\
    \x0c\x00\x48\x00\xc1\xe7\x00\x00\x00\x00\x00\x00\x0c\x00\x47\x00\x01\x00\x00\x00\x00\x00\x00\x00\
    \x0c\x00\x46\x00uverbs1\x00";
const SYSTEM: &[u8] = b"\x05\x00\x42\x00\x01\x00\x00\x00\x05\x00\x60\x00\x00\x00\x00\x00\
    \x05\x00\x67\x00\x01\x00\x00\x00\x05\x00\x5d\x00\x01\x00\x00\x00";
const REGISTER: &[u8] = b"\x08\x00\x01\x00\x01\x00\x00\x00\x09\x00\x02\x00siw0\x00\x00\x00\x00\
    \x05\x00\x66\x00\x00\x00\x00\x00";
const ATTACH: &[u8] = b"\x08\x00\x01\x00\x01\x00\x00\x00\x09\x00\x02\x00siw0\x00\x00\x00\x00\
    \x08\x00\x03\x00\x01\x00\x00\x00\x08\x00\x32\x00\x03\x00\x00\x00\x09\x00\x33\x00ens9\x00\x00\x00\x00\
    \x05\x00\x66\x00\x02\x00\x00\x00";
/// The whole answer to a SET of a name that another device has.
const EXISTS: &[u8] =
    b"\x24\x00\x00\x00\x02\x00\x00\x01\x32\x29\x01\x6b\x11\xf8\x56\xca\xef\xff\xff\xff\
    \x24\x00\x00\x00\x02\x14\x05\x00\x32\x29\x01\x6b\x00\x00\x00\x00";

fn read(command: Command, bytes: &[u8]) -> Message {
    let attributes = decode_all(bytes).unwrap();
    assert_eq!(encode_all(&attributes), bytes);
    Message { command, attributes }
}

#[test]
fn devices() {
    let rxe = Device::read(read(Command::GET, RXE)).unwrap();
    assert_eq!((rxe.index, rxe.name.as_str(), rxe.ports), (DevIndex(0), "rail0", 1));
    assert_eq!(rxe.protocol, Some(Protocol::Roce));
    assert_eq!(rxe.node_guid, Some(Guid(0x5054_00ff_fe12_3456)));
    assert_eq!(rxe.sys_image_guid, rxe.node_guid);
    assert_eq!(rxe.node_type, Some(NodeType(1)));
    assert_eq!(rxe.capabilities, Some(0x01c0_0122_3c76));
    assert_eq!((rxe.name_assign, rxe.adaptive_moderation), (NameAssign::User, Some(false)));
    assert_eq!((rxe.fw_version, rxe.parent, rxe.other), (None, None, vec![]));
    let siw = Device::read(read(Command::GET, SIW)).unwrap();
    assert_eq!((siw.name.as_str(), siw.protocol), ("siw0", Some(Protocol::Iwarp)));
    assert_eq!(siw.node_type, Some(NodeType::RNIC));
}

#[test]
fn port() {
    let port = Port::read(read(Command::PORT_GET, RXE_PORT)).unwrap();
    assert_eq!(
        (port.port, port.state, port.phys_state),
        (PortNum(1), Some(PortState::ACTIVE), Some(PhysicalState(5)))
    );
    assert_eq!(port.netdev, Some(Netdev { index: 2, name: "ens8".into() }));
    assert_eq!((port.lid, port.other), (None, vec![]));
}

#[test]
fn chardev() {
    let uverbs = Chardev::read(read(Command::GET_CHARDEV, SIW_UVERBS)).unwrap();
    assert_eq!((uverbs.name.as_str(), uverbs.number), ("uverbs1", Some((231, 193))));
    assert_eq!((uverbs.abi, uverbs.driver.and_then(driver_name)), (Some(1), Some("siw")));
}

#[test]
fn system() {
    let system = System::read(&read(Command::SYS_GET, SYSTEM));
    let on = Some(true);
    let expected =
        System { netns_shared: on, copy_on_fork: on, privileged_qkey: Some(false), monitor: on };
    assert_eq!(system, expected);
}

#[test]
fn events() {
    let event = |bytes| Event::read(read(Command::MONITOR, bytes)).unwrap();
    assert_eq!(event(REGISTER), Event::Register(DevIndex(1), "siw0".into()));
    let netdev = Netdev { index: 3, name: "ens9".into() };
    assert_eq!(event(ATTACH), Event::NetdevAttach(DevIndex(1), PortNum(1), netdev));
}

#[test]
fn refusal() {
    let [(_, false, Frame::Done { code, explanation })] = &decode(EXISTS).unwrap()[..] else {
        panic!("one acknowledgement");
    };
    assert_eq!((*code, explanation), (-17, &None));
}
