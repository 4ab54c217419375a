/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Says which RDMA devices there are, and what becomes of them and their ports,
 * a line each, until it is ended: what the example rdma-events says.
 *
 *	cc -o events events.c -lrdma-sysevent
 */
#include <poll.h>
#include <stdio.h>

#include <rdma-sysevent.h>

_Static_assert(sizeof(struct rdma_sysevent) == 144, "as the library has it");

static const char *const states[] = { "unknown", "DOWN",   "INIT",
				      "ARMED",	 "ACTIVE", "ACTIVE_DEFER" };

static void say(const struct rdma_sysevent *event)
{
	switch (event->type) {
	case RDMA_SYSEVENT_ADDED:
		printf("%u added: %s\n", event->device, event->name);
		break;
	case RDMA_SYSEVENT_REMOVED:
		printf("%u removed: %s\n", event->device, event->name);
		break;
	case RDMA_SYSEVENT_RENAMED:
		printf("%u renamed: %s %s\n", event->device, event->old_name, event->name);
		break;
	case RDMA_SYSEVENT_PORT:
		printf("%u port %u: %s\n", event->device, event->port,
		       event->state < 6 ? states[event->state] : "UNKNOWN");
		break;
	}
	fflush(stdout);
}

int main(void)
{
	struct rdma_sysevent_channel *channel = rdma_sysevent_open();
	struct rdma_sysevent event;
	int got;

	if (!channel) {
		perror("rdma_sysevent_open");
		return 1;
	}
	for (;;) {
		struct pollfd readable = { .fd = rdma_sysevent_fd(channel), .events = POLLIN };

		while ((got = rdma_sysevent_get(channel, &event)) == 1)
			say(&event);
		if (got < 0 || poll(&readable, 1, -1) < 0)
			break;
	}
	perror("events");
	rdma_sysevent_close(channel);
	return 1;
}
