#include "indexer.h"
#include "journal.h"
#include "pager.h"
#include "points.h"
#include "row.h"
#include "space_internal.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	INDEX_AGE_MS = 1000, /* as old as the index may get */
	/* For a program that changes its mappings just now: until its threads have gone on. */
	CALM_TRIES = 20,
	CALM_WAIT_NS = 100000,
	/* Of one transaction, in the evictor's hands. */
	FLUSH_TRIES = 50,
	/* Entries of a journal for which rows are written though they are right. */
	JOURNAL_LONG = 4096,
};

/* What one block's rows are to say: taken under the gate, written without it. */
struct snapshot {
	uint64_t number;
	struct leaf *of; /* borrowed: a dead one isn't freed before the transaction is over */
	uint64_t leaf;	 /* its id; 0 = the block is gone */
	bool write_leaf, write_block;
	uint64_t clock;
	blob_t entry[BLOCK_PAGES];
};

static blob_t row_blob(struct client *c, uint32_t e, const struct batch *batch)
{
	if (entry_state(e) == PAGE_STORED)
		return entry_value(e);
	if (entry_state(e) != PAGE_HELD || !batch ||
		c->space.held[entry_value(e) >> HELD_SLOT_BITS] != batch)
		return BLOB_NONE;
	c->held_named++;
	return batch->blob[entry_value(e) & (BLOCK_PAGES - 1)];
}

/* Blobs that entries still name though nobody needs them (space.h). A shared leaf keeps them
 * until it dies. */
static void collect_unneeded(struct client *c, struct leaf *leaf)
{
	if (!leaf_is_own(leaf))
		return;
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint32_t e = leaf->entry[i];
		if (entry_state(e) == PAGE_STORED || entry_blob(e) == BLOB_NONE)
			continue;
		space_make_room((void **)&c->unneeded, c->unneeded_count, &c->unneeded_room,
			sizeof(*c->unneeded));
		c->unneeded[c->unneeded_count++] = entry_blob(e);
		leaf->entry[i] = e & ~ENTRY_VALUE;
	}
}

/* Gate held: of a block whose rows are out of date. */
static void take_snapshot(struct client *c, const struct batch *batch, struct snapshot *snap)
{
	struct space *s = &c->space;
	uint64_t number = s->dirty[--s->dirty_count];
	size_t at = space_block_index(s, number);

	snap->number = number;
	snap->of = NULL;
	snap->leaf = 0;
	snap->write_leaf = snap->write_block = false;
	snap->clock = client_clock(c);
	if (at == s->block_count || s->block[at].number != number) {
		snap->write_block = true;
		space_make_room((void **)&c->rows_gone, c->rows_gone_count, &c->rows_gone_room,
			sizeof(*c->rows_gone));
		c->rows_gone[c->rows_gone_count++] = number;
		return;
	}
	struct block *b = &s->block[at];
	snap->of = b->leaf;
	snap->leaf = b->leaf->id;
	int row = atomic_load(&b->leaf->row);
	snap->write_leaf = row == LEAF_NEW || row == LEAF_CHANGED;
	snap->write_block = b->remapped;
	b->remapped = false;
	b->listed = false;
	/* As after a fork, which lists every block of the child. */
	if (!snap->write_leaf)
		return;
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		snap->entry[i] = row_blob(c, b->leaf->entry[i], batch);
	collect_unneeded(c, b->leaf);
	atomic_store(&b->leaf->row, LEAF_WRITTEN);
}

/* After a failed transaction: the rows are still to be written, and those of blocks that are
 * gone to be removed. */
static void mark_all_dirty(struct client *c)
{
	struct space *s = &c->space;

	for (size_t i = 0; i < c->rows_gone_count; i++) {
		space_make_room(
			(void **)&s->dirty, s->dirty_count, &s->dirty_room, sizeof(*s->dirty));
		s->dirty[s->dirty_count++] = c->rows_gone[i];
	}

	for (size_t i = 0; i < s->block_count; i++) {
		s->block[i].remapped = true;
		if (s->block[i].listed)
			continue;
		s->block[i].listed = true;
		s->dirty[s->dirty_count++] = s->block[i].number;
	}
}

