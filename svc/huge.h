/* What left as a huge page becomes one again, where the policy has keep-huge: once all of it is
 * back, as pages one by one, the agent collapses it (MADV_COLLAPSE, Linux 6.1). That copies the
 * 2 MiB (0.7 ms, of which the program's memory lock is held for most), and needs a huge page to
 * be free; where the kernel refuses, they stay as they are. That a block left as a huge page
 * isn't known any more after another worker took over, nor after a release.
 *
 * The evictor's thread does it while it has nothing else to do, since orders are its. */
#ifndef LARDER_HUGE_H
#define LARDER_HUGE_H

#include <stdint.h>

struct pager;

struct huge {
	uint64_t due_ms; /* nothing is done before, by worker_now_ms */
};

/* Some of them, of all clients; sets due_ms. */
void huge_step(struct huge *h, struct pager *p);

#endif
