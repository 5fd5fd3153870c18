#include "huge.h"
#include "order.h"
#include "pager.h"
#include "quota.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>

enum {
	STEP_BLOCKS = 16, /* of one step: some 10 ms */
	REST_MS = 50,
	ROUND_MS = 1000,
};

/* The next block from *number on that is to be collapsed now. Nothing is to be unread that
 * could put something else there. */
static bool next_back(struct pager *p, struct client *c, uint64_t *number)
{
	gate_lock(c);
	bool found = c->space.huge_blocks > 0 && pager_drain(p, c) == 0 && !c->birth &&
		     !space_in_doubt(&c->space) && !uffd_fence_up(c->uffd) &&
		     space_next_huge(&c->space, number);
	gate_unlock(p, c);
	return found;
}

/* Returns how many were tried. */
static unsigned collapse_some(struct pager *p, struct client *c, unsigned most)
{
	unsigned tried = 0;
	int r = 0;

	for (uint64_t number = 0; tried < most && r != -EBUSY && r != -ETIME && r != -ESRCH &&
				  next_back(p, c, &number);
		number++, tried++)
		r = order_collapse(c, number);
	return tried;
}

static bool is_wanted(struct worker *w, const struct client *c)
{
	struct terms terms;

	if (client_state(c) != CLIENT_MANAGED || c->agent_pid == 0 || !client_agent_alive(c))
		return false;
	quota_terms(w, c, &terms);
	return terms.keep_huge;
}

void huge_step(struct huge *h, struct pager *p)
{
	struct worker *w = p->worker;
	struct client **client;
	size_t count;
	unsigned left = STEP_BLOCKS;

	h->due_ms = worker_now_ms() + ROUND_MS;
	if (worker_clients(w, &client, &count) < 0)
		return;
	for (size_t i = 0; i < count; i++) {
		if (left > 0 && is_wanted(w, client[i]))
			left -= collapse_some(p, client[i], left);
		client_unref(client[i]);
	}
	free(client);
	if (left == 0)
		h->due_ms = worker_now_ms() + REST_MS;
}
