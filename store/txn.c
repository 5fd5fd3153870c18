/* Transactions: what goes into the index, and the end of dead blobs.
 *
 *   live --store_unref--> dying --store_txn_begin--> closing --store_txn_commit--> free
 *                           ^                           |
 *                           +-----abort, failed commit--+
 *
 * A blob on `closing` was dead when the transaction began, so every row that names it is
 * rewritten in this transaction (the caller's part, see store.h). Once that is committed
 * nothing names it, whenever the process is killed. */
#include <errno.h>

#include "must.h"
#include "store_private.h"

/* So many blobs are recycled before the lock is free for others once. */
enum { RECYCLE_BATCH = 64 };

static bool recycle_some_locked(struct store *s)
{
	for (unsigned n = 0; n < RECYCLE_BATCH; n++) {
		blob_t b = blob_list_pop(&s->blobs, &s->closing);
		if (b == BLOB_NONE)
			return false;
		where_t w = blobs_locate(&s->blobs, b);
		if (where_placed(w))
			segments_recycle(
				&s->segments, where_offset(w), blob_size(where_length(w)));
		blobs_release(&s->blobs, b);
	}
	return true;
}

static void recycle(struct store *s)
{
	bool more;

	do {
		pthread_mutex_lock(&s->lock);
		more = recycle_some_locked(s);
		pthread_mutex_unlock(&s->lock);
	} while (more);
}

bool store_has_dead(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	store_collect_locked(s);
	bool any = s->dying.count > 0;
	pthread_mutex_unlock(&s->lock);
	return any;
}

int store_txn_begin(struct store *s)
{
	if (s->in_txn)
		return -EINVAL;
	int r = index_begin(s->index);
	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	store_collect_locked(s);
	blob_list_join(&s->blobs, &s->closing, &s->dying);
	pthread_mutex_unlock(&s->lock);
	s->in_txn = true;
	s->txn_error = 0;
	store_step(s, STORE_STEP_begun);
	return 0;
}

void store_txn_abort(struct store *s)
{
	if (!s->in_txn)
		return;
	index_rollback(s->index);
	pthread_mutex_lock(&s->lock);
	blob_list_join(&s->blobs, &s->dying, &s->closing);
	pthread_mutex_unlock(&s->lock);
	s->in_txn = false;
}

int store_txn_commit(struct store *s)
{
	if (!s->in_txn)
		return -EINVAL;
	/* After some errors SQLite has rolled back on its own, and would commit what came
	 * later; half a transaction is none in any case. */
	int r = s->txn_error;
	if (r == 0)
		r = index_commit(s->index);
	if (r < 0) {
		store_txn_abort(s);
		return r;
	}
	s->in_txn = false;
	store_step(s, STORE_STEP_committed);
	recycle(s);
	return 0;
}

/* The first error of a transaction is kept: it decides the commit. */
static int noted(struct store *s, int r)
{
	if (r < 0 && s->txn_error == 0)
		s->txn_error = r;
	return r;
}

int store_index_client(struct store *s, const struct store_client *c)
{
	if (!s->in_txn)
		return -EINVAL;
	return noted(
		s, c->state_length > STORE_STATE_MAX ? -EINVAL : index_client(s->index, c));
}

int store_index_client_drop(struct store *s, uint64_t client)
{
	return s->in_txn ? noted(s, index_client_drop(s->index, client)) : -EINVAL;
}

int store_index_leaf(
	struct store *s, uint64_t leaf, uint64_t clock, const blob_t entries[STORE_LEAF_PAGES])
{
	struct index_leaf l = {.id = leaf, .clock = clock};

	if (!s->in_txn)
		return -EINVAL;
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
		if (entries[i] == BLOB_NONE)
			continue;
		/* No compaction runs meanwhile (one thread), so the place holds. A damaged
		 * header is found when the page is read, where it can be told which page that
		 * was. */
		where_t w = blobs_locate(&s->blobs, entries[i]);
		must(w != WHERE_NONE);
		l.entries[i].blob = entries[i];
		l.entries[i].check =
			(uint32_t)(w & WHERE_LOST ? w : store_header(s, w)->checksum);
		l.pages++;
		l.stored_bytes += where_length(w);
	}
	return noted(s, index_leaf(s->index, &l));
}

int store_index_leaf_drop(struct store *s, uint64_t leaf)
{
	return s->in_txn ? noted(s, index_leaf_drop(s->index, leaf)) : -EINVAL;
}

int store_index_block(struct store *s, uint64_t client, uint64_t block, uint64_t leaf)
{
	return s->in_txn ? noted(s, index_block(s->index, client, block, leaf)) : -EINVAL;
}
