/* One block (2 MiB) of a client out into the store: move, pack, commit, publish, zap. */
#ifndef LARDER_EVICT_BLOCK_H
#define LARDER_EVICT_BLOCK_H

#include "client.h"
#include "control.h"
#include "batch.h"

struct batch;
struct codec_pool;
struct pager;

/* quiet_seq: the space's remove_seq when every thread was seen outside of the calls that
 * discard, or NULL: suspicion that is older can be dropped. 0, also when nothing could be taken
 * (res says why). -EAGAIN: the agent was late, and the rest of the block is still there: again.
 * -ETIME: it doesn't answer. -ESRCH: the client is gone or given back. -ENOSPC and other errors
 * of the store: what was moved was given back. -EDQUOT: so was what found no room in the
 * allowance. -EBUSY: it could not be given back yet; c->batch is set, and nothing may be
 * evicted before evict_finish has succeeded. */
int evict_block(struct pager *p, struct codec_pool *pool, struct client *c, uint64_t number,
	const uint64_t *quiet_seq, struct allowance *allowance, struct evict_result *res);

/* Tries again to give back what could not be stored. False: not yet. Else b is freed. */
bool evict_finish(struct pager *p, struct batch *b);

#endif
