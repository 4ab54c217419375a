// SPDX-License-Identifier: MIT OR Apache-2.0
//! A million datagrams, good ones with some bytes changed and ones of chance: none is a panic, and none makes anything
//! that is not allowed.

use rdma_srp::unit::{Controller, Extras, Service, Unit, present};
use rdma_verbs::Gid;
use rdma_verbs::dm::{DmMad, IoControllerProfile, IoUnitInfo, ServiceEntry};
use rdma_verbs::mad::{ClassPortInfo, MAD_SIZE, Notice, Status, text};
use rdma_verbs::sa::{
    McMemberRecord, NodeRecord, PathRecord, PortInfoRecord, SaHeader, ServiceRecord, record,
    records,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

const ROUNDS: u64 = 1_000_000;

/// A table of ports, and a service of a controller.
fn good() -> [Vec<u8>; 2] {
    let header = SaHeader { attribute_offset: 8.into(), ..SaHeader::default() };
    let mut table = header.as_bytes().to_vec();
    table.resize(MAD_SIZE, 7);
    let mut entry = ServiceEntry::default();
    entry.name[..24].copy_from_slice(b"SRP.T10:0002C90200000007");
    let mut answer = DmMad::default();
    answer.data[..48].copy_from_slice(entry.as_bytes());
    [table, answer.as_bytes().to_vec()]
}

fn read(mad: &[u8]) {
    assert!(records::<NodeRecord>(mad).len() <= mad.len() / 8);
    assert!(records::<PortInfoRecord>(mad).len() <= mad.len() / 8);
    assert!(records::<ServiceRecord>(mad).len() <= mad.len() / 8);
    let _ = record::<McMemberRecord>(mad);
    let _ = (record::<PathRecord>(mad), record::<ClassPortInfo>(mad));
    let _ = record::<Notice>(mad).and_then(|notice| notice.event());
    if let Some(status) = mad.get(4..6).and_then(|bytes| bytes.first_chunk()) {
        assert!(!Status(u16::from_be_bytes(*status)).to_string().is_empty());
    }
    let Some(data) = mad.get(64..) else { return };
    let Ok((info, _)) = IoUnitInfo::read_from_prefix(data) else { return };
    assert!(present(&info).len() <= 255);
    let Ok((profile, _)) = IoControllerProfile::read_from_prefix(data) else { return };
    let Ok((entry, _)) = ServiceEntry::read_from_prefix(data) else { return };
    let service = Service { index: 0, id: entry.id.get(), name: text(&entry.name) };
    let controllers = vec![Controller { slot: 1, profile, services: vec![service] }];
    let unit = Unit { lid: 1, gid: Gid(7), pkey: 0xffff, info, controllers };
    for target in unit.targets() {
        let line = target.line("", Extras::default()).expect("it is short");
        assert_eq!(line.matches("dgid=").count(), 1, "{line}");
        assert!(line.chars().all(|c| c.is_ascii_alphanumeric() || "_=,".contains(c)), "{line}");
    }
}

#[test]
fn a_million_datagrams() {
    // The same each time, so that what fails can be found again.
    let mut random = fastrand::Rng::with_seed(7);
    let good = good();
    let mut mad = Vec::new();
    for round in 0..ROUNDS {
        mad.clear();
        match good.get(random.usize(..3)) {
            Some(good) => mad.extend_from_slice(good),
            None => mad.resize_with(random.usize(..=2 * MAD_SIZE), || random.u8(..)),
        }
        for _ in 0..random.usize(..8) {
            let place = random.usize(..mad.len().max(1));
            if let Some(byte) = mad.get_mut(place) {
                *byte = random.u8(..);
            }
        }
        if round % 4 == 0 {
            mad.truncate(random.usize(..=mad.len()));
        }
        read(&mad);
    }
}
