/* The way of a block:
 *
 *   RESIDENT -> HELD    [move_pages]     gate held from the order to the link (rule 2)
 *   HELD     -> (blob)  [pack_pages]     no lock; faults are answered from the link meanwhile
 *   HELD     -> STORED  [publish]        after the row is committed (rule 9)
 *   HELD     -> RESIDENT [return_pages]     where there is no blob: store full, packing failed
 *                       zap               only now do the pages leave the client's memory */
#include "evict_block.h"
#include "adopt.h"
#include "batch.h"
#include "codec_pool.h"
#include "indexer.h"
#include "journal.h"
#include "log.h"
#include "maps.h"
#include "order.h"
#include "pagemap.h"
#include "pager.h"
#include "points.h"
#include "settle.h"
#include "space_internal.h"
#include "uffd.h"
#include "worker.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

enum {
	/* Pages of one order: some 30 us with the gate held, of which a fault sees half. */
	RUN_PAGES = 64,
	FENCE_TRIES = 50,
	FENCE_WAIT_NS = 100000,
	/* How long the evictor tries to give back what it could not store. */
	RETURN_MS = 100,
};

static void rest(long ns)
{
	struct timespec pause = {.tv_nsec = ns};
	nanosleep(&pause, NULL);
}

/* ---- moving ---- */

struct run {
	unsigned first, count;
};

static bool movable(const struct client *c, uint64_t addr)
{
	uint32_t e = space_entry(&c->space, addr);
	return entry_state(e) == PAGE_RESIDENT && space_region_at(&c->space, addr);
}

/* The next pages from `from` on that may go in one order. */
static struct run next_run(const struct client *c, uint64_t number, unsigned from, bool huge)
{
	uint64_t base = number << BLOCK_SHIFT;
	struct run run = {from, 0};

	while (run.first < BLOCK_PAGES && !movable(c, base + run.first * PAGE_SIZE))
		run.first++;
	while (run.first + run.count < BLOCK_PAGES &&
		run.count < (huge ? BLOCK_PAGES : RUN_PAGES) &&
		movable(c, base + (run.first + run.count) * PAGE_SIZE))
		run.count++;
	return run;
}

/* Gate held. What an order moved is HELD from now on. */
static void hold(
	struct client *c, struct batch *b, unsigned tag, const struct order_result *res)
{
	struct leaf *leaf = space_leaf(&c->space, b->number);

	for (unsigned i = 0; i < BLOCK_PAGES; i += 64)
		if (res->moved[i / 64])
			journal_add(
				c->journal, JOURNAL_MOVED, b->number, i, res->moved[i / 64], 0);
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		if (!(res->moved[i / 64] >> i % 64 & 1))
			continue;
		graveyard_add_blob(
			c->space.graveyard, c->space.family, entry_blob(leaf->entry[i]));
		space_set(&c->space, b->number, leaf, i,
			entry_make(PAGE_HELD, tag << HELD_SLOT_BITS | i));
		b->moved[i / 64] |= 1ULL << i % 64;
		b->count++;
	}
}

/* Gate held. -EAGAIN: events are in flight, let go and come back. */
static int move_run(struct pager *p, struct client *c, struct batch *b, unsigned tag,
	struct run run, struct evict_result *res)
{
	struct order_result done;
	int r = pager_drain(p, c);

