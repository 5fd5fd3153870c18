/* The handle table: where each blob lies, and how often it is referenced. 16 bytes a blob, in
 * memory that never moves, so that a reader needs no lock.
 *
 *   handle    0      1        2        3        ...   top            BLOB_MAX
 *           [none][ live ][ free ][ dying ]     ...  [ live ][ never used ... ]
 *                             |next     |next
 *
 * Life of a row:
 *   never used, free -> live   [blobs_take, blobs_publish]
 *   live -> dropped            [blobs_unref: the last reference is gone; still counted as live]
 *   dropped -> dying           [blobs_kill, under the lock; the index may name it]
 *   dying -> free              [blobs_release: a transaction was committed since]
 *
 * After a reopening (reopen.c), a row that the index names is live as above, with one reference
 * of the store's own, or lost: its blob wasn't found. A lost row lives and dies as a live one,
 * but has no place.
 *
 * Only blobs_locate, blobs_ref and blobs_unref may be called without the store's lock. A fault
 * that brings a page back drops its blob, and must not wait for someone who holds that lock
 * over a segment's fallocate: so dropped rows are pushed on a list without locks, and collected
 * by whoever has the lock next. (Pushed singly, taken off all at once: so there is no ABA.) */
#ifndef LARDER_STORE_BLOBS_H
#define LARDER_STORE_BLOBS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "range.h"
#include "store.h"

enum {
	BLOB_ALIGN = 16,  /* in segments; what keeps a place in 36 bits */
	BLOB_HEADER = 16, /* segments.h has its fields */
};

/* Where and what a blob is, in one word, so that a reader sees one moment of it:
 *   bits  0..35  place in the segment file, in units of BLOB_ALIGN: up to 1 TiB
 *   bits 36..48  packed length, 1 .. STORE_PAGE
 *   bits 49..56  codec, never 0 in a blob: so a whole word of 0 means that there is none
 *   bit  57      dying; written under the store's lock
 *   bits 58..60  0: room for the tier, which is the segment file
 *   bit  61      lost: there is no place, length or codec, but in bits 0..31 the check that the
 *                index has for the page (entries.h)
 *   bits 62..63  0 */
typedef uint64_t where_t;
#define WHERE_NONE  UINT64_C(0)
#define WHERE_DYING (UINT64_C(1) << 57)
#define WHERE_LOST  (UINT64_C(1) << 61)

static inline where_t where_make(uint64_t offset, uint32_t length, uint8_t codec)
{
	return offset / BLOB_ALIGN | (uint64_t)length << 36 | (uint64_t)codec << 49;
}

static inline where_t where_lost(uint32_t check)
{
	return WHERE_LOST | check;
}

/* Is there a blob, with a place? */
static inline bool where_placed(where_t w)
{
	return w != WHERE_NONE && !(w & WHERE_LOST);
}

static inline uint64_t where_offset(where_t w)
{
	return (w & ((UINT64_C(1) << 36) - 1)) * BLOB_ALIGN;
}

static inline uint32_t where_length(where_t w)
{
	return (uint32_t)(w >> 36) & 0x1fff;
}

static inline uint8_t where_codec(where_t w)
{
	return (uint8_t)(w >> 49);
}

/* What a blob of this packed length takes in a segment: header, bytes, padding. */
static inline uint32_t blob_size(uint32_t length)
{
	return (BLOB_HEADER + length + BLOB_ALIGN - 1) / BLOB_ALIGN * BLOB_ALIGN;
}

struct blob {
	_Atomic where_t where;
	_Atomic uint32_t refs; /* 0 in rows that are dropped, dying or free */
	/* Of its list: the dropped one, or one under the store's lock. A live blob is on none;
	 * there it is the stamp that it was stored with. */
	blob_t next;
};

/* A list of rows, linked through them: dying blobs need no memory of their own. */
struct blob_list {
	blob_t head, tail; /* BLOB_NONE = empty */
	uint32_t count;
};

struct blobs {
	struct range range;	/* of struct blob */
	_Atomic uint32_t top;	/* last row ever used; written under the store's lock */
	_Atomic blob_t dropped; /* the last one that was dropped, linked to those before */
	struct blob_list free;	/* store's lock */
};

int blobs_init(struct blobs *t);
void blobs_done(struct blobs *t);

static inline struct blob *blobs_row(const struct blobs *t, blob_t b)
{
	return (struct blob *)(void *)t->range.base + b;
}

/* WHERE_NONE for what is no handle, or a free one. */
where_t blobs_locate(const struct blobs *t, blob_t b);

/* A handle for a blob to be: it comes to life by blobs_publish, or goes back by blobs_release.
 * -ENOMEM; -ENOSPC: all BLOB_MAX are in use. */
int blobs_take(struct blobs *t, blob_t *ret);
/* Row b, of an earlier run, as a lost one, with one reference; the rows below that nobody named
 * are free, but on no list yet. -ENOMEM; -EBADMSG: it was named with another check. */
int blobs_name(struct blobs *t, blob_t b, uint32_t check);
/* With one reference. */
void blobs_publish(struct blobs *t, blob_t b, where_t where, uint32_t stamp);
void blobs_move(struct blobs *t, blob_t b, where_t where); /* its new place */
blob_t blobs_take_dropped(struct blobs *t);		   /* all of them, linked by next */
void blobs_kill(struct blobs *t, blob_t b, struct blob_list *dying);
void blobs_release(struct blobs *t, blob_t b);

void blobs_ref(struct blobs *t, blob_t b);
void blobs_unref(struct blobs *t, blob_t b);

void blob_list_push(struct blobs *t, struct blob_list *l, blob_t b);
blob_t blob_list_pop(struct blobs *t, struct blob_list *l);
void blob_list_join(struct blobs *t, struct blob_list *to, struct blob_list *from);

#endif
