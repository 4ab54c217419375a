// SPDX-License-Identifier: GPL-2.0
/* An HCA as ib_core sees it: registered, asked, changed and taken away. */
#include <linux/pci.h>
#include <linux/slab.h>
#include <rdma/uverbs_ioctl.h>
#include "vhca.h"

static int query_device(struct ib_device *ibdev, struct ib_device_attr *attr,
			struct ib_udata *udata)
{
	struct vhca_dev *dev = to_vdev(ibdev);

	memset(attr, 0, sizeof(*attr));
	attr->sys_image_guid = cpu_to_be64(dev->spec.sys_image_guid);
	attr->vendor_id = 0x000e00;
	attr->vendor_part_id = dev->spec.vendor_part_id;
	attr->max_mr_size = ~0ULL;
	attr->page_size_cap = PAGE_SIZE;
	attr->max_qp = 16384;
	attr->max_qp_wr = VHCA_MAX_WR;
	attr->device_cap_flags = IB_DEVICE_SYS_IMAGE_GUID | IB_DEVICE_PORT_ACTIVE_EVENT |
				 IB_DEVICE_RC_RNR_NAK_GEN | IB_DEVICE_CURR_QP_STATE_MOD |
				 IB_DEVICE_SHUTDOWN_PORT | IB_DEVICE_MEM_MGT_EXTENSIONS;
	attr->kernel_cap_flags = IBK_LOCAL_DMA_LKEY;
	if (dev->spec.vf)
		attr->kernel_cap_flags |= IBK_VIRTUAL_FUNCTION;
	attr->max_send_sge = VHCA_MAX_SGE;
	attr->max_recv_sge = VHCA_MAX_SGE;
	attr->max_sge_rd = VHCA_MAX_SGE;
	attr->max_cq = 16384;
	attr->max_cqe = VHCA_MAX_CQE;
	attr->max_mr = 1 << 20;
	attr->max_pd = 16384;
	attr->max_qp_rd_atom = 16;
	attr->max_qp_init_rd_atom = 16;
	attr->max_res_rd_atom = 16 * 16384;
	attr->atomic_cap = IB_ATOMIC_HCA;
	attr->max_ah = 65536;
	attr->max_srq = 4096;
	attr->max_srq_wr = VHCA_MAX_WR;
	attr->max_srq_sge = VHCA_MAX_SGE;
	attr->max_mcast_grp = 8192;
	attr->max_mcast_qp_attach = 1024;
	attr->max_total_mcast_qp_attach = 8192 * 1024;
	attr->max_fast_reg_page_list_len = 512;
	attr->max_pkeys = VHCA_PKEYS;
	return 0;
}

static int query_port(struct ib_device *ibdev, u32 num, struct ib_port_attr *attr)
{
	struct vhca_end *end = &to_vport(ibdev, num)->end;
	const struct ib_port_info *pi = &end->pi;
	unsigned long flags;

	spin_lock_irqsave(&vhca_lock, flags);
	attr->subnet_prefix = be64_to_cpu(pi->gid_prefix);
	attr->state = pi_state(pi);
	attr->phys_state = pi_phys_state(pi);
	attr->max_mtu = pi->inittypereply_mtucap & 0xf;
	attr->active_mtu = pi->neighbormtu_mastersmsl >> 4;
	attr->gid_tbl_len = VHCA_GUIDS;
	attr->pkey_tbl_len = VHCA_PKEYS;
	attr->port_cap_flags = be32_to_cpu(pi->cap_mask);
	attr->max_msg_sz = 1U << 30;
	attr->bad_pkey_cntr = be16_to_cpu(pi->pkey_violations);
	attr->qkey_viol_cntr = be16_to_cpu(pi->qkey_violations);
	attr->lid = be16_to_cpu(pi->lid);
	attr->sm_lid = be16_to_cpu(pi->sm_lid);
	attr->lmc = pi_lmc(pi);
	attr->sm_sl = pi->neighbormtu_mastersmsl & 0xf;
	attr->max_vl_num = pi->vlcap_inittype >> 4;
	attr->subnet_timeout = pi->clientrereg_resv_subnetto & 0x1f;
	attr->active_width = pi->link_width_active;
	attr->active_speed = pi->linkspeedactive_enabled >> 4;
	spin_unlock_irqrestore(&vhca_lock, flags);
	return 0;
}

