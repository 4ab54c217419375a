// SPDX-License-Identifier: GPL-2.0
/* The worker: does the work requests of a QP, and puts what arrives into receive requests. */
#include "vhca.h"

/* How many requests of one QP are done before others have their turn. */
#define TURN	64

static const enum ib_wc_opcode wc_opcode[] = {
	[IB_WR_RDMA_WRITE] = IB_WC_RDMA_WRITE,
	[IB_WR_RDMA_WRITE_WITH_IMM] = IB_WC_RDMA_WRITE,
	[IB_WR_SEND] = IB_WC_SEND,
	[IB_WR_SEND_WITH_IMM] = IB_WC_SEND,
	[IB_WR_SEND_WITH_INV] = IB_WC_SEND,
	[IB_WR_RDMA_READ] = IB_WC_RDMA_READ,
	[IB_WR_ATOMIC_CMP_AND_SWP] = IB_WC_COMP_SWAP,
	[IB_WR_ATOMIC_FETCH_AND_ADD] = IB_WC_FETCH_ADD,
	[IB_WR_LOCAL_INV] = IB_WC_LOCAL_INV,
	[IB_WR_REG_MR] = IB_WC_REG_MR,
};

/* The oldest send request is done, with a completion if one is wanted. */
void vhca_send_done(struct vhca_qp *qp, struct vhca_send *wr, enum ib_wc_status status, u32 len)
{
	struct ib_wc wc = {
		.wr_id = wr->wr_id,
		.status = status,
		.opcode = wc_opcode[wr->opcode],
		.qp = &qp->ib,
		.byte_len = len,
	};
	bool wanted = status != IB_WC_SUCCESS || wr->flags & IB_SEND_SIGNALED ||
		      qp->init.sq_sig_type == IB_SIGNAL_ALL_WR;
	unsigned long flags;

	spin_lock_irqsave(&qp->lock, flags);
	vhca_ring_drop(&qp->sq);
	spin_unlock_irqrestore(&qp->lock, flags);
	qp->tries = 0;
	if (status != IB_WC_SUCCESS)
		trace("%s qp %u: opcode %d ends with %s", dev_name(&qp->ib.device->dev),
		      qp->ib.qp_num, wc.opcode, ib_wc_status_msg(status));
	if (wanted && qp->ib.send_cq)
		vhca_complete(to_vcq(qp->ib.send_cq), &wc, false);
}

/* The receive request that the next message goes to, or NULL. */
struct vhca_recv *vhca_recv_next(struct vhca_qp *qp)
{
	struct vhca_srq *srq = qp->ib.srq ? to_vsrq(qp->ib.srq) : NULL;
	spinlock_t *lock = srq ? &srq->lock : &qp->lock;
	struct vhca_recv *wr;
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	wr = vhca_ring_first(srq ? &srq->rq : &qp->rq);
	spin_unlock_irqrestore(lock, flags);
	return wr;
}

/* It is done; wc has the rest of its completion. */
void vhca_recv_done(struct vhca_qp *qp, struct ib_wc *wc, bool solicited)
{
	struct vhca_srq *srq = qp->ib.srq ? to_vsrq(qp->ib.srq) : NULL;
	struct vhca_ring *ring = srq ? &srq->rq : &qp->rq;
	spinlock_t *lock = srq ? &srq->lock : &qp->lock;
	unsigned long flags;
	bool low = false;

	wc->qp = &qp->ib;
	spin_lock_irqsave(lock, flags);
	wc->wr_id = ((struct vhca_recv *)vhca_ring_first(ring))->wr_id;
	vhca_ring_drop(ring);
	if (srq && srq->limit &&
	    (ring->head + ring->size - ring->tail) % ring->size < srq->limit) {
		srq->limit = 0;
		low = true;
	}
	spin_unlock_irqrestore(lock, flags);
	if (low && srq->ib.event_handler) {
		struct ib_event event = {
			.device = srq->ib.device,
			.element.srq = &srq->ib,
			.event = IB_EVENT_SRQ_LIMIT_REACHED,
		};

		srq->ib.event_handler(&event, srq->ib.srq_context);
	}
	vhca_complete(to_vcq(qp->ib.recv_cq), wc, solicited);
}

/* Both have the same partition, and one of them is a full member. */
bool vhca_pkeys_match(u16 a, u16 b)
{
	return (a & 0x7fff) == (b & 0x7fff) && a & 0x7fff && (a | b) & 0x8000;
}

