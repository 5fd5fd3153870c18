/* What only the kernel can tell about events: asked under the client's gate. */
#ifndef LARDER_SETTLE_H
#define LARDER_SETTLE_H

#include "client.h"

/* Rule 6: asks for the ranges whose last event is in doubt, puts back what was dropped wrongly,
 * and drops what isn't registered. -EAGAIN: the fence is up, nothing can be asked yet. -ESRCH.
 */
int settle_doubt(struct client *c);

/* Where the fence is down and nothing in doubt: what was kept for forks that overlapped is let
 * go of, and children that were forked before can be born. */
void settle_calm(struct client *c);

/* Brings what is on record for [start, end) in line with what is registered there, mapping by
 * mapping: what isn't registered is of an older mapping, and goes. Fence down, nothing in
 * doubt. */
int settle_range(struct client *c, uint64_t start, uint64_t end);

/* What follows from it; settle_answer notes it as well. */
void settle_apply(struct client *c, uint64_t start, uint64_t end, bool registered);
/* The kernel's answer, or what was just made so: [start, end) is registered, or nothing of it
 * is ours. */
void settle_answer(struct client *c, uint64_t start, uint64_t end, bool registered);

/* [start, end) was about to be registered or unregistered, and nobody knows how far that came.
 * It is on record from now on, and asked for before anything else is done: what is registered
 * and not on record can't be given back, and what is on record and not registered is lost when
 * it is evicted. */
void settle_later(struct client *c, uint64_t start, uint64_t end);
/* What follows from it. */
void settle_open_all(struct client *c, uint64_t start, uint64_t end);

/* The fence was seen down, nothing is in doubt, and what is kept for forks isn't needed. But
 * first: was all that was reported as unmapped? -EAGAIN: another event is in flight by now.
 * -ESRCH.
 */
int settle_forget(struct client *c);

/* The same, and nothing is mapped at the page. */
void settle_gone(struct client *c, uint64_t addr);

#endif
