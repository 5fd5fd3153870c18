/* Invariants, with the store's lock held (asserted by store_check):
 *
 * 1. top = live (with dropped and lost) + dying + free rows, and is less than what range has
 *    open.
 * 2. A row is live when `where` is set without WHERE_DYING, dying when it has WHERE_DYING, else
 *    free. Dying rows are on exactly one of the store's dying lists, free rows on t->free; but
 *    those up to the store's `adopted` are on no list.
 * 3. No two rows that have a place have the same one.
 * 4. refs is 0 in rows that are dropped, dying or free, and in no others. */
#include "blobs.h"

#include <errno.h>

#include "must.h"

_Static_assert(sizeof(struct blob) == 16, "the handle table's cost per blob");

int blobs_init(struct blobs *t)
{
	*t = (struct blobs){0};
	return range_reserve(&t->range, ((size_t)BLOB_MAX + 1) * sizeof(struct blob), -1);
}

void blobs_done(struct blobs *t)
{
	range_done(&t->range);
}

where_t blobs_locate(const struct blobs *t, blob_t b)
{
	if (b == BLOB_NONE || b > atomic_load_explicit(&t->top, memory_order_acquire))
		return WHERE_NONE;
	/* Acquire: what blobs_publish and blobs_move had written there is seen too. */
	return atomic_load_explicit(&blobs_row(t, b)->where, memory_order_acquire);
}

int blobs_take(struct blobs *t, blob_t *ret)
{
	if (t->free.count > 0) {
		*ret = blob_list_pop(t, &t->free);
		return 0;
	}

	uint32_t b = atomic_load_explicit(&t->top, memory_order_relaxed) + 1;
	if (b > BLOB_MAX)
		return -ENOSPC;
	int r = range_open(&t->range, ((size_t)b + 1) * sizeof(struct blob));
	if (r < 0)
		return r;
	atomic_store_explicit(&t->top, b, memory_order_release);
	*ret = b;
	return 0;
}

int blobs_name(struct blobs *t, blob_t b, uint32_t check)
{
	int r = range_open(&t->range, ((size_t)b + 1) * sizeof(struct blob));

	if (r < 0)
		return r;
	struct blob *row = blobs_row(t, b);
	where_t had = atomic_load_explicit(&row->where, memory_order_relaxed);
	if (had != WHERE_NONE)
		return had == where_lost(check) ? 0 : -EBADMSG;
	atomic_store_explicit(&row->where, where_lost(check), memory_order_relaxed);
	atomic_store_explicit(&row->refs, 1, memory_order_relaxed);
	if (b > atomic_load_explicit(&t->top, memory_order_relaxed))
		atomic_store_explicit(&t->top, b, memory_order_release);
	return 0;
}

void blobs_publish(struct blobs *t, blob_t b, where_t where, uint32_t stamp)
{
	struct blob *row = blobs_row(t, b);

	must(where_codec(where) != 0 && where_length(where) != 0);
	row->next = stamp;
	atomic_store_explicit(&row->refs, 1, memory_order_relaxed);
	atomic_store_explicit(&row->where, where, memory_order_release);
}

void blobs_move(struct blobs *t, blob_t b, where_t where)
{
	atomic_store_explicit(&blobs_row(t, b)->where, where, memory_order_release);
}

void blobs_kill(struct blobs *t, blob_t b, struct blob_list *dying)
{
	struct blob *row = blobs_row(t, b);

	must(atomic_load_explicit(&row->refs, memory_order_relaxed) == 0);
	atomic_fetch_or_explicit(&row->where, WHERE_DYING, memory_order_relaxed);
	blob_list_push(t, dying, b);
}

void blobs_release(struct blobs *t, blob_t b)
{
	atomic_store_explicit(&blobs_row(t, b)->where, WHERE_NONE, memory_order_relaxed);
	blob_list_push(t, &t->free, b);
}

void blobs_ref(struct blobs *t, blob_t b)
{
	must(blobs_locate(t, b) != WHERE_NONE);
	uint32_t had =
		atomic_fetch_add_explicit(&blobs_row(t, b)->refs, 1, memory_order_relaxed);
	must(had > 0 && had < UINT32_MAX);
}

void blobs_unref(struct blobs *t, blob_t b)
{
	struct blob *row = blobs_row(t, b);

	must(blobs_locate(t, b) != WHERE_NONE);
	uint32_t had = atomic_fetch_sub_explicit(&row->refs, 1, memory_order_acq_rel);
	must(had > 0);
	if (had > 1)
		return;
	row->next = atomic_load_explicit(&t->dropped, memory_order_relaxed);
	/* Release: whoever takes the row sees its next, and that its readers are done with it.
	 */
	while (!atomic_compare_exchange_weak_explicit(
		&t->dropped, &row->next, b, memory_order_release, memory_order_relaxed))
		;
}

blob_t blobs_take_dropped(struct blobs *t)
{
	return atomic_exchange_explicit(&t->dropped, BLOB_NONE, memory_order_acquire);
}

void blob_list_push(struct blobs *t, struct blob_list *l, blob_t b)
{
	blobs_row(t, b)->next = BLOB_NONE;
	if (l->count == 0)
		l->head = b;
	else
		blobs_row(t, l->tail)->next = b;
	l->tail = b;
	l->count++;
}

blob_t blob_list_pop(struct blobs *t, struct blob_list *l)
{
	blob_t b = l->head;

	if (b == BLOB_NONE)
		return BLOB_NONE;
	l->head = blobs_row(t, b)->next;
	l->count--;
	if (l->count == 0)
		l->tail = BLOB_NONE;
	return b;
}

void blob_list_join(struct blobs *t, struct blob_list *to, struct blob_list *from)
{
	if (from->count == 0)
		return;
	if (to->count == 0)
		to->head = from->head;
	else
		blobs_row(t, to->tail)->next = from->head;
	to->tail = from->tail;
	to->count += from->count;
	*from = (struct blob_list){0};
}
