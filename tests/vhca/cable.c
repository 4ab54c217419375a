// SPDX-License-Identifier: GPL-2.0
/*
 * Cables, and the state of the link at both ends of each.
 *
 * A cable joins a port of an HCA and a port of a switch. The link is up when
 * nobody holds it down (end->cut) and no subnet manager has disabled an end.
 */
#include "vhca.h"

void vhca_end_init(struct vhca_end *end)
{
	struct ib_port_info *pi = &end->pi;

	memset(pi, 0, sizeof(*pi));
	pi->gid_prefix = cpu_to_be64(0xfe80000000000000ULL);
	pi->local_port_num = end->num;
	pi->link_width_supported = IB_WIDTH_1X | IB_WIDTH_4X;
	pi->link_width_enabled = IB_WIDTH_1X | IB_WIDTH_4X;
	pi->link_width_active = IB_WIDTH_4X;
	/* SDR, DDR and QDR; QDR active. */
	pi->linkspeed_portstate = 7 << 4 | IB_PORT_DOWN;
	pi->linkspeedactive_enabled = IB_SPEED_QDR << 4 | 7;
	pi->portphysstate_linkdown = IB_PORT_PHYS_STATE_POLLING << 4 | IB_PORT_PHYS_STATE_POLLING;
	pi->neighbormtu_mastersmsl = IB_MTU_4096 << 4;
	pi->inittypereply_mtucap = IB_MTU_4096;
	/* One data lane. */
	pi->vlcap_inittype = 1 << 4;
	pi->operationalvl_pei_peo_fpi_fpo = 1 << 4;
	pi->resv_resptimevalue = 16;
	pi->localphyerrors_overrunerrors = 0x88;
	if (end->port) {
		pi->guid_cap = VHCA_GUIDS;
		pi->cap_mask = cpu_to_be32(IB_PORT_TRAP_SUP | IB_PORT_SYS_IMAGE_GUID_SUP |
					   IB_PORT_CLIENT_REG_SUP | IB_PORT_CAP_MASK_NOTICE_SUP);
	}
	memset(end->pkeys, 0, sizeof(end->pkeys));
	end->pkeys[0] = cpu_to_be16(IB_DEFAULT_PKEY_FULL);
}

void vhca_port_event(struct vhca_port *port, enum ib_event_type event)
{
	struct ib_event ev = {
		.device = &port->dev->ibdev,
		.element.port_num = port->end.num,
		.event = event,
	};

	ib_dispatch_event(&ev);
}

static void end_set(struct vhca_end *end, bool up)
{
	struct ib_port_info *pi = &end->pi;
	u8 state = pi_state(pi);
	bool was_up = state != IB_PORT_DOWN;

	if (up == was_up)
		return;
	if (up) {
		pi_set_state(pi, IB_PORT_INIT);
		pi_set_phys_state(pi, IB_PORT_PHYS_STATE_LINK_UP);
	} else {
		pi_set_state(pi, IB_PORT_DOWN);
		if (pi_phys_state(pi) != IB_PORT_PHYS_STATE_DISABLED)
			pi_set_phys_state(pi, IB_PORT_PHYS_STATE_POLLING);
		end->count.link_downed++;
		if (end->port && state == IB_PORT_ACTIVE)
			vhca_port_event(end->port, IB_EVENT_PORT_ERR);
	}
	if (end->sw) {
		end->sw->changed = true;
		queue_work(vhca_wq, &end->sw->trap);
	}
}

static bool end_ready(const struct vhca_end *end)
{
	return end && !end->cut && pi_phys_state(&end->pi) != IB_PORT_PHYS_STATE_DISABLED;
}

/* Brings the link into the state that both ends allow. */
void vhca_link_update(struct vhca_end *end)
{
	bool up = end_ready(end) && end_ready(end->peer);

	end_set(end, up);
	if (end->peer)
		end_set(end->peer, up);
}

/* Cables a port to the first free one of a switch. */
int vhca_cable_plug(struct vhca_end *hca, struct vhca_switch *sw)
{
	struct vhca_end *end;

	for (end = &sw->end[1]; end <= &sw->end[VHCA_SWITCH_PORTS]; end++) {
		if (end->peer)
			continue;
		vhca_end_init(end);
		end->peer = hca;
		hca->peer = end;
		vhca_link_update(hca);
		return 0;
	}
	return -ENOSPC;
}

void vhca_cable_pull(struct vhca_end *end)
{
	struct vhca_end *peer = end->peer;

	if (!peer)
		return;
	end->peer = NULL;
	peer->peer = NULL;
	end_set(end, false);
	end_set(peer, false);
}
