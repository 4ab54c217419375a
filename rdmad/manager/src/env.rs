// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which ports applications should use now, in the variables that NCCL and UCX read: `/run/rdma/env`.

use std::collections::BTreeSet;

use rdma_verbs::PortNum;

use crate::model::{Device, Model, Port};

/// The ports that can be used now, by device name: InfiniBand ones that are ACTIVE, RoCE ones that have a GID for v2 as
/// well. Neither NCCL nor UCX speaks iWARP.
fn usable(model: &Model) -> Vec<(&Device, PortNum, &Port)> {
    let mut ports: Vec<_> = model
        .values()
        .flat_map(|device| device.ports.iter().map(move |(number, port)| (device, *number, port)))
        .filter(|(_, _, port)| match port.protocol.as_str() {
            "ib" => port.state == "ACTIVE",
            "roce" => port.state == "ACTIVE" && port.gid_index.is_some(),
            _ => false,
        })
        .collect();
    ports.sort_by_key(|(device, number, _)| (&device.name, *number));
    ports
}

/// The variables by name. Without a port that can be used there is none: applications decide as if nobody had said
/// anything. There is none for the GID index where ports differ in it, as it would be one for all.
#[must_use]
pub fn variables(model: &Model) -> Vec<(&'static str, String)> {
    let ports = usable(model);
    if ports.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> =
        ports.iter().map(|(device, number, _)| format!("{}:{number}", device.name)).collect();
    let list = list.join(",");
    // Without '=' a name stands for all that begin with it, too.
    let mut variables = vec![("NCCL_IB_HCA", format!("={list}")), ("UCX_NET_DEVICES", list)];
    let indexes: BTreeSet<u32> = ports.iter().filter_map(|(.., port)| port.gid_index).collect();
    if let [index] = indexes.into_iter().collect::<Vec<_>>().as_slice() {
        let index = index.to_string();
        variables.extend([("NCCL_IB_GID_INDEX", index.clone()), ("UCX_IB_GID_INDEX", index)]);
    }
    variables
}

/// Lines of `NAME="value"`, for a shell and for `EnvironmentFile=`.
#[must_use]
pub fn text(model: &Model) -> String {
    let lines = variables(model).into_iter().map(|(name, value)| format!("{name}=\"{value}\"\n"));
    let head = "# The RDMA ports that can be used now; `rdmactl env` says the same.\n".to_owned();
    head + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use rdma_verbs::DevIndex;

    use super::*;

    fn model(ports: &[(&str, &str, &str, Option<u32>)]) -> Model {
        let device = |(name, protocol, state, gid_index): &(&str, &str, &str, Option<u32>)| {
            let (protocol, state) = ((*protocol).into(), (*state).into());
            let port = Port { protocol, state, gid_index: *gid_index, ..Port::default() };
            Device { name: (*name).into(), ports: [(PortNum(1), port)].into(), ..Device::default() }
        };
        (0..).map(DevIndex).zip(ports.iter().map(device)).collect()
    }

    #[test]
    fn what_can_be_used() {
        let text = |ports: &[_]| {
            let text = text(&model(ports));
            text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(text(&[]), [""; 0]);
        assert_eq!(
            text(&[
                ("rail1", "roce", "ACTIVE", Some(3)),
                ("rail0", "roce", "ACTIVE", Some(3)),
                ("rail2", "roce", "DOWN", Some(3)),
                ("rail3", "roce", "ACTIVE", None),
                ("siw0", "iw", "ACTIVE", Some(3)),
            ]),
            [
                "NCCL_IB_HCA=\"=rail0:1,rail1:1\"",
                "UCX_NET_DEVICES=\"rail0:1,rail1:1\"",
                "NCCL_IB_GID_INDEX=\"3\"",
                "UCX_IB_GID_INDEX=\"3\"",
            ]
        );
        assert_eq!(
            text(&[("ib0", "ib", "ACTIVE", None), ("ib1", "ib", "INIT", None)]),
            ["NCCL_IB_HCA=\"=ib0:1\"", "UCX_NET_DEVICES=\"ib0:1\""]
        );
        let differ = [("a", "roce", "ACTIVE", Some(3)), ("b", "roce", "ACTIVE", Some(5))];
        assert_eq!(text(&differ).len(), 2);
    }
}
