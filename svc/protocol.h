/* Messages on attach.sock (SOCK_SEQPACKET), one exchange a program start:
 *
 *   shim    -> HELLO              who wants in (the kernel says which process)
 *   service -> WELCOME            + descriptors: /dev/userfaultfd, link memfd, doorbell (a
 *                                   pipe, to be read: an order is posted)
 *   agent   -> READY              + descriptor: the userfaultfd
 *
 * or the service says REFUSED, or just closes: the program is not managed. The socket then
 * stays with the agent; its end tells the service that the agent is gone, and the agent that
 * the service is. It keeps the userfaultfd, the link's memfd and the doorbell: another service
 * fetches them there and goes on, without a word of the agent's (comeback.h). An agent of an
 * older shim has closed the memfd.
 *
 * A forked child is looked after already: the kernel gave the service a userfaultfd of its
 * memory. Its agent, which connects by itself, asks for that:
 *
 *   agent   -> HELLO, FORKED      + descriptor: a pidfd of the child
 *   service -> WELCOME            as above, and where the bell must lie
 *   agent   -> READY              the bell lies there
 *   service -> ADOPTED            + descriptor: the userfaultfd
 *           or AGAIN              it can't be told yet: READY once more, in a moment
 *           or NONE               it has none: READY with a new one, as above
 */
#ifndef LARDER_PROTOCOL_H
#define LARDER_PROTOCOL_H

#include <stdint.h>

#define PROTOCOL_MAGIC 0x5244524cu /* "LRDR" */
/* Whoever connects speaks in the lowest version that has what it needs, and is answered in it,
 * for as long as it lives: the service knows all from the oldest on. It grows with a change
 * that an older peer would misread, and so does the link's, which is the same number (link.h).
 * (A test defines others.) */
#ifndef PROTOCOL_VERSION
#define PROTOCOL_VERSION 1
#endif
enum { PROTOCOL_OLDEST = 1, PROTOCOL_POLICY_MAX = 64 };

/* A program that may have less address space or data than this is left alone: the shim's few
 * MiB would be felt (rule 11). */
enum { SHIM_LIMIT_MARGIN = 64 << 20 };

enum message_type {
	MESSAGE_HELLO = 1,
	MESSAGE_WELCOME = 2,
	MESSAGE_READY = 3,
	MESSAGE_REFUSED = 4, /* a head and nothing more: a close may take longer to arrive */
	MESSAGE_ADOPTED = 5, /* these three are a head only */
	MESSAGE_AGAIN = 6,
	MESSAGE_NONE = 7
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
	HELLO_INHERITED =
		1, /* an ancestor, not `larder run`, set LD_PRELOAD for this program */
	/* From the agent of a forked child, with one descriptor: a pidfd of the child. */
	HELLO_FORKED = 2,
	HELLO_SAMPLED = 4, /* hint.h said to leave it alone, and its turn had come */
};

struct message_welcome {
	struct message_head head;
	uint32_t flags;
	/* To a forked child: address / LINK_PAGE where its bell must lie. That is how it is
	 * told from its siblings: nobody else has anything there. */
	uint32_t bell_page;
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
