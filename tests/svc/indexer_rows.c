/* The index while programs fork, change and end between any two of its statements: after every
 * commit another worker could go on from it (DESIGN rules 9 and 10).
 *
 *   whole      every block's row names a leaf's row that is there
 *   alive      every blob in a row is still what it was: nothing else got its handle
 *   closed     each client has rows, or a parent (that can be told itself) whose rows are older
 *              than its fork and whose journal is there to tell of it
 *   right      rows say what each client had when they were written, whoever wrote others since
 *
 * The store is a model: rows in arrays, and references. Random, by seed. */
#include "batch.h"
#include "birth.h"
#include "closer.h"
#include "indexer.h"
#include "journal.h"
#include "pager.h"
#include "row.h"
#include "space_internal.h"
#include "state.h"
#include "worker.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum {
	SEEDS = 300,
	STEPS = 250,
	CLIENTS = 400, /* ids in one run */
	LIVE_MAX = 12,
	BLOCKS = 3,
	PAGES = 4, /* used in each block */
	LEAVES = 20000,
	BLOBS = 40000,
};

/* The blobs of one client: BLOB_NONE where a page isn't out; HELD: not to be compared. */
enum { HELD = BLOB_MAX };
struct had {
	blob_t blob[BLOCKS][PAGES];
};

/* What the database has. */
struct rows {
	bool client[CLIENTS];
	uint64_t clock[CLIENTS];
	uint64_t block[CLIENTS][BLOCKS]; /* leaf */
	bool leaf[LEAVES];
	blob_t entry[LEAVES][PAGES];
};

static struct world {
	struct worker worker;
	struct pager pager;
	uint64_t seed, now_ms;
	bool busy; /* others act, too, between statements */
	struct rows *committed, *now;
	bool in_txn, failed;
	int refs[BLOBS];
	bool used[BLOBS]; /* its handle is nobody else's */
	bool freeable[BLOBS];
	blob_t blobs;
	uint64_t forked_at[CLIENTS]; /* its parent's clock then */
	uint64_t parent[CLIENTS];
	bool live[CLIENTS];
	struct had last[CLIENTS], written[CLIENTS], now_written[CLIENTS];
	struct client *ending;	/* owned; out of the table, and not dropped yet */
	bool stubborn;		/* what is in the way of rows stays */
	bool reliable;		/* no commit fails */
	void (*at_begin)(void); /* of the next transaction */
} * w;

static uint64_t rnd(uint64_t below)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed % below;
}

static void others(void);

/* ---- the store ---- */

void store_ref(struct store *s, blob_t b)
{
	(void)s;
	assert_true(b != BLOB_NONE && w->refs[b] > 0);
	w->refs[b]++;
}

void store_unref(struct store *s, blob_t b)
{
	(void)s;
	if (b == BLOB_NONE)
		return;
	assert_true(w->refs[b] > 0);
	w->refs[b]--;
}

bool store_has_dead(struct store *s)
{
	(void)s;
	for (blob_t b = 1; b <= w->blobs; b++)
		if (w->used[b] && w->refs[b] == 0)
			return true;
	return false;
}

static void check_rows(void)
{
	const struct rows *r = w->committed;

	for (unsigned c = 0; c < CLIENTS; c++)
		for (unsigned i = 0; r->client[c] && i < BLOCKS; i++)
			if (r->block[c][i] != 0)
				assert_true(r->leaf[r->block[c][i]]);
	for (unsigned l = 1; l < LEAVES; l++)
		for (unsigned i = 0; r->leaf[l] && i < PAGES; i++)
			if (r->entry[l][i] != BLOB_NONE)
				assert_true(w->used[r->entry[l][i]]);
}

static void check_right(void)
{
	const struct rows *r = w->committed;

	for (unsigned c = 0; c < CLIENTS; c++)
		for (unsigned i = 0; r->client[c] && i < BLOCKS * PAGES; i++) {
			uint64_t leaf = r->block[c][i / PAGES];
			blob_t had = w->written[c].blob[i / PAGES][i % PAGES];
			blob_t has = leaf ? r->entry[leaf][i % PAGES] : BLOB_NONE;
			if (had != HELD)
				assert_int_equal(has, had);
		}
}

