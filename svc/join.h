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

/* Are there children without an agent? */
bool join_expected(struct worker *w);
/* A page number where nobody happens to have anything: 1 to 16 TiB, below where mappings and
 * above where programs lie. */
uint32_t join_random_page(void);

/* The child of this user that has its bell there: a reference. -ENOENT: none; -EAGAIN: perhaps
 * one that can't be asked now. */
int join_find(struct worker *w, uid_t uid, int pagemap, uint64_t bell, struct client **ret);

#endif
