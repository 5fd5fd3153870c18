/* Messages on attach.sock (SOCK_SEQPACKET), one exchange a program start:
 *
 *   shim    -> HELLO              who wants in (the kernel says which process)
 *   service -> WELCOME            + descriptors: /dev/userfaultfd, link memfd, doorbell (the
 *                                   reading end of a pipe: an order is posted)
 *   agent   -> READY              + descriptor: the userfaultfd
 *
 * or the service says REFUSED, or just closes: the program is not managed. The socket then
 * stays with the agent; its end tells the service that the agent is gone, and the agent that
 * the service is. */
#ifndef LARDER_PROTOCOL_H
#define LARDER_PROTOCOL_H

#include <stdint.h>

#define PROTOCOL_MAGIC 0x5244524cu /* "LRDR" */
enum { PROTOCOL_VERSION = 1, PROTOCOL_POLICY_MAX = 64 };

/* A program that may have less address space or data than this is left alone: the shim's few
 * MiB would be felt (rule 11). */
enum { SHIM_LIMIT_MARGIN = 64 << 20 };

enum message_type {
	MESSAGE_HELLO = 1,
	MESSAGE_WELCOME = 2,
	MESSAGE_READY = 3,
	MESSAGE_REFUSED = 4 /* a head and nothing more: a close may take longer to arrive */
};

struct message_head {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
};

struct message_hello {
	struct message_head head;
	uint32_t flags; /* HELLO_* */
	uint32_t reserved;
	char policy[PROTOCOL_POLICY_MAX]; /* asked for by larder run --policy; "" = none.
					     NUL-ended */
};
enum {
	HELLO_INHERITED = 1
}; /* an ancestor, not `larder run`, set LD_PRELOAD for this program */

struct message_welcome {
	struct message_head head;
	uint32_t flags;
	uint32_t reserved;
};
enum { WELCOME_FDS = 3, WELCOME_FD_DEVICE = 0, WELCOME_FD_LINK = 1, WELCOME_FD_DOORBELL = 2 };

struct message_ready {
	struct message_head head;
	uint32_t reserved[2];
	/* In the client's address space, page aligned. */
	uint64_t staging; /* LINK_SLOTS pages, 2 MiB aligned */
	uint64_t bell;	  /* one page: the shim writes to it to be heard */
};

#endif
