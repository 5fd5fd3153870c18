/* What the segments of an earlier run hold. Which blobs are wanted is known (blobs_name): those
 * that the index names, by handle and by the low half of the page's checksum.
 *
 *   segment  [ A ][dead][ B ][orphan][ C ][ parts of D          no header was written
 *               |          |            |
 *   rows       where      where        where                    each by one compare-and-swap
 *
 * 1. Each segment is walked from header to header, by several threads. A wanted blob's row gets
 *    its place. An orphan (put, and never committed, or dead since the last commit) gets codec
 *    0, before its handle can name something else.
 * 2. A row that has a place already has a twin: of two copies that a compaction or a
 *    store_repack was killed between, the denser one that can be unpacked stays.
 * 3. Segments are adopted with what is live in them; those without are given back.
 *
 * Where header doesn't follow header, memory was damaged, or the walk has come to the segment's
 * end. Then every 16 bytes are looked at: only a wanted blob's header is believed there. (A
 * program chooses its pages' bytes, and so what might look like one; but not a check that it
 * doesn't know.) Is there one, the blob before the gap is kept only if it can be unpacked: its
 * length may be what misled the walk. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "must.h"
#include "store_private.h"

enum {
	/* More wait for memory no faster. */
	RESCAN_THREADS = 8,
	/* Segments of a thread, below which starting it isn't worth it. */
	RESCAN_SHARE = 64,
};

#define NOWHERE UINT32_MAX

struct twin {
	blob_t blob;
	uint64_t offset;
};

struct rescan {
	struct store *s;
	_Atomic uint32_t next; /* segment to be walked */
	_Atomic int error;     /* the last one */
	uint32_t *used, *live; /* owned; by segment */
	bool *damaged;	       /* owned; by segment */
	pthread_mutex_t lock;  /* guards the twins */
	struct twin *twin;     /* owned */
	uint32_t twins, room;
};

/* One segment, while it is walked. */
struct walk {
	struct rescan *sc;
	struct store_scratch **scratch; /* the thread's; made when it is needed */
	uint64_t start;			/* of the segment, in the file */
	uint32_t end;			/* of what can be read of it */
	uint32_t used;			/* end of the last blob */
	uint32_t last;			/* the last blob; NOWHERE = none */
};

static struct blob_header *header_at(const struct store *s, uint64_t offset)
{
	return (void *)(s->segments.file.base + offset);
}

static bool plausible(const struct blob_header *h, uint32_t room)
{
	return h->handle >= 1 && h->handle <= BLOB_MAX && h->length >= 1 &&
	       h->length <= STORE_PAGE && h->codec < STORE_CODECS &&
	       h->version == BLOB_VERSION && blob_size(h->length) <= room;
}

static bool wanted(const struct store *s, const struct blob_header *h)
{
	where_t w = h->codec ? blobs_locate(&s->blobs, h->handle) : WHERE_NONE;

	if (w == WHERE_NONE)
		return false;
	uint64_t check = w & WHERE_LOST ? w : store_header(s, w)->checksum;
	return (uint32_t)check == (uint32_t)h->checksum;
}

static int note_twin(struct rescan *sc, blob_t b, uint64_t offset)
{
	int r = 0;

	pthread_mutex_lock(&sc->lock);
	if (sc->twins == sc->room) {
		uint32_t room = sc->room ? 2 * sc->room : 512;
		struct twin *more = realloc(sc->twin, room * sizeof(*more));
		if (more) {
			sc->twin = more;
			sc->room = room;
		} else {
			r = -ENOMEM;
		}
	}
	if (r == 0)
		sc->twin[sc->twins++] = (struct twin){b, offset};
	pthread_mutex_unlock(&sc->lock);
	return r;
}

/* A header that can be believed. */
static int take(struct rescan *sc, uint64_t offset)
{
	struct blob_header *h = header_at(sc->s, offset);

	if (!wanted(sc->s, h)) {
		/* Written only where it must be: the walk leaves pages clean. */
		if (h->codec != 0)
			h->codec = 0;
		return 0;
	}
	where_t expected = where_lost((uint32_t)h->checksum);
	if (atomic_compare_exchange_strong_explicit(&blobs_row(&sc->s->blobs, h->handle)->where,
		    &expected, where_make(offset, h->length, h->codec), memory_order_acq_rel,
		    memory_order_relaxed))
		return 0;
	return note_twin(sc, h->handle, offset);
}

/* 0: its bytes are its page's. -EBADMSG; -ENOMEM. */
static int unpacks(const struct store *s, struct store_scratch **x, uint64_t offset)
{
	const struct blob_header *h = header_at(s, offset);
	unsigned char page[STORE_PAGE];
	struct store_packed p = {
		.checksum = h->checksum,
		.bytes = h + 1,
		.length = h->length,
		.codec = h->codec,
	};
	int r = *x ? 0 : store_scratch_new(x);

	return r < 0 ? r : store_unpack(*x, &p, page);
}

/* Its row is as if this blob had never been found. */
static void lose(struct store *s, uint64_t offset)
{
	struct blob_header *h = header_at(s, offset);
	where_t w = blobs_locate(&s->blobs, h->handle);

	if (where_placed(w) && where_offset(w) == offset)
		atomic_store_explicit(&blobs_row(&s->blobs, h->handle)->where,
			where_lost((uint32_t)h->checksum), memory_order_release);
	h->codec = 0;
}

static uint32_t find_wanted(const struct walk *k, uint32_t from)
{
	for (uint32_t at = from; at + BLOB_HEADER < k->end; at += BLOB_ALIGN) {
		const struct blob_header *h = header_at(k->sc->s, k->start + at);
		if (plausible(h, k->end - at) && wanted(k->sc->s, h))
			return at;
	}
	return NOWHERE;
}

