// SPDX-License-Identifier: GPL-2.0
/* A switch: made with its ports, and taken from the fabric. */
#include "vhca.h"

void vhca_switch_init(struct vhca_switch *sw, u64 guid)
{
	int i;

	sw->guid = cpu_to_be64(guid);
	INIT_WORK(&sw->trap, vhca_switch_trap);
	memset(sw->lft, 255, sizeof(sw->lft));
	for (i = 0; i <= VHCA_SWITCH_PORTS; i++) {
		sw->end[i].sw = sw;
		sw->end[i].num = i;
		vhca_end_init(&sw->end[i]);
	}
	/* Port 0 has no link that could be down. */
	pi_set_state(&sw->end[0].pi, IB_PORT_ACTIVE);
	pi_set_phys_state(&sw->end[0].pi, IB_PORT_PHYS_STATE_LINK_UP);
}

/* Pulls all its cables and forgets it. */
void vhca_switch_release(struct vhca_switch *sw)
{
	unsigned long flags;
	int i;

	mutex_lock(&vhca_mutex);
	spin_lock_irqsave(&vhca_lock, flags);
	for (i = 1; i <= VHCA_SWITCH_PORTS; i++)
		vhca_cable_pull(&sw->end[i]);
	spin_unlock_irqrestore(&vhca_lock, flags);
	mutex_unlock(&vhca_mutex);
	cancel_work_sync(&sw->trap);
}