	if (r < 0)
		return r;
	if (space_in_doubt(&c->space))
		return -EAGAIN;
	/* What was just read may have changed the run: then it is chosen anew. */
	for (unsigned i = run.first; i < run.first + run.count; i++)
		if (!movable(c, (b->number << BLOCK_SHIFT) + i * PAGE_SIZE))
			return -EAGAIN;
	point(POINT_move);
	r = order_move(c, b->number, run.first, run.count, &done);
	point(POINT_moved);
	if (r == -EIO) {
		/* Pages lie in staging where nobody can read them now. Zeros would be a lie. */
		c->failed = true;
		log_error("client %d (%s): pages in staging can't be read; no fault of this "
			  "client "
			  "is answered any more",
			(int)c->pid, c->exe);
	}
	if (r < 0)
		return r;
	/* A slot that was used before may be full still, of a page that has come back since. */
	for (unsigned i = 0; i < BLOCK_PAGES / 64; i++)
		done.moved[i] &= ~b->moved[i];
	hold(c, b, tag, &done);
	if (run.count == BLOCK_PAGES && b->count == BLOCK_PAGES)
		space_note_huge(&c->space, b->number);
	point(POINT_held);
	res->shared_pages += done.busy_pages;
	atomic_fetch_add(&client_counts(c)->move_refused, done.busy_pages);
	return done.error == -EAGAIN || done.error == -ETIME ? done.error : 0;
}

/* Moves what can be moved of the block; the gate is let go between runs. */
static int move_pages(struct pager *p, struct client *c, struct batch *b, unsigned tag,
	bool huge, struct evict_result *res)
{
	unsigned from = 0, tries = 0;

	while (from < BLOCK_PAGES) {
		gate_lock(c);
		struct run run = next_run(c, b->number, from, huge);
		int r = client_state(c) == CLIENT_GONE ? -ESRCH
			: run.count == 0	       ? 1
						       : move_run(p, c, b, tag, run, res);
		gate_unlock(p, c);
		if (r == 1)
			return 0;
		if (r == -EAGAIN && ++tries < FENCE_TRIES) {
			rest(FENCE_WAIT_NS);
			from = run.first;
			continue;
		}
		if (r == -EAGAIN)
			res->busy_pages += run.count;
		else if (r < 0)
			return r;
		from = run.first + run.count;
	}
	return 0;
}

/* ---- unsharing ---- */

/* After a fork a page isn't the program's alone, and MOVE refuses it (EBUSY), even when the
 * child is gone. Is it worth a write fault to make it so? While others map it that costs a
 * copy, and its memory isn't saved before the last of them lets go. */
static bool worth_unsharing(enum unshare how, uint64_t pagemap_word)
{
	return pagemap_word & PM_PRESENT &&
	       (how == UNSHARE_ALWAYS || (how == UNSHARE_AUTO && pagemap_word & PM_EXCLUSIVE));
}

/* The next run of pages from `from` on that were refused and are worth it. Looked at under the
 * gate and with nothing unread: what is unshared must still be what was refused. */
static int refused_run(struct pager *p, struct client *c, enum unshare how, uint64_t number,
	unsigned from, struct run *ret)
{
	uint64_t word[BLOCK_PAGES], base = number << BLOCK_SHIFT;
	struct run run = {from, 0};
	int r;

	gate_lock(c);
	r = pager_drain(p, c);
	if (r == 0 && (space_in_doubt(&c->space) || uffd_fence_up(c->uffd)))
		r = -EAGAIN;
	if (r == 0)
		r = pagemap_words(c->pagemap, base, BLOCK_PAGES, word);
	while (r == 0 && run.first + run.count < BLOCK_PAGES && run.count < RUN_PAGES) {
		unsigned i = run.first + run.count;
		if (movable(c, base + i * PAGE_SIZE) && worth_unsharing(how, word[i]))
			run.count++;
		else if (run.count == 0)
			run.first++;
		else
			break;
	}
	gate_unlock(p, c);
	*ret = run;
	return r;
}

/* Returns how many pages can be moved now that could not before, or an error of the order. */
static int unshare_block(struct pager *p, struct client *c, enum unshare how, uint64_t number)
{
	unsigned from = 0;
	int pages = 0;

	while (from < BLOCK_PAGES) {
		struct run run;
		int r = refused_run(p, c, how, number, from, &run);
		if (r == 0 && run.count > 0)
			r = order_unshare(
				c, (number << BLOCK_SHIFT) + run.first * PAGE_SIZE, run.count);
		point(POINT_unshare);
		if (r == -ESRCH || r == -ETIME || r == -EBUSY)
			return r;
		/* Else the program changed something there: those pages stay. */
		if (r == 0)
			pages += (int)run.count;
		from = run.first + run.count;
		if (run.count == 0)
			break;
	}
	return pages;
}

