#include "indexer.h"
#include "pager.h"
#include "space_internal.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	INDEX_AGE_MS = 1000, /* as old as the index may get */
};

/* What one block's rows are to say: taken under the gate, written without it. */
struct snapshot {
	uint64_t leaf; /* id; 0 = the block is gone */
	bool write_leaf, write_block;
	uint64_t clock;
	blob_t entry[BLOCK_PAGES];
};

static blob_t row_blob(const struct space *s, uint32_t e, const struct batch *batch)
{
	if (entry_state(e) == PAGE_STORED)
		return entry_value(e);
	if (entry_state(e) == PAGE_HELD && batch &&
		s->held[entry_value(e) >> HELD_SLOT_BITS] == batch)
		return batch->blob[entry_value(e) & (BLOCK_PAGES - 1)];
	return BLOB_NONE;
}

/* Blobs that entries still name though nobody needs them (space.h). A shared leaf keeps them
 * until it dies. */
static void collect_unneeded(struct client *c, struct leaf *leaf)
{
	if (atomic_load(&leaf->refs) > 1)
		return;
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint32_t e = leaf->entry[i];
		if (entry_state(e) == PAGE_STORED || entry_blob(e) == BLOB_NONE)
			continue;
		client_unneeded(c, entry_blob(e));
		leaf->entry[i] = e & ~ENTRY_VALUE;
	}
}

static void take_snapshot(
	struct client *c, uint64_t number, const struct batch *batch, struct snapshot *snap)
{
	struct space *s = &c->space;
	size_t at = space_block_index(s, number);

	snap->leaf = 0;
	snap->write_leaf = snap->write_block = false;
	snap->clock = c->clock;
	if (at == s->block_count || s->block[at].number != number) {
		snap->write_block = true;
		return;
	}
	struct block *b = &s->block[at];
	snap->leaf = b->leaf->id;
	snap->write_leaf = b->leaf->dirty;
	snap->write_block = b->remapped;
	b->remapped = false;
	b->listed = false;
	/* As after a fork, which lists every block of the child. */
	if (!b->leaf->dirty)
		return;
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		snap->entry[i] = row_blob(s, b->leaf->entry[i], batch);
	collect_unneeded(c, b->leaf);
	b->leaf->dirty = false;
}

static int write_snapshot(
	struct worker *w, const struct client *c, uint64_t number, const struct snapshot *snap)
{
	int r = 0;

	if (snap->write_leaf)
		r = store_index_leaf(w->store, snap->leaf, snap->clock, snap->entry);
	if (r == 0 && snap->write_block)
		r = store_index_block(w->store, c->id, number, snap->leaf);
	return r;
}

/* After a failed transaction: the rows are still to be written. */
static void mark_all_dirty(struct client *c)
{
	struct space *s = &c->space;

	for (size_t i = 0; i < s->block_count; i++) {
		s->block[i].leaf->dirty = true;
		s->block[i].remapped = true;
		if (s->block[i].listed)
			continue;
		s->block[i].listed = true;
		s->dirty[s->dirty_count++] = s->block[i].number;
	}
}

/* One block at a time, so that the gate is never held for long and never for SQL. */
static int flush_blocks(struct pager *p, struct client *c, const struct batch *batch)
{
	struct snapshot snap;
	int r = 0;

	while (r == 0) {
		gate_lock(c);
		bool any = c->space.dirty_count > 0;
		uint64_t number = any ? c->space.dirty[--c->space.dirty_count] : 0;
		if (any)
			take_snapshot(c, number, batch, &snap);
		gate_unlock(p, c);
		if (!any)
			break;
		r = write_snapshot(p->worker, c, number, &snap);
	}
	return r;
}

static int write_client(struct pager *p, struct client *c, const struct batch *batch)
{
	struct store_client row = {.id = c->id,
		.parent = c->parent,
		.pid = c->pid,
		.exe = c->exe,
		.policy = c->policy,
		.clock = c->clock};
	atomic_store(&c->indexed, true); /* before, so that its end is noticed */
	int r = store_index_client(p->worker->store, &row);

	return r < 0 ? r : flush_blocks(p, c, batch);
}

