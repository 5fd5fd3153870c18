/* What left as a huge page becomes one again, where the policy has keep-huge: once all of it is
 * back, as pages one by one, the agent collapses it (MADV_COLLAPSE, Linux 6.1). That copies the
 * 2 MiB, in 0.7 ms, during which the program's accesses to them and changes of its mappings
 * wait; and the kernel needs to have a huge page. Where it refuses, the pages stay as they are.
 * That a block left as a huge page isn't known any more after another worker took over, after a
 * release or an mremap, and never of forked children.
 *
 * The evictor's thread does it while it has nothing else to do, since orders are its: one
 * block, then a rest. */
#ifndef LARDER_HUGE_H
#define LARDER_HUGE_H

#include <stdint.h>

struct pager;

/* Where it is: at this block of this client. */
struct huge {
	uint64_t client; /* id; clients go in the order of their ids; 0: between two rounds */
	uint64_t number; /* of the block */
	uint64_t due_ms; /* nothing is done before, by worker_now_ms */
	uint64_t rest_ms;
};

/* One block, or a look at some; sets due_ms. */
void huge_step(struct huge *h, struct pager *p);

#endif
