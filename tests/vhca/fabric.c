// SPDX-License-Identifier: GPL-2.0
/*
 * The way of a packet: out of a port, over a cable, through a switch by its
 * tables or by directed route, into a port. All of it runs under vhca_mutex.
 */
#include <linux/slab.h>
#include "vhca.h"

static void switch_receive(struct vhca_switch *sw, u8 in, struct vhca_packet *packet);

static bool is_smp(const struct vhca_packet *packet)
{
	return packet->dst_qp == 0;
}

static bool is_multicast(const struct vhca_packet *packet)
{
	return packet->dlid >= VHCA_MLID_BASE && packet->dlid != VHCA_LID_PERMISSIVE;
}

static bool is_directed(const struct vhca_packet *packet)
{
	const struct ib_smp *smp = (const void *)packet->data;

	return is_smp(packet) && smp->mgmt_class == IB_MGMT_CLASS_SUBN_DIRECTED_ROUTE;
}

static bool may_pass(const struct vhca_end *end, const struct vhca_packet *packet)
{
	return pi_state(&end->pi) >= (is_smp(packet) ? IB_PORT_INIT : IB_PORT_ACTIVE);
}

static void count(struct vhca_end *end, const struct vhca_packet *packet, bool sent)
{
	struct vhca_counters *c = &end->count;
	/* LRH, BTH, DETH, ICRC; VCRC is not counted. */
	u64 words = (packet->len + 8 + 12 + 8 + 4 + (packet->grh_present ? VHCA_GRH_SIZE : 0)) / 4;

	if (sent) {
		c->xmit_words += words;
		c->xmit_packets++;
		c->mcast_xmit += is_multicast(packet);
	} else {
		c->rcv_words += words;
		c->rcv_packets++;
		c->mcast_rcv += is_multicast(packet);
	}
}

/* Over the cable at an end, if the link lets it pass. */
static void cross(struct vhca_end *from, struct vhca_packet *packet)
{
	struct vhca_end *to = NULL;
	unsigned long flags;

	spin_lock_irqsave(&vhca_lock, flags);
	if (from->peer && may_pass(from, packet) && may_pass(from->peer, packet)) {
		to = from->peer;
		count(from, packet, true);
		count(to, packet, false);
	} else {
		from->count.discards++;
	}
	spin_unlock_irqrestore(&vhca_lock, flags);
	if (!to)
		trace("dropped at port %u, dlid %#x: the link is not up", from->num, packet->dlid);
	else if (to->sw)
		switch_receive(to->sw, to->num, packet);
	else
		vhca_deliver(to->port, packet);
}

/* A packet leaves a port of an HCA. */
static void port_send(struct vhca_port *port, struct vhca_packet *packet)
{
	struct vhca_end *end = &port->end;
	unsigned long flags;
	bool own, up;

	spin_lock_irqsave(&vhca_lock, flags);
	up = may_pass(end, packet);
	own = end->pi.lid && !((packet->dlid ^ be16_to_cpu(end->pi.lid)) >> pi_lmc(&end->pi));
	if (!up)
		end->count.discards++;
	spin_unlock_irqrestore(&vhca_lock, flags);
	trace("%s port %u: %#x qp %u -> %#x qp %u, %u bytes", dev_name(&port->dev->ibdev.dev),
	      end->num, packet->slid, packet->src_qp, packet->dlid, packet->dst_qp, packet->len);
	if (!up)
		return;
	if (own) {
		vhca_deliver(port, packet);
		return;
	}
	if (is_multicast(packet))
		vhca_deliver(port, packet);
	cross(end, packet);
}

struct late_packet {
	struct delayed_work work;
	struct vhca_port *port;
	struct vhca_packet packet;
};

static void send_late(struct work_struct *work)
{
	struct late_packet *late = container_of(work, struct late_packet, work.work);
	struct vhca_dev *dev = late->port->dev;

	mutex_lock(&vhca_mutex);
	port_send(late->port, &late->packet);
	if (!--dev->late)
		wake_up_all(&dev->late_gone);
	mutex_unlock(&vhca_mutex);
	kfree(late);
}

/* Sends a packet, or does to a MAD what the port is told to do to MADs. */
void vhca_send_packet(struct vhca_port *port, struct vhca_packet *packet)
{
	struct late_packet *late;

	if (is_directed(packet)) {
		const struct ib_smp *smp = (const void *)packet->data;
		__be16 next = smp->status & IB_SMP_DIRECTION ? smp->dr_dlid : smp->dr_slid;

		if (next == IB_LID_PERMISSIVE)
			packet->slid = VHCA_LID_PERMISSIVE;
	}
	if (packet->dst_qp < 2) {
		if (port->drop) {
			port->drop--;
			return;
		}
		if (port->delay_ms) {
			late = kzalloc(sizeof(*late), GFP_KERNEL);
			if (!late)
				return;
			INIT_DELAYED_WORK(&late->work, send_late);
			late->port = port;
			late->packet = *packet;
			late->packet.sender = NULL;
			port->dev->late++;
			queue_delayed_work(vhca_wq, &late->work, msecs_to_jiffies(port->delay_ms));
			return;
		}
	}
	port_send(port, packet);
}