static int query_gid(struct ib_device *ibdev, u32 num, int index, union ib_gid *gid)
{
	struct vhca_port *port = to_vport(ibdev, num);
	unsigned long flags;

	if (index < 0 || index >= VHCA_GUIDS)
		return -EINVAL;
	spin_lock_irqsave(&vhca_lock, flags);
	gid->global.interface_id = port->guid[index];
	gid->global.subnet_prefix = index && !port->guid[index] ? 0 : port->end.pi.gid_prefix;
	spin_unlock_irqrestore(&vhca_lock, flags);
	return 0;
}

static int query_pkey(struct ib_device *ibdev, u32 num, u16 index, u16 *pkey)
{
	unsigned long flags;

	if (index >= VHCA_PKEYS)
		return -EINVAL;
	spin_lock_irqsave(&vhca_lock, flags);
	*pkey = be16_to_cpu(to_vport(ibdev, num)->end.pkeys[index]);
	spin_unlock_irqrestore(&vhca_lock, flags);
	return 0;
}

static int modify_device(struct ib_device *ibdev, int mask, struct ib_device_modify *modify)
{
	struct vhca_dev *dev = to_vdev(ibdev);
	unsigned long flags;
	int i;

	if (mask & ~IB_DEVICE_MODIFY_NODE_DESC)
		return -EOPNOTSUPP;
	spin_lock_irqsave(&vhca_lock, flags);
	memcpy(ibdev->node_desc, modify->node_desc, IB_DEVICE_NODE_DESC_MAX);
	for (i = 0; i < dev->spec.ports; i++) {
		dev->port[i].desc_changed = true;
		queue_work(vhca_wq, &dev->port[i].trap);
	}
	spin_unlock_irqrestore(&vhca_lock, flags);
	return 0;
}

static int modify_port(struct ib_device *ibdev, u32 num, int mask, struct ib_port_modify *modify)
{
	struct vhca_port *port = to_vport(ibdev, num);
	__be32 old, *caps = &port->end.pi.cap_mask;
	unsigned long flags;

	if (mask & IB_PORT_SHUTDOWN)
		return -EOPNOTSUPP;
	spin_lock_irqsave(&vhca_lock, flags);
	old = *caps;
	*caps |= cpu_to_be32(modify->set_port_cap_mask);
	*caps &= ~cpu_to_be32(modify->clr_port_cap_mask);
	if (*caps != old)
		queue_work(vhca_wq, &port->trap);
	spin_unlock_irqrestore(&vhca_lock, flags);
	return 0;
}

static int get_port_immutable(struct ib_device *ibdev, u32 num, struct ib_port_immutable *immutable)
{
	immutable->core_cap_flags = RDMA_CORE_PORT_IBA_IB;
	immutable->max_mad_size = IB_MGMT_MAD_SIZE;
	immutable->gid_tbl_len = VHCA_GUIDS;
	immutable->pkey_tbl_len = VHCA_PKEYS;
	return 0;
}

static enum rdma_link_layer get_link_layer(struct ib_device *ibdev, u32 num)
{
	return IB_LINK_LAYER_INFINIBAND;
}

static void get_fw_str(struct ib_device *ibdev, char *str)
{
	strscpy(str, to_vdev(ibdev)->spec.fw_ver, IB_FW_VERSION_NAME_MAX);
}

static int alloc_pd(struct ib_pd *pd, struct ib_udata *udata)
{
	return 0;
}

static int dealloc_pd(struct ib_pd *pd, struct ib_udata *udata)
{
	return 0;
}

static int alloc_ucontext(struct ib_ucontext *context, struct ib_udata *udata)
{
	return 0;
}

static void dealloc_ucontext(struct ib_ucontext *context)
{
}

/* That it is there says that an HCA may go while files of it are open. */
static void disassociate_ucontext(struct ib_ucontext *context)
{
}

