/* Everybody gets their memory back: at the end of the service, and by order.
 *
 * It takes as much memory as the pages had, while the store gives back what held them only as
 * it is done: so it goes in slices, each no larger than what the machine has to give (pace.h),
 * and what doesn't fit waits. Faults are answered meanwhile. Clients take turns, so one that
 * resists (events without end, a memory limit) holds up itself alone. */
#ifndef LARDER_RELEASE_H
#define LARDER_RELEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct pager;
struct release_all_result;
struct worker;

/* What is out, or registered. */
struct release_left {
	uint64_t clients, bytes;
};
void release_left(struct worker *w, struct release_left *ret);

/* All of one client, as long as it gets on. 0; -ENOSPC: the machine has no room; -ETIMEDOUT:
 * something else holds it up; others as give_back has them. Any thread with a pager. */
int release_client(struct pager *p, struct client *c);

/* The same for all that are there, one after the other's turn. It ends in any case. */
void release_all(struct pager *p, struct release_all_result *ret);

/* The end of the service, a slice at a time. */
struct release {
	struct worker *worker;	    /* borrowed */
	size_t at;		    /* in the walk over all, which is a round */
	bool some, got_on, no_room; /* what this round has met so far */
	bool children;		    /* only of those that have no agent: all others keep it */
	bool alone;		    /* no eviction was under way as this round began */
	bool waits;		    /* the last round met no room, and that was said */
	uint64_t said_ms;	    /* when the log was told how far it is */
	uint64_t since_house;	    /* bytes restored since the store was asked to shrink */
};
/* Tells the log what will be done. children: see struct release. */
void release_begin(struct release *r, struct worker *w, bool children);
/* One slice of one client. True: nothing is out, and nothing registered any more. Else
 * *ret_wait_ms is for how long another would be of no use. */
bool release_step(struct release *r, struct pager *p, unsigned *ret_wait_ms);

/* When nothing is left: shims and agents learn that there is no service any more. */
void release_goodbye(struct worker *w);

#endif