static const struct client *find(uint64_t id)
{
	for (size_t i = 0; i < w->worker.client_count; i++)
		if (w->worker.client[i]->id == id)
			return w->worker.client[i];
	for (size_t i = 0; i < w->worker.ended_count; i++)
		if (w->worker.ended[i]->id == id)
			return w->worker.ended[i];
	return NULL;
}

/* Could another worker tell what it has? */
static bool can_be_told(uint64_t id)
{
	const struct client *c = find(id);

	if (!c)
		return false;
	if (w->committed->client[id])
		return journal_begin(c->journal) <= w->committed->clock[id];
	if (w->parent[id] == 0)
		return journal_begin(c->journal) == 0;
	if (journal_begin(c->journal) > 0 || !can_be_told(w->parent[id]))
		return false;
	uint64_t rows =
		w->committed->client[w->parent[id]] ? w->committed->clock[w->parent[id]] : 0;
	return rows <= w->forked_at[id];
}

static void check_closed(void)
{
	for (uint64_t id = 1; id < CLIENTS; id++)
		if (w->live[id])
			assert_true(can_be_told(id));
}

int store_txn_begin(struct store *s)
{
	void (*at_begin)(void) = w->at_begin;

	(void)s;
	w->at_begin = NULL;
	if (at_begin)
		at_begin();
	others();
	assert_false(w->in_txn);
	w->in_txn = true;
	*w->now = *w->committed;
	memcpy(w->now_written, w->written, sizeof(w->written));
	for (blob_t b = 1; b <= w->blobs; b++)
		w->freeable[b] = w->refs[b] == 0;
	others();
	return 0;
}

int store_txn_commit(struct store *s)
{
	(void)s;
	others();
	assert_true(w->in_txn);
	w->in_txn = false;
	if (!w->reliable && rnd(8) == 0)
		return -ENOSPC;
	*w->committed = *w->now;
	memcpy(w->written, w->now_written, sizeof(w->written));
	for (blob_t b = 1; b <= w->blobs; b++)
		if (w->freeable[b] && w->refs[b] == 0)
			w->used[b] = false;
	check_rows();
	check_right();
	check_closed();
	return 0;
}

void store_txn_abort(struct store *s)
{
	(void)s;
	w->in_txn = false;
}

int store_index_client(struct store *s, const struct store_client *c)
{
	(void)s;
	w->now_written[c->id] = w->last[c->id]; /* as of the gate's last holder */
	others();
	w->now->client[c->id] = true;
	w->now->clock[c->id] = c->clock;
	return 0;
}

int store_index_client_drop(struct store *s, uint64_t client)
{
	(void)s;
	others();
	w->now->client[client] = false;
	memset(w->now->block[client], 0, sizeof(w->now->block[client]));
	return 0;
}

int store_index_leaf(
	struct store *s, uint64_t leaf, uint64_t clock, const blob_t entries[STORE_LEAF_PAGES])
{
	(void)s, (void)clock;
	others();
	assert_true(leaf < LEAVES);
	w->now->leaf[leaf] = true;
	memcpy(w->now->entry[leaf], entries, sizeof(w->now->entry[leaf]));
	return 0;
}

int store_index_leaf_drop(struct store *s, uint64_t leaf)
{
	(void)s;
	w->now->leaf[leaf] = false;
	return 0;
}

int store_index_block(struct store *s, uint64_t client, uint64_t block, uint64_t leaf)
{
	(void)s;
	others();
	w->now->block[client][block] = leaf;
	return 0;
}

/* ---- what surrounds it ---- */

void gate_lock(struct client *c)
{
	pthread_mutex_lock(&c->gate);
}

static uint64_t addr_of(uint64_t block, unsigned page)
{
	return (block << BLOCK_SHIFT) + page * PAGE_SIZE;
}

