/* Looks whether cold pages can still be unpacked to what they were: bad memory, or a fault of
 * ours, is found before a program needs the page, and told with the program, the address and
 * the blob. Nothing is repaired, for there is no other copy; and nobody is stopped before
 * touching the page.
 *
 * The evictor's thread does it while it has nothing else to do, the whole store once in
 * scrub-every of [store]: some pages of one block, then a rest. It is no reader of the store
 * that compaction would have to wait for, as it is that same thread. */
#ifndef LARDER_SCRUB_H
#define LARDER_SCRUB_H

#include "store.h"

#include <stdint.h>

struct pager;

enum { SCRUB_KNOWN = 64 };

/* Where it is: at this page of this block of this client. */
struct scrub {
	uint64_t client; /* id; clients go in the order of their ids; 0: between two rounds */
	uint64_t number; /* of the block */
	unsigned page;
	uint64_t due_ms;   /* nothing is done before, by worker_now_ms */
	uint64_t began_ms; /* the round; 0: none has */
	/* Blobs that were told of, so that a round doesn't tell of them again. */
	blob_t known[SCRUB_KNOWN];
	unsigned known_count;
};

/* One batch, or a look at some blocks; sets due_ms. */
void scrub_step(struct scrub *s, struct pager *p);

#endif
