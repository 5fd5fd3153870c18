/* A range of addresses that is reserved at once and made usable from its start, step by step.
 * What lies in it never moves, so that it can be read without a lock while it grows.
 *
 * The part that isn't open is PROT_NONE: it costs no memory, isn't counted against overcommit,
 * and a service that has called mlockall(MCL_FUTURE) doesn't have it filled. */
#ifndef LARDER_STORE_RANGE_H
#define LARDER_STORE_RANGE_H

#include <stddef.h>

struct range {
	unsigned char *base; /* owned; NULL = none */
	size_t size;	     /* reserved */
	size_t open;	     /* usable, from base */
};

/* fd: a file of at least `size` bytes to map shared (borrowed, may be closed afterwards), or -1
 * for private memory that starts as zeros. -ENOMEM, or as mmap says. */
int range_reserve(struct range *ret, size_t size, int fd);

/* Makes the first `size` bytes usable; `size` is at most what was reserved. -ENOMEM. */
int range_open(struct range *r, size_t size);

void range_done(struct range *r);

#endif
