/* Orders to a client's agent (DESIGN rule 2). One is outstanding at a time; all of it is the
 * evictor thread's. */
#ifndef LARDER_ORDER_H
#define LARDER_ORDER_H

#include "client.h"

struct pager;

/* Staging is registered only while a block is being moved: outside of that no late MOVE can
 * succeed, and zapping it raises no event. -EBUSY: the agent still owes an answer. */
int order_open(struct client *c);
void order_close(struct client *c);

struct order_result {
	uint64_t moved[LINK_SLOTS / 64]; /* what staging holds now and the link too */
	int error;			 /* as link_head.error; -ETIME: revoked */
	uint32_t busy_pages;
};

/* Gate held, from before to after. Moves pages [first, first + count) of a block. Always
 * settles: when the agent doesn't answer in time, the order is revoked and what it had moved is
 * found out and copied by us. -ESRCH: the address space is gone; -EIO: pages are in staging and
 * can't be read (they stay there: nothing is lost, but the client's faults on them wait). */
int order_move(struct client *c, uint64_t block, unsigned first, unsigned count,
	struct order_result *ret);

/* Gate not held. Gives staging back to the kernel, after the pages were stored. */
int order_zap(struct client *c);

/* Gate not held: a page that is gone by now faults in the agent, and a reader must answer it.
 * Pages of the program become its own, which a fork had made shared. -EBUSY, -ETIME: the agent
 * owes an answer; else what madvise(2) said. */
int order_unshare(struct client *c, uint64_t addr, unsigned pages);

/* Does the agent owe no answer? */
bool order_answered(const struct client *c);
/* Gate not held. All of a block that is there becomes a huge page, if the kernel has one; late,
 * of what is there then. -ETIME: the agent owes the answer; else as above, and the kernel says
 * -EBUSY, too. */
int order_collapse(struct client *c, uint64_t block);

/* The agent ends; doesn't wait. Any thread, as the last thing done with this agent. link NULL:
 * nothing. */
void order_exit(struct link *link, int doorbell);

/* Wakes an agent whose order was posted by a worker that died before it did. */
void order_remind(struct client *c);

/* True while orders follow closely: the agent then spins a little for the next. */
void order_busy(struct client *c, bool busy);

#endif
