// SPDX-License-Identifier: GPL-2.0
/*
 * Work requests on their way in: copied to a ring, for the worker to do. Never
 * more than that, as consumers post with locks held.
 */
#include <linux/uaccess.h>
#include "vhca.h"

/* Inline data is taken now; a user's lies in the memory of who is posting. */
static int take_inline(struct vhca_qp *qp, const struct ib_send_wr *wr, u8 *to)
{
	int i;

	if (vhca_sge_length(wr->sg_list, wr->num_sge) > qp->init.cap.max_inline_data)
		return -EINVAL;
	for (i = 0; i < wr->num_sge; i++) {
		const struct ib_sge *sge = &wr->sg_list[i];

		if (!qp->ib.uobject)
			memcpy(to, (void *)(uintptr_t)sge->addr, sge->length);
		else if (copy_from_user(to, u64_to_user_ptr(sge->addr), sge->length))
			return -EFAULT;
		to += sge->length;
	}
	return 0;
}

static int take_datagram(struct vhca_qp *qp, struct vhca_send *to, const struct ib_send_wr *wr)
{
	/* ib_drain_qp() posts a write, which is only ever flushed. */
	if (wr->opcode != IB_WR_SEND && wr->opcode != IB_WR_SEND_WITH_IMM)
		return qp->attr.qp_state == IB_QPS_ERR ? 0 : -EINVAL;
	if (!ud_wr(wr)->ah)
		return -EINVAL;
	to->av = to_vah(ud_wr(wr)->ah)->av;
	to->remote_qpn = ud_wr(wr)->remote_qpn;
	to->remote_qkey = ud_wr(wr)->remote_qkey;
	to->pkey_index = ud_wr(wr)->pkey_index;
	return 0;
}

static int take_connected(struct vhca_send *to, const struct ib_send_wr *wr)
{
	switch (wr->opcode) {
	case IB_WR_RDMA_READ:
	case IB_WR_RDMA_WRITE:
	case IB_WR_RDMA_WRITE_WITH_IMM:
		to->remote_addr = rdma_wr(wr)->remote_addr;
		to->rkey = rdma_wr(wr)->rkey;
		return 0;
	case IB_WR_ATOMIC_CMP_AND_SWP:
	case IB_WR_ATOMIC_FETCH_AND_ADD:
		to->remote_addr = atomic_wr(wr)->remote_addr;
		to->rkey = atomic_wr(wr)->rkey;
		to->compare_add = atomic_wr(wr)->compare_add;
		to->swap = atomic_wr(wr)->swap;
		return 0;
	case IB_WR_REG_MR:
		to->mr = to_vmr(reg_wr(wr)->mr);
		to->key = reg_wr(wr)->key;
		to->access = reg_wr(wr)->access;
		return 0;
	case IB_WR_SEND:
	case IB_WR_SEND_WITH_IMM:
	case IB_WR_SEND_WITH_INV:
	case IB_WR_LOCAL_INV:
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static int take_send(struct vhca_qp *qp, const struct ib_send_wr *wr, const u8 *inline_data)
{
	struct vhca_send *to = vhca_ring_slot(&qp->sq);
	int err;

	if (qp->attr.qp_state < IB_QPS_RTS || wr->num_sge < 0 || wr->num_sge > qp->sq.max_sge)
		return -EINVAL;
	if (!to)
		return -ENOMEM;
	memset(to, 0, sizeof(*to));
	to->wr_id = wr->wr_id;
	to->opcode = wr->opcode;
	to->flags = wr->send_flags;
	to->ex.imm = wr->ex.imm_data;
	to->num_sge = wr->num_sge;
	memcpy(to->sge, wr->sg_list, wr->num_sge * sizeof(*to->sge));
	if (wr->send_flags & IB_SEND_INLINE) {
		to->inline_len = vhca_sge_length(wr->sg_list, wr->num_sge);
		memcpy(&to->sge[qp->sq.max_sge], inline_data, to->inline_len);
	}
	if (qp->ib.qp_type == IB_QPT_RC || qp->ib.qp_type == IB_QPT_UC)
		err = take_connected(to, wr);
	else
		err = take_datagram(qp, to, wr);
	if (!err)
		vhca_ring_commit(&qp->sq);
	return err;
}

int vhca_post_send(struct ib_qp *ibqp, const struct ib_send_wr *wr, const struct ib_send_wr **bad)
{
	struct vhca_qp *qp = to_vqp(ibqp);
	u8 inline_data[VHCA_MAX_INLINE];
	unsigned long flags;
	int err = 0;

	for (; wr; wr = wr->next) {
		if (wr->send_flags & IB_SEND_INLINE)
			err = take_inline(qp, wr, inline_data);
		if (!err) {
			spin_lock_irqsave(&qp->lock, flags);
			err = take_send(qp, wr, inline_data);
			spin_unlock_irqrestore(&qp->lock, flags);
		}
		if (err) {
			*bad = wr;
			break;
		}
	}
	vhca_qp_kick(qp, 0);
	return err;
}

static int take_recv(struct vhca_ring *ring, const struct ib_recv_wr *wr)
{
	struct vhca_recv *slot;

	if (wr->num_sge < 0 || wr->num_sge > ring->max_sge)
		return -EINVAL;
	slot = vhca_ring_slot(ring);
	if (!slot)
		return -ENOMEM;
	slot->wr_id = wr->wr_id;
	slot->num_sge = wr->num_sge;
	memcpy(slot->sge, wr->sg_list, wr->num_sge * sizeof(*slot->sge));
	vhca_ring_commit(ring);
	return 0;
}

int vhca_post_recv(struct ib_qp *ibqp, const struct ib_recv_wr *wr, const struct ib_recv_wr **bad)
{
	struct vhca_qp *qp = to_vqp(ibqp);
	unsigned long flags;
	int err = 0;

	spin_lock_irqsave(&qp->lock, flags);
	for (; wr; wr = wr->next) {
		err = qp->attr.qp_state == IB_QPS_RESET || ibqp->srq ? -EINVAL :
			take_recv(&qp->rq, wr);
		if (err) {
			*bad = wr;
			break;
		}
	}
	spin_unlock_irqrestore(&qp->lock, flags);
	/* To be flushed. */
	if (qp->attr.qp_state == IB_QPS_ERR)
		vhca_qp_kick(qp, 0);
	return err;
}

int vhca_post_srq_recv(struct ib_srq *ibsrq, const struct ib_recv_wr *wr,
		       const struct ib_recv_wr **bad)
{
	struct vhca_srq *srq = to_vsrq(ibsrq);
	unsigned long flags;
	int err = 0;

	spin_lock_irqsave(&srq->lock, flags);
	for (; wr; wr = wr->next) {
		err = take_recv(&srq->rq, wr);
		if (err) {
			*bad = wr;
			break;
		}
	}
	spin_unlock_irqrestore(&srq->lock, flags);
	return err;
}
