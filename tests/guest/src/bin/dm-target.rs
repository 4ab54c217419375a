// SPDX-License-Identifier: MIT OR Apache-2.0
//! `dm-target UMAD CONTROLLERS [SERVICES [SILENT [HOW]]]`: answers device management (IBTA 16.3) on a port, as an SRP
//! target with so many controllers would, each with so many services. Of each SILENT of them the last
//! does not answer. HOW is
//! `good`; `late`: each answer comes 200 ms later; `wrong`: answers are refusals, cut short or about something else;
//! `hostile`: there are more slots and services than said, names are full of what must not be believed.
#![forbid(unsafe_code)]

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdma_verbs::dm::{DmMad, IoControllerProfile, IoUnitInfo, ServiceEntry, attribute};
use rdma_verbs::mad::{MAD_SIZE, class, method};
use rdma_verbs::umad::{AgentRequest, Carrier as _, Received, Umad, wait_readable};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Of the first controller less one; a service has the number of its controller in it, too.
const GUID: u64 = 0x0e00_7a00_0000_0000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Good,
    Late,
    Wrong,
    Hostile,
}

struct Target {
    controllers: u8,
    services: u8,
    silent: u8,
    how: How,
    answered: u64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, default: u8| {
        arguments.get(place).map_or(Ok(default), |text| text.parse::<u8>()).context("no number")
    };
    let mut target = Target {
        controllers: number(1, 1)?,
        services: number(2, 1)?,
        silent: number(3, 0)?,
        how: match arguments.get(4).map(String::as_str) {
            None | Some("good") => How::Good,
            Some("late") => How::Late,
            Some("wrong") => How::Wrong,
            Some("hostile") => How::Hostile,
            Some(other) => bail!("'{other}' is not known"),
        },
        answered: 0,
    };
    let node = arguments.first().context("dm-target UMAD CONTROLLERS ...")?;
    let mut umad = Umad::open(Path::new(node))?;
    let methods = [method::GET, method::SET];
    let request =
        AgentRequest { class: class::DEV_MGT, version: 1, methods: &methods, rmpp: false };
    umad.register(&request).with_context(|| format!("cannot answer on {node}"))?;
    sd_notify::notify(false, &[sd_notify::NotifyState::Ready])?;
    loop {
        wait_readable(umad.as_fd(), None)?;
        while let Some(received) = umad.receive()? {
            let Received::Datagram { agent, from, mad } = received else { continue };
            let Ok((asked, _)) = DmMad::read_from_prefix(&mad) else { continue };
            let Some(answer) = target.answer(&asked) else { continue };
            if target.how == How::Late {
                #[expect(clippy::disallowed_methods, reason = "it is to be late")]
                std::thread::sleep(Duration::from_millis(200));
            }
            umad.send(agent, from, &answer, None, 0)?;
        }
    }
}

impl Target {
    fn answer(&mut self, asked: &DmMad) -> Option<Vec<u8>> {
        self.answered += 1;
        let modifier = asked.mad.modifier.get();
        let [_, high, last, first] = modifier.to_be_bytes();
        let data = match asked.mad.attribute.get() {
            attribute::IO_UNIT_INFO => self.unit().as_bytes().to_vec(),
            attribute::IO_CONTROLLER_PROFILE => {
                if self.silent > 0 && first % self.silent == 0 {
                    return None;
                }
                self.controller(first).as_bytes().to_vec()
            }
            attribute::SERVICE_ENTRIES => {
                let entry = |place: u8| self.service(high, first.saturating_add(place));
                (0..=last.saturating_sub(first).min(3))
                    .flat_map(|n| entry(n).as_bytes().to_vec())
                    .collect()
            }
            _ => Vec::new(),
        };
        let mut answer = *asked;
        answer.mad.method |= method::RESPONSE;
        // Unknown attribute.
        answer.mad.status = if data.is_empty() { 0x000c } else { 0 }.into();
        answer.data = [0; 192];
        answer.data.get_mut(..data.len())?.copy_from_slice(&data);
        let mut bytes = answer.as_bytes().to_vec();
        if self.how == How::Wrong {
            match self.answered % 4 {
                0 => answer.mad.status = 0x001c.into(),
                1 => answer.mad.attribute = attribute::SERVICE_ENTRIES.into(),
                2 => answer.data = [0xff; 192],
                _ => answer.mad.modifier = (modifier ^ 0xffff).into(),
            }
            bytes = answer.as_bytes().to_vec();
        }
        bytes.resize(MAD_SIZE, 0);
        Some(bytes)
    }

    fn unit(&self) -> IoUnitInfo {
        let mut info = IoUnitInfo {
            change_id: 1.into(),
            max_controllers: self.controllers,
            ..IoUnitInfo::default()
        };
        for slot in 0..self.controllers {
            // The upper half of a byte first.
            let bits = if slot % 2 == 0 { 0x10 } else { 0x01 };
            info.controllers[usize::from(slot / 2)] |= bits;
        }
        if self.how == How::Hostile {
            info.controllers = [0x11; 128];
        }
        info
    }

    fn controller(&self, slot: u8) -> IoControllerProfile {
        let mut profile = IoControllerProfile {
            guid: (GUID + u64::from(slot)).into(),
            io_class: 0x0100.into(),
            send_size: 8260.into(),
            services: self.services,
            ..IoControllerProfile::default()
        };
        profile.id[..4].copy_from_slice(b"lab ");
        if self.how == How::Hostile {
            profile.services = 255;
            profile.id =
                *b"\x1b[31m,dgid=0\n\xff\xfe and no end, no end, no end, no end, no end, no e";
        }
        profile
    }

    fn service(&self, slot: u8, place: u8) -> ServiceEntry {
        let id = GUID | u64::from(slot) << 8 | u64::from(place);
        let mut entry = ServiceEntry { id: id.into(), ..ServiceEntry::default() };
        let name = match (self.how, place % 4) {
            (How::Hostile, 0) => "SRP.T10:1,dgid=fe8000000000000000000".to_owned(),
            (How::Hostile, 1) => "SRP.T10:00 max_sect=1".to_owned(),
            (How::Hostile, 2) => "SRP.T10:\n00000000000000000000000000000".to_owned(),
            _ => format!("SRP.T10:{id:016X}"),
        };
        let length = name.len().min(entry.name.len());
        entry.name[..length].copy_from_slice(&name.as_bytes()[..length]);
        entry
    }
}