/* ---- packing ---- */

/* Takes room for a packed page; what is left may still do for a smaller one. */
static int take_room(struct allowance *a, const struct store_packed *p)
{
	int64_t bytes = store_packed_size(p);

	if (atomic_fetch_sub(&a->room, bytes) >= bytes)
		return 0;
	atomic_fetch_add(&a->room, bytes);
	atomic_store(&a->exhausted, true);
	return -EDQUOT;
}

static void pack_page(void *arg, unsigned slot, struct store_scratch *scratch)
{
	struct batch *b = arg;
	uint8_t page[STORE_PAGE];
	struct store_packed packed;
	blob_t blob;

	if (!batch_has(b, slot))
		return;
	/* A copy of our own: the link can be written to by the client at any moment. */
	memcpy(page, batch_bytes(b, slot), sizeof(page));
	int r = store_pack(scratch, &b->allowance->how, page, &packed);
	if (r == 0)
		r = take_room(b->allowance, &packed);
	point(POINT_packed);
	if (r == 0)
		r = store_put(b->owner->worker->store, &packed, b->allowance->stamp, &blob);
	point(POINT_put);
	if (r == 0)
		b->blob[slot] = blob;
}

static unsigned packed_pages(const struct batch *b)
{
	unsigned n = 0;
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		n += b->blob[i] != BLOB_NONE;
	return n;
}

/* ---- finishing ---- */

/* Gate held: a page of this batch that is still HELD in c, or -1. */
static bool find_held(struct client *c, const struct batch *b, uint64_t *ret_addr)
{
	int tag = space_held_tag(&c->space, b);

	for (size_t i = 0; tag >= 0 && i < c->space.block_count; i++) {
		const struct block *k = &c->space.block[i];
		for (unsigned page = 0; k->leaf->held > 0 && page < BLOCK_PAGES; page++) {
			uint32_t e = k->leaf->entry[page];
			if (entry_state(e) != PAGE_HELD ||
				entry_value(e) >> HELD_SLOT_BITS != (unsigned)tag)
				continue;
			*ret_addr = (k->number << BLOCK_SHIFT) + page * PAGE_SIZE;
			return true;
		}
	}
	return false;
}

/* HELD -> RESIDENT for one page that got no blob. 1: there is none left in c. */
static int return_page(struct pager *p, struct client *c, struct batch *b)
{
	uint64_t addr = 0;
	unsigned pages;
	int r;

	gate_lock(c);
	r = pager_drain(p, c);
	bool over = r < 0 || c->failed || !find_held(c, b, &addr);
	if (!over && space_in_doubt(&c->space)) {
		r = -EAGAIN; /* where it is to go */
	} else if (!over) {
		r = pager_restore(p, c, addr, 1, &pages);
		if (r == -ENOENT && !uffd_fence_up(c->uffd))
			settle_gone(c, addr);
		over = r == -ESRCH; /* a child that has execed */
		point(POINT_returned);
	}
	if (over) {
		batch_drop_aside(b, c);
		space_unhold(&c->space, b);
		r = 1;
	}
	gate_unlock(p, c);
	return r;
}

/* Every such page. -EAGAIN: not now; they stay HELD, and are served as such. */
static int return_pages(struct pager *p, struct client *c, struct batch *b)
{
	uint64_t until_ms = worker_now_ms() + RETURN_MS;

	for (;;) {
		int r = return_page(p, c, b);
		if (r == 1)
			return 0;
		if (worker_now_ms() >= until_ms)
			return -EAGAIN;
		if (r < 0)
			rest(FENCE_WAIT_NS);
	}
}

