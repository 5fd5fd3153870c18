/* Invariants, with the lock held (those of blobs.c and segments.c besides; asserted by
 * store_check):
 *
 * 1. Each live and each dying blob's place holds its header: same handle, length and codec.
 * 2. s->live = what a count over the live blobs gives; segments.live = live.bytes + their
 * headers and padding.
 * 3. closing is empty unless in_txn.
 * 4. What the committed index names is live, dying or lost, and the bytes of what isn't lost
 * are in place.
 * 5. Between store_reopen and store_reopen_finish, rows up to `adopted` have a reference of the
 * store's own, or are free and on no list; else `adopted` is 0. s->lost = number of lost rows
 * that are not dying. */
#include "store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "must.h"

_Static_assert(STORE_BLOB_MAX == STORE_PAGE + BLOB_HEADER, "blob_size(STORE_PAGE)");

/* ---- open, close ---- */

/* A process killed in between leaves what can't be taken for damage. */
static void remove_files(int dirfd)
{
	index_give_up(dirfd);
	(void)unlinkat(dirfd, STORE_SEGMENTS_FILE, 0); /* not there: as good */
	index_remove(dirfd);
}

int store_new(struct store **ret, const struct store_options *opt)
{
	struct store *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->segments.fd = -1;
	s->synchronize = opt->synchronize;
	s->passes = opt->passes;
	s->arg = opt->arg;
	s->limit = opt->memory_limit;
	pthread_mutex_init(&s->lock, NULL);

	s->dirfd = open(opt->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = s->dirfd < 0 ? -errno : segments_check_dir(s->dirfd);
	if (r == 0)
		r = index_check(s->dirfd);
	if (r < 0) {
		store_leave(s);
		return r;
	}
	*ret = s;
	return 0;
}

int store_check_version(const char *dir)
{
	int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = dirfd < 0 ? -errno : index_check(dirfd);

	if (dirfd >= 0)
		close(dirfd);
	return r;
}

int store_identify(const struct store *s, struct index_segments *ret)
{
	return segments_identity(&s->segments, &ret->inode, &ret->born);
}

int store_make(struct store *s, const struct store_options *opt)
{
	struct index_segments id;

	remove_files(s->dirfd);
	int r = blobs_init(&s->blobs);
	if (r == 0)
		r = segments_init(
			&s->segments, s->dirfd, STORE_SEGMENTS_FILE, opt->memory_limit);
	if (r == 0)
		r = store_identify(s, &id);
	return r == 0 ? index_open(&s->index, s->dirfd, opt->dir, &id) : r;
}

int store_open(struct store **ret, const struct store_options *opt)
{
	struct store *s;

	int r = store_new(&s, opt);
	if (r < 0)
		return r;
	r = store_make(s, opt);
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

void store_leave(struct store *s)
{
	if (!s)
		return;
	index_close(s->index);
	segments_done(&s->segments);
	blobs_done(&s->blobs);
	if (s->dirfd >= 0)
		close(s->dirfd);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void store_close(struct store *s)
{
	if (!s)
		return;
	index_close(s->index);
	s->index = NULL;
	remove_files(s->dirfd);
	store_leave(s);
}

/* ---- blobs ---- */

void store_count(struct store_counts *c, where_t w, bool add)
{
	uint64_t one = add ? 1 : UINT64_MAX; /* -1, modulo 2^64 */

	must(where_codec(w) < STORE_CODECS);
	c->blobs[where_codec(w)] += one;
	c->bytes[where_codec(w)] += one * where_length(w);
}

static uint64_t sum(const uint64_t by_codec[STORE_CODECS])
{
	uint64_t n = 0;

	for (unsigned id = 0; id < STORE_CODECS; id++)
		n += by_codec[id];
	return n;
}

static int put_locked(
	struct store *s, const struct store_packed *p, uint32_t stamp, blob_t *ret)
{
	uint64_t offset;
	blob_t b;

	int r = blobs_take(&s->blobs, &b);
	if (r < 0)
		return r;
	struct blob_header h = {
		.handle = b,
		.length = p->length,
		.codec = p->codec,
		.version = BLOB_VERSION,
		.checksum = p->checksum,
	};
	r = segments_append(&s->segments, USE_PUT, &h, p->bytes, &offset);
	if (r < 0) {
		blobs_release(&s->blobs, b);
		return r;
	}
	where_t w = where_make(offset, p->length, p->codec);
	blobs_publish(&s->blobs, b, w, stamp);
	store_count(&s->live, w, true);
	*ret = b;
	return 0;
}

int store_put(struct store *s, const struct store_packed *p, uint32_t stamp, blob_t *ret)
{
	must(p->length > 0 && p->length <= STORE_PAGE && p->codec != 0);
	must(stamp < STORE_STAMP_MAX);

	pthread_mutex_lock(&s->lock);
	int r = put_locked(s, p, stamp, ret);
	pthread_mutex_unlock(&s->lock);
	return r;
}

int store_get(struct store *s, struct store_scratch *x, blob_t b, void *page)
{
	where_t w = blobs_locate(&s->blobs, b);

	if (!where_placed(w))
		return -EBADMSG;
	/* The table is ours alone, so the place is in bounds; the file's bytes are only
	 * believed where they agree with it. */
	const struct blob_header *h = store_header(s, w);
	if (h->handle != b || h->version != BLOB_VERSION || h->length != where_length(w) ||
		h->codec != where_codec(w))
		return -EBADMSG;
	struct store_packed p = {
		.checksum = h->checksum,
		.bytes = h + 1,
		.length = (uint16_t)where_length(w),
		.codec = where_codec(w),
	};
	return store_unpack(x, &p, page);
}

bool store_has_room(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	bool room = segments_has_room(&s->segments);
	pthread_mutex_unlock(&s->lock);
	return room;
}

void store_ref(struct store *s, blob_t b)
{
	blobs_ref(&s->blobs, b);
}

void store_unref(struct store *s, blob_t b)
{
	if (b != BLOB_NONE)
		blobs_unref(&s->blobs, b);
}

void store_collect_locked(struct store *s)
{
	blob_t next;

	for (blob_t b = blobs_take_dropped(&s->blobs); b != BLOB_NONE; b = next) {
		next = blobs_row(&s->blobs, b)->next;
		where_t w = blobs_locate(&s->blobs, b);
		if (where_placed(w)) {
			segments_kill(
				&s->segments, where_offset(w), blob_size(where_length(w)));
			store_count(&s->live, w, false);
		} else {
			s->lost--;
		}
		blobs_kill(&s->blobs, b, &s->dying);
	}
}

uint32_t store_blob_length(const struct store *s, blob_t b)
{
	return where_length(blobs_locate(&s->blobs, b));
}

uint32_t store_packed_size(const struct store_packed *p)
{
	return blob_size(p->length);
}

uint32_t store_blob_share(const struct store *s, blob_t b, uint32_t sharers)
{
	uint32_t refs =
		atomic_load_explicit(&blobs_row(&s->blobs, b)->refs, memory_order_relaxed);
	uint64_t among = (uint64_t)refs * sharers;
	uint32_t length = store_blob_length(s, b);

	if (among == 0 || length == 0) /* 0: lost */
		return 0;
	return (uint32_t)((blob_size(length) + among - 1) / among);
}

/* ---- numbers ---- */

void store_stats(struct store *s, struct store_stats *ret)
{
	struct index_usage index;

	index_usage(s->index, &index);

	pthread_mutex_lock(&s->lock);
	store_collect_locked(s);
	const struct segments *g = &s->segments;
	uint64_t bytes = g->have;
	*ret = (struct store_stats){
		.blobs = sum(s->live.blobs),
		.blob_bytes = sum(s->live.bytes),
		.header_bytes = g->live - sum(s->live.bytes),
		.dead_bytes = bytes - g->live,
		.segment_bytes = bytes,
		.index_bytes = index.file_bytes,
		.table_bytes = s->blobs.range.open + g->table.open + index.memory_bytes,
		.limit_bytes = s->limit,
		.lost_blobs = s->lost,
	};
	memcpy(ret->codec_blobs, s->live.blobs, sizeof(ret->codec_blobs));
	memcpy(ret->codec_bytes, s->live.bytes, sizeof(ret->codec_bytes));
	pthread_mutex_unlock(&s->lock);
}
