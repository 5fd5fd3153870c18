/* Pages back into a client's memory, and their regions out of management: what a shim asks for
 * (rules 7 and 12), `larder release`, and the end of the service. Any thread with a pager. */
#ifndef LARDER_GIVE_BACK_H
#define LARDER_GIVE_BACK_H

#include "client.h"

struct pager;

/* Puts every page of the regions that touch [start, end) back and unregisters them. Gate not
 * held. 0: done. -EAGAIN: not in slice_ms (events in flight, no room in the client's memory
 * limits, or just much to do): what was done is done, call again. -ESRCH: the client is gone.
 * -EBADMSG, -EIO: a page can't be restored, and stays out. */
int give_back(
	struct pager *p, struct client *c, uint64_t start, uint64_t end, unsigned slice_ms);

/* The same for everything, but at most so many bytes of pages. -EDQUOT: more are out. */
int give_back_some(struct pager *p, struct client *c, uint64_t most_bytes, unsigned slice_ms);

#endif