void gate_unlock(struct pager *p, struct client *c)
{
	(void)p;
	for (unsigned i = 0; i < BLOCKS * PAGES; i++) {
		uint32_t e = space_entry(&c->space, addr_of(i / PAGES, i % PAGES));
		w->last[c->id].blob[i / PAGES][i % PAGES] = entry_state(e) == PAGE_HELD ? HELD
							    : entry_out(e) ? entry_value(e)
									   : BLOB_NONE;
	}
	pthread_mutex_unlock(&c->gate);
}

/* What is in the way of rows is read. */
int pager_drain(struct pager *p, struct client *c)
{
	(void)p;
	if (!w->stubborn)
		c->waiting_count = 0;
	return 0;
}

int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
	(void)time, (void)left;
	return 0;
}

uint64_t worker_now_ms(void)
{
	return w->now_ms;
}

void worker_kick(struct worker *worker)
{
	(void)worker;
}

void birth_free(struct client *child)
{
	(void)child;
}

void closer_close(int fd)
{
	(void)fd;
}

/* ---- what others do ---- */

static blob_t new_blob(void)
{
	assert_true(w->blobs + 1 < BLOBS);
	w->blobs++;
	w->refs[w->blobs] = 1;
	w->used[w->blobs] = true;
	return w->blobs;
}

static struct client *any_client(void)
{
	size_t n = w->worker.client_count;
	return n > 0 ? w->worker.client[rnd(n)] : NULL;
}

static struct client *new_client(struct client *parent)
{
	struct client *c = worker_new_client(&w->worker, -1);

	assert_true(c->id < CLIENTS);
	w->live[c->id] = true;
	if (parent) {
		c->parent = w->parent[c->id] = parent->id;
		c->space.family = parent->space.family;
		journal_add(parent->journal, JOURNAL_CHILD, 0, c->id, 0, 0);
		w->forked_at[c->id] = client_clock(parent) - 1;
		steps_unref(space_fork(&parent->space, &c->space));
		space_bear_none(&c->space);
		space_forget_aside(&parent->space);
		for (int i = 0; i < HELD_TAGS; i++)
			if (c->space.held[i])
				batch_follow(c->space.held[i], c);
	} else {
		space_region_add(&c->space, addr_of(0, 0), addr_of(BLOCKS, 0));
	}
	atomic_store(&c->state, CLIENT_MANAGED);
	worker_table_add(&w->worker, c);
	return c;
}

/* NULL: a program starts. */
static void fork_from(struct client *parent)
{
	if (w->worker.client_count < LIVE_MAX &&
		atomic_load(&w->worker.state->last_id) + 2 < CLIENTS)
		new_client(parent);
}

static void fork_one(void)
{
	struct client *parent = rnd(6) > 0 ? any_client() : NULL;

	if (parent)
		gate_lock(parent);
	fork_from(parent);
	if (parent)
		gate_unlock(NULL, parent);
}

/* mremap, of a page or of a block, to where something may be; and something else is mapped
 * there. The fence is down in between. */
static void move(struct client *c)
{
	struct space *s = &c->space;
	bool whole = rnd(2) == 0;
	uint64_t from = addr_of(rnd(BLOCKS), whole ? 0 : (unsigned)rnd(PAGES));
	uint64_t to = addr_of(rnd(BLOCKS), whole ? 0 : (unsigned)rnd(PAGES));
	uint64_t bytes = whole ? BLOCK_SIZE : PAGE_SIZE;

	if (from == to)
		return;
	space_unmap(s, to, to + bytes);
	space_forget_aside(s);
	space_remap(s, from, to, bytes);
	space_unmap(s, from, from + bytes);
	space_forget_aside(s);
	space_region_add(s, from, from + bytes);
}

