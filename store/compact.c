/* Compaction: moves what is left in the emptiest segments together, and gives these segments
 * back.
 *
 *   victim  [dead][ A ][  dead  ][ B ]      open  [ ... ][ A ][ B ]
 *                   |              |                       ^    ^
 *                   +--------------+-----------------------+----+
 *
 * A blob's row is switched to the copy in one atomic store. A reader that loaded the old place
 * may still be decoding there, so the victim keeps its bytes until synchronize has seen all
 * readers out. Dying blobs move too: the index on disk may name them. */
#include <errno.h>

#include "must.h"
#include "store_private.h"

/* Bytes of the victim looked at before the lock is free for others once. */
enum { MOVE_PIECE = 32 << 10 };

static int move_blob_locked(struct store *s, blob_t b, where_t from)
{
	bool dying = from & WHERE_DYING;
	uint32_t length = where_length(from), size = blob_size(length);
	struct blob_header h = {
		.handle = b,
		.length = (uint16_t)length,
		.codec = where_codec(from),
		.version = BLOB_VERSION,
		.checksum = store_header(s, from)->checksum,
	};
	uint64_t to;

	int r = segments_append(&s->segments, USE_MOVE, &h, store_header(s, from) + 1, &to);
	if (r < 0)
		return r;
	if (dying)
		segments_kill(&s->segments, to, size);
	where_t w = where_make(to, length, where_codec(from)) | (dying ? WHERE_DYING : 0);
	blobs_move(&s->blobs, b, w);
	segments_leave(&s->segments, where_offset(from), size, dying);
	return 0;
}

/* The headers only propose; a blob is where the table says. So a damaged length can't make the
 * walk skip a blob, and stale bytes that look like a header aren't taken for one. */
static int move_piece_locked(struct store *s, uint32_t victim, uint32_t *at, uint64_t *copied)
{
	uint32_t used = segments_row(&s->segments, victim)->used;
	uint32_t end = used - *at > MOVE_PIECE ? *at + MOVE_PIECE : used;

	while (*at < end) {
		uint64_t offset = (uint64_t)victim * SEGMENT_SIZE + *at;
		const struct blob_header *h = (const void *)segments_at(&s->segments, offset);
		where_t w = blobs_locate(&s->blobs, h->handle);
		if (!where_placed(w) || where_offset(w) != offset) {
			*at += BLOB_ALIGN;
			continue;
		}
		int r = move_blob_locked(s, h->handle, w);
		if (r < 0)
			return r;
		*at += blob_size(where_length(w));
		*copied += blob_size(where_length(w));
	}
	return *at < used ? 1 : 0;
}

static int move_all(struct store *s, uint32_t victim, uint64_t *copied)
{
	uint32_t at = 0;
	int r;

	do {
		pthread_mutex_lock(&s->lock);
		r = move_piece_locked(s, victim, &at, copied);
		pthread_mutex_unlock(&s->lock);
	} while (r > 0);
	return r;
}

static void give_back(struct store *s, uint32_t victim)
{
	struct segment *seg = segments_row(&s->segments, victim);

	/* Something is left whose header doesn't bear its handle any more. Its page is lost,
	 * but its bytes stay where the table says, so that reading it tells. */
	pthread_mutex_lock(&s->lock);
	if (seg->live + seg->dying > 0)
		seg->state = SEGMENT_DAMAGED;
	else
		segments_release(&s->segments, victim);
	pthread_mutex_unlock(&s->lock);
}

static uint32_t next_victim(struct store *s, unsigned percent)
{
	const struct segments *g = &s->segments;
	uint32_t victim = SEGMENT_NONE;

	pthread_mutex_lock(&s->lock);
	store_collect_locked(s);
	uint64_t bytes = g->have;
	if (segments_waste(g) * 100 > bytes * percent)
		victim = segments_victim(g);
	if (victim != SEGMENT_NONE)
		segments_close(&s->segments, victim);
	pthread_mutex_unlock(&s->lock);
	return victim;
}

static int shrink_index(struct store *s)
{
	int r = index_shrink(s->index);

	if (r <= 0)
		return r;
	store_step(s, STORE_STEP_shrink);
	r = index_cut(s->index);
	store_step(s, STORE_STEP_shrunk);
	return r;
}

int store_compact(struct store *s, unsigned percent, uint64_t budget)
{
	uint64_t copied = 0;

	if (s->in_txn)
		return -EINVAL;
	store_repack_finish(s); /* what it left can't be moved */
	while (copied < budget) {
		uint32_t victim = next_victim(s, percent);
		if (victim == SEGMENT_NONE)
			break;
		int r = move_all(s, victim, &copied);
		if (r < 0)
			return r;
		store_step(s, STORE_STEP_compact_moved);
		if (s->synchronize)
			s->synchronize(s->arg);
		store_step(s, STORE_STEP_compact_quiet);
		give_back(s, victim);
		store_step(s, STORE_STEP_compacted);
	}
	return shrink_index(s);
}
