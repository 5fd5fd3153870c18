#include "scrub.h"
#include "log.h"
#include "pager.h"
#include "points.h"
#include "policy.h"
#include "worker.h"

#include <errno.h>

enum {
	BATCH_PAGES = 64,
	/* Blocks looked at in one step. */
	LOOK_BLOCKS = 64,
	/* At most so many pages in a millisecond: 16 MiB of pages in a second, which takes a
	 * few percent of one processor. */
	PAGES_A_MS = 4,
	/* So often it looks whether scrub-every has changed. */
	PAUSE_MAX_MS = 60000,
};

struct some_pages {
	unsigned count;
	blob_t blob[BATCH_PAGES]; /* one reference each */
	uint64_t addr[BATCH_PAGES];
};

static uint64_t period_ms(struct worker *w)
{
	pthread_mutex_lock(&w->config_lock);
	uint64_t ms = w->config->scrub_every_ms;
	pthread_mutex_unlock(&w->config_lock);
	return ms;
}

/* ---- which pages ---- */

/* Gate held. References keep the blobs from dying when the gate is free again. */
static void take_pages(
	struct store *store, const struct block *k, unsigned *page, struct some_pages *some)
{
	const struct leaf *leaf = k->leaf;

	for (; leaf->out > 0 && *page < BLOCK_PAGES && some->count < BATCH_PAGES; ++*page) {
		uint32_t e = leaf->entry[*page];
		if (entry_state(e) != PAGE_STORED)
			continue;
		store_ref(store, entry_value(e));
		some->blob[some->count] = entry_value(e);
		some->addr[some->count++] = (k->number << BLOCK_SHIFT) + *page * PAGE_SIZE;
	}
	if (leaf->out == 0)
		*page = BLOCK_PAGES;
}

/* False: the client has no more. */
static bool next_pages(
	struct scrub *s, struct pager *p, struct client *c, struct some_pages *some)
{
	bool more = true;

	for (unsigned i = 0; more && some->count < BATCH_PAGES && i < LOOK_BLOCKS; i++) {
		gate_lock(c);
		size_t at = space_block_index(&c->space, s->number);
		more = at < c->space.block_count;
		if (more) {
			const struct block *k = &c->space.block[at];
			if (k->number != s->number)
				s->page = 0;
			s->number = k->number;
			take_pages(p->worker->store, k, &s->page, some);
		}
		gate_unlock(p, c);
		if (more && s->page == BLOCK_PAGES) {
			s->number++;
			s->page = 0;
		}
	}
	return more;
}

/* ---- the look ---- */

static unsigned find_known(const struct scrub *s, blob_t blob)
{
	unsigned i = 0;

	while (i < s->known_count && s->known[i] != blob)
		i++;
	return i;
}

/* Told once; where more are damaged than are remembered, once a round. */
static void tell(struct scrub *s, struct client *c, uint64_t addr, blob_t blob)
{
	if (find_known(s, blob) < s->known_count)
		return;
	if (s->known_count < SCRUB_KNOWN)
		s->known[s->known_count++] = blob;
	atomic_fetch_add(&worker_counts(c->worker)->scrub_damaged, 1);
	log_error("scrub: client %d (%s): page 0x%llx: its blob %u is damaged; it stays as it "
		  "is, "
		  "and the client is stopped when it touches the page",
		(int)c->pid, c->exe, (unsigned long long)addr, blob);
}

/* The handle names another page by now. */
static void forget(struct scrub *s, blob_t blob)
{
	unsigned i = find_known(s, blob);

	if (i < s->known_count)
		s->known[i] = s->known[--s->known_count];
}

static void look_at(
	struct scrub *s, struct pager *p, struct client *c, const struct some_pages *some)
{
	struct store *store = p->worker->store;

	point(POINT_scrub);
	for (unsigned i = 0; i < some->count; i++) {
		int r = store_get(store, p->scratch, some->blob[i], p->buffer);
		if (r == -EBADMSG)
			tell(s, c, some->addr[i], some->blob[i]);
		else if (r == 0)
			forget(s, some->blob[i]);
		store_unref(store, some->blob[i]);
	}
	atomic_fetch_add(&worker_counts(p->worker)->scrub_pages, some->count);
	point(POINT_scrubbed);
}

/* ---- the round ---- */

/* So that all pages take the period, but not faster than may be. */
static uint64_t rest_ms(struct worker *w, unsigned pages, uint64_t period)
{
	struct store_stats st;

	store_stats(w->store, &st);
	uint64_t ms = st.blobs > 0 ? pages * period / st.blobs : 0;
	uint64_t least = (pages + PAGES_A_MS - 1) / PAGES_A_MS;

	return ms < least ? least : ms > PAUSE_MAX_MS ? PAUSE_MAX_MS : ms;
}

static void end_round(struct scrub *s, struct worker *w)
{
	s->client = s->number = s->page = 0;
	atomic_fetch_add(&worker_counts(w)->scrub_rounds, 1);
}

/* Between two rounds. False: not yet. */
static bool begin_round(struct scrub *s, uint64_t now, uint64_t period)
{
	uint64_t at = s->began_ms ? s->began_ms + period : now;

	if (period == 0 || at > now) {
		s->due_ms = period == 0 || at - now > PAUSE_MAX_MS ? now + PAUSE_MAX_MS : at;
		return false;
	}
	s->began_ms = now;
	s->client = 1;
	return true;
}

void scrub_step(struct scrub *s, struct pager *p)
{
	struct some_pages some = {.count = 0};
	uint64_t now = worker_now_ms(), period = period_ms(p->worker);

	if ((s->client == 0 || period == 0) && !begin_round(s, now, period))
		return;
	struct client *c = worker_next(p->worker, s->client);
	if (!c) {
		end_round(s, p->worker);
		s->due_ms = now;
		return;
	}
	if (c->id != s->client) {
		s->client = c->id;
		s->number = s->page = 0;
	}
	if (!next_pages(s, p, c, &some)) {
		s->client = c->id + 1;
		s->number = s->page = 0;
	}
	look_at(s, p, c, &some);
	client_unref(c);
	s->due_ms = worker_now_ms() + (some.count ? rest_ms(p->worker, some.count, period) : 0);
}
