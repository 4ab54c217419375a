// SPDX-License-Identifier: GPL-2.0
/*
 * Connected QPs. There are no packets and no sequence numbers: the worker takes
 * a request, finds the peer as the switch would, and copies from memory to memory.
 */
#include "vhca.h"

#define RETRY_DELAY	msecs_to_jiffies(250)

static u8 bounce[65536];	/* vhca_mutex */

static bool connected(const struct vhca_qp *qp)
{
	return qp->attr.qp_state == IB_QPS_RTR || qp->attr.qp_state == IB_QPS_RTS ||
	       qp->attr.qp_state == IB_QPS_SQD;
}

static struct vhca_port *qp_port(struct vhca_qp *qp)
{
	return &to_vdev(qp->ib.device)->port[qp->attr.port_num - 1];
}

static u16 qp_pkey(struct vhca_qp *qp)
{
	return be16_to_cpu(qp_port(qp)->end.pkeys[qp->attr.pkey_index]);
}

/* The QP at the other end, when a packet would reach it. */
static struct vhca_qp *find_peer(struct vhca_qp *qp)
{
	struct vhca_port *port = vhca_resolve(qp_port(qp), qp->av.dlid);
	struct vhca_qp *peer;

	if (!port)
		return NULL;
	peer = xa_load(&port->dev->qps, qp->attr.dest_qp_num);
	if (!peer || peer->ib.qp_type != qp->ib.qp_type || !connected(peer) ||
	    peer->attr.port_num != port->end.num || peer->attr.dest_qp_num != qp->ib.qp_num ||
	    !vhca_pkeys_match(qp_pkey(qp), qp_pkey(peer)))
		return NULL;
	return peer;
}

static void event(struct vhca_qp *qp, enum ib_event_type type)
{
	struct ib_event ev = { .device = qp->ib.device, .element.qp = &qp->ib, .event = type };

	if (qp->ib.event_handler)
		qp->ib.event_handler(&ev, qp->ib.qp_context);
}

/* The request has failed, and with it the QP. */
static long fail(struct vhca_qp *qp, struct vhca_send *wr, enum ib_wc_status status)
{
	vhca_send_done(qp, wr, status, 0);
	vhca_qp_error(qp, 0);
	return -1;
}

/* The peer refuses: both QPs fail. */
static long refuse(struct vhca_qp *qp, struct vhca_send *wr, struct vhca_qp *peer,
		   enum ib_wc_status status, enum ib_event_type why)
{
	vhca_qp_error(peer, why);
	if (qp->ib.qp_type == IB_QPT_UC) {
		vhca_send_done(qp, wr, IB_WC_SUCCESS, 0);
		return -1;
	}
	return fail(qp, wr, status);
}

/* Nobody answers. */
static long unanswered(struct vhca_qp *qp, struct vhca_send *wr)
{
	if (qp->ib.qp_type == IB_QPT_UC) {
		vhca_send_done(qp, wr, IB_WC_SUCCESS, 0);
		return -1;
	}
	if (qp->tries++ < 1 + qp->attr.retry_cnt)
		return RETRY_DELAY;
	return fail(qp, wr, IB_WC_RETRY_EXC_ERR);
}

/* The peer has no receive request. */
static long not_ready(struct vhca_qp *qp, struct vhca_send *wr)
{
	if (qp->ib.qp_type == IB_QPT_UC) {
		vhca_send_done(qp, wr, IB_WC_SUCCESS, 0);
		return -1;
	}
	if (qp->attr.rnr_retry == 7 || qp->tries++ < qp->attr.rnr_retry)
		return 1;
	return fail(qp, wr, IB_WC_RNR_RETRY_EXC_ERR);
}

/* Bytes of the message from skip on. */
static int gather(struct vhca_qp *qp, struct vhca_send *wr, u32 skip, u32 len)
{
	if (wr->flags & IB_SEND_INLINE) {
		memcpy(bounce, (u8 *)&wr->sge[qp->sq.max_sge] + skip, len);
		return 0;
	}
	return vhca_copy_sges(qp->ib.pd, wr->sge, wr->num_sge, skip, bounce, len,
			      VHCA_FROM_MEMORY);
}

