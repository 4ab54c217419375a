// SPDX-License-Identifier: MIT OR Apache-2.0
//! `rdma-devinfo [-v] [-d DEVICE] [-i PORT]`: what devices and their ports can do, in the words of `ibv_devinfo`.
//!
//! Shows how a device is found (RDMA netlink: no directory is read, no name is guessed) and asked (uverbs).

use std::net::Ipv6Addr;
use std::process::ExitCode;

use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short};
use rdma_verbs::PortNum;
use rdma_verbs::netlink::{Device, NodeType, Socket};
use rdma_verbs::sysfs::Sysfs;
use rdma_verbs::uverbs::{Context, DeviceAttributes, GidEntry, PortAttributes};

const USAGE: &str = "rdma-devinfo [-v] [-d DEVICE] [-i PORT]";

type Error = Box<dyn std::error::Error>;

#[derive(Default)]
struct Arguments {
    verbose: bool,
    device: Option<String>,
    port: Option<u32>,
}

fn main() -> ExitCode {
    let outcome = arguments().and_then(|arguments| show(&arguments));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdma-devinfo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, Error> {
    let mut arguments = Arguments::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('v') | Long("verbose") => arguments.verbose = true,
            Short('d') | Long("ib-dev") => arguments.device = Some(parser.value()?.string()?),
            Short('i') | Long("ib-port") => arguments.port = Some(parser.value()?.parse()?),
            Short('h') | Long("help") => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other => return Err(format!("{}\n{USAGE}", other.unexpected()).into()),
        }
    }
    Ok(arguments)
}

fn show(arguments: &Arguments) -> Result<(), Error> {
    let mut socket = Socket::open()?;
    let mut devices = socket.devices()?;
    // In the order in which they came.
    devices.sort_by_key(|device| device.index);
    let is_wanted = |device: &&Device| arguments.device.as_ref().is_none_or(|n| *n == device.name);
    let wanted: Vec<&Device> = devices.iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        return Err(match &arguments.device {
            Some(name) => format!("there is no RDMA device '{name}'").into(),
            None => "there is no RDMA device".into(),
        });
    }
    for device in wanted {
        let what = |error: rdma_verbs::uverbs::Error| format!("{}: {error}", device.name);
        let context = Context::of(&mut socket, device).map_err(what)?;
        let attributes = context.device().map_err(what)?;
        print_device(device, &attributes, arguments.verbose);
        if arguments.verbose {
            println!("\tnum_comp_vectors:\t\t{}", context.completion_vectors());
        }
        let ports =
            (1..=device.ports).map(|port| Ok((PortNum(port), context.port(PortNum(port))?)));
        let ports: Vec<_> = ports.collect::<Result<_, _>>().map_err(what)?;
        let most = ports.iter().map(|(_, port)| port.gids as usize).sum();
        let gids = if arguments.verbose { context.gids(most).map_err(what)? } else { Vec::new() };
        for (number, port) in &ports {
            if arguments.port.is_none_or(|wanted| wanted == number.0) {
                print_port(device, *number, port, &gids, arguments.verbose);
            }
        }
    }
    Ok(())
}

/// Bits of `enum ib_device_cap_flags`, and their names.
const CAPABILITIES: [(u32, &str); 24] = [
    (0, "RESIZE_MAX_WR"),
    (1, "BAD_PKEY_CNTR"),
    (2, "BAD_QKEY_CNTR"),
    (3, "RAW_MULTI"),
    (4, "AUTO_PATH_MIG"),
    (5, "CHANGE_PHY_PORT"),
    (6, "UD_AV_PORT_ENFORCE"),
    (7, "CURR_QP_STATE_MOD"),
    (8, "SHUTDOWN_PORT"),
    (9, "INIT_TYPE"),
    (10, "PORT_ACTIVE_EVENT"),
    (11, "SYS_IMAGE_GUID"),
    (12, "RC_RNR_NAK_GEN"),
    (13, "SRQ_RESIZE"),
    (14, "N_NOTIFY_CQ"),
    (17, "MEM_WINDOW"),
    (18, "UD_IP_CSUM"),
    (20, "XRC"),
    (21, "MEM_MGT_EXTENSIONS"),
    (23, "MEM_WINDOW_TYPE_2A"),
    (24, "MEM_WINDOW_TYPE_2B"),
    (25, "RC_IP_CSUM"),
    (26, "RAW_IP_CSUM"),
    (29, "MANAGED_FLOW_STEERING"),
];