static struct vhca_dev *from_device(struct device *device)
{
	return rdma_device_to_drv_device(device, struct vhca_dev, ibdev);
}

static ssize_t hca_type_show(struct device *device, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", from_device(device)->spec.hca_type);
}
static DEVICE_ATTR_RO(hca_type);

static ssize_t board_id_show(struct device *device, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", from_device(device)->spec.board_id);
}
static DEVICE_ATTR_RO(board_id);

static ssize_t hw_rev_show(struct device *device, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "0\n");
}
static DEVICE_ATTR_RO(hw_rev);

static struct attribute *attributes[] = {
	&dev_attr_hca_type.attr,
	&dev_attr_board_id.attr,
	&dev_attr_hw_rev.attr,
	NULL
};

static const struct attribute_group attribute_group = { .attrs = attributes };

static const struct ib_device_ops ops = {
	.owner = THIS_MODULE,
	/* What Debian's libipathverbs asks for: plain system calls for everything. */
	.uverbs_abi_ver = 1,
	.device_group = &attribute_group,

	.alloc_hw_port_stats = vhca_alloc_hw_port_stats,
	.alloc_mr = vhca_alloc_mr,
	.alloc_pd = alloc_pd,
	.alloc_ucontext = alloc_ucontext,
	.attach_mcast = vhca_attach_mcast,
	.create_ah = vhca_create_ah,
	.create_cq = vhca_create_cq,
	.create_qp = vhca_create_qp,
	.create_srq = vhca_create_srq,
	.create_user_ah = vhca_create_ah,
	.dealloc_pd = dealloc_pd,
	.dealloc_ucontext = dealloc_ucontext,
	.dereg_mr = vhca_dereg_mr,
	.destroy_ah = vhca_destroy_ah,
	.destroy_cq = vhca_destroy_cq,
	.destroy_qp = vhca_destroy_qp,
	.destroy_srq = vhca_destroy_srq,
	.detach_mcast = vhca_detach_mcast,
	.disassociate_ucontext = disassociate_ucontext,
	.get_dev_fw_str = get_fw_str,
	.get_dma_mr = vhca_get_dma_mr,
	.get_hw_stats = vhca_get_hw_stats,
	.get_link_layer = get_link_layer,
	.get_port_immutable = get_port_immutable,
	.map_mr_sg = vhca_map_mr_sg,
	.modify_cq = vhca_modify_cq,
	.modify_device = modify_device,
	.modify_hw_stat = vhca_modify_hw_stat,
	.modify_port = modify_port,
	.modify_qp = vhca_modify_qp,
	.modify_srq = vhca_modify_srq,
	.peek_cq = vhca_peek_cq,
	.poll_cq = vhca_poll_cq,
	.post_recv = vhca_post_recv,
	.post_send = vhca_post_send,
	.post_srq_recv = vhca_post_srq_recv,
	.process_mad = vhca_process_mad,
	.query_ah = vhca_query_ah,
	.query_device = query_device,
	.query_gid = query_gid,
	.query_pkey = query_pkey,
	.query_port = query_port,
	.query_qp = vhca_query_qp,
	.query_srq = vhca_query_srq,
	.reg_user_mr = vhca_reg_user_mr,
	.req_notify_cq = vhca_req_notify_cq,
	.resize_cq = vhca_resize_cq,

	INIT_RDMA_OBJ_SIZE(ib_ah, vhca_ah, ib),
	INIT_RDMA_OBJ_SIZE(ib_cq, vhca_cq, ib),
	INIT_RDMA_OBJ_SIZE(ib_pd, vhca_pd, ib),
	INIT_RDMA_OBJ_SIZE(ib_qp, vhca_qp, ib),
	INIT_RDMA_OBJ_SIZE(ib_srq, vhca_srq, ib),
	INIT_RDMA_OBJ_SIZE(ib_ucontext, vhca_ucontext, ib),
};

static void port_init(struct vhca_dev *dev, int i)
{
	struct vhca_port *port = &dev->port[i];

	port->dev = dev;
	port->end.port = port;
	port->end.num = i + 1;
	port->guid[0] = cpu_to_be64(dev->spec.port_guid[i]);
	INIT_WORK(&port->trap, vhca_port_trap);
	vhca_end_init(&port->end);
}