/* What is after k->used is no header: the next blob, if there is one. */
static int over_gap(struct walk *k, uint32_t *ret)
{
	struct store *s = k->sc->s;

	if (k->last == NOWHERE) {
		*ret = find_wanted(k, 0);
		return 0;
	}
	*ret = find_wanted(k, k->last + BLOB_ALIGN);
	if (*ret == NOWHERE)
		return 0;
	int r = unpacks(s, k->scratch, k->start + k->last);
	if (r == -EBADMSG) {
		lose(s, k->start + k->last);
		return 0;
	}
	*ret = find_wanted(k, k->used);
	return r;
}

static int walk(struct walk *k, bool *ret_damaged)
{
	struct rescan *sc = k->sc;
	uint32_t at = 0;
	int r = 0;

	while (r == 0 && at != NOWHERE && at + BLOB_HEADER < k->end) {
		const struct blob_header *h = header_at(sc->s, k->start + at);
		if (!plausible(h, k->end - at)) {
			r = over_gap(k, &at);
			*ret_damaged |= at != NOWHERE;
			continue;
		}
		r = take(sc, k->start + at);
		k->last = at;
		at += blob_size(h->length);
		k->used = at;
	}
	return r;
}

static int walk_segment(struct rescan *sc, uint32_t i, struct store_scratch **scratch)
{
	struct walk k = {
		.sc = sc,
		.scratch = scratch,
		.start = (uint64_t)i * SEGMENT_SIZE,
		.end = segments_row(&sc->s->segments, i)->used,
		.last = NOWHERE,
	};

	int r = walk(&k, &sc->damaged[i]);
	sc->used[i] = k.used;
	return r;
}

static void *walk_some(void *arg)
{
	struct rescan *sc = arg;
	struct store_scratch *scratch = NULL;
	uint32_t i;

	while ((i = atomic_fetch_add(&sc->next, 1)) < sc->s->segments.top) {
		int r = walk_segment(sc, i, &scratch);
		if (r < 0)
			atomic_store(&sc->error, r);
	}
	store_scratch_free(scratch);
	return NULL;
}

/* This thread, and further ones where they help; the work gets done without them too. */
static int walk_all(struct rescan *sc)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint32_t n = 0, want = sc->s->segments.top / RESCAN_SHARE;
	pthread_t thread[RESCAN_THREADS];

	if (cpus > 0 && want >= (unsigned long)cpus)
		want = (uint32_t)cpus - 1;
	while (n < want && n < RESCAN_THREADS &&
		pthread_create(&thread[n], NULL, walk_some, sc) == 0)
		n++;
	walk_some(sc);
	while (n > 0)
		pthread_join(thread[--n], NULL);
	return atomic_load(&sc->error);
}

static int settle_twin(struct store *s, const struct twin *t, struct store_scratch **x)
{
	where_t w = blobs_locate(&s->blobs, t->blob);
	const struct blob_header *h = header_at(s, t->offset);
	where_t other = where_make(t->offset, h->length, h->codec);

	/* Its twin may have been lost since. */
	if (where_placed(w)) {
		bool denser = blob_size(h->length) < blob_size(where_length(w));
		int r = unpacks(s, x, denser ? t->offset : where_offset(w));
		if (r < 0 && r != -EBADMSG)
			return r;
		if (denser != (r == 0)) {
			lose(s, t->offset);
			return 0;
		}
		lose(s, where_offset(w));
	}
	blobs_move(&s->blobs, t->blob, other);
	return 0;
}

static int settle_twins(struct rescan *sc)
{
	struct store_scratch *x = NULL;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < sc->twins; i++)
		r = settle_twin(sc->s, &sc->twin[i], &x);
	store_scratch_free(x);
	return r;
}

static void count_rows(struct rescan *sc, uint32_t stamp)
{
	struct store *s = sc->s;
	uint32_t top = atomic_load(&s->blobs.top);

	for (blob_t b = 1; b <= top; b++) {
		where_t w = blobs_locate(&s->blobs, b);
		if (w == WHERE_NONE)
			continue;
		blobs_row(&s->blobs, b)->next = stamp;
		if (w & WHERE_LOST) {
			s->lost++;
			continue;
		}
		store_count(&s->live, w, true);
		sc->live[where_offset(w) / SEGMENT_SIZE] += blob_size(where_length(w));
	}
}

static int rescan(struct rescan *sc, uint32_t stamp)
{
	struct segments *g = &sc->s->segments;
	uint32_t n = g->top;

	sc->used = calloc(n + 1, sizeof(*sc->used));
	sc->live = calloc(n + 1, sizeof(*sc->live));
	sc->damaged = calloc(n + 1, sizeof(*sc->damaged));
	if (!sc->used || !sc->live || !sc->damaged)
		return -ENOMEM;
	int r = walk_all(sc);
	if (r == 0)
		r = settle_twins(sc);
	if (r < 0)
		return r;
	count_rows(sc, stamp);
	for (uint32_t i = 0; r == 0 && i < n; i++)
		r = segments_adopt(g, i, sc->used[i], sc->live[i], sc->damaged[i]);
	segments_adopted(g);
	return r;
}

int store_rescan(struct store *s, uint32_t stamp)
{
	struct rescan sc = {.s = s};

	pthread_mutex_init(&sc.lock, NULL);
	int r = rescan(&sc, stamp);
	pthread_mutex_destroy(&sc.lock);
	free(sc.used);
	free(sc.live);
	free(sc.damaged);
	free(sc.twin);
	return r;
}
