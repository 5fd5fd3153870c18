#include "recompress.h"
#include "codec_pool.h"
#include "log.h"
#include "pager.h"
#include "quota.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	BATCH_PAGES = 64,
	/* Blocks looked at in one step: a step without pages costs a fraction of a millisecond.
	 */
	LOOK_BLOCKS = 64,
	/* Of one processor's time, one part in so many. */
	CPU_SHARE = 20,
	/* Rounds that find nothing come once in an eighth of the age, within these. */
	PAUSE_MIN_MS = 1000,
	PAUSE_MAX_MS = 60000,
};

struct repack_batch {
	struct worker *worker; /* borrowed */
	struct store_method how;
	unsigned count;
	blob_t blob[BATCH_PAGES]; /* one reference each */
	_Atomic unsigned done, left;
	_Atomic uint64_t cpu_ns;
	_Atomic int error;
};

static uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- one batch ---- */

/* In the codec pool. No reader's protection is needed: the thread that compacts waits for us.
 */
static void repack_page(void *arg, unsigned i, struct store_scratch *scratch)
{
	struct repack_batch *b = arg;
	uint64_t before = thread_cpu_ns();
	int r = store_repack(b->worker->store, scratch, b->blob[i], &b->how);

	if (r == 1)
		atomic_fetch_add(&b->done, 1);
	else if (r == 0)
		atomic_fetch_add(&b->left, 1);
	else
		atomic_store(&b->error, r);
	atomic_fetch_add(&b->cpu_ns, thread_cpu_ns() - before);
}

/* Gate held. References keep the blobs from dying when the gate is free again. */
static void take_due(struct repack_batch *b, const struct leaf *leaf, uint32_t stamp)
{
	struct store *store = b->worker->store;

	for (unsigned i = 0; leaf->out > 0 && i < BLOCK_PAGES && b->count < BATCH_PAGES; i++) {
		uint32_t e = leaf->entry[i];
		if (entry_state(e) != PAGE_STORED ||
			!store_repack_due(store, entry_value(e), stamp))
			continue;
		store_ref(store, entry_value(e));
		b->blob[b->count++] = entry_value(e);
	}
}

/* Fills the batch from the first block, from *number on, that has pages that are due. False:
 * there is none up to where *number is now. */
static bool find_due(struct pager *p, struct client *c, struct repack_batch *b, uint32_t stamp,
	uint64_t *number, bool *ret_end)
{
	for (unsigned looked = 0; b->count == 0 && looked < LOOK_BLOCKS; looked++) {
		gate_lock(c);
		size_t at = space_block_index(&c->space, *number);
		*ret_end = at == c->space.block_count;
		if (!*ret_end) {
			*number = c->space.block[at].number;
			take_due(b, c->space.block[at].leaf, stamp);
		}
		gate_unlock(p, c);
		if (*ret_end)
			break;
		if (b->count < BATCH_PAGES)
			++*number; /* it has no more */
	}
	return b->count > 0;
}

static void count(struct worker *w, const struct repack_batch *b)
{
	atomic_fetch_add(&worker_counts(w)->pages_recompressed, b->done);
	atomic_fetch_add(&worker_counts(w)->recompress_left, b->left);
	atomic_fetch_add(&worker_counts(w)->recompress_cpu_us, b->cpu_ns / 1000);
	/* A full store is told where it matters, by evictions. */
	if (b->error == -EBADMSG)
		log_error("recompression: a page's blob is damaged; it is left as it is, and "
			  "its "
			  "program will be stopped when it needs the page");
}

static void run_batch(struct pager *p, struct codec_pool *pool, struct client *c,
	struct repack_batch *b, uint64_t number)
{
	struct store *store = p->worker->store;

	codec_pool_run(pool, b->count, repack_page, b);
	store_repack_finish(store);
	for (unsigned i = 0; i < b->count; i++)
		store_unref(store, b->blob[i]);
	/* The row holds; but it also says how many bytes its pages take. */
	gate_lock(c);
	space_row_outdated(&c->space, number);
	gate_unlock(p, c);
	count(p->worker, b);
}

/* ---- the round ---- */

static uint64_t pause_for(uint64_t age_ms)
{
	uint64_t pause = age_ms / 8;

	return pause < PAUSE_MIN_MS   ? PAUSE_MIN_MS
	       : pause > PAUSE_MAX_MS ? PAUSE_MAX_MS
				      : pause;
}

static void next_client(struct recompress *r, const struct client *c)
{
	r->client = c->id + 1;
	r->number = 0;
}

/* Returns the processor time that it took elsewhere. */
static uint64_t step_client(
	struct recompress *r, struct pager *p, struct codec_pool *pool, struct client *c)
{
	struct repack_batch b = {.worker = p->worker};
	uint64_t now_ms = worker_now_ms();
	struct terms terms;
	bool end = false;

	quota_terms(p->worker, c, &terms);
	if (terms.recompress_after_ms == 0) {
		next_client(r, c);
		return 0;
	}
	uint64_t pause = pause_for(terms.recompress_after_ms);
	if (r->pause_ms == 0 || pause < r->pause_ms)
		r->pause_ms = pause;
	b.how = terms.later;
	/* Stamps are whole seconds, rounded down: one more, for the age to be full. */
	uint64_t age_s = (terms.recompress_after_ms + 999) / 1000 + 1, now_s = now_ms / 1000;
	uint64_t number = r->number;
	if (now_s >= age_s && find_due(p, c, &b, (uint32_t)(now_s - age_s), &number, &end))
		run_batch(p, pool, c, &b, b.count < BATCH_PAGES ? number - 1 : number);
	else
		end = end || now_s < age_s;
	r->number = number;
	/* Where the store is full the rest waits for the next round. */
	if (end || b.error == -ENOSPC)
		next_client(r, c);
	return b.cpu_ns;
}

void recompress_step(struct recompress *r, struct pager *p, struct codec_pool *pool)
{
	uint64_t before = thread_cpu_ns();
	struct client *c = worker_next(p->worker, r->client);

	if (!c) {
		uint64_t pause = r->pause_ms ? r->pause_ms : PAUSE_MIN_MS;
		*r = (struct recompress){.due_ms = worker_now_ms() + pause};
		return;
	}
	uint64_t ns = step_client(r, p, pool, c);
	client_unref(c);
	ns += thread_cpu_ns() - before;
	r->due_ms = worker_now_ms() + ns * (CPU_SHARE - 1) / 1000000;
}