fn print_device(device: &Device, a: &DeviceAttributes, verbose: bool) {
    let transport = match device.node_type {
        Some(NodeType::RNIC) => "iWARP (1)",
        _ => "InfiniBand (0)",
    };
    let version = |part: u32| (a.firmware >> part) & 0xffff;
    let told = format!("{}.{}.{}", a.firmware >> 32, version(16), version(0));
    println!("hca_id:\t{}", device.name);
    println!("\ttransport:\t\t\t{transport}");
    println!("\tfw_ver:\t\t\t\t{}", device.fw_version.as_deref().unwrap_or(&told));
    println!("\tnode_guid:\t\t\t{}", groups(&a.node_guid));
    println!("\tsys_image_guid:\t\t\t{}", groups(&a.system_image_guid));
    println!("\tvendor_id:\t\t\t0x{:04x}", a.vendor_id);
    println!("\tvendor_part_id:\t\t\t{}", a.vendor_part_id);
    println!("\thw_ver:\t\t\t\t0x{:X}", a.hardware_version);
    if let Ok(Some(board)) = Sysfs::at("/sys").board_id(&device.name) {
        println!("\tboard_id:\t\t\t{board}");
    }
    println!("\tphys_port_cnt:\t\t\t{}", a.ports);
    if !verbose {
        return;
    }
    println!("\tmax_mr_size:\t\t\t0x{:x}", a.max_mr_size);
    println!("\tpage_size_cap:\t\t\t0x{:x}", a.page_sizes);
    println!("\tmax_qp:\t\t\t\t{}", a.max_qp);
    println!("\tmax_qp_wr:\t\t\t{}", a.max_qp_wr);
    println!("\tdevice_cap_flags:\t\t0x{:08x}", a.capabilities);
    for (bit, name) in CAPABILITIES {
        if a.capabilities >> bit & 1 != 0 {
            println!("\t\t\t\t\t{name}");
        }
    }
    let atomic = ["ATOMIC_NONE (0)", "ATOMIC_HCA (1)", "ATOMIC_GLOB (2)"];
    println!("\tmax_sge:\t\t\t{}", a.max_sge);
    println!("\tmax_sge_rd:\t\t\t{}", a.max_sge_rd);
    println!("\tmax_cq:\t\t\t\t{}", a.max_cq);
    println!("\tmax_cqe:\t\t\t{}", a.max_cqe);
    println!("\tmax_mr:\t\t\t\t{}", a.max_mr);
    println!("\tmax_pd:\t\t\t\t{}", a.max_pd);
    println!("\tmax_qp_rd_atom:\t\t\t{}", a.max_qp_rd_atom);
    println!("\tmax_ee_rd_atom:\t\t\t{}", a.max_ee_rd_atom);
    println!("\tmax_res_rd_atom:\t\t{}", a.max_res_rd_atom);
    println!("\tmax_qp_init_rd_atom:\t\t{}", a.max_qp_init_rd_atom);
    println!("\tmax_ee_init_rd_atom:\t\t{}", a.max_ee_init_rd_atom);
    println!("\tatomic_cap:\t\t\t{}", word(&atomic, a.atomic as usize));
    println!("\tmax_ee:\t\t\t\t{}", a.max_ee);
    println!("\tmax_rdd:\t\t\t{}", a.max_rdd);
    println!("\tmax_mw:\t\t\t\t{}", a.max_mw);
    println!("\tmax_raw_ipv6_qp:\t\t{}", a.max_raw_ipv6_qp);
    println!("\tmax_raw_ethy_qp:\t\t{}", a.max_raw_ethy_qp);
    println!("\tmax_mcast_grp:\t\t\t{}", a.max_mcast_grp);
    println!("\tmax_mcast_qp_attach:\t\t{}", a.max_mcast_qp_attach);
    println!("\tmax_total_mcast_qp_attach:\t{}", a.max_total_mcast_qp_attach);
    println!("\tmax_ah:\t\t\t\t{}", a.max_ah);
    println!("\tmax_fmr:\t\t\t{}", a.max_fmr);
    println!("\tmax_srq:\t\t\t{}", a.max_srq);
    if a.max_srq > 0 {
        println!("\tmax_srq_wr:\t\t\t{}", a.max_srq_wr);
        println!("\tmax_srq_sge:\t\t\t{}", a.max_srq_sge);
    }
    println!("\tmax_pkeys:\t\t\t{}", a.max_pkeys);
    println!("\tlocal_ca_ack_delay:\t\t{}", a.local_ca_ack_delay);
    print_odp("general_odp_caps", &["ODP_SUPPORT", "ODP_SUPPORT_IMPLICIT"], a.odp, "");
    let transports =
        ["SEND", "RECV", "WRITE", "READ", "ATOMIC", "SRQ"].map(|n| format!("SUPPORT_{n}"));
    let transports: Vec<&str> = transports.iter().map(String::as_str).collect();
    let of = ["rc_odp_caps", "uc_odp_caps", "ud_odp_caps"].into_iter().zip(a.odp_transports);
    for (name, bits) in of.chain([("xrc_odp_caps", a.odp_xrc)]) {
        print_odp(name, &transports, bits.into(), "NO SUPPORT");
    }
    match a.timestamp_mask {
        0 => println!("\tcompletion_timestamp_mask not supported"),
        mask => println!("\tcompletion_timestamp_mask:\t\t\t0x{mask:016x}"),
    }
    match a.core_clock {
        0 => println!("\tcore clock not supported"),
        clock => println!("\thca_core_clock:\t\t\t{clock}kHZ"),
    }
    println!("\tdevice_cap_flags_ex:\t\t0x{:X}", a.capabilities_all);
    println!("\tmax_wq_type_rq:\t\t\t{}", a.max_wq_type_rq);
}

