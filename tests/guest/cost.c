/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the example rdma-cost does, by libibverbs. */
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QKEY 0x11111111
#define AT_ONCE 32

#define MUST(condition) \
	do { \
		if (!(condition)) { \
			perror(#condition); \
			exit(1); \
		} \
	} while (0)

static struct ibv_context *open_device(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);

	MUST(list);
	for (; *list; list++)
		if (!strcmp(ibv_get_device_name(*list), name))
			return ibv_open_device(*list);
	return NULL;
}

int main(int argc, char **argv)
{
	struct ibv_qp_init_attr wanted = {
		.cap = { .max_send_wr = 8192, .max_recv_wr = 8192, .max_send_sge = 1,
			 .max_recv_sge = 1, .max_inline_data = 64 },
		.qp_type = IBV_QPT_UD,
	};
	struct ibv_qp_attr state = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qkey = QKEY };
	struct ibv_ah_attr way = { .is_global = 1, .port_num = 1, .grh.hop_limit = 1 };
	struct ibv_send_wr list[AT_ONCE] = { 0 }, *bad;
	struct ibv_recv_wr receive = { 0 }, *bad_receive;
	struct ibv_wc completion;
	struct ibv_sge to;

	if (argc != 4) {
		fprintf(stderr, "usage: cost DEVICE poll|receive|send COUNT\n");
		return 2;
	}
	struct ibv_context *context = open_device(argv[1]);
	MUST(context);
	struct ibv_pd *domain = ibv_alloc_pd(context);
	MUST(domain);
	char *memory = calloc(1, 4096);
	struct ibv_mr *region = ibv_reg_mr(domain, memory, 4096, IBV_ACCESS_LOCAL_WRITE);
	MUST(region);
	struct ibv_cq *queue = ibv_create_cq(context, 16, NULL, NULL, 0);
	MUST(queue);
	wanted.send_cq = wanted.recv_cq = queue;
	struct ibv_qp *pair = ibv_create_qp(domain, &wanted);
	MUST(pair);
	MUST(!ibv_modify_qp(pair, &state, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY));
	state.qp_state = IBV_QPS_RTR;
	MUST(!ibv_modify_qp(pair, &state, IBV_QP_STATE));
	state.qp_state = IBV_QPS_RTS;
	MUST(!ibv_modify_qp(pair, &state, IBV_QP_STATE | IBV_QP_SQ_PSN));
	MUST(!ibv_query_gid(context, 1, 0, &way.grh.dgid));
	struct ibv_ah *path = ibv_create_ah(domain, &way);
	MUST(path);
	to = (struct ibv_sge){ .addr = (uintptr_t)memory, .length = 64, .lkey = region->lkey };
	for (int i = 0; i < AT_ONCE; i++) {
		list[i].wr_id = 1;
		list[i].next = i + 1 < AT_ONCE ? &list[i + 1] : NULL;
		list[i].sg_list = &to;
		list[i].num_sge = 1;
		list[i].opcode = IBV_WR_SEND;
		list[i].wr.ud.ah = path;
		list[i].wr.ud.remote_qpn = 0xfffffe;
		list[i].wr.ud.remote_qkey = QKEY;
	}
	receive.sg_list = &to;
	receive.num_sge = 1;
	int count = atoi(argv[3]);
	if (!strcmp(argv[2], "poll")) {
		while (count--)
			MUST(ibv_poll_cq(queue, 1, &completion) == 0);
	} else if (!strcmp(argv[2], "receive")) {
		while (count--) {
			receive.wr_id = count;
			MUST(!ibv_post_recv(pair, &receive, &bad_receive));
		}
	} else {
		while (count--)
			MUST(!ibv_post_send(pair, list, &bad));
	}
	return 0;
}