/* The index under which a QP may receive a P_Key. */
static bool pkey_allowed(struct vhca_port *port, struct vhca_qp *qp, u16 pkey, u16 *index)
{
	u16 i = qp->attr.pkey_index;

	*index = 0;
	if (qp->ib.qp_type == IB_QPT_SMI)
		return true;
	if (qp->ib.qp_type != IB_QPT_GSI) {
		*index = i;
		return vhca_pkeys_match(pkey, be16_to_cpu(port->end.pkeys[i]));
	}
	for (i = 0; i < VHCA_PKEYS; i++) {
		if (vhca_pkeys_match(pkey, be16_to_cpu(port->end.pkeys[i]))) {
			*index = i;
			return true;
		}
	}
	return false;
}

static bool may_receive(const struct vhca_qp *qp)
{
	switch (qp->attr.qp_state) {
	case IB_QPS_RTR:
	case IB_QPS_RTS:
	case IB_QPS_SQD:
	case IB_QPS_SQE:
		return true;
	default:
		return false;
	}
}

/* A datagram for a QP: dropped and counted when it may not have it or has no room. */
static void receive(struct vhca_port *port, struct vhca_qp *qp, struct vhca_packet *packet)
{
	struct ib_wc wc = {
		.opcode = IB_WC_RECV,
		.byte_len = VHCA_GRH_SIZE + packet->len,
		.src_qp = packet->src_qp,
		.slid = packet->slid,
		.sl = packet->sl,
		.port_num = port->end.num,
	};
	u32 qkey = qp->ib.qp_type == IB_QPT_GSI ? IB_QP1_QKEY : qp->attr.qkey;
	struct vhca_recv *wr;
	const char *why;
	int err = 0;

	why = "is not ready";
	if (!may_receive(qp) || qp->ib.qp_type == IB_QPT_RC || qp->ib.qp_type == IB_QPT_UC)
		goto drop;
	why = "has another P_Key";
	if (!pkey_allowed(port, qp, packet->pkey, &wc.pkey_index))
		goto drop;
	why = "has another Q_Key";
	if (qp->ib.qp_type != IB_QPT_SMI && packet->qkey != qkey)
		goto drop;
	why = "has no room";
	wr = vhca_recv_next(qp);
	if (!wr || vhca_sge_length(wr->sge, wr->num_sge) < wc.byte_len)
		goto drop;
	if (packet->grh_present) {
		wc.wc_flags |= IB_WC_GRH;
		err = vhca_copy_sges(qp->ib.pd, wr->sge, wr->num_sge, 0, &packet->grh,
				     VHCA_GRH_SIZE, VHCA_TO_MEMORY);
	}
	if (!err)
		err = vhca_copy_sges(qp->ib.pd, wr->sge, wr->num_sge, VHCA_GRH_SIZE, packet->data,
				     packet->len, VHCA_TO_MEMORY);
	if (packet->has_imm) {
		wc.wc_flags |= IB_WC_WITH_IMM;
		wc.ex.imm_data = packet->imm;
	}
	if (packet->dlid < VHCA_MLID_BASE)
		wc.dlid_path_bits = packet->dlid & ((1 << pi_lmc(&port->end.pi)) - 1);
	if (err)
		wc.status = IB_WC_LOC_PROT_ERR;
	vhca_recv_done(qp, &wc, packet->solicited);
	if (err)
		vhca_qp_error(qp, 0);
	return;
drop:
	trace("%s qp %u %s, packet dropped", dev_name(&port->dev->ibdev.dev), qp->ib.qp_num, why);
	port->end.count.vl15_dropped += packet->dst_qp == 0;
}

static bool is_member(const struct vhca_qp *qp, const struct vhca_packet *packet)
{
	const struct vhca_mcast *group;

	list_for_each_entry(group, &qp->mcast, node)
		if (group->lid == packet->dlid &&
		    !memcmp(&group->gid, &packet->grh.dgid, sizeof(group->gid)))
			return true;
	return false;
}

/* A packet has arrived at a port. */
void vhca_deliver(struct vhca_port *port, struct vhca_packet *packet)
{
	struct vhca_dev *dev = port->dev;
	struct vhca_qp *qp;
	unsigned long i;

	if (packet->dlid >= VHCA_MLID_BASE && packet->dlid != VHCA_LID_PERMISSIVE) {
		if (packet->grh_present)
			xa_for_each(&dev->qps, i, qp)
				if (qp != packet->sender && qp->attr.port_num == port->end.num &&
				    is_member(qp, packet))
					receive(port, qp, packet);
		return;
	}
	if (packet->dst_qp < 2)
		qp = port->special[packet->dst_qp];
	else
		qp = xa_load(&dev->qps, packet->dst_qp);
	if (qp && qp->attr.port_num == port->end.num)
		receive(port, qp, packet);
	else
		trace("%s has no qp %u", dev_name(&dev->ibdev.dev), packet->dst_qp);
}

