// SPDX-License-Identifier: MIT OR Apache-2.0
//! Driver names.

/// `enum rdma_driver_id` of the kernel's `ib_user_ioctl_verbs.h`, in its order from 1.
const DRIVERS: [&str; 22] = [
    "mlx5",
    "mlx4",
    "cxgb3",
    "cxgb4",
    "mthca",
    "bnxt_re",
    "ocrdma",
    "nes",
    "irdma",
    "vmw_pvrdma",
    "qedr",
    "hns",
    "usnic",
    "rxe",
    "hfi1",
    "qib",
    "efa",
    "siw",
    "erdma",
    "mana",
    "ionic",
    "bng_re",
];

/// `RDMA_NLDEV_ATTR_UVERBS_DRIVER_ID` as a name: `mlx5`, `rxe`. None for 0 (the kernel does not say)
/// and for drivers newer than this table.
#[must_use]
pub fn driver_name(id: u32) -> Option<&'static str> {
    DRIVERS.get(usize::try_from(id.checked_sub(1)?).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::driver_name;

    #[test]
    fn ids_of_the_kernel_header() {
        for (id, name) in [(1, "mlx5"), (9, "irdma"), (14, "rxe"), (18, "siw"), (20, "mana")] {
            assert_eq!(driver_name(id), Some(name));
        }
        assert_eq!((driver_name(0), driver_name(1000)), (None, None));
    }
}
