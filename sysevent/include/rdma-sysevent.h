/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A channel of what becomes of RDMA devices and their ports, for programs that
 * have none open. What is there at the beginning is told first.
 *
 * A device is known by its index: no later device has the same, while its name
 * is a label that can change. A channel is for one thread at a time.
 */
#ifndef RDMA_SYSEVENT_H
#define RDMA_SYSEVENT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As long as the kernel's, with a NUL. */
#define RDMA_SYSEVENT_NAME 64

enum rdma_sysevent_type {
	/* A device is there: name. */
	RDMA_SYSEVENT_ADDED = 1,
	/* It goes, or has gone; the kernel may still wait for those who have it
	 * open: name. */
	RDMA_SYSEVENT_REMOVED = 2,
	/* It has another name: name, and old_name. */
	RDMA_SYSEVENT_RENAMED = 3,
	/* A port is in this state, from now on or at the beginning: port, state
	 * as in enum ibv_port_state (4 is ACTIVE), 0 where it is not known. */
	RDMA_SYSEVENT_PORT = 4,
};

struct rdma_sysevent {
	/* enum rdma_sysevent_type; ignore those you do not know. */
	uint32_t type;
	/* ibv_get_device_index() */
	uint32_t device;
	/* What it is called, NUL-terminated; what does not belong to the event
	 * is zero. */
	char name[RDMA_SYSEVENT_NAME];
	char old_name[RDMA_SYSEVENT_NAME];
	uint32_t port;
	uint32_t state;
};

struct rdma_sysevent_channel;

/* NULL and errno, EPROTONOSUPPORT where the kernel has no RDMA. */
struct rdma_sysevent_channel *rdma_sysevent_open(void);

/* Readable when there may be events: for poll(2) and epoll. Get events until
 * there is none before you wait. */
int rdma_sysevent_fd(const struct rdma_sysevent_channel *channel);

/* Takes an event without waiting: 1, or 0 when there is none at the moment, or
 * -1 and errno. */
int rdma_sysevent_get(struct rdma_sysevent_channel *channel,
		      struct rdma_sysevent *event);

/* NULL is allowed. */
void rdma_sysevent_close(struct rdma_sysevent_channel *channel);

#ifdef __cplusplus
}
#endif

#endif
