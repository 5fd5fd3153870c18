#include "huge.h"
#include "order.h"
#include "pager.h"
#include "quota.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>

enum {
	REST_MS = 5,
	ROUND_MS = 1000,
	LOOK_BLOCKS = 1024, /* in one look under the gate */
	/* An agent that takes so long holds up what else the thread has to do. */
	SLOW_MS = 50,
	SLOW_PAUSE_MS = 10000,
};

/* Only pages that nobody shares: what is collapsed is copied, which is for unshare to decide.
 */
static bool is_exclusive(const struct client *c, uint64_t number)
{
	uint64_t word[BLOCK_PAGES];

	if (pagemap_words(c->pagemap, number << BLOCK_SHIFT, BLOCK_PAGES, word) < 0)
		return false;
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		if (!(word[i] & PM_PRESENT) || !(word[i] & PM_EXCLUSIVE))
			return false;
	return true;
}

/* The next block from *number on that can be collapsed now. Nothing is to be unread that could
 * put something else there. -EAGAIN: perhaps from *number on, -ENOENT: none. */
static int next_back(struct pager *p, struct client *c, uint64_t *number)
{
	int r = -ENOENT;

	gate_lock(c);
	if (c->space.huge_blocks > 0 && pager_drain(p, c) == 0 && !c->birth &&
		!space_in_doubt(&c->space) && !uffd_fence_up(c->uffd))
		r = space_next_huge(&c->space, number, LOOK_BLOCKS);
	if (r == 0 && !is_exclusive(c, *number)) {
		++*number;
		r = -EAGAIN;
	}
	gate_unlock(p, c);
	return r;
}

static bool is_wanted(struct worker *w, const struct client *c)
{
	struct terms terms;

	if (client_state(c) != CLIENT_MANAGED || c->agent_pid == 0 || !client_agent_alive(c) ||
		!order_answered(c))
		return false;
	quota_terms(w, c, &terms);
	return terms.keep_huge;
}

/* Tried once, but where the kernel says that it would be worth it again. */
static void collapse(struct huge *h, struct pager *p, struct client *c, uint64_t number)
{
	uint64_t began = worker_now_ms();
	int r = order_collapse(c, number);

	if (r != -EAGAIN && r != -ETIME) {
		gate_lock(c);
		space_forget_huge(&c->space, number);
		gate_unlock(p, c);
	}
	h->number = number + 1;
	if (worker_now_ms() - began >= SLOW_MS)
		h->rest_ms = SLOW_PAUSE_MS;
}

/* False: the client has no more. */
static bool look_at(struct huge *h, struct pager *p, struct client *c)
{
	int r = next_back(p, c, &h->number);

	if (r == 0)
		collapse(h, p, c, h->number);
	return r != -ENOENT;
}

void huge_step(struct huge *h, struct pager *p)
{
	struct worker *w = p->worker;
	struct client **client, *next = NULL;
	size_t count;

	h->rest_ms = REST_MS;
	if (worker_clients(w, &client, &count) < 0)
		count = 0;
	for (size_t i = 0; i < count; i++)
		if (client[i]->id >= h->client && (!next || client[i]->id < next->id) &&
			atomic_load(&client[i]->space.huge_blocks) > 0)
			next = client[i];
	if (next && next->id != h->client)
		h->number = 0;
	if (next)
		h->client = next->id;
	if (!next) {
		h->client = 0;
		h->rest_ms = ROUND_MS;
	} else if (!is_wanted(w, next) || !look_at(h, p, next)) {
		h->client++;
	}
	for (size_t i = 0; i < count; i++)
		client_unref(client[i]);
	if (count > 0)
		free(client);
	h->due_ms = worker_now_ms() + h->rest_ms;
}
