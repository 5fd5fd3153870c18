/* Packing blobs anew: for pages that stay out, a denser codec is worth its time.
 *
 *   row b ──▶ [old]           before
 *   row b ──▶ [new]   [old]   after store_repack: old is left, a reader may be decoding there
 *   row b ──▶ [new]           after store_repack_finish: synchronize has seen all readers out
 *
 * As in compaction, the row is switched in one atomic store to bytes that are complete, and
 * that were unpacked again and compared. Both headers bear the same handle and describe the
 * same page, and the index names pages by handle and checksum: so its rows hold before, in
 * between, and after, whenever the process is killed. Only their number of packed bytes is out
 * of date, until the row is written again. */
#include <errno.h>

#include "must.h"
#include "store_private.h"

/* In `next` of a live row: it was tried, and packs no better. */
#define STAMP_LEFT (STORE_STAMP_MAX + 1)

bool store_repack_due(const struct store *s, blob_t b, uint32_t stamp)
{
	uint8_t codec = where_codec(blobs_locate(&s->blobs, b));

	return (codec == CODEC_LZ4 || codec == CODEC_RAW) &&
	       blobs_row(&s->blobs, b)->next <= stamp;
}

/* The caller's reference keeps the row alive, and the job's thread, which compacts and repacks
 * by turns, its place. */
static int replace_locked(
	struct store *s, blob_t b, where_t old, const struct store_packed *p, uint32_t stamp)
{
	struct blob_header h = {
		.handle = b,
		.length = p->length,
		.codec = p->codec,
		.version = BLOB_VERSION,
		.checksum = p->checksum,
	};
	uint32_t size = blob_size(where_length(old));
	uint64_t offset;

	if (s->left_count == STORE_LEAF_PAGES)
		return -EAGAIN;
	int r = segments_append(&s->segments, USE_REPACK, &h, p->bytes, &offset);
	if (r < 0)
		return r;
	where_t new = where_make(offset, p->length, p->codec);
	blobs_row(&s->blobs, b)->next = stamp;
	blobs_move(&s->blobs, b, new);
	store_count(&s->live, old, false);
	store_count(&s->live, new, true);
	/* Not live any more, but not to be given back yet either. */
	segments_kill(&s->segments, where_offset(old), size);
	s->left[s->left_count++] = (struct store_left){where_offset(old), size};
	return 1;
}

static void leave_alone(struct store *s, blob_t b)
{
	pthread_mutex_lock(&s->lock);
	blobs_row(&s->blobs, b)->next = STAMP_LEFT;
	pthread_mutex_unlock(&s->lock);
}

int store_repack(
	struct store *s, struct store_scratch *x, blob_t b, const struct store_method *how)
{
	unsigned char page[STORE_PAGE];
	struct store_packed p;
	where_t old = blobs_locate(&s->blobs, b);
	uint64_t checksum = store_header(s, old)->checksum;

	int r = store_get(s, x, b, page);
	if (r < 0) {
		leave_alone(s, b); /* whoever needs it will say so */
		return r;
	}
	r = store_pack(x, how, page, &p);
	if (r == -ENOMEM)
		return r;
	/* The old blob is the only copy: nothing but the very same page may take its place. */
	if (r < 0 || p.checksum != checksum ||
		blob_size(p.length) >= blob_size(where_length(old))) {
		leave_alone(s, b);
		return r < 0 ? r : 0;
	}
	pthread_mutex_lock(&s->lock);
	r = replace_locked(s, b, old, &p, blobs_row(&s->blobs, b)->next);
	pthread_mutex_unlock(&s->lock);
	store_step(s, STORE_STEP_repacked);
	return r;
}

void store_repack_finish(struct store *s)
{
	if (s->left_count == 0)
		return;
	if (s->synchronize)
		s->synchronize(s->arg);
	pthread_mutex_lock(&s->lock);
	while (s->left_count > 0) {
		struct store_left *left = &s->left[--s->left_count];
		segments_recycle(&s->segments, left->offset, left->size);
	}
	pthread_mutex_unlock(&s->lock);
	store_step(s, STORE_STEP_repack_done);
}
