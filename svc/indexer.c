#include "indexer.h"
#include "pager.h"
#include "space_internal.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What one block's rows are to say: taken under the gate, written without it. */
struct snapshot {
	uint64_t leaf; /* id; 0 = the block is gone */
	bool write_leaf, write_block;
	uint64_t clock;
	blob_t entry[BLOCK_PAGES];
	blob_t unneeded[BLOCK_PAGES];
	unsigned unneeded_count;
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
static void collect_unneeded(struct leaf *leaf, struct snapshot *snap)
{
	if (atomic_load(&leaf->refs) > 1)
		return;
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint32_t e = leaf->entry[i];
		if (entry_state(e) == PAGE_STORED || entry_blob(e) == BLOB_NONE)
			continue;
		snap->unneeded[snap->unneeded_count++] = entry_blob(e);
		leaf->entry[i] = e & ~ENTRY_VALUE;
	}
}

static void take_snapshot(
	struct client *c, uint64_t number, const struct batch *batch, struct snapshot *snap)
{
	struct space *s = &c->space;
	size_t at = space_block_index(s, number);

	memset(snap, 0, sizeof(*snap));
	snap->clock = c->clock;
	if (at == s->block_count || s->block[at].number != number) {
		snap->write_block = true;
		return;
	}
	struct block *b = &s->block[at];
	snap->leaf = b->leaf->id;
	snap->write_leaf = b->leaf->dirty;
	snap->write_block = b->remapped;
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		snap->entry[i] = row_blob(s, b->leaf->entry[i], batch);
	collect_unneeded(b->leaf, snap);
	b->leaf->dirty = false;
	b->remapped = false;
	b->listed = false;
}

static int write_snapshot(
	struct worker *w, const struct client *c, uint64_t number, const struct snapshot *snap)
{
	int r = 0;

	for (unsigned i = 0; i < snap->unneeded_count; i++)
		store_unref(w->store, snap->unneeded[i]);
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
		space_make_room(
			(void **)&s->dirty, s->dirty_count, &s->dirty_room, sizeof(*s->dirty));
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

static void free_leaf(struct worker *w, struct leaf *leaf)
{
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		store_unref(w->store, entry_blob(leaf->entry[i]));
	leaf_free(&w->graveyard, leaf);
}

/* Their blobs are dropped only after the rows are gone, and are reused only after the next
 * commit: never does a row name a blob that is somebody else's. */
static int bury(struct worker *w, struct leaf **ret_dead)
{
	int r = 0;

	*ret_dead = graveyard_take(&w->graveyard);
	for (struct leaf *l = *ret_dead; l && r == 0; l = l->next)
		r = store_index_leaf_drop(w->store, l->id);
	return r;
}

static void bury_finish(struct worker *w, struct leaf *dead, bool committed)
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

int indexer_flush(struct pager *p, struct client *c, const struct batch *batch)
{
	struct worker *w = p->worker;
	struct store_client row = {.id = c->id,
		.parent = c->parent,
		.pid = c->pid,
		.exe = c->exe,
		.policy = c->policy,
		.clock = c->clock};
	struct leaf *dead = NULL;
	int r = store_txn_begin(w->store);

	if (r < 0)
		return r;
	r = bury(w, &dead);
	if (r == 0)
		r = store_index_client(w->store, &row);
	if (r == 0)
		r = flush_blocks(p, c, batch);
	if (r == 0)
		r = store_txn_commit(w->store);
	else
		store_txn_abort(w->store);
	bury_finish(w, dead, r == 0);
	if (r < 0) {
		gate_lock(c);
		mark_all_dirty(c);
		gate_unlock(p, c);
	}
	return r;
}

int indexer_flush_all(struct pager *p)
{
	struct client **client;
	size_t count;
	int r = worker_clients(p->worker, &client, &count);

	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		gate_lock(client[i]);
		bool dirty = client[i]->space.dirty_count > 0;
		gate_unlock(p, client[i]);
		if (dirty && r == 0)
			r = indexer_flush(p, client[i], NULL);
		client_unref(client[i]);
	}
	free(client);
	return r;
}

int indexer_forget(struct worker *w, uint64_t id)
{
	struct leaf *dead = NULL;
	int r = store_txn_begin(w->store);

	if (r < 0)
		return r;
	r = bury(w, &dead);
	if (r == 0)
		r = store_index_client_drop(w->store, id);
	if (r == 0)
		r = store_txn_commit(w->store);
	else
		store_txn_abort(w->store);
	bury_finish(w, dead, r == 0);
	return r;
}