static long run_send(struct vhca_qp *qp, struct vhca_send *wr, struct vhca_qp *peer, u64 len)
{
	struct ib_wc wc = {
		.opcode = IB_WC_RECV,
		.byte_len = len,
		.src_qp = qp->ib.qp_num,
		.slid = be16_to_cpu(qp_port(qp)->end.pi.lid),
		.sl = qp->av.sl,
		.port_num = peer->attr.port_num,
	};
	struct vhca_recv *to = vhca_recv_next(peer);
	u64 done = 0;
	u32 part;

	if (!to)
		return not_ready(qp, wr);
	if (len > vhca_sge_length(to->sge, to->num_sge)) {
		wc.status = IB_WC_LOC_LEN_ERR;
		vhca_recv_done(peer, &wc, false);
		return refuse(qp, wr, peer, IB_WC_REM_INV_REQ_ERR, IB_EVENT_QP_REQ_ERR);
	}
	for (; done < len; done += part) {
		part = min_t(u64, len - done, sizeof(bounce));
		if (gather(qp, wr, done, part))
			return fail(qp, wr, IB_WC_LOC_PROT_ERR);
		if (vhca_copy_sges(peer->ib.pd, to->sge, to->num_sge, done, bounce, part,
				   VHCA_TO_MEMORY)) {
			wc.status = IB_WC_LOC_PROT_ERR;
			vhca_recv_done(peer, &wc, false);
			return refuse(qp, wr, peer, IB_WC_REM_OP_ERR, IB_EVENT_QP_FATAL);
		}
	}
	if (wr->opcode == IB_WR_SEND_WITH_IMM) {
		wc.wc_flags = IB_WC_WITH_IMM;
		wc.ex.imm_data = wr->ex.imm;
	} else if (wr->opcode == IB_WR_SEND_WITH_INV) {
		if (vhca_invalidate(peer->ib.pd, wr->ex.invalidate_rkey))
			return refuse(qp, wr, peer, IB_WC_REM_INV_REQ_ERR,
				      IB_EVENT_QP_ACCESS_ERR);
		wc.wc_flags = IB_WC_WITH_INVALIDATE;
		wc.ex.invalidate_rkey = wr->ex.invalidate_rkey;
	}
	vhca_recv_done(peer, &wc, wr->flags & IB_SEND_SOLICITED);
	vhca_send_done(qp, wr, IB_WC_SUCCESS, len);
	return -1;
}

static long run_write(struct vhca_qp *qp, struct vhca_send *wr, struct vhca_qp *peer, u64 len)
{
	struct ib_wc wc = {
		.opcode = IB_WC_RECV_RDMA_WITH_IMM,
		.byte_len = len,
		.src_qp = qp->ib.qp_num,
		.slid = be16_to_cpu(qp_port(qp)->end.pi.lid),
		.sl = qp->av.sl,
		.wc_flags = IB_WC_WITH_IMM,
		.ex.imm_data = wr->ex.imm,
		.port_num = peer->attr.port_num,
	};
	bool imm = wr->opcode == IB_WR_RDMA_WRITE_WITH_IMM;
	u64 done = 0;
	u32 part;

	if (imm && !vhca_recv_next(peer))
		return not_ready(qp, wr);
	if (!(peer->attr.qp_access_flags & IB_ACCESS_REMOTE_WRITE))
		return refuse(qp, wr, peer, IB_WC_REM_ACCESS_ERR, IB_EVENT_QP_ACCESS_ERR);
	for (; done < len; done += part) {
		part = min_t(u64, len - done, sizeof(bounce));
		if (gather(qp, wr, done, part))
			return fail(qp, wr, IB_WC_LOC_PROT_ERR);
		if (vhca_copy(peer->ib.pd, wr->rkey, wr->remote_addr + done, bounce, part,
			      IB_ACCESS_REMOTE_WRITE, VHCA_TO_MEMORY))
			return refuse(qp, wr, peer, IB_WC_REM_ACCESS_ERR, IB_EVENT_QP_ACCESS_ERR);
	}
	if (imm)
		vhca_recv_done(peer, &wc, wr->flags & IB_SEND_SOLICITED);
	vhca_send_done(qp, wr, IB_WC_SUCCESS, len);
	return -1;
}

