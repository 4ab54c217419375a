// SPDX-License-Identifier: GPL-2.0
/* Queue pairs, shared receive queues and address handles: made, changed, destroyed. */
#include <linux/slab.h>
#include "vhca.h"

static bool is_special(const struct vhca_qp *qp)
{
	return qp->ib.qp_type == IB_QPT_SMI || qp->ib.qp_type == IB_QPT_GSI;
}

void vhca_qp_kick(struct vhca_qp *qp, unsigned long delay)
{
	mod_delayed_work(vhca_wq, &qp->work, delay);
}

/* Tells the owner of an event that concerns a QP. */
static void qp_event(struct vhca_qp *qp, enum ib_event_type type)
{
	struct ib_event event = {
		.device = qp->ib.device,
		.element.qp = &qp->ib,
		.event = type,
	};

	if (qp->ib.event_handler)
		qp->ib.event_handler(&event, qp->ib.qp_context);
}

/* Both queues are flushed from here on. The worker calls it. */
void vhca_qp_error(struct vhca_qp *qp, enum ib_event_type event)
{
	if (qp->attr.qp_state == IB_QPS_ERR)
		return;
	qp->attr.qp_state = IB_QPS_ERR;
	qp->attr.cur_qp_state = IB_QPS_ERR;
	vhca_qp_kick(qp, 0);
	if (event)
		qp_event(qp, event);
}

static int check_cap(const struct ib_qp_cap *cap, bool srq)
{
	if (cap->max_send_wr > VHCA_MAX_WR || cap->max_send_sge > VHCA_MAX_SGE ||
	    cap->max_inline_data > VHCA_MAX_INLINE)
		return -EINVAL;
	if (!srq && (cap->max_recv_wr > VHCA_MAX_WR || cap->max_recv_sge > VHCA_MAX_SGE))
		return -EINVAL;
	return 0;
}

/* A number, or for SMI and GSI the place at the port. */
static int qp_enter(struct vhca_dev *dev, struct vhca_qp *qp)
{
	struct vhca_qp **special;
	int err = 0;
	u32 qpn;

	mutex_lock(&vhca_mutex);
	if (is_special(qp)) {
		qpn = qp->ib.qp_type == IB_QPT_GSI;
		special = &dev->port[qp->init.port_num - 1].special[qpn];
		if (*special)
			err = -EBUSY;
		else
			*special = qp;
	} else {
		err = xa_alloc_cyclic(&dev->qps, &qpn, qp, XA_LIMIT(0x40, 0xfffffe),
				      &dev->next_qpn, GFP_KERNEL);
	}
	mutex_unlock(&vhca_mutex);
	if (err < 0)
		return err;
	qp->ib.qp_num = qpn;
	return 0;
}

static void qp_leave(struct vhca_dev *dev, struct vhca_qp *qp)
{
	if (is_special(qp))
		dev->port[qp->init.port_num - 1].special[qp->ib.qp_num] = NULL;
	else
		xa_erase(&dev->qps, qp->ib.qp_num);
}