static void change(struct client *c)
{
	uint64_t block = rnd(BLOCKS);
	unsigned page = (unsigned)rnd(PAGES);

	gate_lock(c);
	journal_add(c->journal, JOURNAL_GONE, 0, 0, 0, 0);
	switch (rnd(5)) {
	case 0: /* a fault is answered */
		if (entry_out(space_entry(&c->space, addr_of(block, page))))
			space_set_state(&c->space, addr_of(block, page), PAGE_RESIDENT);
		break;
	case 1:
		space_remove(&c->space, addr_of(block, page), addr_of(block, page + 1));
		break;
	case 2: {
		uint64_t end = rnd(2) == 0 ? addr_of(block, PAGES) : addr_of(block + 1, 0);
		space_drop_range(&c->space, addr_of(block, 0), end);
		space_region_add(&c->space, addr_of(block, 0), end);
		break;
	}
	case 3:
		c->waiting_count = rnd(3) == 0;
		break;
	case 4:
		move(c);
		break;
	}
	gate_unlock(NULL, c);
}

static void begin_end(struct client *c)
{
	client_ref(c);
	w->live[c->id] = false;
	worker_table_end(&w->worker, c);
	w->ending = c;
}

/* A fork of its that was read lives on. */
static void finish_end(void)
{
	struct client *c = w->ending;

	gate_lock(c);
	if (w->busy && rnd(2) == 0)
		fork_from(c);
	c->waiting_count = 0;
	space_done(&c->space);
	atomic_store(&c->dropped, true);
	gate_unlock(NULL, c);
	w->ending = NULL;
	client_unref(c);
}

static void others(void)
{
	if (!w->busy || rnd(3) > 0)
		return;
	struct client *c = any_client();
	switch (rnd(5)) {
	case 0:
		fork_one();
		break;
	case 1:
		if (w->ending)
			finish_end();
		else if (c && w->worker.client_count > 2)
			begin_end(c);
		break;
	default:
		if (c)
			change(c);
	}
}

/* ---- an eviction ---- */

static void hold_pages(struct client *c, struct batch *b, unsigned tag)
{
	gate_lock(c);
	for (unsigned page = 0; page < PAGES; page++) {
		uint32_t e = space_entry(&c->space, addr_of(b->number, page));
		if (entry_out(e) || rnd(2) == 0)
			continue;
		struct leaf *leaf = space_leaf(&c->space, b->number);
		e = leaf->entry[page];
		graveyard_add_blob(c->space.graveyard, c->space.family, entry_blob(e));
		space_set(&c->space, b->number, leaf, page,
			entry_make(PAGE_HELD, tag << HELD_SLOT_BITS | page));
		b->moved[0] |= 1ULL << page;
		b->count++;
	}
	gate_unlock(NULL, c);
}

/* As where the rows could not be written: the pages go back. */
static void give_back(struct batch *b, struct client *c)
{
	gate_lock(c);
	for (uint64_t block = 0; block < BLOCKS; block++)
		for (unsigned page = 0; page < PAGES; page++)
			if (entry_state(space_entry(&c->space, addr_of(block, page))) ==
				PAGE_HELD)
				space_set_state(&c->space, addr_of(block, page), PAGE_RESIDENT);
	space_unhold(&c->space, b);
	gate_unlock(NULL, c);
}

/* Before they leave the owner's memory. */
static void check_held(struct batch *b)
{
	struct client *f;

	for (size_t i = 0; (f = batch_follower(b, i)); i++) {
		for (uint64_t block = 0; block < BLOCKS && atomic_load(&f->indexed); block++)
			for (unsigned page = 0; page < PAGES; page++) {
				uint32_t e = space_entry(&f->space, addr_of(block, page));
				uint64_t leaf = w->committed->block[f->id][block];
				if (entry_state(e) == PAGE_HELD && block == b->number &&
					(entry_value(e) & (BLOCK_PAGES - 1)) == page)
					assert_int_equal(
						w->committed->entry[leaf][page], b->blob[page]);
			}
		client_unref(f);
	}
}

