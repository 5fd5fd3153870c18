/* Which executables never live long, and start often. Compilers, shells and their like come by
 * the thousand, and to take one over costs more than it could ever save: so when the last few
 * programs of an executable all ended before their policy's brief-age, the next ones are left
 * alone, as long as they come fast enough to cost something. Now and then one is taken over all
 * the same, to see whether this still holds.
 *
 * A leaky bucket: each early end fills it, and so does each program left alone, as it would
 * likely have been one; time drains it.
 *
 * Only for programs that an ancestor brought along: one that `larder run` started is meant. The
 * main thread's. */
#ifndef LARDER_BRIEF_H
#define LARDER_BRIEF_H

#include "hint.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	BRIEF_SEEN = 8,		    /* so many in a row ended early */
	BRIEF_FULL = 16,	    /* no more than so many count */
	BRIEF_DRAIN_MS = 5000,	    /* and in so long, one is forgotten */
	BRIEF_SAMPLE = HINT_SAMPLE, /* one in so many is taken over then */
	BRIEF_EXECUTABLES =
		HINT_SLOTS, /* remembered; by hash, so a newer one replaces an older */
};

struct brief_slot {
	uint64_t key; /* 0: free */
	uint64_t drained_ms;
	uint32_t level, left_alone;
};

struct brief {
	struct brief_slot slot[BRIEF_EXECUTABLES];
	struct hint *hint; /* borrowed; HINT_SLOTS of them, kept true to the slots; or NULL */
};

/* Keys are hint_key's. */
/* Is one more of these to be left alone? sampled: it knew that it might be, and its turn has
 * come to be taken over. now_ms: CLOCK_MONOTONIC. */
bool brief_leave(struct brief *b, uint64_t key, bool sampled, uint64_t now_ms);
/* One of these has ended: before its brief-age? */
void brief_ended(struct brief *b, uint64_t key, bool early, uint64_t now_ms);

#endif