/* ---- a transaction ---- */

/* The clients whose rows one transaction writes, or removes where the client has ended.
 * Children that were forked from one since its rows were written last come along: what they
 * have could be told from its rows and its journal up to now, and can't any more. */
struct txn {
	struct pager *p;
	const struct batch *batch; /* or NULL */
	struct taken {
		struct client *client; /* owned reference */
		bool dropped;	       /* it has ended: its rows are removed */
	} * taken;		       /* owned */
	size_t count, room, written;
	/* Owned; the leaves whose rows it wrote. Each may be another client's by now. */
	struct leaf **leaf;
	size_t leaf_count, leaf_room;
};

static void rest(long ns)
{
	struct timespec pause = {.tv_nsec = ns};
	nanosleep(&pause, NULL);
}

static void take_in(struct txn *t, struct client *c)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->taken[i].client == c)
			return;
	client_ref(c);
	space_make_room((void **)&t->taken, t->count, &t->room, sizeof(*t->taken));
	t->taken[t->count++] = (struct taken){.client = c};
}

/* Those who descend from it and have no rows. Not only its own children: of those, some are
 * gone already, and what their own children have can be told only as long as what they had. Ids
 * grow from parent to child. */
static int take_children(struct txn *t, struct client *parent)
{
	struct client **client;
	size_t count;
	int r = worker_descendants(t->p->worker, parent, &client, &count);

	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		take_in(t, client[i]);
		client_unref(client[i]);
	}
	free(client);
	return 0;
}

/* Gate held. Rows say where pages are; not what is in doubt or out of order, nor what may still
 * concern a fork that wasn't read. 0, or -EAGAIN: in a moment. One that has ended is about to
 * be dropped: until then what is aside of it is in no row, and not among the dead either. */
static int calm_down(struct pager *p, struct client *c)
{
	if (client_is_calm(c))
		return 0;
	if (client_state(c) != CLIENT_GONE && pager_drain(p, c) == -ESRCH)
		client_mark_gone(c);
	if (client_state(c) == CLIENT_GONE)
		return c->space.aside_count == 0 ? 0 : -EAGAIN;
	return client_is_calm(c) ? 0 : -EAGAIN;
}

static int write_snapshot(struct txn *t, const struct client *c, const struct snapshot *snap)
{
	struct store *store = t->p->worker->store;
	int r = 0;

	if (snap->write_leaf) {
		space_make_room(
			(void **)&t->leaf, t->leaf_count, &t->leaf_room, sizeof(struct leaf *));
		t->leaf[t->leaf_count++] = snap->of;
		r = store_index_leaf(store, snap->leaf, snap->clock, snap->entry);
	}
	if (r == 0 && snap->write_block)
		r = store_index_block(store, c->id, snap->number, snap->leaf);
	point(POINT_rows);
	return r;
}

/* All that the rows of one client say, as of one moment: that when there was nothing left to
 * write. One block at a time, so that the gate is never held for long and never for SQL. 1: it
 * has ended meanwhile, and what was written says nothing. */
static int write_blocks(struct txn *t, struct client *c, uint64_t *ret_clock, void **ret_state,
	uint32_t *ret_length)
{
	struct snapshot snap;
	unsigned tries = 0;

	for (;;) {
		gate_lock(c);
		bool dropped = atomic_load(&c->dropped);
		int r = dropped || c->space.dirty_count > 0 ? 0 : calm_down(t->p, c);
		bool any = !dropped && c->space.dirty_count > 0;
		if (any)
			take_snapshot(c, t->batch, &snap);
		*ret_clock = client_clock(c);
		if (!any && !dropped && r == 0)
			*ret_length = row_pack(c, t->batch, ret_state);
		gate_unlock(t->p, c);
		if (dropped)
			return 1;
		if (any)
			r = write_snapshot(t, c, &snap);
		else if (r == 0)
			return 0;
		if (r < 0 && (any || tries == CALM_TRIES))
			return r;
		if (!any && r < 0) {
			tries++;
			rest(CALM_WAIT_NS);
		}
	}
}