static void evict(void)
{
	struct client *c = any_client(), *f;
	struct batch *b;
	int tag;

	if (!c || !(b = batch_new(c, rnd(BLOCKS), NULL)))
		return;
	gate_lock(c);
	tag = space_hold(&c->space, b);
	batch_follow(b, c);
	gate_unlock(NULL, c);
	assert_true(tag >= 0);
	hold_pages(c, b, (unsigned)tag);
	others();
	/* Rows are written while they have no blob, too. */
	if (rnd(3) == 0)
		indexer_flush_all(&w->pager);
	for (unsigned page = 0; page < PAGES; page++)
		if (batch_has(b, page))
			b->blob[page] = new_blob();
	if (indexer_flush(&w->pager, c, b) < 0)
		batch_drop_blobs(b);
	else
		check_held(b);
	others();
	others();
	while ((f = batch_take_follower(b))) {
		gate_lock(f);
		unsigned left = batch_publish(b, f);
		gate_unlock(NULL, f);
		if (left > 0)
			give_back(b, f);
		client_unref(f);
	}
	batch_drop_blobs(b);
	batch_free(b);
}

/* ---- */

/* When all is written and nobody moves. */
static void check_now(const struct client *c)
{
	if (w->committed->client[c->id])
		assert_memory_equal(
			&w->written[c->id], &w->last[c->id], sizeof(w->written[c->id]));
}

static void all_is_quiet(void)
{
	w->busy = w->stubborn = false;
	w->now_ms += 10000;
	if (w->ending)
		finish_end();
	for (size_t i = 0; i < w->worker.client_count; i++)
		w->worker.client[i]->waiting_count = 0;
	while (indexer_flush_all(&w->pager) < 0)
		;
	assert_int_equal(w->worker.ended_count, 0);
	for (size_t i = 0; i < w->worker.client_count; i++)
		check_now(w->worker.client[i]);
	w->busy = true;
}

static void step(void)
{
	w->now_ms += rnd(400);
	w->stubborn = rnd(4) == 0;
	switch (rnd(8)) {
	case 0:
	case 1:
		evict();
		break;
	case 2:
		if (indexer_flush_all(&w->pager) == 0)
			indexer_recycle(&w->worker);
		break;
	case 3:
		if (rnd(5) == 0)
			all_is_quiet();
		break;
	default:
		others();
	}
	check_closed();
}

static void world_new(uint64_t seed)
{
	w = calloc(1, sizeof(*w));
	w->seed = seed * 0x9e3779b97f4a7c15;
	w->committed = calloc(1, sizeof(*w->committed));
	w->now = calloc(1, sizeof(*w->now));
	w->worker.state = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(w->worker.state, MAP_FAILED);
	w->pager.worker = &w->worker;
	pthread_mutex_init(&w->worker.lock, NULL);
	graveyard_init(&w->worker.graveyard, NULL);
	w->busy = true;
}

static void world_done(void)
{
	w->busy = false;
	while (w->worker.client_count > 0 || w->ending) {
		if (w->ending)
			finish_end();
		else
			begin_end(w->worker.client[0]);
	}
	all_is_quiet();
	w->busy = false;
	/* And after one more, of those that let go in the last. */
	while (indexer_flush_all(&w->pager) < 0 || store_has_dead(NULL))
		;
	for (blob_t b = 1; b <= w->blobs; b++)
		assert_int_equal(w->refs[b], 0);
	for (unsigned l = 0; l < LEAVES; l++)
		assert_false(w->committed->leaf[l]);
	graveyard_done(&w->worker.graveyard);
	munmap(w->worker.state, sizeof(*w->worker.state));
	free(w->worker.client);
	free(w->worker.ended);
	free(w->worker.place);
	free(w->committed);
	free(w->now);
	free(w);
}

static void another_worker_could_go_on_after_every_commit(void **state)
{
	const char *only = getenv("SEED"); /* only that one */
	uint64_t first = only ? strtoull(only, NULL, 0) : 1, last = only ? first : SEEDS;

	(void)state;
	for (uint64_t seed = first; seed <= last; seed++) {
		world_new(seed);
		print_message("seed %llu\r", (unsigned long long)seed);
		for (unsigned i = 0; i < STEPS; i++)
			step();
		world_done();
	}
}

/* ---- what chance finds too rarely ---- */

/* One program, nothing fails. A page of block 0 is out, and so it is in the rows; then an
 * mremap carries it to block 1, which dies. */
