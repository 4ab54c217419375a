// SPDX-License-Identifier: GPL-2.0
/* ib_mad asks an HCA's agents about each datagram that arrives, before anybody else. */
#include "vhca.h"

int vhca_process_mad(struct ib_device *ibdev, int flags, u32 port_num, const struct ib_wc *in_wc,
		     const struct ib_grh *in_grh, const struct ib_mad *in, struct ib_mad *out,
		     size_t *out_size, u16 *out_pkey_index)
{
	struct vhca_end *end = &to_vport(ibdev, port_num)->end;
	bool directed = in->mad_hdr.mgmt_class == IB_MGMT_CLASS_SUBN_DIRECTED_ROUTE;
	int status;

	*out = *in;
	switch (in->mad_hdr.mgmt_class) {
	case IB_MGMT_CLASS_SUBN_LID_ROUTED:
	case IB_MGMT_CLASS_SUBN_DIRECTED_ROUTE:
		if (in->mad_hdr.method == IB_MGMT_METHOD_TRAP_REPRESS)
			return IB_MAD_RESULT_SUCCESS | IB_MAD_RESULT_CONSUMED;
		status = vhca_sma(end, (struct ib_smp *)out);
		break;
	case IB_MGMT_CLASS_PERF_MGMT:
		status = vhca_pma(end, out);
		break;
	default:
		return IB_MAD_RESULT_SUCCESS;
	}
	if (status == VHCA_MAD_NOT_MINE)
		return IB_MAD_RESULT_SUCCESS;
	out->mad_hdr.method = IB_MGMT_METHOD_GET_RESP;
	out->mad_hdr.status = cpu_to_be16(status);
	if (directed)
		out->mad_hdr.status |= IB_SMP_DIRECTION;
	return IB_MAD_RESULT_SUCCESS | IB_MAD_RESULT_REPLY;
}
