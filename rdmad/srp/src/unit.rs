// SPDX-License-Identifier: MIT OR Apache-2.0
//! An I/O unit as it was found, and the words for it: those of `ibsrpdm`, and those that `ib_srp` reads.

use std::fmt::Write as _;

use rdma_config::Root;
use rdma_verbs::Gid;
use rdma_verbs::dm::{IoControllerProfile, IoUnitInfo};
use rdma_verbs::mad::text;

/// The most that a line for `ib_srp` may have: rdma-core's, which the kernel's is above.
const LINE: usize = 254;
/// What the name of a service that is an SRP target begins with (T10 SRP, B.7).
const SRP: &str = "SRP.T10:";
/// IOClass of SRP as the standard has it.
const IO_CLASS: u16 = 0x0100;

/// One port with device management, over one P_Key.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Of the port.
    pub lid: u16,
    /// GID 0 of the port.
    pub gid: Gid,
    /// It was asked over this.
    pub pkey: u16,
    /// What it says of itself.
    pub info: IoUnitInfo,
    /// Its controllers, by slot from 1.
    pub controllers: Vec<Controller>,
}

/// An I/O controller.
#[derive(Clone, Debug)]
pub struct Controller {
    /// Slot, from 1.
    pub slot: u8,
    /// What it says of itself.
    pub profile: IoControllerProfile,
    /// Its services, in their order.
    pub services: Vec<Service>,
}

/// What a controller offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its place, from 0.
    pub index: u8,
    /// ServiceID
    pub id: u64,
    /// ServiceName
    pub name: String,
}

impl Service {
    /// The identifier extension of an SRP target; None for any other service. Nothing but hex digits is taken: what
    /// is written for `ib_srp` must not get keys of its own from the fabric (rdma-core S11).
    #[must_use]
    pub fn id_ext(&self) -> Option<&str> {
        let id = self.name.strip_prefix(SRP)?;
        let good = (1..=16).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit());
        good.then_some(id)
    }
}

/// A service that is an SRP target, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Hex digits, as the target writes them.
    pub id_ext: String,
    /// GUID of the controller.
    pub ioc_guid: u64,
    /// GID 0 of the port.
    pub gid: Gid,
    /// It was found over this.
    pub pkey: u16,
    /// ServiceID
    pub service_id: u64,
    /// IOClass of the controller.
    pub io_class: u16,
    /// SendMessageSize of the controller, in bytes.
    pub send_size: u32,
}

/// What else `ib_srp` is told, of all targets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras {
    /// Tell initiators apart by the port that they log in to.
    pub initiator_ext: bool,
    /// How often the HCA sends again.
    pub tl_retry_count: Option<u8>,
    /// The module's parameter, where immediate data are in use.
    pub max_imm_data: Option<u32>,
}

impl Extras {
    /// What the module's parameters say; nothing where it is not loaded.
    #[must_use]
    pub fn of_module(root: &Root) -> Self {
        let parameter = |name: &str| {
            let path = format!("/sys/module/ib_srp/parameters/{name}");
            std::fs::read_to_string(root.path(&path)).unwrap_or_default()
        };
        let immediate = parameter("use_imm_data").starts_with('Y');
        let max_imm_data = parameter("max_imm_data").trim().parse().ok().filter(|_| immediate);
        Self { max_imm_data, ..Self::default() }
    }
}

impl Target {
    /// The line that `ib_srp` reads from `add_target`, with the options of a rule; None when it would be too long.
    #[must_use]
    pub fn line(&self, options: &str, extras: Extras) -> Option<String> {
        let Self { id_ext, ioc_guid, gid, pkey, service_id, io_class, send_size } = self;
        let mut line = format!(
            "id_ext={id_ext},ioc_guid={ioc_guid:016x},dgid={:032x},pkey={pkey:04x},service_id={service_id:016x}",
            gid.0
        );
        // Writing to a string does not fail.
        if *io_class != IO_CLASS {
            let _ = write!(line, ",io_class={io_class:04x}");
        }
        if extras.initiator_ext {
            let _ = write!(line, ",initiator_ext={}", gid.interface_id());
        }
        if let Some(count) = extras.tl_retry_count {
            let _ = write!(line, ",tl_retry_count={count}");
        }
        line += options;
        // Last, as a kernel that does not know it stops reading there.
        if extras.max_imm_data.is_some_and(|most| most > *send_size) {
            let _ = write!(line, ",max_it_iu_size={send_size}");
        }
        (line.len() <= LINE).then_some(line)
    }
}

impl Unit {
    /// Its services that are SRP targets.
    pub fn targets(&self) -> impl Iterator<Item = Target> {
        self.controllers.iter().flat_map(|controller| {
            controller.services.iter().filter_map(|service| {
                Some(Target {
                    id_ext: service.id_ext()?.to_owned(),
                    ioc_guid: controller.profile.guid.get(),
                    gid: self.gid,
                    pkey: self.pkey,
                    service_id: service.id,
                    io_class: controller.profile.io_class.get(),
                    send_size: controller.profile.send_size.get(),
                })
            })
        })
    }

