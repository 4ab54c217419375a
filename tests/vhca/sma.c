// SPDX-License-Identifier: GPL-2.0
/*
 * The subnet management agent of HCA ports and switches: what a subnet manager
 * reads and writes (IBTA volume 1, chapter 14). It may run in atomic context.
 */
#include "vhca.h"

#define BAD_ATTRIBUTE	IB_MGMT_MAD_STATUS_UNSUPPORTED_METHOD_ATTRIB
#define BAD_VALUE	IB_MGMT_MAD_STATUS_INVALID_ATTRIB_VALUE

/* SwitchInfo, as on the wire. */
struct switch_info {
	__be16 linear_cap;
	__be16 random_cap;
	__be16 multicast_cap;
	__be16 linear_top;
	u8 default_port;
	u8 default_primary;
	u8 default_not_primary;
	u8 lifetime_change;		/* LifeTimeValue, PortStateChange, OptimizedSLtoVL */
	__be16 lids_per_port;
	__be16 enforcement_cap;
	u8 flags;
	u8 reserved;
	__be16 multicast_top;
};

#define PORT_STATE_CHANGE	BIT(2)

static int node_desc(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	if (set)
		return BAD_ATTRIBUTE;
	memcpy(smp->data, at->sw ? at->sw->desc : at->port->dev->ibdev.node_desc,
	       IB_DEVICE_NODE_DESC_MAX);
	return 0;
}

static int node_info(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	struct ib_node_info *info = (struct ib_node_info *)smp->data;
	u32 vendor = 0x000e00;

	if (set)
		return BAD_ATTRIBUTE;
	memset(smp->data, 0, sizeof(smp->data));
	info->base_version = IB_MGMT_BASE_VERSION;
	info->class_version = 1;
	info->partition_cap = cpu_to_be16(VHCA_PKEYS);
	info->local_port_num = at->num;
	if (at->sw) {
		info->node_type = 2;
		info->num_ports = VHCA_SWITCH_PORTS;
		info->sys_guid = at->sw->guid;
		info->node_guid = at->sw->guid;
		info->port_guid = at->sw->guid;
	} else {
		struct vhca_dev *dev = at->port->dev;

		info->node_type = 1;
		info->num_ports = dev->spec.ports;
		info->sys_guid = cpu_to_be64(dev->spec.sys_image_guid);
		info->node_guid = dev->ibdev.node_guid;
		info->port_guid = at->port->guid[0];
		info->device_id = cpu_to_be16(dev->spec.vendor_part_id);
	}
	info->vendor_id[0] = vendor >> 16;
	info->vendor_id[1] = vendor >> 8;
	info->vendor_id[2] = vendor;
	return 0;
}

/* The port that an attribute is about. */
static struct vhca_end *chosen(struct vhca_end *at, u32 num)
{
	if (at->sw)
		return num <= VHCA_SWITCH_PORTS ? &at->sw->end[num] : NULL;
	if (num == 0)
		return at;
	return num <= at->port->dev->spec.ports ? &at->port->dev->port[num - 1].end : NULL;
}

/* What a subnet manager wants of the link: PortState and PortPhysicalState. */
static int set_state(struct vhca_end *end, u8 state, u8 phys)
{
	struct ib_port_info *pi = &end->pi;
	bool management = end->sw && end->num == 0;

	switch (phys) {
	case 0:
		break;
	case IB_PORT_PHYS_STATE_DISABLED:
		pi_set_phys_state(pi, phys);
		vhca_link_update(end);
		break;
	case IB_PORT_PHYS_STATE_POLLING:
		if (pi_phys_state(pi) == IB_PORT_PHYS_STATE_DISABLED)
			pi_set_phys_state(pi, phys);
		vhca_link_update(end);
		break;
	default:
		return BAD_VALUE;
	}
	switch (state) {
	case 0:
		return 0;
	case IB_PORT_DOWN:
		/* The link comes back at once, if it may. */
		if (!management && pi_state(pi) != IB_PORT_DOWN && end->peer && !end->cut) {
			end->cut = true;
			vhca_link_update(end);
			end->cut = false;
			vhca_link_update(end);
		}
		return 0;
	case IB_PORT_ARMED:
		if (pi_state(pi) != IB_PORT_INIT && pi_state(pi) != IB_PORT_ARMED)
			return management ? 0 : BAD_VALUE;
		pi_set_state(pi, state);
		return 0;
	case IB_PORT_ACTIVE:
		if (pi_state(pi) == IB_PORT_ACTIVE)
			return 0;
		if (pi_state(pi) != IB_PORT_ARMED)
			return BAD_VALUE;
		pi_set_state(pi, state);
		if (end->port)
			vhca_port_event(end->port, IB_EVENT_PORT_ACTIVE);
		return 0;
	}
	return BAD_VALUE;
}

