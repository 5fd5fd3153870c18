/* Packs pages anew that have been out for long: from lz4 (or not packed at all) to zstd, where
 * the policy has a recompress-after. The age is that of storing, kept with each blob.
 *
 * The evictor's thread does it while it has nothing else to do: a batch is some pages of one
 * block, on the codec pool, and is followed by a rest that keeps the processor time under its
 * budget. An eviction that is ordered meanwhile waits for one batch at most. */
#ifndef LARDER_RECOMPRESS_H
#define LARDER_RECOMPRESS_H

#include <stdint.h>

struct codec_pool;
struct pager;

/* Where it is: at this block of this client. */
struct recompress {
	uint64_t client; /* id; its clients go in the order of their ids */
	uint64_t number; /* of the block */
	uint64_t due_ms; /* nothing is done before, by worker_now_ms */
	/* Until the next round, by the shortest of the ages; 0 = no client has one. */
	uint64_t pause_ms;
};

/* One batch, or a look at some blocks; sets due_ms. */
void recompress_step(struct recompress *r, struct pager *p, struct codec_pool *pool);

#endif