/* HELD -> STORED, in each follower. The rows of all are committed (rule 9), but for children
 * that were forked since: what they have follows from the owner's rows and its journal.
 * -EAGAIN: not all could be returned to one; the rest follow still. */
static int publish(struct pager *p, struct batch *b)
{
	bool whole = packed_pages(b) == b->count;
	struct client *c;
	int r = 0;

	while (r == 0 && (c = batch_take_follower(b))) {
		unsigned left = 0;
		gate_lock(c);
		/* What a child that isn't born has aside can be its memory still. */
		if (!whole && c->space.unborn)
			r = -EAGAIN;
		else
			left = batch_publish(b, c);
		gate_unlock(p, c);
		point(POINT_published);
		if (left > 0)
			r = return_pages(p, c, b);
		if (r < 0)
			batch_follow(b, c);
		client_unref(c);
	}
	return r;
}

bool evict_finish(struct pager *p, struct batch *b)
{
	if (publish(p, b) < 0)
		return false;
	batch_drop_blobs(b);
	b->owner->batch = NULL;
	batch_free(b);
	return true;
}

/* Blobs for what is HELD, and the rows that name them. */
static int store_batch(
	struct pager *p, struct codec_pool *pool, struct batch *b, struct evict_result *res)
{
	int r = 0;

	if (b->count == 0)
		return 0;
	point(POINT_hold);
	codec_pool_run(pool, BLOCK_PAGES, pack_page, b);
	point(POINT_stored);
	unsigned packed = packed_pages(b);
	if (packed < b->count)
		r = atomic_load(&b->allowance->exhausted) ? -EDQUOT : -ENOSPC;
	if (packed > 0) {
		int e = indexer_flush(p, b->owner, b);
		point(POINT_commit);
		if (e < 0) {
			batch_drop_blobs(b);
			packed = 0;
			r = e == -EBUSY ? -ETXTBSY : e; /* not ours, which is -EBUSY */
		}
	}
	res->moved_pages += packed;
	res->failed_pages += b->count - packed;
	atomic_fetch_add(&client_counts(b->owner)->pages_evicted, packed);
	return r;
}

/* ---- the block ---- */

static int zap(struct pager *p, struct client *c)
{
	if (!c->staging_used)
		return 0;
	int r = indexer_forget_staging(p, c);
	if (r < 0)
		return r;
	/* First: who takes over while the agent is at it must not take for pages what is left.
	 * Nobody needs it any more. */
	gate_lock(c);
	c->zapped_clock = client_clock(c);
	journal_add(c->journal, JOURNAL_ZAPPED, 0, 0, 0, 0);
	gate_unlock(p, c);
	point(POINT_zap_told);
	r = order_zap(c);
	point(POINT_zapped);
	return r;
}

/* Gate held. Is the block worth an order, and as one huge page? */
static int examine(struct pager *p, struct client *c, uint64_t number,
	const uint64_t *quiet_seq, bool *ret_huge, struct evict_result *res)
{
	uint64_t base = number << BLOCK_SHIFT;
	unsigned resident = 0;
	int r = pager_drain(p, c);

	/* Compared after the drain, with the gate held since: no REMOVE is newer (rule 4). */
	if (r == 0 && quiet_seq && c->space.remove_seq == *quiet_seq) {
		space_clear_suspects(&c->space, number);
		c->space.strays = false;
	}
	if (r == 0)
		r = adopt_block(c, number);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		resident += movable(c, base + i * PAGE_SIZE);
		res->suspect_pages +=
			(space_entry(&c->space, base + i * PAGE_SIZE) & ENTRY_SUSPECT) != 0;
	}
	res->seen_pages += resident;
	if (resident == 0)
		return 0;
	if (c->space.wary) {
		res->suspect_pages += resident;
		return 0;
	}
	*ret_huge = pagemap_is_huge(c->pagemap, base);
	if (*ret_huge && resident < BLOCK_PAGES) {
		res->huge_pages += resident; /* moved whole or not at all */
		return 0;
	}
	return 1;
}

