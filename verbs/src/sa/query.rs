// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked of subnet administration.

use zerocopy::IntoBytes as _;

use super::{Record, SaHeader};
use crate::mad::{MAD_SIZE, MadHeader, class, method};

/// A method, and a record of which some components say what is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    method: u8,
    attribute: u16,
    modifier: u32,
    components: u64,
    record: Vec<u8>,
}

impl Query {
    /// The one record that has these components; [`record`](super::record) reads it from the answer.
    #[must_use]
    pub fn get<R: Record>(record: &R, components: u64) -> Self {
        Self::of(method::GET, record, components)
    }

    /// All records that have these components, or all there are; [`records`](super::records) reads them from the answer.
    #[must_use]
    pub fn table<R: Record>(record: &R, components: u64) -> Self {
        Self::of(method::GET_TABLE, record, components)
    }

    /// Sets it: joins a group, registers a service, subscribes to notices.
    #[must_use]
    pub fn set<R: Record>(record: &R, components: u64) -> Self {
        Self::of(method::SET, record, components)
    }

    /// Deletes it: leaves a group, takes a service back.
    #[must_use]
    pub fn delete<R: Record>(record: &R, components: u64) -> Self {
        Self::of(method::DELETE, record, components)
    }

    /// Has `CAPABILITIES` of a PortInfoRecord mean "at least these", where subnet administration
    /// [can](super::CAN_MATCH_CAPABILITIES).
    #[must_use]
    pub fn matching_capabilities(self) -> Self {
        Self { modifier: 1 << 31, ..self }
    }

    fn of<R: Record>(method: u8, record: &R, components: u64) -> Self {
        let (attribute, record) = (R::ATTRIBUTE, record.as_bytes().to_vec());
        Self { method, attribute, modifier: 0, components, record }
    }

    /// As on the wire, without transaction id.
    #[must_use]
    pub fn mad(&self) -> Vec<u8> {
        let mad = MadHeader {
            attribute: self.attribute.into(),
            modifier: self.modifier.into(),
            ..MadHeader::request(class::SUBN_ADM, 2, self.method)
        };
        let header =
            SaHeader { mad, component_mask: self.components.into(), ..SaHeader::default() };
        let mut mad = [header.as_bytes(), self.record.as_slice()].concat();
        mad.resize(MAD_SIZE, 0);
        mad
    }

    pub(super) fn is_answered_by(&self, header: &MadHeader) -> bool {
        // SubnAdmGetResp answers Get and Set.
        let method = if self.method == method::SET { method::GET } else { self.method };
        header.class == class::SUBN_ADM
            && header.method == method | method::RESPONSE
            && header.attribute.get() == self.attribute
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gid;
    use crate::sa::{McMemberRecord, PathRecord, PortInfoRecord, ServiceRecord};

    #[test]
    fn on_the_wire() {
        let wanted = PortInfoRecord { endport_lid: 7.into(), ..PortInfoRecord::default() };
        let table =
            Query::table(&wanted, PortInfoRecord::ENDPORT_LID | PortInfoRecord::CAPABILITIES);
        let mad = table.matching_capabilities().mad();
        assert_eq!(mad.len(), MAD_SIZE);
        assert_eq!(mad[..4], [1, 3, 2, 0x12]);
        assert_eq!(mad[16..24], [0, 0x12, 0, 0, 0x80, 0, 0, 0]);
        assert_eq!(mad[48..58], [0, 0, 0, 0, 0, 0, 0, 0x81, 0, 7]);

        let group = McMemberRecord { scope_and_join_state: 1, ..McMemberRecord::default() };
        let leave = Query::delete(&group, McMemberRecord::JOIN_STATE).mad();
        assert_eq!((leave[3], leave[17], leave[53], leave[56 + 48]), (0x15, 0x38, 1, 1));
        let service = Query::set(&ServiceRecord::default(), ServiceRecord::NAME).mad();
        assert_eq!((service[3], service[17], service[55]), (2, 0x31, 0x40));
        let dgid = Gid(5).0.to_be_bytes();
        let path = Query::get(&PathRecord { dgid, ..PathRecord::default() }, PathRecord::DGID);
        assert_eq!((path.mad()[3], path.mad()[17], path.mad()[55]), (1, 0x35, 4));
        assert_eq!(path.mad()[56 + 23], 5);
    }
}
