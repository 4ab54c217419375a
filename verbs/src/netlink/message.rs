// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole messages: requests out, answers and events in.

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader,
};

use super::attribute::{Attribute, decode_all, encode_all};

/// `RDMA_NL_NLDEV`, as it stands in a message's type.
const NLDEV: u16 = 5 << 10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// `NLM_F_CAPPED`: an acknowledgement without the request's payload.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: an acknowledgement with attributes.
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: the kernel's explanation.
const EXPLANATION: u16 = 1;

/// `RDMA_NLDEV_CMD_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command(pub u16);

impl Command {
    /// `GET`: devices.
    pub const GET: Self = Self(1);
    /// `SET`: name, network namespace, moderation of a device.
    pub const SET: Self = Self(2);
    /// `NEWLINK`: a software device.
    pub const NEWLINK: Self = Self(3);
    /// `DELLINK`
    pub const DELLINK: Self = Self(4);
    /// `PORT_GET`
    pub const PORT_GET: Self = Self(5);
    /// `SYS_GET`
    pub const SYS_GET: Self = Self(6);
    /// `SYS_SET`
    pub const SYS_SET: Self = Self(7);
    /// `GET_CHARDEV`
    pub const GET_CHARDEV: Self = Self(15);
    /// `STAT_SET`: which optional counters count, among others.
    pub const STAT_SET: Self = Self(16);
    /// `STAT_GET_STATUS`: the counters of a port.
    pub const STAT_GET_STATUS: Self = Self(24);
    /// `MONITOR`: events
    pub const MONITOR: Self = Self(28);
}

/// A message of the NLDEV client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What is asked or told.
    pub command: Command,
    /// In their order.
    pub attributes: Vec<Attribute>,
}

/// What one netlink message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// An answer or an event.
    Message(Message),
    /// The request is done: an errno as the kernel counts (0 or negative), and its explanation.
    Done {
        /// 0, or a negative errno.
        code: i32,
        /// The extended acknowledgement's text.
        explanation: Option<String>,
    },
    /// A message of another client, or of netlink itself, that has nothing to say here.
    Foreign,
}

impl Message {
    /// The bytes of a request; `dump` asks for all objects instead of an acknowledgement.
    #[must_use]
    pub fn encode(&self, sequence: u32, dump: bool) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.message_type = NLDEV | self.command.0;
        header.flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { NLM_F_ACK };
        header.sequence_number = sequence;
        framed(header, &encode_all(&self.attributes))
    }
}

/// A message of this header, with its length, and this payload.
pub(crate) fn framed(mut header: NetlinkHeader, payload: &[u8]) -> Vec<u8> {
    // Payloads are ours and short; a length that does not fit is one the kernel refuses.
    header.length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = vec![0; HEADER];
    header.emit(&mut bytes);
    bytes.extend(payload);
    bytes
}

/// The netlink messages in one datagram, each with its sequence number and whether the kernel says
/// that the dump it belongs to was interrupted.
///
/// # Errors
/// Lengths that do not fit; what came before is lost with it, as the datagram cannot be trusted.
pub fn decode(mut datagram: &[u8]) -> Result<Vec<(u32, bool, Frame)>, DecodeError> {
    let mut frames = Vec::new();
    while !datagram.is_empty() {
        let buffer = NetlinkBuffer::new_checked(datagram)?;
        let (kind, flags) = (buffer.message_type(), buffer.flags());
        let payload = buffer.payload();
        let frame = match kind {
            NLMSG_ERROR | NLMSG_DONE => done(kind, flags, payload)?,
            _ if kind & !0x3ff == NLDEV => Frame::Message(Message {
                command: Command(kind & 0x3ff),
                attributes: decode_all(payload)?,
            }),
            _ => Frame::Foreign,
        };
        frames.push((buffer.sequence_number(), flags & NLM_F_DUMP_INTR != 0, frame));
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(frames)
}

/// An acknowledgement, or the end of a dump: a code, then perhaps the request, then attributes.
fn done(kind: u16, flags: u16, payload: &[u8]) -> Result<Frame, DecodeError> {
    // A kernel that ends a dump without a code means success.
    let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    let after_code = payload.get(4..).unwrap_or_default();
    let attributes = match (kind, flags & CAPPED != 0) {
        (NLMSG_DONE, _) => after_code,
        (_, true) => after_code.get(HEADER..).unwrap_or_default(),
        (_, false) => {
            // The whole request follows; its own header says how long it is.
            let length = after_code.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            after_code.get(length.next_multiple_of(4)..).unwrap_or_default()
        }
    };
    let mut explanation = None;
    if flags & ACK_TLVS != 0 {
        for nla in netlink_packet_core::NlasIterator::new(attributes) {
            let nla = nla?;
            if nla.kind() == EXPLANATION {
                let text = String::from_utf8_lossy(nla.value());
                explanation = Some(text.trim_end_matches('\0').to_owned());
            }
        }
    }
    Ok(Frame::Done { code, explanation })
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    fn header(length: u32, kind: u16, flags: u16) -> Vec<u8> {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend([9, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn request_to_rename() {
        let message = Message {
            command: Command::SET,
            attributes: vec![Attribute::DevIndex(1), Attribute::DevName("a".into())],
        };
        let mut expected = header(16 + 8 + 8, 0x1402, 5);
        expected.extend(b"\x08\0\x01\0\x01\0\0\0\x06\0\x02\0a\0\0\0");
        assert_eq!(message.encode(9, false), expected);
        assert_eq!(decode(&expected).unwrap(), [(9, false, Frame::Message(message))]);
    }

    #[test]
    fn refusal_with_explanation() {
        for (flags, request) in
            [(ACK_TLVS | CAPPED, &[][..]), (ACK_TLVS, b"\x08\0\x01\0\x01\0\0\0")]
        {
            let mut tail = (-17_i32).to_le_bytes().to_vec();
            tail.extend(header(16 + u32::try_from(request.len()).unwrap(), 0x1402, 5));
            tail.extend(request);
            tail.extend(b"\x0a\0\x01\0taken\0\0\0");
            let mut bytes = header(16 + u32::try_from(tail.len()).unwrap(), NLMSG_ERROR, flags);
            bytes.extend(tail);
            let frame = Frame::Done { code: -17, explanation: Some("taken".into()) };
            assert_eq!(decode(&bytes).unwrap(), [(9, false, frame)]);
        }
    }

    #[test]
    fn interrupted_dump_and_foreign_message() {
        let mut bytes = header(16, 0x1401, NLM_F_DUMP_INTR);
        bytes.extend(header(16, 0x0801, 0));
        let frames = decode(&bytes).unwrap();
        assert!(frames[0].1);
        assert_eq!(frames[1].2, Frame::Foreign);
    }

    proptest::proptest! {
        #[test]
        fn any_datagram_decodes_or_is_refused(bytes: Vec<u8>) {
            decode(&bytes).ok();
        }

        #[test]
        fn any_tail_after_a_header(kind in 0x1400u16..0x1420, flags: u16, tail: Vec<u8>) {
            let mut bytes = header(16 + u32::try_from(tail.len()).unwrap(), kind, flags);
            bytes.extend(&tail);
            decode(&bytes).ok();
            bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_le_bytes());
            decode(&bytes).ok();
        }
    }
}
