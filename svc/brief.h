/* Which executables never live long. Compilers, shells and their like start by the thousand,
 * and to take one over costs more than it could ever save: so where a policy has a min-age, and
 * the last few programs of an executable all ended before it, the next ones are left alone. Now
 * and then one is taken over all the same, to see whether this still holds.
 *
 * Only for programs that an ancestor brought along: one that `larder run` started is meant. The
 * main thread's. */
#ifndef LARDER_BRIEF_H
#define LARDER_BRIEF_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	BRIEF_SEEN = 8,		  /* so many in a row ended early */
	BRIEF_SAMPLE = 16,	  /* one in so many is taken over then */
	BRIEF_EXECUTABLES = 1024, /* remembered; by hash, so a newer one replaces an older */
};

struct brief {
	struct {
		uint64_t key; /* 0: free */
		uint32_t ended_early, left_alone;
	} slot[BRIEF_EXECUTABLES];
};

/* Never 0. */
uint64_t brief_key(const char *exe, const char *policy, uid_t uid);
/* Is one more of these to be left alone? */
bool brief_leave(struct brief *b, uint64_t key);
/* One of these has ended: before its min-age? */
void brief_ended(struct brief *b, uint64_t key, bool early);

#endif
