// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device management (IBTA volume 1, 16.3): which I/O controllers a port has, and what services those offer.
#![expect(missing_debug_implementations, reason = "zerocopy derives types that have none")]

use zerocopy::big_endian::{U16, U32, U64};

use crate::mad::{MadHeader, layouts};

/// PortInfo:CapabilityMask.IsDeviceManagementSupported
pub const IS_SUPPORTED: u32 = 1 << 19;

/// Attributes.
pub mod attribute {
    /// IOUnitInfo
    pub const IO_UNIT_INFO: u16 = 0x0010;
    /// IOControllerProfile, of the controller in the slot that the modifier says
    pub const IO_CONTROLLER_PROFILE: u16 = 0x0011;
    /// ServiceEntries, four of them
    pub const SERVICE_ENTRIES: u16 = 0x0012;
}

layouts! {
    /// A datagram, whose data begin at byte 64.
    DmMad 256 {
        /// The common header.
        mad: MadHeader,
        /// Reserved.
        reserved: [u8; 40],
        /// The attribute.
        data: [u8; 192],
    }

    /// IOUnitInfo
    IoUnitInfo 132 {
        /// Another number than before says that something is not as it was.
        change_id: U16,
        /// How many slots there are.
        max_controllers: u8,
        /// Diagnostics, option ROM
        options: u8,
        /// Four bits a slot, the upper half of a byte first: 0 nothing, 1 a controller, 15 no slot.
        controllers: [u8; 128],
    }

    /// IOControllerProfile
    IoControllerProfile 128 {
        /// GUID of the controller.
        guid: U64,
        /// VendorID in the upper three bytes.
        vendor_id: U32,
        /// DeviceID
        device_id: U32,
        /// DeviceVersion
        device_version: U16,
        /// Reserved.
        reserved: U16,
        /// SubsystemVendorID
        subsystem_vendor_id: U32,
        /// SubsystemID
        subsystem_id: U32,
        /// IOClass: 0x0100 SRP, 0xff00 SRP of revision 10.
        io_class: U16,
        /// IOSubclass
        io_subclass: U16,
        /// Protocol
        protocol: U16,
        /// ProtocolVersion
        protocol_version: U16,
        /// Reserved.
        reserved_2: U32,
        /// SendMessageDepth
        send_depth: U16,
        /// Reserved.
        reserved_3: u8,
        /// RDMAReadDepth
        read_depth: u8,
        /// SendMessageSize, in bytes.
        send_size: U32,
        /// RDMATransferSize, in bytes.
        transfer_size: U32,
        /// ControllerOperationsMask
        operations: u8,
        /// Reserved.
        reserved_4: u8,
        /// How many ServiceEntries there are.
        services: u8,
        /// Reserved.
        reserved_5: [u8; 9],
        /// IDString, UTF-8, filled up with NUL.
        id: [u8; 64],
    }

    /// one of the four entries of ServiceEntries.
    ServiceEntry 48 {
        /// ServiceName, filled up with NUL.
        name: [u8; 40],
        /// ServiceID
        id: U64,
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn offsets() {
        for (is, should_be) in [
            (offset_of!(DmMad, data), 64),
            (offset_of!(IoUnitInfo, controllers), 4),
            (offset_of!(IoControllerProfile, io_class), 28),
            (offset_of!(IoControllerProfile, send_size), 44),
            (offset_of!(IoControllerProfile, services), 54),
            (offset_of!(IoControllerProfile, id), 64),
        ] {
            assert_eq!(is, should_be);
        }
    }
}