/* Out of a switch by its tables. */
static void switch_forward(struct vhca_switch *sw, u8 in, struct vhca_packet *packet)
{
	u16 lid = packet->dlid;
	unsigned long flags;
	u8 out = 255, n;
	u64 ports = 0;

	spin_lock_irqsave(&vhca_lock, flags);
	if (is_multicast(packet)) {
		if (lid - VHCA_MLID_BASE < VHCA_MLIDS)
			for (n = 0; n < VHCA_MFT_POSITIONS; n++)
				ports |= (u64)sw->mft[lid - VHCA_MLID_BASE][n] << 16 * n;
	} else if (lid <= sw->lft_top) {
		out = sw->lft[lid];
	}
	spin_unlock_irqrestore(&vhca_lock, flags);
	if (is_multicast(packet)) {
		for (n = 1; n <= VHCA_SWITCH_PORTS; n++)
			if (n != in && ports & BIT_ULL(n))
				cross(&sw->end[n], packet);
		return;
	}
	if (out == 0 || out > VHCA_SWITCH_PORTS)
		trace("the switch has no way to LID %#x", lid);
	else
		cross(&sw->end[out], packet);
}

/* The switch itself is asked; the packet becomes the answer. */
static bool switch_agent(struct vhca_switch *sw, u8 in, struct vhca_packet *packet)
{
	struct ib_mad *mad = (struct ib_mad *)packet->data;
	struct ib_smp *smp = (struct ib_smp *)mad;
	int status;

	if (packet->len < sizeof(*mad))
		return false;
	if (is_smp(packet))
		status = vhca_sma(&sw->end[in], smp);
	else if (mad->mad_hdr.mgmt_class == IB_MGMT_CLASS_PERF_MGMT)
		status = vhca_pma(&sw->end[in], mad);
	else
		status = VHCA_MAD_NOT_MINE;
	if (status == VHCA_MAD_NOT_MINE)
		return false;
	mad->mad_hdr.method = IB_MGMT_METHOD_GET_RESP;
	mad->mad_hdr.status = cpu_to_be16(status);
	if (is_directed(packet))
		smp->status |= IB_SMP_DIRECTION;
	packet->dlid = packet->slid;
	packet->slid = be16_to_cpu(sw->end[0].pi.lid);
	swap(packet->src_qp, packet->dst_qp);
	packet->grh_present = false;
	packet->sender = NULL;
	return true;
}

/* A step of a directed route. */
static void switch_directed(struct vhca_switch *sw, u8 in, struct vhca_packet *packet)
{
	struct ib_smp *smp = (struct ib_smp *)packet->data;
	u8 out;

	if (packet->len < sizeof(*smp) || smp->hop_cnt >= IB_SMP_MAX_PATH_HOPS)
		return;
	if (!(smp->status & IB_SMP_DIRECTION)) {
		if (smp->hop_ptr < smp->hop_cnt) {
			/* At 0 it has come here by LID, and the route begins. */
			if (smp->hop_ptr)
				smp->return_path[smp->hop_ptr] = in;
			packet->slid = VHCA_LID_PERMISSIVE;
			packet->dlid = VHCA_LID_PERMISSIVE;
			out = smp->initial_path[++smp->hop_ptr];
			goto out;
		}
		if (smp->hop_ptr != smp->hop_cnt)
			return;
		if (smp->hop_cnt)
			smp->return_path[smp->hop_ptr] = in;
		if (smp->dr_dlid != IB_LID_PERMISSIVE) {
			smp->hop_ptr++;
			packet->dlid = be16_to_cpu(smp->dr_dlid);
			packet->slid = be16_to_cpu(sw->end[0].pi.lid);
			switch_forward(sw, in, packet);
			return;
		}
		if (!switch_agent(sw, in, packet))
			return;
		if (!smp->hop_cnt) {
			switch_forward(sw, 0, packet);
			return;
		}
		packet->slid = VHCA_LID_PERMISSIVE;
		packet->dlid = VHCA_LID_PERMISSIVE;
		out = smp->return_path[smp->hop_ptr];
	} else {
		if (!smp->hop_ptr || smp->hop_ptr > smp->hop_cnt + 1)
			return;
		if (--smp->hop_ptr == 0) {
			if (smp->dr_slid == IB_LID_PERMISSIVE)
				return;
			packet->slid = be16_to_cpu(sw->end[0].pi.lid);
			packet->dlid = be16_to_cpu(smp->dr_slid);
			switch_forward(sw, 0, packet);
			return;
		}
		packet->slid = VHCA_LID_PERMISSIVE;
		packet->dlid = VHCA_LID_PERMISSIVE;
		out = smp->return_path[smp->hop_ptr];
	}
out:
	if (out && out <= VHCA_SWITCH_PORTS)
		cross(&sw->end[out], packet);
}

