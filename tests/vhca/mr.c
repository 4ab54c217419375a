// SPDX-License-Identifier: GPL-2.0
/*
 * Memory regions. The device has no DMA of its own ("virtual DMA"): addresses
 * from consumers in the kernel are the kernel's, and user memory is mapped once
 * when it is registered. So all data moves by memcpy.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <rdma/ib_umem.h>
#include "vhca.h"

static struct vhca_mr *mr_new(struct ib_pd *pd, int access)
{
	struct vhca_dev *dev = to_vdev(pd->device);
	struct vhca_mr *mr = kzalloc(sizeof(*mr), GFP_KERNEL);
	u32 index;
	int err;

	if (!mr)
		return ERR_PTR(-ENOMEM);
	mr->access = access;
	mr->ib.pd = pd;
	mutex_lock(&vhca_mutex);
	err = xa_alloc_cyclic(&dev->mrs, &index, mr, XA_LIMIT(1, 0xffffff), &dev->next_mr,
			      GFP_KERNEL);
	mutex_unlock(&vhca_mutex);
	if (err < 0) {
		kfree(mr);
		return ERR_PTR(err);
	}
	mr->key = index << 8;
	mr->ib.lkey = mr->key;
	mr->ib.rkey = mr->key;
	return mr;
}

int vhca_dereg_mr(struct ib_mr *ibmr, struct ib_udata *udata)
{
	struct vhca_mr *mr = to_vmr(ibmr);
	struct vhca_dev *dev = to_vdev(ibmr->pd->device);

	/* When this is done no copy is under way. */
	mutex_lock(&vhca_mutex);
	xa_erase(&dev->mrs, mr->key >> 8);
	mutex_unlock(&vhca_mutex);
	if (mr->base)
		vunmap(mr->base);
	if (mr->umem)
		ib_umem_release(mr->umem);
	kvfree(mr->pages);
	kfree(mr);
	return 0;
}

struct ib_mr *vhca_get_dma_mr(struct ib_pd *pd, int access)
{
	struct vhca_mr *mr = mr_new(pd, access);

	if (IS_ERR(mr))
		return ERR_CAST(mr);
	mr->dma = true;
	mr->valid = true;
	return &mr->ib;
}

struct ib_mr *vhca_reg_user_mr(struct ib_pd *pd, u64 start, u64 length, u64 iova, int access,
			       struct ib_udata *udata)
{
	struct sg_page_iter iter;
	struct page **pages;
	struct vhca_mr *mr;
	size_t n, i = 0;
	int err;

	mr = mr_new(pd, access);
	if (IS_ERR(mr))
		return ERR_CAST(mr);
	mr->umem = ib_umem_get(pd->device, start, length, access);
	if (IS_ERR(mr->umem)) {
		err = PTR_ERR(mr->umem);
		mr->umem = NULL;
		goto free;
	}
	n = ib_umem_num_pages(mr->umem);
	pages = kvmalloc_array(n, sizeof(*pages), GFP_KERNEL);
	if (!pages) {
		err = -ENOMEM;
		goto free;
	}
	for_each_sgtable_page(&mr->umem->sgt_append.sgt, &iter, 0)
		if (i < n)
			pages[i++] = sg_page_iter_page(&iter);
	mr->base = vmap(pages, i, VM_MAP, PAGE_KERNEL);
	kvfree(pages);
	if (!mr->base) {
		err = -ENOMEM;
		goto free;
	}
	mr->ib.iova = iova;
	mr->ib.length = length;
	mutex_lock(&vhca_mutex);
	mr->valid = true;
	mutex_unlock(&vhca_mutex);
	return &mr->ib;
free:
	vhca_dereg_mr(&mr->ib, udata);
	return ERR_PTR(err);
}

struct ib_mr *vhca_alloc_mr(struct ib_pd *pd, enum ib_mr_type type, u32 max_sg)
{
	struct vhca_mr *mr;

	if (type != IB_MR_TYPE_MEM_REG)
		return ERR_PTR(-EOPNOTSUPP);
	mr = mr_new(pd, 0);
	if (IS_ERR(mr))
		return ERR_CAST(mr);
	mr->pages = kvcalloc(max_sg, sizeof(*mr->pages), GFP_KERNEL);
	if (!mr->pages) {
		vhca_dereg_mr(&mr->ib, NULL);
		return ERR_PTR(-ENOMEM);
	}
	mr->max_pages = max_sg;
	return &mr->ib;
}