static long run_read(struct vhca_qp *qp, struct vhca_send *wr, struct vhca_qp *peer, u64 len)
{
	u64 done = 0;
	u32 part;

	if (!(peer->attr.qp_access_flags & IB_ACCESS_REMOTE_READ))
		return refuse(qp, wr, peer, IB_WC_REM_ACCESS_ERR, IB_EVENT_QP_ACCESS_ERR);
	for (; done < len; done += part) {
		part = min_t(u64, len - done, sizeof(bounce));
		if (vhca_copy(peer->ib.pd, wr->rkey, wr->remote_addr + done, bounce, part,
			      IB_ACCESS_REMOTE_READ, VHCA_FROM_MEMORY))
			return refuse(qp, wr, peer, IB_WC_REM_ACCESS_ERR, IB_EVENT_QP_ACCESS_ERR);
		if (vhca_copy_sges(qp->ib.pd, wr->sge, wr->num_sge, done, bounce, part,
				   VHCA_TO_MEMORY))
			return fail(qp, wr, IB_WC_LOC_PROT_ERR);
	}
	vhca_send_done(qp, wr, IB_WC_SUCCESS, len);
	return -1;
}

static long run_atomic(struct vhca_qp *qp, struct vhca_send *wr, struct vhca_qp *peer)
{
	struct ib_pd *pd = peer->ib.pd;
	u64 old, new;

	if (!(peer->attr.qp_access_flags & IB_ACCESS_REMOTE_ATOMIC) ||
	    vhca_copy(pd, wr->rkey, wr->remote_addr, &old, sizeof(old), IB_ACCESS_REMOTE_ATOMIC,
		      VHCA_FROM_MEMORY))
		return refuse(qp, wr, peer, IB_WC_REM_ACCESS_ERR, IB_EVENT_QP_ACCESS_ERR);
	if (wr->remote_addr % sizeof(old))
		return refuse(qp, wr, peer, IB_WC_REM_INV_REQ_ERR, IB_EVENT_QP_REQ_ERR);
	if (wr->opcode == IB_WR_ATOMIC_FETCH_AND_ADD)
		new = old + wr->compare_add;
	else
		new = old == wr->compare_add ? wr->swap : old;
	vhca_copy(pd, wr->rkey, wr->remote_addr, &new, sizeof(new), IB_ACCESS_REMOTE_ATOMIC,
		  VHCA_TO_MEMORY);
	if (vhca_copy_sges(qp->ib.pd, wr->sge, wr->num_sge, 0, &old, sizeof(old), VHCA_TO_MEMORY))
		return fail(qp, wr, IB_WC_LOC_PROT_ERR);
	vhca_send_done(qp, wr, IB_WC_SUCCESS, sizeof(old));
	return -1;
}

static long run_local(struct vhca_qp *qp, struct vhca_send *wr)
{
	if (wr->opcode == IB_WR_LOCAL_INV) {
		if (vhca_invalidate(qp->ib.pd, wr->ex.invalidate_rkey))
			return fail(qp, wr, IB_WC_LOC_PROT_ERR);
	} else {
		wr->mr->key = wr->key;
		wr->mr->access = wr->access;
		wr->mr->valid = true;
	}
	vhca_send_done(qp, wr, IB_WC_SUCCESS, 0);
	return -1;
}

/**
 * vhca_rc_run - does the oldest send request of a connected QP
 *
 * Return: -1 when it is done, well or not; else after how many jiffies to try again.
 */
long vhca_rc_run(struct vhca_qp *qp, struct vhca_send *wr)
{
	u64 len = wr->flags & IB_SEND_INLINE ? wr->inline_len :
		  vhca_sge_length(wr->sge, wr->num_sge);
	struct vhca_qp *peer;

	if (wr->opcode == IB_WR_LOCAL_INV || wr->opcode == IB_WR_REG_MR)
		return run_local(qp, wr);
	peer = find_peer(qp);
	if (!peer)
		return unanswered(qp, wr);
	if (peer->attr.qp_state == IB_QPS_RTR && !peer->established) {
		peer->established = true;
		event(peer, IB_EVENT_COMM_EST);
	}
	switch (wr->opcode) {
	case IB_WR_SEND:
	case IB_WR_SEND_WITH_IMM:
	case IB_WR_SEND_WITH_INV:
		return run_send(qp, wr, peer, len);
	case IB_WR_RDMA_WRITE:
	case IB_WR_RDMA_WRITE_WITH_IMM:
		return run_write(qp, wr, peer, len);
	case IB_WR_RDMA_READ:
		return run_read(qp, wr, peer, len);
	default:
		return run_atomic(qp, wr, peer);
	}
}
