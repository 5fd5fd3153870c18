/* Which of the forked children is it that an agent speaks for? (rule 13) */
#ifndef LARDER_JOIN_H
#define LARDER_JOIN_H

#include "client.h"

/* Proof by the kernel that a uffd is about the memory of the process whose pagemap this is:
 * what is done through the one shows in the page table of the other. A client could pass any
 * uffd that it got hold of, and thread ids in events mean nothing across pid namespaces. The
 * bell, a page there, is registered and write-protected afterwards. questions: <= 32, some 3 us
 * each; many where the uffd is not the client's own. -EPERM: it isn't. -EAGAIN:
 * an event is in flight. Else what the kernel said. On failure nothing stays registered. */
int join_prove(int uffd, int pagemap, uint64_t bell, unsigned questions);

/* The pid, in our namespace, of the process behind a descriptor that a client passed as a
 * pidfd. -EBADF: it isn't one; -ESRCH: it ended, or lies in a namespace that we can't see into.
 */
pid_t join_pid_of(int pidfd);

/* Can a forked child be one of ours? */
bool join_expected(struct worker *w);
/* A page number where nobody happens to have anything: 1 to 16 TiB, below where mappings and
 * above where programs lie. */
uint32_t join_random_page(void);

/* A search, which may take several turns: one an agent, from its connection on. Starts as
 * zeros. */
struct join_search {
	/* Of those with an id up to this one all FORKs that were read before the search began
	 * were applied: what they forked is in the table. */
	uint64_t cleared;
	uint64_t asked; /* none up to this one is it */
	unsigned turns;
};
/* While there is somebody whose FORK is read and not applied, or a child that can't be asked,
 * the search goes on: for so many turns where that is another user's, who may mean it to. The
 * program may have changed its user since. */
enum { JOIN_TURNS_FOR_PARENTS = 20, JOIN_TURNS_FOR_CHILDREN = 100 };
/* In one turn, which is the main loop's. */
enum { JOIN_ASKS = 256 };

/* The child that has its bell there, whose agent is one of this user's: a reference. Its
 * fork(2) was over, so FORK was read, before it could connect. -ENOENT: none; -EAGAIN: perhaps
 * one that can't be asked now, or isn't in the table yet. */
int join_find(struct worker *w, struct join_search *s, uid_t uid, int pagemap, uint64_t bell,
	struct client **ret);

#endif