int vhca_create_qp(struct ib_qp *ibqp, struct ib_qp_init_attr *init, struct ib_udata *udata)
{
	struct vhca_dev *dev = to_vdev(ibqp->device);
	struct vhca_qp *qp = to_vqp(ibqp);
	int err;

	switch (init->qp_type) {
	case IB_QPT_SMI:
	case IB_QPT_GSI:
		if (init->port_num < 1 || init->port_num > dev->spec.ports)
			return -EINVAL;
		break;
	case IB_QPT_UD:
	case IB_QPT_RC:
	case IB_QPT_UC:
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (init->create_flags)
		return -EOPNOTSUPP;
	err = check_cap(&init->cap, init->srq);
	if (err)
		return err;
	spin_lock_init(&qp->lock);
	INIT_LIST_HEAD(&qp->mcast);
	INIT_DELAYED_WORK(&qp->work, vhca_qp_work);
	qp->init = *init;
	qp->attr.qp_state = IB_QPS_RESET;
	qp->attr.port_num = init->port_num;
	err = vhca_ring_init(&qp->sq, init->cap.max_send_wr, sizeof(struct vhca_send),
			     init->cap.max_send_sge, init->cap.max_inline_data);
	if (!err && !init->srq)
		err = vhca_ring_init(&qp->rq, init->cap.max_recv_wr, sizeof(struct vhca_recv),
				     init->cap.max_recv_sge, 0);
	if (!err)
		err = qp_enter(dev, qp);
	if (err) {
		vhca_ring_free(&qp->sq);
		vhca_ring_free(&qp->rq);
	}
	return err;
}

int vhca_destroy_qp(struct ib_qp *ibqp, struct ib_udata *udata)
{
	struct vhca_qp *qp = to_vqp(ibqp);
	struct vhca_mcast *group, *next;

	/* From here on the worker neither finds it nor has it in hand. */
	mutex_lock(&vhca_mutex);
	qp->dead = true;
	qp_leave(to_vdev(ibqp->device), qp);
	mutex_unlock(&vhca_mutex);
	cancel_delayed_work_sync(&qp->work);
	if (ibqp->send_cq)
		vhca_cq_forget(to_vcq(ibqp->send_cq), qp);
	if (ibqp->recv_cq)
		vhca_cq_forget(to_vcq(ibqp->recv_cq), qp);
	list_for_each_entry_safe(group, next, &qp->mcast, node)
		kfree(group);
	vhca_ring_free(&qp->sq);
	vhca_ring_free(&qp->rq);
	return 0;
}

static void av_from_attr(struct vhca_av *av, const struct rdma_ah_attr *attr)
{
	memset(av, 0, sizeof(*av));
	av->dlid = rdma_ah_get_dlid(attr);
	av->sl = rdma_ah_get_sl(attr);
	av->path_bits = rdma_ah_get_path_bits(attr);
	av->port = rdma_ah_get_port_num(attr);
	av->grh = rdma_ah_get_ah_flags(attr) & IB_AH_GRH;
	if (av->grh) {
		const struct ib_global_route *grh = rdma_ah_read_grh(attr);

		av->dgid = grh->dgid;
		av->sgid_index = grh->sgid_index;
		av->hop_limit = grh->hop_limit;
		av->traffic_class = grh->traffic_class;
		av->flow_label = grh->flow_label;
	}
}

static void qp_reset(struct vhca_qp *qp)
{
	unsigned long flags;

	spin_lock_irqsave(&qp->lock, flags);
	qp->sq.head = 0;
	qp->sq.tail = 0;
	qp->rq.head = 0;
	qp->rq.tail = 0;
	spin_unlock_irqrestore(&qp->lock, flags);
	qp->tries = 0;
	if (qp->ib.send_cq)
		vhca_cq_forget(to_vcq(qp->ib.send_cq), qp);
	if (qp->ib.recv_cq)
		vhca_cq_forget(to_vcq(qp->ib.recv_cq), qp);
}

int vhca_modify_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask, struct ib_udata *udata)
{
	struct vhca_dev *dev = to_vdev(ibqp->device);
	struct vhca_qp *qp = to_vqp(ibqp);
	enum ib_qp_state from, to;
	int err = 0;

	if (mask & ~IB_QP_ATTR_STANDARD_BITS)
		return -EOPNOTSUPP;
	mutex_lock(&vhca_mutex);
	from = mask & IB_QP_CUR_STATE ? attr->cur_qp_state : qp->attr.qp_state;
	to = mask & IB_QP_STATE ? attr->qp_state : from;
	if (!ib_modify_qp_is_ok(from, to, ibqp->qp_type, mask) ||
	    (mask & IB_QP_PORT && (attr->port_num < 1 || attr->port_num > dev->spec.ports)) ||
	    (mask & IB_QP_PKEY_INDEX && attr->pkey_index >= VHCA_PKEYS)) {
		err = -EINVAL;
		goto out;
	}
#define TAKE(bit, field) do { if (mask & (bit)) qp->attr.field = attr->field; } while (0)
	TAKE(IB_QP_PKEY_INDEX, pkey_index);
	TAKE(IB_QP_PORT, port_num);
	TAKE(IB_QP_QKEY, qkey);
	TAKE(IB_QP_ACCESS_FLAGS, qp_access_flags);
	TAKE(IB_QP_PATH_MTU, path_mtu);
	TAKE(IB_QP_TIMEOUT, timeout);
	TAKE(IB_QP_RETRY_CNT, retry_cnt);
	TAKE(IB_QP_RNR_RETRY, rnr_retry);
	TAKE(IB_QP_RQ_PSN, rq_psn);
	TAKE(IB_QP_SQ_PSN, sq_psn);
	TAKE(IB_QP_MAX_QP_RD_ATOMIC, max_rd_atomic);
	TAKE(IB_QP_MAX_DEST_RD_ATOMIC, max_dest_rd_atomic);
	TAKE(IB_QP_MIN_RNR_TIMER, min_rnr_timer);
	TAKE(IB_QP_DEST_QPN, dest_qp_num);
	TAKE(IB_QP_EN_SQD_ASYNC_NOTIFY, en_sqd_async_notify);
	TAKE(IB_QP_PATH_MIG_STATE, path_mig_state);
	TAKE(IB_QP_AV, ah_attr);
#undef TAKE
	if (mask & IB_QP_AV)
		av_from_attr(&qp->av, &attr->ah_attr);
	qp->attr.qp_state = to;
	qp->attr.cur_qp_state = to;
	if (to == IB_QPS_RESET)
		qp_reset(qp);
	vhca_qp_kick(qp, 0);
out:
	mutex_unlock(&vhca_mutex);
	return err;
}

