/* A forked child between its FORK and the moment when it is known where it has what (DESIGN
 * rules 5 and 6).
 *
 * Its page tables were copied somewhere among the UNMAPs and REMAPs that its parent's other
 * threads made at that time. All of these have been read when the parent's fence was seen down,
 * or STEPS_OVERTAKE events later.
 * Until then nothing of the child is read, answered or taken. That costs a parent with one
 * thread nothing: FORK itself lets go of the fence before the child runs at all.
 *
 * A birth is protected by the child's gate. It takes the parent's gate as well where that is
 * free: only tried, so that nobody waits with a gate in hand. */
#ifndef LARDER_BIRTH_H
#define LARDER_BIRTH_H

#include "client.h"

struct pager;

/* FORK was read, with the parent's gate held: what can be told only now. */
void birth_read_fork(struct client *parent, int ufd);
/* FORK, in its turn, with the parent's gate held. Takes ufd. */
void birth_fork(struct client *parent, int ufd);

/* Gate held. 0: it is born, or will never be; -ESRCH; else later, mostly -EAGAIN. A child of
 * which it can't be told where its pages are is failed: nothing is served any more (rule 8). */
int birth_settle(struct pager *p, struct client *child);

/* Gate held. Was a FORK of its own read before it was born? */
bool birth_has_fork(const struct client *child);

/* Gate held: the child is no more. Children that it forked before it was born may live, and are
 * told for themselves. */
void birth_pass_on(struct client *child);

void birth_free(struct client *child);

/* ---- of another worker's births (recover.h) ---- */
enum { BIRTH_GROWN_MAX = 16 };
struct birth_fork {
	bool told;	      /* a worker applied it; else `child` may be known all the same */
	struct client *child; /* that the FORK made; NULL: it is gone */
	bool alone;	      /* its parent had one thread, as far as was told */
	struct region grown[BIRTH_GROWN_MAX];
	unsigned grown_count;
};
/* The FORK, again. */
void birth_fork_again(struct client *parent, const struct birth_fork *f);
/* A message of the child's that was read before it was born. */
void birth_keep_early(struct client *child, const struct uffd_msg *m);
/* The answers that it was born with, in their order; `steps` of its parent's had been made. */
struct birth_answer {
	uint64_t addr;
	bool registered;
};
/* -EBADMSG: these aren't answers to what is asked. */
int birth_born_again(
	struct client *child, uint64_t steps, const struct birth_answer *answer, size_t count);
/* It could not be told. */
void birth_failed_again(struct client *child);
/* The child ended before it was born; next gives each of its own forks, as applied. */
void birth_pass_on_again(struct client *child,
	void (*next)(void *arg, int ufd, struct birth_fork *ret), void *arg);

#endif