static void make_grh(struct vhca_port *port, const struct vhca_av *av, struct vhca_packet *packet)
{
	struct ib_grh *grh = &packet->grh;

	grh->version_tclass_flow = cpu_to_be32(6 << 28 | av->traffic_class << 20 |
					       (av->flow_label & 0xfffff));
	/* From BTH to ICRC. */
	grh->paylen = cpu_to_be16(12 + 8 + ALIGN(packet->len, 4) + 4);
	grh->next_hdr = 0x1b;
	grh->hop_limit = av->hop_limit;
	grh->sgid.global.subnet_prefix = port->end.pi.gid_prefix;
	grh->sgid.global.interface_id = port->guid[av->sgid_index];
	grh->dgid = av->dgid;
	packet->grh_present = true;
}

static void send_datagram(struct vhca_qp *qp, struct vhca_send *wr)
{
	static struct vhca_packet packet;	/* vhca_mutex */
	struct vhca_dev *dev = to_vdev(qp->ib.device);
	struct vhca_port *port = &dev->port[qp->attr.port_num - 1];
	bool management = qp->ib.qp_type == IB_QPT_SMI || qp->ib.qp_type == IB_QPT_GSI;
	u64 len = wr->flags & IB_SEND_INLINE ? wr->inline_len :
		  vhca_sge_length(wr->sge, wr->num_sge);
	u16 pkey_index = management ? wr->pkey_index : qp->attr.pkey_index;

	if (len > VHCA_MTU) {
		vhca_send_done(qp, wr, IB_WC_LOC_LEN_ERR, 0);
		return;
	}
	memset(&packet, 0, offsetof(struct vhca_packet, data));
	packet.len = len;
	if (wr->flags & IB_SEND_INLINE) {
		memcpy(packet.data, &wr->sge[qp->sq.max_sge], len);
	} else if (vhca_copy_sges(qp->ib.pd, wr->sge, wr->num_sge, 0, packet.data, len,
				  VHCA_FROM_MEMORY)) {
		vhca_send_done(qp, wr, IB_WC_LOC_PROT_ERR, 0);
		vhca_qp_error(qp, 0);
		return;
	}
	packet.slid = be16_to_cpu(port->end.pi.lid) | wr->av.path_bits;
	packet.dlid = wr->av.dlid;
	packet.sl = wr->av.sl;
	packet.pkey = be16_to_cpu(port->end.pkeys[pkey_index % VHCA_PKEYS]);
	packet.qkey = wr->remote_qkey & IB_QP_SET_QKEY ? qp->attr.qkey : wr->remote_qkey;
	packet.src_qp = qp->ib.qp_num;
	packet.dst_qp = wr->remote_qpn;
	packet.has_imm = wr->opcode == IB_WR_SEND_WITH_IMM;
	packet.imm = wr->ex.imm;
	packet.solicited = wr->flags & IB_SEND_SOLICITED;
	packet.sender = qp;
	if (wr->av.grh)
		make_grh(port, &wr->av, &packet);
	vhca_send_packet(port, &packet);
	vhca_send_done(qp, wr, IB_WC_SUCCESS, len);
}

static void flush(struct vhca_qp *qp, struct vhca_send *wr)
{
	struct ib_wc wc = { .status = IB_WC_WR_FLUSH_ERR, .opcode = IB_WC_RECV };

	if (wr)
		vhca_send_done(qp, wr, IB_WC_WR_FLUSH_ERR, 0);
	/* A shared queue stays for the others. */
	else if (!qp->ib.srq && vhca_recv_next(qp))
		vhca_recv_done(qp, &wc, false);
}

void vhca_qp_work(struct work_struct *work)
{
	struct vhca_qp *qp = container_of(work, struct vhca_qp, work.work);
	long again = -1;
	int turn;

	mutex_lock(&vhca_mutex);
	for (turn = 0; turn < TURN && !qp->dead && again < 0; turn++) {
		struct vhca_send *wr;
		unsigned long flags;

		spin_lock_irqsave(&qp->lock, flags);
		wr = vhca_ring_first(&qp->sq);
		spin_unlock_irqrestore(&qp->lock, flags);
		if (qp->attr.qp_state == IB_QPS_ERR) {
			if (!wr && (qp->ib.srq || !vhca_recv_next(qp)))
				break;
			flush(qp, wr);
		} else if (!wr) {
			break;
		} else if (qp->attr.qp_state == IB_QPS_SQE) {
			flush(qp, wr);
		} else if (qp->attr.qp_state != IB_QPS_RTS) {
			break;
		} else if (qp->ib.qp_type == IB_QPT_RC || qp->ib.qp_type == IB_QPT_UC) {
			again = vhca_rc_run(qp, wr);
		} else {
			send_datagram(qp, wr);
		}
	}
	if (!qp->dead && (again >= 0 || turn == TURN))
		vhca_qp_kick(qp, again >= 0 ? again : 0);
	mutex_unlock(&vhca_mutex);
}
