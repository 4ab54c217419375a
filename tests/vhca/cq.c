// SPDX-License-Identifier: GPL-2.0
/* Completion queues. */
#include <linux/mm.h>
#include <linux/slab.h>
#include "vhca.h"

static u32 next(const struct vhca_cq *cq, u32 at)
{
	return at + 1 == cq->size ? 0 : at + 1;
}

int vhca_create_cq(struct ib_cq *ibcq, const struct ib_cq_init_attr *attr,
		   struct vhca_cq_udata *udata)
{
	struct vhca_cq *cq = to_vcq(ibcq);

	if (attr->flags || attr->cqe < 1 || attr->cqe > VHCA_MAX_CQE)
		return -EINVAL;
	spin_lock_init(&cq->lock);
	cq->size = attr->cqe + 1;
	cq->ring = kvcalloc(cq->size, sizeof(*cq->ring), GFP_KERNEL);
	if (!cq->ring)
		return -ENOMEM;
	ibcq->cqe = attr->cqe;
	return 0;
}

int vhca_destroy_cq(struct ib_cq *ibcq, struct ib_udata *udata)
{
	kvfree(to_vcq(ibcq)->ring);
	return 0;
}

/*
 * Interrupt moderation: allowed, and without effect, as there are no
 * interrupts. The core asks only drivers that have this for adaptive
 * moderation.
 */
int vhca_modify_cq(struct ib_cq *ibcq, u16 count, u16 usec)
{
	return 0;
}

int vhca_resize_cq(struct ib_cq *ibcq, int cqe, struct ib_udata *udata)
{
	struct vhca_cq *cq = to_vcq(ibcq);
	struct ib_wc *ring, *old;
	u32 n = 0;

	if (cqe < 1 || cqe > VHCA_MAX_CQE)
		return -EINVAL;
	ring = kvcalloc(cqe + 1, sizeof(*ring), GFP_KERNEL);
	if (!ring)
		return -ENOMEM;
	spin_lock_irq(&cq->lock);
	old = cq->ring;
	if ((cq->head + cq->size - cq->tail) % cq->size > cqe) {
		spin_unlock_irq(&cq->lock);
		kvfree(ring);
		return -EINVAL;
	}
	for (; cq->tail != cq->head; cq->tail = next(cq, cq->tail))
		ring[n++] = old[cq->tail];
	cq->ring = ring;
	cq->size = cqe + 1;
	cq->tail = 0;
	cq->head = n;
	ibcq->cqe = cqe;
	spin_unlock_irq(&cq->lock);
	kvfree(old);
	return 0;
}

int vhca_poll_cq(struct ib_cq *ibcq, int n, struct ib_wc *wc)
{
	struct vhca_cq *cq = to_vcq(ibcq);
	unsigned long flags;
	int i;

	spin_lock_irqsave(&cq->lock, flags);
	for (i = 0; i < n && cq->tail != cq->head; i++) {
		wc[i] = cq->ring[cq->tail];
		cq->tail = next(cq, cq->tail);
	}
	spin_unlock_irqrestore(&cq->lock, flags);
	return i;
}

int vhca_peek_cq(struct ib_cq *ibcq, int n)
{
	struct vhca_cq *cq = to_vcq(ibcq);
	unsigned long flags;
	int there;

	spin_lock_irqsave(&cq->lock, flags);
	there = (cq->head + cq->size - cq->tail) % cq->size;
	spin_unlock_irqrestore(&cq->lock, flags);
	return min(there, n);
}

int vhca_req_notify_cq(struct ib_cq *ibcq, enum ib_cq_notify_flags flags)
{
	struct vhca_cq *cq = to_vcq(ibcq);
	unsigned long irq;
	int missed;

	spin_lock_irqsave(&cq->lock, irq);
	if (cq->armed != IB_CQ_NEXT_COMP)
		cq->armed = flags & IB_CQ_SOLICITED_MASK;
	missed = flags & IB_CQ_REPORT_MISSED_EVENTS && cq->head != cq->tail;
	spin_unlock_irqrestore(&cq->lock, irq);
	return missed;
}

/*
 * Adds a completion and calls its owner. Only the worker may: consumers hold
 * locks around their posts that their handlers take.
 */
void vhca_complete(struct vhca_cq *cq, const struct ib_wc *wc, bool solicited)
{
	bool call = false, overrun = false;
	unsigned long flags;

	spin_lock_irqsave(&cq->lock, flags);
	if (next(cq, cq->head) == cq->tail) {
		overrun = !cq->full;
		cq->full = true;
	} else {
		cq->ring[cq->head] = *wc;
		cq->head = next(cq, cq->head);
		call = cq->armed == IB_CQ_NEXT_COMP ||
		       (cq->armed == IB_CQ_SOLICITED &&
			(solicited || wc->status != IB_WC_SUCCESS));
		if (call)
			cq->armed = 0;
	}
	spin_unlock_irqrestore(&cq->lock, flags);
	if (overrun && cq->ib.event_handler) {
		struct ib_event event = {
			.device = cq->ib.device,
			.element.cq = &cq->ib,
			.event = IB_EVENT_CQ_ERR,
		};

		cq->ib.event_handler(&event, cq->ib.cq_context);
	}
	if (call) {
		/* As from an interrupt: NAPI and tasklets are among the consumers. */
		local_bh_disable();
		cq->ib.comp_handler(&cq->ib, cq->ib.cq_context);
		local_bh_enable();
	}
}

/* Completions lead to their QP: none may stay when it goes. */
void vhca_cq_forget(struct vhca_cq *cq, struct vhca_qp *qp)
{
	unsigned long flags;
	u32 from, to;

	spin_lock_irqsave(&cq->lock, flags);
	for (from = to = cq->tail; from != cq->head; from = next(cq, from)) {
		if (cq->ring[from].qp == &qp->ib)
			continue;
		cq->ring[to] = cq->ring[from];
		to = next(cq, to);
	}
	cq->head = to;
	spin_unlock_irqrestore(&cq->lock, flags);
}
