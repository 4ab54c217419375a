// SPDX-License-Identifier: GPL-2.0
/* Rings of work requests. */
#include <linux/mm.h>
#include <linux/slab.h>
#include "vhca.h"

int vhca_ring_init(struct vhca_ring *ring, u32 count, u32 header, u32 max_sge, u32 extra)
{
	ring->size = count + 1;
	ring->max_sge = max_sge;
	ring->stride = ALIGN(header + max_sge * sizeof(struct ib_sge) + extra, 8);
	ring->slots = kvcalloc(ring->size, ring->stride, GFP_KERNEL);
	return ring->slots ? 0 : -ENOMEM;
}

void vhca_ring_free(struct vhca_ring *ring)
{
	kvfree(ring->slots);
	ring->slots = NULL;
}

static u32 next(const struct vhca_ring *ring, u32 at)
{
	return at + 1 == ring->size ? 0 : at + 1;
}

/* The slot that vhca_ring_commit() will add, or NULL when the ring is full. */
void *vhca_ring_slot(struct vhca_ring *ring)
{
	if (!ring->slots || next(ring, ring->head) == ring->tail)
		return NULL;
	return ring->slots + (size_t)ring->head * ring->stride;
}

void vhca_ring_commit(struct vhca_ring *ring)
{
	ring->head = next(ring, ring->head);
}

/* The oldest, or NULL. It stays until vhca_ring_drop(). */
void *vhca_ring_first(struct vhca_ring *ring)
{
	return ring->head == ring->tail ? NULL : ring->slots + (size_t)ring->tail * ring->stride;
}

void vhca_ring_drop(struct vhca_ring *ring)
{
	ring->tail = next(ring, ring->tail);
}
