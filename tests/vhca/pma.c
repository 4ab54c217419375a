// SPDX-License-Identifier: GPL-2.0
/* The performance management agent: the counters of a port (IBTA volume 1, chapter 16). */
#include <rdma/ib_pma.h>
#include "vhca.h"

#define EXTENDED_WIDTH	cpu_to_be16(1 << 9)

static u32 capped(u64 value, u32 most)
{
	return min_t(u64, value, most);
}

static void port_counters(struct vhca_counters *c, struct ib_pma_portcounters *p, bool clear)
{
	__be16 which = p->counter_select;

	if (clear) {
		if (which & IB_PMA_SEL_LINK_DOWNED)
			c->link_downed = 0;
		if (which & IB_PMA_SEL_PORT_XMIT_DISCARDS)
			c->discards = 0;
		if (which & IB_PMA_SEL_PORT_VL15_DROPPED)
			c->vl15_dropped = 0;
		if (which & IB_PMA_SEL_PORT_XMIT_DATA)
			c->xmit_words = 0;
		if (which & IB_PMA_SEL_PORT_RCV_DATA)
			c->rcv_words = 0;
		if (which & IB_PMA_SEL_PORT_XMIT_PACKETS)
			c->xmit_packets = 0;
		if (which & IB_PMA_SEL_PORT_RCV_PACKETS)
			c->rcv_packets = 0;
	}
	p->link_downed_counter = capped(c->link_downed, U8_MAX);
	p->port_xmit_discards = cpu_to_be16(capped(c->discards, U16_MAX));
	p->vl15_dropped = cpu_to_be16(capped(c->vl15_dropped, U16_MAX));
	p->port_xmit_data = cpu_to_be32(capped(c->xmit_words, U32_MAX));
	p->port_rcv_data = cpu_to_be32(capped(c->rcv_words, U32_MAX));
	p->port_xmit_packets = cpu_to_be32(capped(c->xmit_packets, U32_MAX));
	p->port_rcv_packets = cpu_to_be32(capped(c->rcv_packets, U32_MAX));
}

static void port_counters_ext(struct vhca_counters *c, struct ib_pma_portcounters_ext *p,
			      bool clear)
{
	if (clear) {
		c->xmit_words = 0;
		c->rcv_words = 0;
		c->xmit_packets = 0;
		c->rcv_packets = 0;
		c->mcast_xmit = 0;
		c->mcast_rcv = 0;
	}
	p->port_xmit_data = cpu_to_be64(c->xmit_words);
	p->port_rcv_data = cpu_to_be64(c->rcv_words);
	p->port_xmit_packets = cpu_to_be64(c->xmit_packets);
	p->port_rcv_packets = cpu_to_be64(c->rcv_packets);
	p->port_unicast_xmit_packets = cpu_to_be64(c->xmit_packets - c->mcast_xmit);
	p->port_unicast_rcv_packets = cpu_to_be64(c->rcv_packets - c->mcast_rcv);
	p->port_multicast_xmit_packets = cpu_to_be64(c->mcast_xmit);
	p->port_multicast_rcv_packets = cpu_to_be64(c->mcast_rcv);
}

/* The port that is asked about; 255 is all of them, told of the first that has counters. */
static struct vhca_end *chosen(struct vhca_end *end, u8 num)
{
	if (end->sw)
		return num <= VHCA_SWITCH_PORTS ? &end->sw->end[num] : num == 255 ? end : NULL;
	return num == end->num || num == 255 || num == 0 ? end : NULL;
}

/**
 * vhca_pma - answers a performance management datagram
 * @end: where it has come in
 * @mad: the question; its data becomes the answer's
 *
 * Return: the status of the answer, or VHCA_MAD_NOT_MINE.
 */
int vhca_pma(struct vhca_end *end, struct ib_mad *mad)
{
	struct ib_pma_mad *pma = (struct ib_pma_mad *)mad;
	bool set = mad->mad_hdr.method == IB_MGMT_METHOD_SET;
	struct ib_class_port_info *class;
	struct vhca_end *about;
	unsigned long flags;

	if (!set && mad->mad_hdr.method != IB_MGMT_METHOD_GET)
		return VHCA_MAD_NOT_MINE;
	if (mad->mad_hdr.attr_id == IB_PMA_CLASS_PORT_INFO) {
		class = (struct ib_class_port_info *)pma->data;
		memset(pma->data, 0, sizeof(pma->data));
		class->base_version = IB_MGMT_BASE_VERSION;
		class->class_version = 1;
		class->capability_mask = EXTENDED_WIDTH;
		ib_set_cpi_resp_time(class, 18);
		return 0;
	}
	if (mad->mad_hdr.attr_id != IB_PMA_PORT_COUNTERS &&
	    mad->mad_hdr.attr_id != IB_PMA_PORT_COUNTERS_EXT)
		return IB_MGMT_MAD_STATUS_UNSUPPORTED_METHOD_ATTRIB;
	/* PortSelect is at the same place in both. */
	about = chosen(end, ((struct ib_pma_portcounters *)pma->data)->port_select);
	if (!about)
		return IB_MGMT_MAD_STATUS_INVALID_ATTRIB_VALUE;
	spin_lock_irqsave(&vhca_lock, flags);
	if (mad->mad_hdr.attr_id == IB_PMA_PORT_COUNTERS)
		port_counters(&about->count, (struct ib_pma_portcounters *)pma->data, set);
	else
		port_counters_ext(&about->count, (struct ib_pma_portcounters_ext *)pma->data, set);
	spin_unlock_irqrestore(&vhca_lock, flags);
	return 0;
}
