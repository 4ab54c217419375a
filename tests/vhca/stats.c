// SPDX-License-Identifier: GPL-2.0
/*
 * What a port counts, as hw_counters in sysfs and "rdma statistic" show it. The counters of multicast
 * are optional: they are shown while somebody has asked for them.
 */
#include "vhca.h"

enum { DISCARDS, MCAST_RX, MCAST_TX, STATS };

static const struct rdma_stat_desc descs[STATS] = {
	[DISCARDS] = { .name = "discards" },
	[MCAST_RX] = { .name = "mcast_rx", .flags = IB_STAT_FLAG_OPTIONAL },
	[MCAST_TX] = { .name = "mcast_tx", .flags = IB_STAT_FLAG_OPTIONAL },
};

struct rdma_hw_stats *vhca_alloc_hw_port_stats(struct ib_device *ibdev, u32 num)
{
	return rdma_alloc_hw_stats_struct(descs, STATS, RDMA_HW_STATS_DEFAULT_LIFESPAN);
}

int vhca_get_hw_stats(struct ib_device *ibdev, struct rdma_hw_stats *stats, u32 num, int index)
{
	struct vhca_counters *count = &to_vport(ibdev, num)->end.count;
	unsigned long flags;

	spin_lock_irqsave(&vhca_lock, flags);
	stats->value[DISCARDS] = count->discards;
	stats->value[MCAST_RX] = count->mcast_rcv;
	stats->value[MCAST_TX] = count->mcast_xmit;
	spin_unlock_irqrestore(&vhca_lock, flags);
	return STATS;
}

/* They are counted in any case; whether they are shown is ib_core's business. */
int vhca_modify_hw_stat(struct ib_device *ibdev, u32 num, unsigned int index, bool enable)
{
	return 0;
}