static int write_client(struct txn *t, struct taken *taken)
{
	struct client *c = taken->client;
	struct store_client row = {.id = c->id,
		.parent = c->parent,
		.pid = c->pid,
		.exe = c->exe,
		.policy = c->policy};
	void *state = NULL;
	int r = write_blocks(t, c, &row.clock, &state, &row.state_length);

	row.state = state;
	taken->dropped = r == 1;
	if (r == 0)
		r = store_index_client(t->p->worker->store, &row);
	else if (r == 1)
		r = store_index_client_drop(t->p->worker->store, c->id);
	point(POINT_client_row);
	free(state);
	c->row_clock = row.clock;
	/* `taken` may move. */
	return r == 0 ? take_children(t, c) : r;
}

/* Those that are taken in meanwhile, too. -EAGAIN: `written` is the one that isn't calm. */
static int write_taken(struct txn *t)
{
	while (t->written < t->count) {
		int r = write_client(t, &t->taken[t->written]);
		if (r < 0)
			return r;
		t->written++;
	}
	return 0;
}

/* What the entries don't name any more. Rows may still: those of a leaf that died since, whose
 * pages an mremap had carried into another. So it waits with the dead. */
static void let_go(struct client *c)
{
	for (size_t i = 0; i < c->unneeded_count; i++)
		graveyard_add_blob(&c->worker->graveyard, c->space.family, c->unneeded[i]);
	c->unneeded_count = 0;
}

/* The transaction is over. */
static void finish_client(struct pager *p, const struct taken *taken, bool committed)
{
	struct client *c = taken->client;

	let_go(c);
	gate_lock(c);
	if (!committed) {
		mark_all_dirty(c);
	} else {
		if (c->journal)
			journal_trim(c->journal, c->row_clock);
		atomic_store(&c->indexed, !taken->dropped);
	}
	c->rows_gone_count = 0;
	gate_unlock(p, c);
	point(POINT_trimmed);
	if (committed && taken->dropped)
		worker_table_forget(p->worker, c);
}

/* r: of what was written. */
static int end_transaction(struct txn *t, int r)
{
	struct store *store = t->p->worker->store;

	point(POINT_written);
	if (r < 0)
		store_txn_abort(store);
	else
		r = store_txn_commit(store);
	point(POINT_recycled);
	/* Also the one that could not be written to its end. */
	for (size_t i = 0; i < t->count && i <= t->written; i++)
		finish_client(t->p, &t->taken[i], r == 0);
	for (size_t i = 0; i < t->leaf_count; i++) {
		int written = LEAF_WRITTEN; /* or changed since */
		atomic_compare_exchange_strong(
			&t->leaf[i]->row, &written, r == 0 ? LEAF_CLEAN : LEAF_CHANGED);
	}
	return r;
}

static void txn_done(struct txn *t)
{
	for (size_t i = 0; i < t->count; i++)
		client_unref(t->taken[i].client);
	free(t->taken);
	free(t->leaf);
}

/* A page that was written as HELD before it had a blob has one now. */
static void take_in_batch(struct txn *t, struct client *c)
{
	take_in(t, c);
	gate_lock(c);
	batch_outlived(c);
	for (size_t i = 0; i < c->space.block_count; i++)
		if (c->space.block[i].leaf->held > 0)
			space_row_outdated(&c->space, c->space.block[i].number);
	gate_unlock(t->p, c);
}

