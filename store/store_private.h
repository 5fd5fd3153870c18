/* struct store, for the files that make it up:
 *
 *   store.c    open, close, put, get, references, numbers
 *   txn.c      transactions, and with them the end of dead blobs
 *   compact.c  store_compact
 *   repack.c   store_repack
 *   reopen.c   store_reopen, reading the index
 *   rescan.c   what the segments of an earlier run hold
 *   check.c    store_check
 *
 * Below: blobs (handle table), segments (bytes), index (SQLite). These three know nothing of
 * each other but the format of a place. */
#ifndef LARDER_STORE_PRIVATE_H
#define LARDER_STORE_PRIVATE_H

#include <pthread.h>

#include "blobs.h"
#include "index.h"
#include "segments.h"

/* Of live blobs. */
struct store_counts {
	uint64_t blobs[STORE_CODECS], bytes[STORE_CODECS]; /* by codec */
};

/* A place that a blob was packed anew from. */
struct store_left {
	uint64_t offset;
	uint32_t size;
};

struct store {
	int dirfd;			/* owned */
	void (*synchronize)(void *arg); /* immutable; NULL = nobody calls store_get meanwhile */
	void (*passes)(void *arg, enum store_step step); /* immutable; may be NULL */
	void *arg;					 /* borrowed */
	uint64_t limit;					 /* immutable; as given */

	/* Guards the rest but the index. Held for a blob's copy, a segment's fallocate, or a
	 * piece of a compaction; never over SQL or synchronize. Innermost: no other lock is
	 * taken under it. */
	pthread_mutex_t lock;
	struct blobs blobs;
	struct segments segments;
	struct store_counts live;
	uint32_t lost;		  /* rows */
	uint32_t adopted;	  /* rows of an earlier run, until store_reopen_finish */
	struct blob_list dying;	  /* dead since the last store_txn_begin, or with none open */
	struct blob_list closing; /* dead at store_txn_begin; empty outside of a transaction */

	/* Places that readers may still look at; counted as dying in their segments. */
	struct store_left left[STORE_LEAF_PAGES];
	uint32_t left_count;

	struct index *index; /* owned; used by the job's thread only, but for index_usage */
	bool in_txn;	     /* the job's thread */
	int txn_error; /* the job's thread; the first error in this transaction, 0 = none */
	bool adopting; /* the job's thread; store_reopen_finish is to come */
};

#define STORE_SEGMENTS_FILE "warm.seg"

/* A store of nothing yet, of a directory that may hold one; and all of it, fresh. */
int store_new(struct store **ret, const struct store_options *opt);
int store_make(struct store *s, const struct store_options *opt);

int store_identify(const struct store *s, struct index_segments *ret);

/* Finds the places of the rows that are named (blobs_name), and tidies the segments up: what no
 * row has is gone, and its memory given back. Rows that stay lost are counted. */
int store_rescan(struct store *s, uint32_t stamp);

/* Counts a blob in, or out. */
void store_count(struct store_counts *c, where_t w, bool add);

/* Makes the blobs dying whose last reference was dropped since it was last called. */
void store_collect_locked(struct store *s);

static inline void store_step(const struct store *s, enum store_step step)
{
	if (s->passes)
		s->passes(s->arg, step);
}

/* The header at a place that the caller knows to be a blob's. */
static inline const struct blob_header *store_header(const struct store *s, where_t w)
{
	return (const void *)segments_at(&s->segments, where_offset(w));
}

#endif