static void switch_receive(struct vhca_switch *sw, u8 in, struct vhca_packet *packet)
{
	u16 lid = be16_to_cpu(sw->end[0].pi.lid);

	if (is_directed(packet) &&
	    (packet->dlid == VHCA_LID_PERMISSIVE || packet->dlid == lid)) {
		switch_directed(sw, in, packet);
	} else if (packet->dlid == lid && lid && packet->dst_qp < 2) {
		if (switch_agent(sw, in, packet))
			switch_forward(sw, 0, packet);
	} else {
		switch_forward(sw, in, packet);
	}
}

/* The Notice of a trap to the subnet manager; false while there is none. */
static bool make_trap(const struct vhca_end *end, u32 tid, u16 number,
		      struct vhca_packet *packet)
{
	struct ib_smp *smp = (struct ib_smp *)packet->data;
	struct ib_mad_notice_attr *notice = (struct ib_mad_notice_attr *)smp->data;

	memset(packet, 0, offsetof(struct vhca_packet, data) + sizeof(*smp));
	packet->slid = be16_to_cpu(end->pi.lid);
	packet->dlid = be16_to_cpu(end->pi.sm_lid);
	packet->sl = end->pi.neighbormtu_mastersmsl & 0xf;
	packet->len = sizeof(*smp);
	smp->base_version = IB_MGMT_BASE_VERSION;
	smp->mgmt_class = IB_MGMT_CLASS_SUBN_LID_ROUTED;
	smp->class_version = 1;
	smp->method = IB_MGMT_METHOD_TRAP;
	smp->tid = cpu_to_be64(tid);
	smp->attr_id = IB_SMP_ATTR_NOTICE;
	notice->trap_num = cpu_to_be16(number);
	notice->issuer_lid = end->pi.lid;
	return packet->slid && packet->dlid;
}

/* Trap 128: the state of a port has changed. */
void vhca_switch_trap(struct work_struct *work)
{
	struct vhca_switch *sw = container_of(work, struct vhca_switch, trap);
	static struct vhca_packet packet;	/* vhca_mutex */
	struct ib_mad_notice_attr *notice =
		(struct ib_mad_notice_attr *)((struct ib_smp *)packet.data)->data;
	unsigned long flags;
	bool send;

	mutex_lock(&vhca_mutex);
	spin_lock_irqsave(&vhca_lock, flags);
	send = make_trap(&sw->end[0], ++sw->tid, 128, &packet);
	notice->generic_type = 0x80 | 1;	/* urgent */
	notice->prod_type_lsb = cpu_to_be16(2);	/* from a switch */
	memcpy(notice->details.raw_data.details, &sw->end[0].pi.lid, 2);
	spin_unlock_irqrestore(&vhca_lock, flags);
	if (send)
		switch_forward(sw, 0, &packet);
	mutex_unlock(&vhca_mutex);
}

/* Trap 144: the description or the capabilities of a node have changed. */
void vhca_port_trap(struct work_struct *work)
{
	struct vhca_port *port = container_of(work, struct vhca_port, trap);
	static struct vhca_packet packet;	/* vhca_mutex */
	struct ib_mad_notice_attr *notice =
		(struct ib_mad_notice_attr *)((struct ib_smp *)packet.data)->data;
	unsigned long flags;
	bool send;

	mutex_lock(&vhca_mutex);
	spin_lock_irqsave(&vhca_lock, flags);
	send = make_trap(&port->end, ++port->tid, 144, &packet);
	notice->generic_type = 0x80 | 4;	/* informational */
	notice->prod_type_lsb = cpu_to_be16(1);	/* from a channel adapter */
	notice->details.ntc_144.lid = port->end.pi.lid;
	notice->details.ntc_144.new_cap_mask = port->end.pi.cap_mask;
	if (port->desc_changed) {
		notice->details.ntc_144.local_changes = 1;
		notice->details.ntc_144.change_flags = 1;
	}
	port->desc_changed = false;
	spin_unlock_irqrestore(&vhca_lock, flags);
	if (send)
		vhca_send_packet(port, &packet);
	mutex_unlock(&vhca_mutex);
}

/* The port that a packet from a port would reach, or NULL. */
struct vhca_port *vhca_resolve(struct vhca_port *from, u16 dlid)
{
	struct vhca_end *end = &from->end;
	struct vhca_switch *sw;
	unsigned long flags;
	struct vhca_port *to = NULL;

	spin_lock_irqsave(&vhca_lock, flags);
	if (pi_state(&end->pi) != IB_PORT_ACTIVE)
		goto out;
	if (dlid >> pi_lmc(&end->pi) == be16_to_cpu(end->pi.lid) >> pi_lmc(&end->pi)) {
		to = from;
		goto out;
	}
	sw = end->peer ? end->peer->sw : NULL;
	if (!sw || dlid > sw->lft_top || sw->lft[dlid] == 0 || sw->lft[dlid] > VHCA_SWITCH_PORTS)
		goto out;
	end = &sw->end[sw->lft[dlid]];
	if (end->peer && end->peer->port && pi_state(&end->pi) == IB_PORT_ACTIVE &&
	    pi_state(&end->peer->pi) == IB_PORT_ACTIVE)
		to = end->peer->port;
out:
	spin_unlock_irqrestore(&vhca_lock, flags);
	return to;
}