static int flush_once(struct pager *p, struct client *c, struct batch *batch)
{
	struct txn t = {.p = p, .batch = batch};
	int r = store_txn_begin(p->worker->store);

	if (r < 0)
		return r;
	take_in_batch(&t, c);
	/* Forked while it was under way: their pages leave with the owner's. */
	struct client *follower;
	for (size_t i = 0; batch && (follower = batch_follower(batch, i)); i++) {
		if (!atomic_load(&follower->dropped))
			take_in_batch(&t, follower);
		client_unref(follower);
	}
	r = end_transaction(&t, write_taken(&t));
	txn_done(&t);
	return r;
}

int indexer_flush(struct pager *p, struct client *c, struct batch *batch)
{
	int r;

	for (int i = 0; i < FLUSH_TRIES; i++) {
		r = flush_once(p, c, batch);
		if (r != -EAGAIN)
			break;
		rest(CALM_WAIT_NS);
	}
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

/* Families of which somebody was left out of a transaction: their rows name some of the dead.
 * No other family's do, for what a row names its program has evicted itself, or had from its
 * ancestors. */
struct held_up {
	uint64_t *family; /* owned */
	size_t count, room;
};

static bool is_held_up(const struct held_up *l, uint64_t family)
{
	for (size_t i = 0; i < l->count; i++)
		if (l->family[i] == family)
			return true;
	return false;
}

static void note_held_up(struct held_up *l, uint64_t family)
{
	if (is_held_up(l, family))
		return;
	space_make_room((void **)&l->family, l->count, &l->room, sizeof(*l->family));
	l->family[l->count++] = family;
}

static int drop_rows(struct worker *w, const struct leaf *dead, const struct held_up *held_up)
{
	int r = 0;

	for (; dead && r == 0; dead = dead->next) {
		if (dead->waited || is_held_up(held_up, dead->family))
			continue; /* its row went with the one before, or goes with a later */
		r = store_index_leaf_drop(w->store, dead->id);
		point(POINT_buried);
	}
	return r;
}

static bool names_any(const struct leaf *leaf)
{
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		if (entry_blob(leaf->entry[i]) != BLOB_NONE)
			return true;
	return false;
}

static void free_leaf(struct worker *w, struct leaf *leaf)
{
	for (unsigned i = 0; i < BLOCK_PAGES; i++)
		store_unref(w->store, entry_blob(leaf->entry[i]));
	leaf_free(&w->graveyard, leaf);
}

/* Their rows are gone, or they wait for the next time. True: some wait that need not have:
 * those that name blobs. An mremap may have carried these there from a leaf whose row names
 * them still: it was written anew in this transaction, or that leaf has died since, and then
 * its row goes with the next. */
static bool bury(
	struct worker *w, struct leaf *dead, bool committed, const struct held_up *held_up)
{
	bool waits = false;

	while (dead) {
		struct leaf *next = dead->next;
		bool gone = committed && !is_held_up(held_up, dead->family);
		if (gone && (dead->waited || !names_any(dead))) {
			free_leaf(w, dead);
		} else {
			waits |= gone;
			dead->waited = gone;
			pthread_mutex_lock(&w->graveyard.lock);
			dead->next = w->graveyard.first;
			w->graveyard.first = dead;
			pthread_mutex_unlock(&w->graveyard.lock);
		}
		dead = next;
	}
	return waits;
}

/* ---- all ---- */

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
	bool dirty = c->space.dirty_count > 0 ||
		     (c->journal && journal_end(c->journal) - journal_begin(c->journal) >
					    JOURNAL_LONG);
	gate_unlock(p, c);
	return dirty;
}

/* Left out of the next try: it, and those for whose rows it would be taken in again. */
static void leave_out(struct txn *t)
{
	struct client *c = t->written < t->count ? t->taken[t->written].client : NULL;

	for (size_t i = 0; c && i < t->count; i++)
		if (worker_needs_rows(c, t->taken[i].client))
			t->taken[i].client->left_out = true;
	if (c)
		c->left_out = true;
}

/* All who have something to write, or have ended. *ret_any: there is something to write or to
 * remove. */
