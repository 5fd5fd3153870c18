/* Faults and events of one client: the only code that reads a uffd or answers a fault.
 *
 * Invariants (DESIGN rules 3 to 6):
 *  1. read and apply, and look-up and COPY, happen under the client's gate, without letting go
 *     in between.
 *  2. After a COPY that said EAGAIN the bytes are forgotten: events are read and applied, and
 * the page is looked up again.
 *  3. A page becomes RESIDENT only after the kernel said that it is there.
 *  4. A fault is answered, or deferred and tried again by a timer, or its client is stopped.
 *
 * The gate. Whoever learns that a uffd is readable calls pager_service: it takes the gate if it
 * is free; if not, it leaves a note (`pending`), and the holder looks again after letting go.
 * So nobody waits for a gate on behalf of a fault, and no fault is overlooked. */
#ifndef LARDER_PAGER_H
#define LARDER_PAGER_H

#include "client.h"
#include "histogram.h"

#include <time.h>

enum {
	PAGER_MESSAGES = 16,
	PAGER_WINDOW_MAX = 64, /* pages in one COPY; above that the gain is gone (measured) */
};

/* Of one thread. */
struct pager {
	struct worker *worker;	       /* borrowed */
	struct store_scratch *scratch; /* owned */
	uint8_t *buffer;	       /* owned; PAGER_WINDOW_MAX pages, page aligned */
	int qsbr;		       /* our number there */
	timer_t alarm;		       /* owned, from the first read that could wait */
	bool has_alarm;
	struct histogram latency; /* read by others without a lock */
};

int pager_init(struct pager *p, struct worker *w);
void pager_done(struct pager *p);
/* The thread that used it ends, and another may use it. */
void pager_leave_thread(struct pager *p);

/* Everything that is to be read from the client's uffd now. Doesn't wait for the gate. */
void pager_service(struct pager *p, struct client *c);

void gate_lock(struct client *c);
/* Lets go, and does what arrived meanwhile. */
void gate_unlock(struct pager *p, struct client *c);

/* Gate held: reads and applies what is there, answers what can be answered.
 * -ESRCH: the address space is gone. */
int pager_drain(struct pager *p, struct client *c);

/* Parts of it. Reads once: the number of messages in msg[PAGER_MESSAGES]; 0 when there are
 * none, or c->read_again; -ESRCH. */
int pager_read(struct pager *p, struct client *c, struct uffd_msg *msg);
void pager_take(struct client *c, const struct uffd_msg *m);
/* An event, in its turn (sequence.h). */
void pager_apply(struct client *c, const struct uffd_msg *m);

/* Gate held: puts up to `pages` pages from addr back that are out (STORED or HELD), as one run;
 * stops at the first that isn't. *ret_pages counts those that are RESIDENT now because of this.
 * 0; -EAGAIN: an event is in flight, drain first; -ENOENT: nothing mapped there; -ESRCH;
 * -ENOMEM; -EBADMSG: the page at addr is damaged. */
int pager_restore(
	struct pager *p, struct client *c, uint64_t addr, unsigned pages, unsigned *ret_pages);

#endif