static int set_page(struct ib_mr *ibmr, u64 address)
{
	struct vhca_mr *mr = to_vmr(ibmr);

	if (mr->n_pages == mr->max_pages)
		return -ENOMEM;
	mr->pages[mr->n_pages++] = address;
	return 0;
}

int vhca_map_mr_sg(struct ib_mr *ibmr, struct scatterlist *sg, int n, unsigned int *offset)
{
	to_vmr(ibmr)->n_pages = 0;
	return ib_sg_to_pages(ibmr, sg, n, offset, set_page);
}

static void move(void *memory, void *buf, u32 len, enum vhca_copy way)
{
	if (way == VHCA_TO_MEMORY)
		memcpy(memory, buf, len);
	else
		memcpy(buf, memory, len);
}

/**
 * vhca_copy - copies between a buffer and registered memory
 * @pd: protection domain of the QP
 * @key: L_Key or R_Key
 * @addr: where in the region
 * @access: rights that the region must grant
 *
 * Return: 0, or -EACCES when the region does not exist, is another's, is too
 * small or does not grant the rights.
 */
int vhca_copy(struct ib_pd *pd, u32 key, u64 addr, void *buf, u32 len, int access,
	      enum vhca_copy way)
{
	struct vhca_mr *mr;
	u64 page_size, at;

	if (!len)
		return 0;
	if (key == VHCA_LOCAL_LKEY) {
		/* All of the kernel's memory; not for users, nor for a peer. */
		if (pd->uobject || access & ~IB_ACCESS_LOCAL_WRITE)
			return -EACCES;
		move((void *)(uintptr_t)addr, buf, len, way);
		return 0;
	}
	mr = xa_load(&to_vdev(pd->device)->mrs, key >> 8);
	if (!mr || !mr->valid || mr->ib.pd != pd || mr->key != key ||
	    (mr->access & access) != access)
		return -EACCES;
	if (mr->dma) {
		move((void *)(uintptr_t)addr, buf, len, way);
		return 0;
	}
	if (addr < mr->ib.iova || addr - mr->ib.iova > mr->ib.length ||
	    len > mr->ib.length - (addr - mr->ib.iova))
		return -EACCES;
	if (mr->umem) {
		move(mr->base + ib_umem_offset(mr->umem) + (addr - mr->ib.iova), buf, len, way);
		return 0;
	}
	page_size = mr->ib.page_size;
	at = addr - (mr->ib.iova & ~(page_size - 1));
	while (len) {
		u64 in_page = at & (page_size - 1);
		u32 n = min_t(u64, len, page_size - in_page);

		if (at / page_size >= mr->n_pages)
			return -EACCES;
		move((void *)(uintptr_t)(mr->pages[at / page_size] + in_page), buf, n, way);
		at += n;
		buf += n;
		len -= n;
	}
	return 0;
}

u64 vhca_sge_length(const struct ib_sge *sge, int n)
{
	u64 length = 0;

	while (n--)
		length += sge++->length;
	return length;
}

/* Copies between a buffer and a list of local memory, from byte skip of the list on. */
int vhca_copy_sges(struct ib_pd *pd, const struct ib_sge *sge, int n, u32 skip, void *buf, u32 len,
		   enum vhca_copy way)
{
	int access = way == VHCA_TO_MEMORY ? IB_ACCESS_LOCAL_WRITE : 0;
	int err;

	for (; n && len; n--, sge++) {
		u32 part;

		if (skip >= sge->length) {
			skip -= sge->length;
			continue;
		}
		part = min(len, sge->length - skip);
		err = vhca_copy(pd, sge->lkey, sge->addr + skip, buf, part, access, way);
		if (err)
			return err;
		buf += part;
		len -= part;
		skip = 0;
	}
	return len ? -EACCES : 0;
}

/* Takes the rights from a key, as a peer or a local work request asks. */
int vhca_invalidate(struct ib_pd *pd, u32 key)
{
	struct vhca_mr *mr = xa_load(&to_vdev(pd->device)->mrs, key >> 8);

	if (!mr || mr->ib.pd != pd || !mr->pages || mr->key != key)
		return -EACCES;
	mr->valid = false;
	return 0;
}
