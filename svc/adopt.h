/* Which mappings of a client are managed: looks at /proc, registers whole mappings (rules 11,
 * 12). The evictor thread's. */
#ifndef LARDER_ADOPT_H
#define LARDER_ADOPT_H

#include "client.h"

struct pager;

struct adopt_result {
	uint64_t refused_bytes[MAP_REFUSAL_COUNT]; /* resident bytes, by reason */
	const char *why; /* the whole process is left alone, and why; or NULL */
};

/* Afterwards every mapping that may be managed is a region, and no other is. Gate not held. */
int adopt_mappings(struct pager *p, struct client *c, struct adopt_result *ret);

/* Gate held: [start, end) is registered, and on record as far as it is. -EAGAIN: it is in doubt
 * and will be settled, or wasn't registered. -EBUSY: it is another userfaultfd's. */
int adopt_range(struct pager *p, struct client *c, uint64_t start, uint64_t end);

/* Gate held: brings the entries of a block up to what the page table says. */
int adopt_block(struct client *c, uint64_t number);

#endif
