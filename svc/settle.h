/* What only the kernel can tell about events: asked under the client's gate. */
#ifndef LARDER_SETTLE_H
#define LARDER_SETTLE_H

#include "client.h"

struct pager;

/* Before a fork: looks for mappings that have grown over what is aside. A child that was forked
 * afterwards has zeros there. */
void settle_growth(struct client *parent);

/* Rule 5: what an UNMAP or REMAP dropped while this fork was under way goes to the child if its
 * own mappings say that its page tables were copied before. The child isn't published yet. */
void settle_fork(struct pager *p, const struct space *parent, struct client *child);

/* Rule 6: asks for the ranges whose last event is in doubt, puts back what was dropped wrongly,
 * and drops what isn't registered. -EAGAIN: the fence is up, nothing can be asked yet. -ESRCH.
 */
int settle_doubt(struct client *c);

/* Brings what is on record for [start, end) in line with what is registered there, mapping by
 * mapping: what isn't registered is of an older mapping, and goes. Fence down, nothing in
 * doubt. */
int settle_range(struct client *c, uint64_t start, uint64_t end);

#endif
