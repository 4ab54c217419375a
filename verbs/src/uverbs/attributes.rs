// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device and its ports can do: structures of the kernel's, in the machine's byte order where nothing else is said.
#![expect(missing_debug_implementations, reason = "zerocopy derives types that have none")]

use crate::mad::layouts;

layouts! {
    /// `struct ib_uverbs_ex_query_device_resp`: limits and abilities of a device. Fields that the kernel does not know are 0.
    DeviceAttributes 304 {
        /// As the driver counts; [`crate::netlink::Device`] has it as text.
        firmware: u64,
        /// NodeGUID, big-endian.
        node_guid: [u8; 8],
        /// SystemImageGUID, big-endian.
        system_image_guid: [u8; 8],
        /// Longest memory region, in bytes.
        max_mr_size: u64,
        /// A bit for each size of a page, in bytes.
        page_sizes: u64,
        /// IEEE's number of the vendor.
        vendor_id: u32,
        /// The vendor's number of the part.
        vendor_part_id: u32,
        /// Revision of the part.
        hardware_version: u32,
        /// Queue pairs.
        max_qp: u32,
        /// Work requests in one queue.
        max_qp_wr: u32,
        /// `enum ib_device_cap_flags`, the lower half of [`DeviceAttributes::capabilities_all`].
        capabilities: u32,
        /// Scatter/gather elements of one work request.
        max_sge: u32,
        /// The same of an RDMA read.
        max_sge_rd: u32,
        /// Completion queues.
        max_cq: u32,
        /// Entries of one.
        max_cqe: u32,
        /// Memory regions.
        max_mr: u32,
        /// Protection domains.
        max_pd: u32,
        /// RDMA reads and atomics that a queue pair answers at a time.
        max_qp_rd_atom: u32,
        /// The same of an end-to-end context.
        max_ee_rd_atom: u32,
        /// The same of the device.
        max_res_rd_atom: u32,
        /// RDMA reads and atomics that a queue pair asks at a time.
        max_qp_init_rd_atom: u32,
        /// The same of an end-to-end context.
        max_ee_init_rd_atom: u32,
        /// How far atomics are: 0 not at all, 1 within the device, 2 with the host's memory.
        atomic: u32,
        /// End-to-end contexts.
        max_ee: u32,
        /// Reliable datagram domains.
        max_rdd: u32,
        /// Memory windows.
        max_mw: u32,
        /// Raw IPv6 queue pairs.
        max_raw_ipv6_qp: u32,
        /// Raw Ethertype queue pairs.
        max_raw_ethy_qp: u32,
        /// Multicast groups.
        max_mcast_grp: u32,
        /// Queue pairs of one.
        max_mcast_qp_attach: u32,
        /// Queue pairs of all.
        max_total_mcast_qp_attach: u32,
        /// Address handles.
        max_ah: u32,
        /// Fast memory regions.
        max_fmr: u32,
        /// How often one of them can be mapped.
        max_map_per_fmr: u32,
        /// Shared receive queues.
        max_srq: u32,
        /// Work requests of one.
        max_srq_wr: u32,
        /// Scatter/gather elements of a request of one.
        max_srq_sge: u32,
        /// P_Keys of a port.
        max_pkeys: u16,
        /// Local ACK delay, 4.096 µs times two to this.
        local_ca_ack_delay: u8,
        /// Ports.
        ports: u8,
        /// Reserved.
        reserved: [u8; 4],
        /// Reserved.
        comp_mask: u32,
        /// How much of this the kernel knows, in bytes.
        length: u32,
        /// On-demand paging: whether at all, and whether implicit.
        odp: u64,
        /// On-demand paging of RC, UC and UD: `enum ib_odp_transport_cap_bits`.
        odp_transports: [u32; 3],
        /// Reserved.
        reserved_2: u32,
        /// Bits of a completion's time stamp; 0 where there is none.
        timestamp_mask: u64,
        /// Of the clock behind it, in kHz.
        core_clock: u64,
        /// `enum ib_device_cap_flags`, all of them.
        capabilities_all: u64,
        /// Receive side scaling: types of queue pairs, tables, entries of one.
        rss: [u32; 4],
        /// Receive work queues.
        max_wq_type_rq: u32,
        /// Of raw packet queue pairs.
        raw_packet: u32,
        /// Tag matching: longest header, tags, flags, operations, scatter/gather elements.
        tag_matching: [u32; 6],
        /// Moderation of completion queues: entries, and in microseconds.
        cq_moderation: [u16; 2],
        /// Reserved.
        reserved_3: u32,
        /// Device memory, in bytes.
        max_dm_size: u64,
        /// On-demand paging of XRC.
        odp_xrc: u32,
        /// Reserved.
        reserved_4: u32,
    }

    /// `struct ib_uverbs_query_port_resp_ex`: a port.
    PortAttributes 48 {
        /// PortInfo:CapabilityMask, of InfiniBand; else `RDMA_CORE_CAP_*`.
        capabilities: u32,
        /// Longest message, in bytes.
        max_message: u32,
        /// P_Key violations.
        pkey_violations: u32,
        /// Q_Key violations.
        qkey_violations: u32,
        /// Length of the GID table.
        gids: u32,
        /// Length of the P_Key table.
        pkeys: u16,
        /// Its own.
        lid: u16,
        /// The subnet manager's.
        sm_lid: u16,
        /// 1 DOWN, 2 INIT, 3 ARMED, 4 ACTIVE.
        state: u8,
        /// 1 to 5: 256, 512, 1024, 2048, 4096 bytes.
        max_mtu: u8,
        /// The same, of the link.
        active_mtu: u8,
        /// How many of the LID's lowest bits are its own to use.
        lmc: u8,
        /// `enum VLCap`: two to the power of one less.
        max_vls: u8,
        /// Service level to the subnet manager.
        sm_sl: u8,
        /// Longest way through the subnet, 4.096 µs times two to this.
        subnet_timeout: u8,
        /// InitTypeReply
        init_type_reply: u8,
        /// 1, 2, 4, 8, 16: 1X, 4X, 8X, 12X, 2X.
        active_width: u8,
        /// As far as it fits in a byte; see `active_speed_all`.
        active_speed: u8,
        /// 2 POLLING, 3 DISABLED, 5 LINK_UP.
        physical_state: u8,
        /// 1 InfiniBand, 2 Ethernet.
        link_layer: u8,
        /// `IBV_QPF_GRH_REQUIRED` in bit 0.
        flags: u8,
        /// Reserved.
        reserved: u8,
        /// PortInfo:CapabilityMask2
        capabilities_2: u16,
        /// Reserved.
        reserved_2: u16,
        /// `enum ib_port_speed`: 1, 2, 4, 8, 16, 32, 64, 128: SDR to NDR; 0 from kernels that do not tell.
        active_speed_all: u32,
    }

    /// `struct ib_uverbs_gid_entry`: an entry of a GID table.
    GidEntry 32 {
        /// Big-endian.
        gid: [u8; 16],
        /// Place in the table.
        index: u32,
        /// From 1.
        port: u32,
        /// 0 InfiniBand, 1 RoCE v1, 2 RoCE v2.
        kind: u32,
        /// Network interface; 0 for none.
        netdev: u32,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn offsets_of_the_kernel() {
        for (is, should_be) in [
            (offset_of!(DeviceAttributes, vendor_id), 40),
            (offset_of!(DeviceAttributes, max_sge), 64),
            (offset_of!(DeviceAttributes, atomic), 108),
            (offset_of!(DeviceAttributes, max_srq), 156),
            (offset_of!(DeviceAttributes, max_pkeys), 168),
            (offset_of!(DeviceAttributes, odp), 184),
            (offset_of!(DeviceAttributes, timestamp_mask), 208),
            (offset_of!(DeviceAttributes, capabilities_all), 224),
            (offset_of!(DeviceAttributes, rss), 232),
            (offset_of!(DeviceAttributes, tag_matching), 256),
            (offset_of!(DeviceAttributes, cq_moderation), 280),
            (offset_of!(DeviceAttributes, odp_xrc), 296),
            (offset_of!(PortAttributes, pkeys), 20),
            (offset_of!(PortAttributes, state), 26),
            (offset_of!(PortAttributes, link_layer), 37),
            (offset_of!(PortAttributes, capabilities_2), 40),
            (offset_of!(PortAttributes, active_speed_all), 44),
        ] {
            assert_eq!(is, should_be);
        }
    }
}