int vhca_query_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		  struct ib_qp_init_attr *init)
{
	struct vhca_qp *qp = to_vqp(ibqp);

	mutex_lock(&vhca_mutex);
	*attr = qp->attr;
	attr->cap = qp->init.cap;
	*init = qp->init;
	mutex_unlock(&vhca_mutex);
	return 0;
}

int vhca_attach_mcast(struct ib_qp *ibqp, union ib_gid *gid, u16 lid)
{
	struct vhca_qp *qp = to_vqp(ibqp);
	struct vhca_mcast *group = kzalloc(sizeof(*group), GFP_KERNEL);

	if (!group)
		return -ENOMEM;
	group->gid = *gid;
	group->lid = lid;
	mutex_lock(&vhca_mutex);
	list_add_tail(&group->node, &qp->mcast);
	mutex_unlock(&vhca_mutex);
	return 0;
}

int vhca_detach_mcast(struct ib_qp *ibqp, union ib_gid *gid, u16 lid)
{
	struct vhca_qp *qp = to_vqp(ibqp);
	struct vhca_mcast *group;
	int err = -EINVAL;

	mutex_lock(&vhca_mutex);
	list_for_each_entry(group, &qp->mcast, node) {
		if (group->lid == lid && !memcmp(&group->gid, gid, sizeof(*gid))) {
			list_del(&group->node);
			kfree(group);
			err = 0;
			break;
		}
	}
	mutex_unlock(&vhca_mutex);
	return err;
}

int vhca_create_ah(struct ib_ah *ibah, struct rdma_ah_init_attr *init, struct ib_udata *udata)
{
	const struct rdma_ah_attr *attr = init->ah_attr;

	if (rdma_ah_get_ah_flags(attr) & IB_AH_GRH &&
	    rdma_ah_read_grh(attr)->sgid_index >= VHCA_GUIDS)
		return -EINVAL;
	av_from_attr(&to_vah(ibah)->av, attr);
	return 0;
}

int vhca_query_ah(struct ib_ah *ibah, struct rdma_ah_attr *attr)
{
	const struct vhca_av *av = &to_vah(ibah)->av;

	memset(attr, 0, sizeof(*attr));
	attr->type = RDMA_AH_ATTR_TYPE_IB;
	rdma_ah_set_dlid(attr, av->dlid);
	rdma_ah_set_sl(attr, av->sl);
	rdma_ah_set_path_bits(attr, av->path_bits);
	rdma_ah_set_port_num(attr, av->port);
	if (av->grh) {
		rdma_ah_set_grh(attr, NULL, av->flow_label, av->sgid_index, av->hop_limit,
				av->traffic_class);
		rdma_ah_set_dgid_raw(attr, (void *)&av->dgid);
	}
	return 0;
}

int vhca_destroy_ah(struct ib_ah *ibah, u32 flags)
{
	return 0;
}

int vhca_create_srq(struct ib_srq *ibsrq, struct ib_srq_init_attr *init, struct ib_udata *udata)
{
	struct vhca_srq *srq = to_vsrq(ibsrq);

	if (init->srq_type != IB_SRQT_BASIC)
		return -EOPNOTSUPP;
	if (init->attr.max_wr < 1 || init->attr.max_wr > VHCA_MAX_WR ||
	    init->attr.max_sge > VHCA_MAX_SGE)
		return -EINVAL;
	spin_lock_init(&srq->lock);
	return vhca_ring_init(&srq->rq, init->attr.max_wr, sizeof(struct vhca_recv),
			      init->attr.max_sge, 0);
}

int vhca_modify_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr, enum ib_srq_attr_mask mask,
		    struct ib_udata *udata)
{
	struct vhca_srq *srq = to_vsrq(ibsrq);

	if (mask & IB_SRQ_MAX_WR)
		return -EOPNOTSUPP;
	spin_lock_irq(&srq->lock);
	if (mask & IB_SRQ_LIMIT)
		srq->limit = attr->srq_limit;
	spin_unlock_irq(&srq->lock);
	return 0;
}

int vhca_query_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr)
{
	struct vhca_srq *srq = to_vsrq(ibsrq);

	attr->max_wr = srq->rq.size - 1;
	attr->max_sge = srq->rq.max_sge;
	attr->srq_limit = srq->limit;
	return 0;
}

int vhca_destroy_srq(struct ib_srq *ibsrq, struct ib_udata *udata)
{
	vhca_ring_free(&to_vsrq(ibsrq)->rq);
	return 0;
}
