/* store_check: the numbered invariants of blobs.c, segments.c and store.c, asserted. Each
 * check_* names those it is for. */
#include <string.h>

#include "must.h"
#include "store_private.h"

struct sums {
	struct store_counts live;
	uint32_t n_dying, n_free, n_lost, n_unlisted;
};

/* segments.c 4 and 3: walks a segment by its headers, and adds up what the table says. */
static void check_segment(const struct store *s, uint32_t i)
{
	const struct segments *g = &s->segments;
	const struct segment *seg = segments_row(g, i);
	uint64_t start = (uint64_t)i * SEGMENT_SIZE;
	uint32_t at = 0, live = 0, dying = 0;

	while (at < seg->used) {
		const struct blob_header *h = (const void *)segments_at(g, start + at);
		must(h->handle != 0 && h->length > 0 && h->length <= STORE_PAGE);
		where_t w = blobs_locate(&s->blobs, h->handle);
		if (where_placed(w) && where_offset(w) == start + at) {
			must(h->length == where_length(w) && h->codec == where_codec(w));
			must(h->version == BLOB_VERSION);
			*(w & WHERE_DYING ? &dying : &live) += blob_size(h->length);
		}
		at += blob_size(h->length);
	}
	must(at == seg->used);
	for (uint32_t k = 0; k < s->left_count; k++)
		if (s->left[k].offset / SEGMENT_SIZE == i)
			dying += s->left[k].size;
	must(live == seg->live && dying == seg->dying);
	for (; at < seg->have; at += BLOB_ALIGN)
		must(((const struct blob_header *)(const void *)segments_at(g, start + at))
				->handle == 0);
}

/* segments.c 1, 2, 3 */
static void check_segments(const struct store *s)
{
	const struct segments *g = &s->segments;
	uint64_t live = 0, dying = 0, have = 0;
	uint32_t in_use = 0, listed = 0;

	for (uint32_t i = 0; i < g->top; i++) {
		const struct segment *seg = segments_row(g, i);
		must(seg->live + seg->dying <= seg->used && seg->used <= seg->have);
		must(seg->have <= SEGMENT_SIZE && seg->have % SEGMENT_STEP == 0);
		have += seg->have;
		must((seg->state == SEGMENT_OPEN) ==
			(g->open[STREAM_PUT] == i || g->open[STREAM_MOVE] == i));
		live += seg->live;
		dying += seg->dying;
		if (seg->state == SEGMENT_FREE) {
			must(seg->have == 0);
			continue;
		}
		in_use++;
		/* A damaged one fails this walk, rightly: that isn't the store's doing. */
		if (seg->state != SEGMENT_DAMAGED)
			check_segment(s, i);
	}
	for (uint32_t i = g->free; i != SEGMENT_NONE; i = segments_row(g, i)->next, listed++)
		must(segments_row(g, i)->state == SEGMENT_FREE && listed < g->top);
	must(in_use == g->in_use && in_use <= g->max_move && g->top == in_use + listed);
	must(live == g->live && dying == g->dying && have == g->have);
}

/* blobs.c 2 and 4, store.c 2: by row. That places differ (blobs.c 3) and that headers fit them
 * (store.c 1) follows from the segment walks adding up to the same sums. */
static void check_rows(const struct store *s, struct sums *sums)
{
	uint32_t top = atomic_load(&s->blobs.top);

	for (blob_t b = 1; b <= top; b++) {
		where_t w = blobs_locate(&s->blobs, b);
		uint32_t refs = atomic_load(&blobs_row(&s->blobs, b)->refs);
		if (w == WHERE_NONE) {
			if (b > s->adopted)
				sums->n_free++;
			else
				sums->n_unlisted++;
			must(refs == 0);
			continue;
		}
		if (w & WHERE_LOST) {
			*(w & WHERE_DYING ? &sums->n_dying : &sums->n_lost) += 1;
			must((refs == 0) == ((w & WHERE_DYING) != 0));
			continue;
		}
		uint64_t end = where_offset(w) % SEGMENT_SIZE + blob_size(where_length(w));
		must(end <=
			segments_row(&s->segments, (uint32_t)(where_offset(w) / SEGMENT_SIZE))
				->used);
		if (w & WHERE_DYING) {
			sums->n_dying++;
			must(refs == 0);
			continue;
		}
		must(refs > 0);
		store_count(&sums->live, w, true);
	}
}

/* blobs.c 2: a list has the length that it says, and only rows of its kind. */
static void check_list(const struct store *s, const struct blob_list *l, bool dying)
{
	uint32_t n = 0;

	for (blob_t b = l->head; b != BLOB_NONE; b = blobs_row(&s->blobs, b)->next) {
		where_t w = blobs_locate(&s->blobs, b);
		must(dying ? (w & WHERE_DYING) != 0 : w == WHERE_NONE);
		must(++n <= l->count);
		must(blobs_row(&s->blobs, b)->next != BLOB_NONE || b == l->tail);
	}
	must(n == l->count);
}

void store_check(struct store *s)
{
	struct sums sums = {0};

	pthread_mutex_lock(&s->lock);
	store_collect_locked(s);
	check_rows(s, &sums);
	check_list(s, &s->dying, true);
	check_list(s, &s->closing, true);
	check_list(s, &s->blobs.free, false);
	check_segments(s);

	/* blobs.c 1 and 2 */
	must(sums.n_free == s->blobs.free.count);
	must(sums.n_dying == s->dying.count + s->closing.count);
	must(sums.n_lost == s->lost);
	uint64_t n_live = sums.n_lost + sums.n_unlisted;
	for (unsigned id = 0; id < STORE_CODECS; id++)
		n_live += sums.live.blobs[id];
	must(n_live + sums.n_dying + sums.n_free == atomic_load(&s->blobs.top));
	/* store.c 2 and 3 */
	must(memcmp(&sums.live, &s->live, sizeof(s->live)) == 0);
	must(s->in_txn || s->closing.count == 0);
	pthread_mutex_unlock(&s->lock);
}