    /// All that was found, for people: as `ibsrpdm` has it, trailing blank line included.
    #[must_use]
    pub fn for_people(&self) -> String {
        let gid = self.gid.0;
        let mut out = format!(
            "IO Unit Info:\n    port LID:        {:04x}\n    port GID:        {gid:032x}\n    \
             change ID:       {:04x}\n    max controllers: 0x{:02x}\n",
            self.lid,
            self.info.change_id.get(),
            self.info.max_controllers
        );
        for Controller { slot, profile, services } in &self.controllers {
            let _ = write!(
                out,
                "\n    controller[{slot:3}]\n        GUID:      {:016x}\n        vendor ID: {:06x}\n        \
                 device ID: {:06x}\n        IO class : {:04x}\n        \
                 Maximum size of Send Messages in bytes: {}\n        ID:        {}\n        \
                 service entries: {}\n",
                profile.guid.get(),
                profile.vendor_id.get() >> 8,
                profile.device_id.get(),
                profile.io_class.get(),
                profile.send_size.get(),
                text(&profile.id),
                profile.services
            );
            for Service { index, id, name } in services {
                let _ = writeln!(out, "            service[{index:3}]: {id:016x} / {name}");
            }
        }
        out + "\n"
    }
}

/// The slots that have a controller, from 1, of those that the unit says it has.
#[must_use]
pub fn present(info: &IoUnitInfo) -> Vec<u8> {
    let slot = |n: u8| {
        let byte = info.controllers.get(usize::from(n - 1) / 2).copied().unwrap_or(0);
        if n % 2 == 1 { byte >> 4 } else { byte & 0xf }
    };
    (1..=info.max_controllers).filter(|n| slot(*n) == 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(names: &[&str]) -> Unit {
        let service =
            |(index, name): (u8, &&str)| Service { index, id: 0xa, name: (*name).to_owned() };
        let profile = IoControllerProfile {
            guid: 7.into(),
            io_class: IO_CLASS.into(),
            send_size: 8256.into(),
            services: 2,
            ..IoControllerProfile::default()
        };
        let services = (0..).zip(names).map(service).collect();
        Unit {
            lid: 3,
            gid: Gid(0xfe80 << 112 | 9),
            pkey: 0xffff,
            info: IoUnitInfo { max_controllers: 1, ..IoUnitInfo::default() },
            controllers: vec![Controller { slot: 1, profile, services }],
        }
    }

    #[test]
    fn lines() {
        let found: Vec<Target> = unit(&["SRP.T10:0002c903000e0b72", "iSER"]).targets().collect();
        let [target] = found.as_slice() else { panic!("{found:?}") };
        let line = "id_ext=0002c903000e0b72,ioc_guid=0000000000000007,\
                    dgid=fe800000000000000000000000000009,pkey=ffff,service_id=000000000000000a";
        let of = |options: &str, extras: Extras| target.line(options, extras).unwrap_or_default();
        let imm = |most| Extras { max_imm_data: Some(most), ..Extras::default() };
        assert_eq!(of("", Extras::default()), line);
        assert_eq!(of("", imm(8256)), line);
        assert_eq!(of("", imm(8257)), format!("{line},max_it_iu_size=8256"));
        let all = Extras { initiator_ext: true, tl_retry_count: Some(7), ..imm(9000) };
        let rest = "initiator_ext=0000000000000009,tl_retry_count=7,max_sect=1,max_it_iu_size=8256";
        assert_eq!(of(",max_sect=1", all), format!("{line},{rest}"));
        assert_eq!(target.line(&",max_sect=1".repeat(12), Extras::default()), None);
        let old = Target { io_class: 0xff00, ..target.clone() };
        assert_eq!(old.line("", Extras::default()).unwrap(), format!("{line},io_class=ff00"));
    }

    /// rdma-core S11: a target could put keys of its own into the line.
    #[test]
    fn nothing_of_the_fabric_is_a_key() {
        for name in [
            "SRP.T10:0002c,dgid=0",
            "SRP.T10:",
            "SRP.T10:00000000000000000",
            "SRP.T10:g",
            "srp.t10:0",
        ] {
            assert_eq!(unit(&[name]).targets().count(), 0, "{name}");
        }
    }

    #[test]
    fn slots() {
        let mut info = IoUnitInfo { max_controllers: 5, ..IoUnitInfo::default() };
        info.controllers[..4].copy_from_slice(&[0x1f, 0x01, 0x1f, 0x11]);
        assert_eq!(present(&info), [1, 4, 5]);
        info.max_controllers = 255;
        assert_eq!(present(&info), [1, 4, 5, 7, 8]);
    }

    #[test]
    fn for_people() {
        let text = unit(&["SRP.T10:0"]).for_people();
        assert!(
            text.contains("\n    controller[  1]\n        GUID:      0000000000000007\n"),
            "{text}"
        );
        assert!(
            text.contains("            service[  0]: 000000000000000a / SRP.T10:0\n"),
            "{text}"
        );
    }
}