/* The transaction is over. Only what no committed row names may be let go of. */
static void finish_client(struct pager *p, struct client *c, bool committed)
{
	gate_lock(c);
	if (!committed) {
		mark_all_dirty(c);
	} else {
		for (size_t i = 0; i < c->unneeded_count; i++)
			store_unref(p->worker->store, c->unneeded[i]);
		c->unneeded_count = 0;
	}
	gate_unlock(p, c);
}

static int end_transaction(struct worker *w, int r)
{
	if (r < 0)
		store_txn_abort(w->store);
	return r < 0 ? r : store_txn_commit(w->store);
}

int indexer_flush(struct pager *p, struct client *c, const struct batch *batch)
{
	int r = store_txn_begin(p->worker->store);

	if (r < 0)
		return r;
	r = end_transaction(p->worker, write_client(p, c, batch));
	finish_client(p, c, r == 0);
	return r;
}

/* ---- the dead ---- */

int indexer_recycle(struct worker *w)
{
	if (!store_has_dead(w->store))
		return 0;
	int r = store_txn_begin(w->store);

	return r < 0 ? r : store_txn_commit(w->store);
}

static int drop_rows(struct worker *w, const struct leaf *dead)
{
	int r = 0;

	for (; dead && r == 0; dead = dead->next)
		r = store_index_leaf_drop(w->store, dead->id);
	return r;
}

static void free_leaf(struct worker *w, struct leaf *leaf)
{
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		store_unref(w->store, entry_blob(leaf->entry[i]));
	leaf_free(&w->graveyard, leaf);
}

/* Their rows are gone, or they wait for the next time. */
static void bury(struct worker *w, struct leaf *dead, bool committed)
{
	while (dead) {
		struct leaf *next = dead->next;
		if (committed) {
			free_leaf(w, dead);
		} else {
			pthread_mutex_lock(&w->graveyard.lock);
			dead->next = w->graveyard.first;
			w->graveyard.first = dead;
			pthread_mutex_unlock(&w->graveyard.lock);
		}
		dead = next;
	}
}

/* Most forked children exec or end at once; a row for each block of theirs would cost more than
 * the fork did. Nothing of such a child is in a row, so nothing that others let go of is
 * either.
 */
static bool too_young(const struct client *c)
{
	return c->parent != 0 && !atomic_load(&c->indexed) &&
	       worker_now_ms() - c->born_ms < INDEX_AGE_MS;
}

static bool has_dirty(struct pager *p, struct client *c)
{
	if (too_young(c))
		return false;
	gate_lock(c);
	space_keep_room(&c->space);
	bool dirty = c->space.dirty_count > 0 || c->unneeded_count > 0;
	gate_unlock(p, c);
	return dirty;
}

/* All in one transaction: a blob of a dead leaf can stand in a row of any client that has
 * something to write (an mremap carried it, a fork shared it). */
int indexer_flush_all(struct pager *p, const uint64_t *forget, size_t forget_count)
{
	struct worker *w = p->worker;
	struct client **client;
	size_t count, dirty = 0;
	int r = worker_clients(w, &client, &count);

	if (r < 0)
		return r;
	/* First, so that what made them die is among what is written now. */
	struct leaf *dead = graveyard_take(&w->graveyard);
	for (size_t i = 0; i < count; i++) {
		if (has_dirty(p, client[i])) {
			struct client *c = client[i];
			client[i] = client[dirty];
			client[dirty++] = c;
		}
	}
	/* What a transaction let go of is free only after the next one (store.h). Without one,
	 * a store that was full of it would stay full. */
	if (dirty > 0 || dead || forget_count > 0 || store_has_dead(w->store)) {
		r = store_txn_begin(w->store);
		bool begun = r == 0;
		for (size_t i = 0; i < dirty && r == 0; i++)
			r = write_client(p, client[i], NULL);
		if (r == 0)
			r = drop_rows(w, dead);
		for (size_t i = 0; i < forget_count && r == 0; i++)
			r = store_index_client_drop(w->store, forget[i]);
		if (begun)
			r = end_transaction(w, r);
		for (size_t i = 0; i < dirty; i++)
			finish_client(p, client[i], r == 0);
		bury(w, dead, r == 0);
	}
	for (size_t i = 0; i < count; i++)
		client_unref(client[i]);
	free(client);
	return r;
}
