// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures for node_exporter's textfile collector: `/run/rdma/metrics/rdma.prom`. OpenMetrics text, of which nothing is
//! used that the older Prometheus format does not have.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rdma_verbs::{DevIndex, PortNum, Uevent};

use rdmad::model::Model;

/// What is counted while the program runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    added: u64,
    removed: u64,
    /// How often the kernel had more to say than there was room for.
    lost: u64,
    /// Changes of state, by device and port.
    states: BTreeMap<(DevIndex, PortNum), u64>,
}

impl Counters {
    /// Counts what the kernel announces.
    pub(crate) fn uevent(&mut self, event: &Uevent) {
        // Not what somebody has had announced again.
        let original = !event.from_udev && event.property("SYNTH_UUID").is_empty();
        if original && event.subsystem() == "infiniband" {
            match event.action() {
                "add" => self.added += 1,
                "remove" => self.removed += 1,
                _ => {}
            }
        }
    }

    pub(crate) fn lost(&mut self) {
        self.lost += 1;
    }

    /// Counts the ports whose state is another than before.
    pub(crate) fn states(&mut self, before: &Model, now: &Model) {
        for (index, device) in now {
            let Some(before) = before.get(index) else { continue };
            for (number, port) in &device.ports {
                if before.ports.get(number).is_some_and(|before| before.state != port.state) {
                    *self.states.entry((*index, *number)).or_default() += 1;
                }
            }
        }
        self.states.retain(|(index, _), _| now.contains_key(index));
    }
}

/// The text of the file.
pub(crate) fn text(model: &Model, problems: usize, counters: &Counters) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let _ = writeln!(out, "# TYPE {name} {kind}\n# HELP {name} {help}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{suffix}{labels} {value}");
        }
    };
    let devices = model.values().map(|d| {
        let of = [
            ("device", &d.name),
            ("driver", &d.driver),
            ("protocol", &d.protocol),
            ("node_guid", &d.node_guid),
            ("firmware_version", &d.firmware_version),
            ("name_policy", &d.name_policy),
        ];
        (labels(&of), 1)
    });
    family("rdma_device_info", "gauge", "What a device is.", devices.collect());
    let refused = model.values().filter_map(|d| {
        let why = d.name_status.strip_prefix("refused:")?.to_owned();
        Some((labels(&[("device", &d.name), ("reason", &why)]), 1))
    });
    let help = "A device that cannot have the name that it should have.";
    family("rdma_name_refused", "gauge", help, refused.collect());
    let ports = || {
        model.iter().flat_map(|(index, device)| {
            device.ports.iter().map(move |(number, port)| {
                let of = [
                    ("device", &device.name),
                    ("port", &number.to_string()),
                    ("netdev", &port.netdev),
                ];
                ((*index, *number), labels(&of), port)
            })
        })
    };
    let states = ports().map(|(_, labels, port)| (labels, port.state_number.into()));
    let help = "State of a port, IBTA PortState: 1 DOWN, 2 INIT, 3 ARMED, 4 ACTIVE.";
    family("rdma_port_state", "gauge", help, states.collect());
    let rates = ports().map(|(_, labels, port)| (labels, u64::from(port.rate) * 1_000_000));
    family("rdma_port_rate_bits", "gauge", "Rate of a port, in bits per second.", rates.collect());
    let changes =
        ports().map(|(key, labels, _)| (labels, counters.states.get(&key).copied().unwrap_or(0)));
    let help = "How often a port's state has changed.";
    family("rdma_port_state_changes", "counter", help, changes.collect());
    for (name, help, value) in [
        ("rdma_devices_added", "Devices that the kernel has announced.", counters.added),
        ("rdma_devices_removed", "Devices that the kernel has removed.", counters.removed),
        (
            "rdma_events_lost",
            "How often announcements were lost; all was looked at again.",
            counters.lost,
        ),
    ] {
        family(name, "counter", help, vec![(String::new(), value)]);
    }
    let problems = u64::try_from(problems).unwrap_or(u64::MAX);
    let help = "What is not as the configuration says; see the journal of rdmad.";
    family("rdma_problems", "gauge", help, vec![(String::new(), problems)]);
    out + "# EOF\n"
}

fn labels(of: &[(&str, &String)]) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let of: Vec<String> =
        of.iter().map(|(key, value)| format!("{key}=\"{}\"", quoted(value))).collect();
    format!("{{{}}}", of.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdmad::model::{Device, Port};

    fn model(state: &str, state_number: u8) -> Model {
        let port = Port {
            state: state.into(),
            state_number,
            rate: 2500,
            netdev: "ens8".into(),
            ..Port::default()
        };
        let device = Device {
            name: "a\"b".into(),
            name_status: "refused:taken".into(),
            ports: [(PortNum(1), port)].into(),
            ..Device::default()
        };
        [(DevIndex(3), device)].into()
    }

    #[test]
    fn figures() {
        let mut counters = Counters::default();
        let datagram = |action: &str, subsystem: &str| {
            let text = format!("x@y\0ACTION={action}\0SUBSYSTEM={subsystem}\0");
            Uevent::decode(text.as_bytes()).unwrap()
        };
        for (action, subsystem) in [
            ("add", "infiniband\0SYNTH_UUID=0"),
            ("add", "infiniband"),
            ("add", "infiniband"),
            ("add", "net"),
            ("remove", "infiniband"),
        ] {
            counters.uevent(&datagram(action, subsystem));
        }
        counters.lost();
        counters.states(&model("INIT", 2), &model("ACTIVE", 4));
        counters.states(&model("ACTIVE", 4), &model("ACTIVE", 4));
        let text = text(&model("ACTIVE", 4), 2, &counters);
        for line in [
            "rdma_device_info{device=\"a\\\"b\",driver=\"\",",
            "rdma_name_refused{device=\"a\\\"b\",reason=\"taken\"} 1\n",
            "rdma_port_state{device=\"a\\\"b\",port=\"1\",netdev=\"ens8\"} 4\n",
            "rdma_port_rate_bits{device=\"a\\\"b\",port=\"1\",netdev=\"ens8\"} 2500000000\n",
            "rdma_port_state_changes_total{device=\"a\\\"b\",port=\"1\",netdev=\"ens8\"} 1\n",
            "rdma_devices_added_total 2\n",
            "rdma_devices_removed_total 1\n",
            "rdma_events_lost_total 1\n",
            "rdma_problems 2\n",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
        counters.states(&model("ACTIVE", 4), &Model::new());
        assert!(counters.states.is_empty(), "what is gone is forgotten");
    }
}