static int port_info(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	const struct ib_port_info *want = (const struct ib_port_info *)smp->data;
	struct vhca_end *end = chosen(at, be32_to_cpu(smp->attr_mod) & 0xff);
	struct ib_port_info *pi, old;
	struct vhca_port *port;
	bool reregister = false;
	int status = 0;

	if (!end)
		return BAD_VALUE;
	pi = &end->pi;
	port = end->port;
	if (set) {
		old = *pi;
		reregister = want->clientrereg_resv_subnetto & 0x80;
		/* Ports of a switch have their LID and their manager at port 0. */
		if (!end->sw || end->num == 0) {
			if (be16_to_cpu(want->lid) > VHCA_LID_TOP)
				return BAD_VALUE;
			pi->mkey = want->mkey;
			pi->gid_prefix = want->gid_prefix;
			pi->lid = want->lid;
			pi->sm_lid = want->sm_lid;
			pi->mkey_lease_period = want->mkey_lease_period;
			pi->mkeyprot_resv_lmc = want->mkeyprot_resv_lmc;
			pi->clientrereg_resv_subnetto = want->clientrereg_resv_subnetto & 0x1f;
		}
		pi->neighbormtu_mastersmsl = want->neighbormtu_mastersmsl;
		if (want->link_width_enabled)
			pi->link_width_enabled = want->link_width_enabled == 0xff ?
				pi->link_width_supported : want->link_width_enabled;
		if (want->linkspeedactive_enabled & 0xf)
			pi->linkspeedactive_enabled = (pi->linkspeedactive_enabled & 0xf0) |
				((want->linkspeedactive_enabled & 0xf) == 0xf ?
				 pi->linkspeed_portstate >> 4 :
				 want->linkspeedactive_enabled & 0xf);
		pi->vl_high_limit = want->vl_high_limit;
		pi->vlstallcnt_hoqlife = want->vlstallcnt_hoqlife;
		if (want->operationalvl_pei_peo_fpi_fpo >> 4)
			pi->operationalvl_pei_peo_fpi_fpo = want->operationalvl_pei_peo_fpi_fpo;
		pi->localphyerrors_overrunerrors = want->localphyerrors_overrunerrors;
		status = set_state(end, want->linkspeed_portstate & 0xf,
				   want->portphysstate_linkdown >> 4);
		if (port) {
			if (pi->lid != old.lid || pi_lmc(pi) != pi_lmc(&old))
				vhca_port_event(port, IB_EVENT_LID_CHANGE);
			if (pi->sm_lid != old.sm_lid ||
			    (pi->neighbormtu_mastersmsl ^ old.neighbormtu_mastersmsl) & 0xf)
				vhca_port_event(port, IB_EVENT_SM_CHANGE);
			if (pi->gid_prefix != old.gid_prefix)
				vhca_port_event(port, IB_EVENT_GID_CHANGE);
			if (reregister)
				vhca_port_event(port, IB_EVENT_CLIENT_REREGISTER);
		}
	}
	memset(smp->data, 0, sizeof(smp->data));
	memcpy(smp->data, pi, sizeof(*pi));
	((struct ib_port_info *)smp->data)->local_port_num = at->num;
	if (reregister)
		((struct ib_port_info *)smp->data)->clientrereg_resv_subnetto |= 0x80;
	return status;
}

static int pkey_table(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	u32 modifier = be32_to_cpu(smp->attr_mod);
	struct vhca_end *end = at->sw ? chosen(at, modifier >> 16) : at;
	u32 first = (modifier & 0xffff) * 32;
	__be16 *block;

	if (!end || first >= VHCA_PKEYS)
		return BAD_VALUE;
	block = &end->pkeys[first];
	if (set && memcmp(block, smp->data, sizeof(smp->data))) {
		memcpy(block, smp->data, sizeof(smp->data));
		if (end->port)
			vhca_port_event(end->port, IB_EVENT_PKEY_CHANGE);
	}
	memcpy(smp->data, block, sizeof(smp->data));
	return 0;
}

static int guid_info(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	__be64 *want = (__be64 *)smp->data;

	if (at->sw || smp->attr_mod)
		return BAD_VALUE;
	/* The first is the port's own. */
	if (set && memcmp(&at->port->guid[1], &want[1], sizeof(at->port->guid) - sizeof(*want))) {
		memcpy(&at->port->guid[1], &want[1], sizeof(at->port->guid) - sizeof(*want));
		vhca_port_event(at->port, IB_EVENT_GID_CHANGE);
	}
	memcpy(smp->data, at->port->guid, sizeof(at->port->guid));
	return 0;
}

static int sl_to_vl(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	struct vhca_end *end = at->sw ? chosen(at, be32_to_cpu(smp->attr_mod) & 0xff) : at;

	if (!end)
		return BAD_VALUE;
	if (set)
		memcpy(end->sl2vl, smp->data, sizeof(end->sl2vl));
	memset(smp->data, 0, sizeof(smp->data));
	memcpy(smp->data, end->sl2vl, sizeof(end->sl2vl));
	return 0;
}