static struct client *carry_to_a_dead_leaf(bool more)
{
	world_new(1);
	w->busy = false;
	w->reliable = true;
	struct client *c = new_client(NULL);
	struct space *s = &c->space;
	gate_lock(c);
	for (unsigned page = 0; page < (more ? 2 : 1); page++)
		space_set(s, 0, space_leaf(s, 0), page, entry_make(PAGE_STORED, new_blob()));
	gate_unlock(NULL, c);
	assert_int_equal(indexer_flush_all(&w->pager), 0);
	gate_lock(c);
	space_remap(s, addr_of(0, 0), addr_of(1, 0), PAGE_SIZE);
	space_forget_aside(s);
	space_drop_range(s, addr_of(1, 0), addr_of(2, 0));
	gate_unlock(NULL, c);
	return c;
}

static void block_0_dies(void)
{
	struct client *c = any_client();

	gate_lock(c);
	space_drop_range(&c->space, addr_of(0, 0), addr_of(1, 0));
	gate_unlock(NULL, c);
}

/* The first leaf, whose row names the page still, dies when the dead were counted already. */
static void the_first_leaf_dies_later(void **state)
{
	(void)state;
	carry_to_a_dead_leaf(false);
	w->at_begin = block_0_dies;
	assert_int_equal(indexer_flush_all(&w->pager), 0);
	assert_int_equal(indexer_recycle(&w->worker), 0);
	world_done();
}

static void block_0_is_aside_and_all_ends(void)
{
	struct client *c = any_client();

	gate_lock(c);
	space_unmap(&c->space, addr_of(0, 0), addr_of(1, 0));
	atomic_store(&c->state, CLIENT_GONE);
	gate_unlock(NULL, c);
}

/* Or it is kept aside, and its program ends before anybody finds the fence down. */
static void the_first_leaf_is_aside_at_the_end(void **state)
{
	(void)state;
	carry_to_a_dead_leaf(true);
	w->at_begin = block_0_is_aside_and_all_ends;
	indexer_flush_all(&w->pager);
	indexer_recycle(&w->worker);
	indexer_flush_all(&w->pager);
	indexer_recycle(&w->worker);
	world_done();
}

/* A program that changes its mappings without a pause keeps nobody else's memory. */
static void never_calm(struct client *c)
{
	gate_lock(c);
	space_unmap(&c->space, addr_of(1, 0), addr_of(2, 0));
	gate_unlock(NULL, c);
	w->stubborn = true;
}

static void the_dead_of_other_families_are_freed(void **state)
{
	(void)state;
	world_new(1);
	w->busy = false;
	w->reliable = true;
	struct client *busy = new_client(NULL), *calm = new_client(NULL), *c[] = {busy, calm};
	blob_t blob[2][2];
	for (unsigned i = 0; i < 2; i++) {
		struct space *s = &c[i]->space;
		gate_lock(c[i]);
		for (unsigned page = 0; page < 2; page++) {
			blob[i][page] = new_blob();
			space_set(s, page, space_leaf(s, page), 0,
				entry_make(PAGE_STORED, blob[i][page]));
		}
		gate_unlock(NULL, c[i]);
	}
	assert_int_equal(indexer_flush_all(&w->pager), 0);
	for (unsigned i = 0; i < 2; i++) {
		/* One page comes back, and the other's block goes. */
		gate_lock(c[i]);
		space_set_state(&c[i]->space, addr_of(0, 0), PAGE_RESIDENT);
		space_drop_range(&c[i]->space, addr_of(1, 0), addr_of(2, 0));
		gate_unlock(NULL, c[i]);
	}
	never_calm(busy);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(indexer_flush_all(&w->pager), 0);
		assert_int_equal(indexer_recycle(&w->worker), 0);
	}
	for (unsigned page = 0; page < 2; page++) {
		assert_int_equal(w->refs[blob[1][page]], 0);
		assert_int_equal(w->refs[blob[0][page]], 1); /* its rows name it */
	}
	w->stubborn = false;
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_worker_could_go_on_after_every_commit),
		cmocka_unit_test(the_first_leaf_dies_later),
		cmocka_unit_test(the_first_leaf_is_aside_at_the_end),
		cmocka_unit_test(the_dead_of_other_families_are_freed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