/**
 * vhca_dev_create - makes an HCA and cables its ports
 * @spec: what it is to be
 * @parent: the device it is on; it must outlive the HCA
 */
struct vhca_dev *vhca_dev_create(const struct vhca_spec *spec, struct device *parent)
{
	struct vhca_dev *dev = ib_alloc_device(vhca_dev, ibdev);
	struct ib_device *ibdev;
	unsigned long flags;
	int i, err;

	if (!dev)
		return ERR_PTR(-ENOMEM);
	ibdev = &dev->ibdev;
	dev->spec = *spec;
	xa_init_flags(&dev->qps, XA_FLAGS_ALLOC);
	xa_init_flags(&dev->mrs, XA_FLAGS_ALLOC);
	init_waitqueue_head(&dev->late_gone);
	for (i = 0; i < spec->ports; i++)
		port_init(dev, i);
	ibdev->node_type = RDMA_NODE_IB_CA;
	ibdev->node_guid = cpu_to_be64(spec->node_guid);
	ibdev->phys_port_cnt = spec->ports;
	ibdev->num_comp_vectors = num_possible_cpus();
	ibdev->local_dma_lkey = VHCA_LOCAL_LKEY;
	ibdev->dev.parent = parent;
	memcpy(ibdev->node_desc, spec->desc, sizeof(ibdev->node_desc));
	ibdev->uverbs_cmd_mask |= BIT_ULL(IB_USER_VERBS_CMD_POST_SEND) |
				  BIT_ULL(IB_USER_VERBS_CMD_POST_RECV) |
				  BIT_ULL(IB_USER_VERBS_CMD_POST_SRQ_RECV) |
				  BIT_ULL(IB_USER_VERBS_CMD_POLL_CQ) |
				  BIT_ULL(IB_USER_VERBS_CMD_PEEK_CQ) |
				  BIT_ULL(IB_USER_VERBS_CMD_REQ_NOTIFY_CQ) |
				  BIT_ULL(IB_USER_VERBS_CMD_QUERY_AH);
	dev->ops = ops;
	dev->ops.driver_id = spec->driver_id;
	ib_set_device_ops(ibdev, &dev->ops);
	err = ib_register_device(ibdev, spec->name, NULL);
	if (err) {
		ib_dealloc_device(ibdev);
		return ERR_PTR(err);
	}
	spin_lock_irqsave(&vhca_lock, flags);
	for (i = 0; i < spec->ports; i++)
		if (spec->sw[i] && vhca_cable_plug(&dev->port[i].end, spec->sw[i]))
			pr_warn("port %d of %s has no cable: the switch is full\n", i + 1,
				dev_name(&ibdev->dev));
	spin_unlock_irqrestore(&vhca_lock, flags);
	return dev;
}

void vhca_dev_destroy(struct vhca_dev *dev)
{
	unsigned long flags;
	int i;

	spin_lock_irqsave(&vhca_lock, flags);
	for (i = 0; i < dev->spec.ports; i++)
		vhca_cable_pull(&dev->port[i].end);
	spin_unlock_irqrestore(&vhca_lock, flags);
	ib_unregister_device(&dev->ibdev);
	for (i = 0; i < dev->spec.ports; i++)
		cancel_work_sync(&dev->port[i].trap);
	wait_event(dev->late_gone, !READ_ONCE(dev->late));
	/* Whoever has woken us is out of it. */
	mutex_lock(&vhca_mutex);
	mutex_unlock(&vhca_mutex);
	xa_destroy(&dev->qps);
	xa_destroy(&dev->mrs);
	ib_dealloc_device(&dev->ibdev);
}

/* The HCA says that it is broken. */
void vhca_dev_fatal(struct vhca_dev *dev)
{
	struct ib_event event = { .device = &dev->ibdev, .event = IB_EVENT_DEVICE_FATAL };

	event.element.port_num = 1;
	ib_dispatch_event(&event);
}