/* Rule 11: a thread that began since the mappings were looked at may have its control block in
 * what is managed here, on a stack that the C library kept. Were it moved while the thread
 * exits, the kernel's last store to it would be lost, and whoever joins it waits for ever. The
 * next look at the mappings gives them back. What lies beside a stack, in the same block, can
 * be taken. */
static bool may_hold_thread(struct pager *p, struct client *c, const struct batch *b)
{
	struct maps_threads *t = b->allowance->threads;

	if (!t)
		return false;
	if (maps_threads_look(c->procdir, t) < 0 || t->unclear)
		return true;
	bool found = false;
	gate_lock(c);
	for (size_t i = 0; i < t->count; i++)
		found |= t->thread[i].block >> BLOCK_SHIFT == b->number &&
			 space_region_at(&c->space, t->thread[i].block);
	gate_unlock(p, c);
	return found;
}

static int move_unless_thread(struct pager *p, struct client *c, struct batch *b, int tag,
	bool huge, struct evict_result *res)
{
	return may_hold_thread(p, c, b) ? 0 : move_pages(p, c, b, (unsigned)tag, huge, res);
}

static int move_block(
	struct pager *p, struct client *c, struct batch *b, bool huge, struct evict_result *res)
{
	int tag, r = order_open(c);

	if (r < 0)
		return r == -EBUSY			       ? -ETIME
		       : r == -ENOMEM && client_memory_gone(c) ? -ESRCH
							       : r;
	gate_lock(c);
	tag = space_hold(&c->space, b);
	if (tag >= 0)
		batch_follow(b, c);
	gate_unlock(p, c);
	point(POINT_opened);
	uint64_t shared = res->shared_pages;
	r = tag < 0 ? tag : move_unless_thread(p, c, b, tag, huge, res);
	if (r == 0 && res->shared_pages > shared && !huge) {
		r = unshare_block(p, c, b->allowance->unshare, b->number);
		if (r > 0) {
			res->shared_pages = shared;
			r = move_unless_thread(p, c, b, tag, huge, res);
		}
	}
	order_close(c);
	return r;
}

/* What was moved is stored, published and zapped; what can't be stored goes back. */
static int finish_block(struct pager *p, struct codec_pool *pool, struct client *c,
	struct batch *b, struct evict_result *res)
{
	int r = store_batch(p, pool, b, res);

	b->allowance = NULL; /* the batch may stay longer */
	/* Until then the slots hold what the link is served from. */
	if (!evict_finish(p, b))
		return -EBUSY;
	point(POINT_zap);
	int e = zap(p, c);
	return e == -EAGAIN ? r : e < 0 ? -ETIME : r;
}

int evict_block(struct pager *p, struct codec_pool *pool, struct client *c, uint64_t number,
	const uint64_t *quiet_seq, struct allowance *allowance, struct evict_result *res)
{
	bool huge = false;
	int r = zap(p, c); /* what an earlier block could not */

	assert(!c->batch);
	if (r < 0)
		return r == -EAGAIN ? r : -ETIME;
	gate_lock(c);
	r = client_state(c) == CLIENT_MANAGED ? examine(p, c, number, quiet_seq, &huge, res)
					      : -ESRCH;
	gate_unlock(p, c);
	if (r <= 0)
		return r;

	if (atomic_load(&allowance->room) < STORE_BLOB_MAX)
		return -EDQUOT;
	struct batch *b = batch_new(c, number, allowance);
	if (!b)
		return -ENOMEM;
	c->batch = b;
	r = move_block(p, c, b, huge, res);
	int e = finish_block(p, pool, c, b, res);
	if (e == -ETIME || e == -EBUSY)
		return e;
	/* It was late, and answers again. */
	return r == -ETIME ? -EAGAIN : r < 0 ? r : e;
}