static int take_all(struct txn *t, struct held_up *held_up, bool *ret_any)
{
	struct client **client;
	size_t count;
	int r = worker_clients_and_ended(t->p->worker, &client, &count);

	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		struct client *c = client[i];
		/* First the gate: one that is about to end has ended then. */
		bool dirty = has_dirty(t->p, c);
		if (c->left_out)
			note_held_up(held_up, c->space.family);
		else if (dirty || atomic_load(&c->dropped))
			take_in(t, c);
		client_unref(c);
	}
	free(client);
	for (size_t i = 0; i < t->count && r == 0; i++) {
		*ret_any |= !atomic_load(&t->taken[i].client->dropped) ||
			    atomic_load(&t->taken[i].client->indexed);
		if (atomic_load(&t->taken[i].client->dropped))
			r = take_children(t, t->taken[i].client);
	}
	return r;
}

/* Of programs that have ended and have no rows, nor descendants that need some. */
static void forget_all(const struct txn *t)
{
	for (size_t i = 0; i < t->count; i++)
		worker_table_forget(t->p->worker, t->taken[i].client);
}

/* All in one transaction: a blob of a dead leaf can stand in a row of any client of its family
 * that has something to write (an mremap carried it, a fork shared it). So where one is left
 * out, the dead of its family wait. */
static int flush_all_once(
	struct pager *p, struct leaf *dead, struct held_up *held_up, bool *ret_waits)
{
	struct worker *w = p->worker;
	struct txn t = {.p = p};
	bool any = false;

	int r = take_all(&t, held_up, &any);
	/* What a transaction let go of is free only after the next one (store.h). Without one,
	 * a store that was full of it would stay full. */
	if (r == 0 && (any || dead || store_has_dead(w->store))) {
		r = store_txn_begin(w->store);
		bool begun = r == 0;
		if (r == 0)
			r = write_taken(&t);
		if (r == -EAGAIN)
			leave_out(&t);
		if (r == 0)
			r = drop_rows(w, dead, held_up);
		if (begun)
			r = end_transaction(&t, r);
	} else if (r == 0) {
		forget_all(&t);
	}
	txn_done(&t);
	if (r != -EAGAIN)
		*ret_waits = bury(w, dead, r == 0, held_up);
	return r;
}

static void leave_none_out(struct worker *w)
{
	struct client **client;
	size_t count;

	while (worker_clients_and_ended(w, &client, &count) < 0)
		rest(CALM_WAIT_NS);
	for (size_t i = 0; i < count; i++) {
		client[i]->left_out = false;
		client_unref(client[i]);
	}
	free(client);
}

/* held_up: empty at first; the caller frees it. */
static int flush_all(struct pager *p, struct held_up *held_up)
{
	bool waits = true;
	int r = 0;

	for (int i = 0; i < 2 && r == 0 && waits; i++) {
		/* First, so that what made them die is among what is written now. */
		struct leaf *dead = graveyard_take(&p->worker->graveyard);
		waits = false;
		/* Each time one more is left out. */
		do {
			r = flush_all_once(p, dead, held_up, &waits);
		} while (r == -EAGAIN);
		leave_none_out(p->worker);
	}
	return r;
}

int indexer_flush_all(struct pager *p)
{
	struct held_up held_up = {.count = 0};
	int r = flush_all(p, &held_up);

	free(held_up.family);
	return r;
}

int indexer_forget_staging(struct pager *p, struct client *owner)
{
	struct held_up held_up = {.count = 0};

	if (!owner->rows_name_staging)
		return 0;
	owner->rows_name_staging = false; /* row_pack may find that they do still */
	int r = flush_all(p, &held_up);
	if (r == 0 && (is_held_up(&held_up, owner->space.family) || owner->rows_name_staging))
		r = -EAGAIN;
	free(held_up.family);
	if (r < 0)
		owner->rows_name_staging = true;
	return r;
}