static int vl_arbitration(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	u32 modifier = be32_to_cpu(smp->attr_mod);
	struct vhca_end *end = at->sw ? chosen(at, modifier & 0xff) : at;
	u32 block = modifier >> 16;

	if (!end || block < 1 || block > ARRAY_SIZE(end->vlarb))
		return BAD_VALUE;
	if (set)
		memcpy(end->vlarb[block - 1], smp->data, sizeof(smp->data));
	memcpy(smp->data, end->vlarb[block - 1], sizeof(smp->data));
	return 0;
}

static int switch_info(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	struct switch_info *info = (struct switch_info *)smp->data;
	struct vhca_switch *sw = at->sw;

	if (!sw)
		return BAD_ATTRIBUTE;
	if (set) {
		sw->lft_top = min_t(u16, be16_to_cpu(info->linear_top), VHCA_LID_TOP);
		sw->lifetime = info->lifetime_change >> 3;
		if (info->lifetime_change & PORT_STATE_CHANGE)
			sw->changed = false;
	}
	memset(smp->data, 0, sizeof(smp->data));
	info->linear_cap = cpu_to_be16(VHCA_LID_TOP + 1);
	info->multicast_cap = cpu_to_be16(VHCA_MLIDS);
	info->linear_top = cpu_to_be16(sw->lft_top);
	info->lifetime_change = sw->lifetime << 3 | (sw->changed ? PORT_STATE_CHANGE : 0);
	return 0;
}

static int linear_table(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	u32 first = be32_to_cpu(smp->attr_mod) * IB_SMP_DATA_SIZE;
	u8 *block;

	if (!at->sw)
		return BAD_ATTRIBUTE;
	if (first > VHCA_LID_TOP)
		return BAD_VALUE;
	block = &at->sw->lft[first];
	if (set)
		memcpy(block, smp->data, IB_SMP_DATA_SIZE);
	memcpy(smp->data, block, IB_SMP_DATA_SIZE);
	return 0;
}

static int multicast_table(struct vhca_end *at, struct ib_smp *smp, bool set)
{
	u32 modifier = be32_to_cpu(smp->attr_mod);
	u32 position = modifier >> 28, first = (modifier & 0x1ff) * 32, i;
	__be16 *block = (__be16 *)smp->data;

	if (!at->sw)
		return BAD_ATTRIBUTE;
	if (position >= VHCA_MFT_POSITIONS || first >= VHCA_MLIDS)
		return BAD_VALUE;
	for (i = 0; i < 32; i++) {
		u16 *ports = &at->sw->mft[first + i][position];

		if (set)
			*ports = be16_to_cpu(block[i]);
		block[i] = cpu_to_be16(*ports);
	}
	return 0;
}

static const struct {
	__be16 id;
	int (*handle)(struct vhca_end *at, struct ib_smp *smp, bool set);
} attributes[] = {
	{ IB_SMP_ATTR_NODE_DESC, node_desc },
	{ IB_SMP_ATTR_NODE_INFO, node_info },
	{ IB_SMP_ATTR_SWITCH_INFO, switch_info },
	{ IB_SMP_ATTR_GUID_INFO, guid_info },
	{ IB_SMP_ATTR_PORT_INFO, port_info },
	{ IB_SMP_ATTR_PKEY_TABLE, pkey_table },
	{ IB_SMP_ATTR_SL_TO_VL_TABLE, sl_to_vl },
	{ IB_SMP_ATTR_VL_ARB_TABLE, vl_arbitration },
	{ IB_SMP_ATTR_LINEAR_FORWARD_TABLE, linear_table },
	{ IB_SMP_ATTR_MCAST_FORWARD_TABLE, multicast_table },
};

/**
 * vhca_sma - answers a subnet management packet
 * @end: where it has come in
 * @smp: the question; its data becomes the answer's
 *
 * Return: the status of the answer, or VHCA_MAD_NOT_MINE: somebody else may
 * answer (SMInfo is the subnet manager's), or nobody does (traps, answers).
 */
int vhca_sma(struct vhca_end *end, struct ib_smp *smp)
{
	bool set = smp->method == IB_MGMT_METHOD_SET;
	unsigned long flags;
	int i, status = VHCA_MAD_NOT_MINE;
	bool managers;

	if (!set && smp->method != IB_MGMT_METHOD_GET)
		return VHCA_MAD_NOT_MINE;
	spin_lock_irqsave(&vhca_lock, flags);
	for (i = 0; i < ARRAY_SIZE(attributes); i++)
		if (attributes[i].id == smp->attr_id)
			status = attributes[i].handle(end, smp, set);
	spin_unlock_irqrestore(&vhca_lock, flags);
	/* SMInfo and notices are a subnet manager's, and on a switch there is none. */
	managers = smp->attr_id == IB_SMP_ATTR_SM_INFO || smp->attr_id == IB_SMP_ATTR_NOTICE;
	if (status == VHCA_MAD_NOT_MINE && (end->sw || !managers))
		status = BAD_ATTRIBUTE;
	trace("%s port %u: %s of attribute %#x, modifier %#x: status %#x",
	      end->sw ? "switch" : "HCA", end->num, set ? "Set" : "Get",
	      be16_to_cpu(smp->attr_id), be32_to_cpu(smp->attr_mod), status);
	return status;
}