fn print_odp(name: &str, words: &[&str], bits: u64, none: &str) {
    println!("\t{name}:");
    for (bit, word) in words.iter().enumerate() {
        if bits >> bit & 1 != 0 {
            println!("\t\t\t\t\t{word}");
        }
    }
    if bits == 0 && !none.is_empty() {
        println!("\t\t\t\t\t{none}");
    }
}

fn print_port(
    device: &Device,
    number: PortNum,
    p: &PortAttributes,
    gids: &[GidEntry],
    verbose: bool,
) {
    let states = ["NOP", "DOWN", "INIT", "ARMED", "ACTIVE", "ACTIVE_DEFER"];
    let mtus = ["", "256", "512", "1024", "2048", "4096"];
    let mtu = |mtu: u8| format!("{} ({mtu})", word(&mtus, mtu.into()));
    println!("\t\tport:\t{number}");
    println!("\t\t\tstate:\t\t\tPORT_{} ({})", word(&states, p.state.into()), p.state);
    println!("\t\t\tmax_mtu:\t\t{}", mtu(p.max_mtu));
    println!("\t\t\tactive_mtu:\t\t{}", mtu(p.active_mtu));
    println!("\t\t\tsm_lid:\t\t\t{}", p.sm_lid);
    println!("\t\t\tport_lid:\t\t{}", p.lid);
    println!("\t\t\tport_lmc:\t\t0x{:02x}", p.lmc);
    println!(
        "\t\t\tlink_layer:\t\t{}",
        word(&["Unspecified", "InfiniBand", "Ethernet"], p.link_layer.into())
    );
    if verbose {
        let vls = ["", "1", "2", "4", "8", "15"];
        let widths = ["1", "4", "8", "12", "2"];
        let speeds = ["2.5", "5.0", "10.0", "10.0", "14.0", "25.0", "50.0", "100.0", "200.0"];
        println!("\t\t\tmax_msg_sz:\t\t0x{:x}", p.max_message);
        println!("\t\t\tport_cap_flags:\t\t0x{:08x}", p.capabilities);
        println!("\t\t\tport_cap_flags2:\t0x{:04x}", p.capabilities_2);
        println!("\t\t\tmax_vl_num:\t\t{} ({})", word(&vls, p.max_vls.into()), p.max_vls);
        println!("\t\t\tbad_pkey_cntr:\t\t0x{:x}", p.pkey_violations);
        println!("\t\t\tqkey_viol_cntr:\t\t0x{:x}", p.qkey_violations);
        println!("\t\t\tsm_sl:\t\t\t{}", p.sm_sl);
        println!("\t\t\tpkey_tbl_len:\t\t{}", p.pkeys);
        println!("\t\t\tgid_tbl_len:\t\t{}", p.gids);
        println!("\t\t\tsubnet_timeout:\t\t{}", p.subnet_timeout);
        println!("\t\t\tinit_type_reply:\t{}", p.init_type_reply);
        let width = p.active_width.trailing_zeros() as usize;
        println!("\t\t\tactive_width:\t\t{}X ({})", word(&widths, width), p.active_width);
        let speed =
            if p.active_speed_all == 0 { p.active_speed.into() } else { p.active_speed_all };
        let gbps = word(&speeds, speed.trailing_zeros() as usize);
        println!("\t\t\tactive_speed:\t\t{gbps} Gbps ({speed})");
        if device.node_type != Some(NodeType::RNIC) {
            let physical =
                ["", "SLEEP", "POLLING", "DISABLED", "PORT_CONFIGURATION TRAINNING", "LINK_UP"];
            println!(
                "\t\t\tphys_state:\t\t{} ({})",
                word(&physical, p.physical_state.into()),
                p.physical_state
            );
            for entry in gids.iter().filter(|entry| entry.port == number.0 && entry.gid != [0; 16])
            {
                println!("\t\t\tGID[{:3}]:\t\t{}", entry.index, gid(entry));
            }
        }
    }
    println!();
}

fn word<'a>(words: &[&'a str], number: usize) -> &'a str {
    words.get(number).copied().filter(|word| !word.is_empty()).unwrap_or("invalid value")
}

fn gid(entry: &GidEntry) -> String {
    let address = Ipv6Addr::from(entry.gid);
    match entry.kind {
        1 => format!("{}, RoCE v1", groups(&entry.gid)),
        2 => format!("{address}, RoCE v2"),
        _ => groups(&entry.gid),
    }
}

/// Hexadecimal, in groups of four digits.
fn groups(bytes: &[u8]) -> String {
    let pair = |pair: &[u8]| pair.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(2).map(pair).collect::<Vec<_>>().join(":")
}
