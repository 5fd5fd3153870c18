/* struct index, for the files that make it up; the only one that knows SQLite's header:
 *
 *   index.c       transactions, rows
 *   index_open.c  open, reopen, older versions, close
 *   index_read.c  reading rows, and what must be true of them */
#ifndef LARDER_STORE_INDEX_PRIVATE_H
#define LARDER_STORE_INDEX_PRIVATE_H

#include <sqlite3.h>

#include "index.h"
#include "index_sql.h"

enum statement {
#define X(name, text) SQL_##name,
	INDEX_SQL_STATEMENTS(X)
#undef X
		SQL_COUNT
};

/* What meta has besides the run. */
struct numbers {
	uint64_t commits, last_client, last_leaf;
};

struct index {
	int dirfd;			    /* borrowed */
	sqlite3 *db;			    /* owned */
	sqlite3_stmt *statement[SQL_COUNT]; /* owned */
	struct index_run *run;		    /* owned */
	struct numbers committed, next;	    /* next: as this transaction leaves them */
	bool changed;			    /* this transaction has written */
	bool failed;			    /* the last commit; it may be in the log still */
	bool patient;			    /* no transaction has begun since index_reopen */
	_Atomic uint64_t memory_bytes;
	unsigned char packed[ENTRIES_MAX]; /* of the leaf that is being written */
	struct index_leaf leaf;		   /* that was read last */
};

/* SQLite's errors as ours. */
int index_errno(int rc);

/* All statements are to be prepared. */
int index_prepare(struct index *x);

/* SQLite's integers are signed; numbers of 64 bits keep their bits. */
static inline void bind_u64(sqlite3_stmt *st, int i, uint64_t n)
{
	sqlite3_bind_int64(st, i, (sqlite3_int64)n);
}

int index_write_meta(struct index *x, const char *key, uint64_t value);
int index_write_numbers(struct index *x); /* next, where it differs from committed */
int index_read_meta(struct index *x, const char *key, uint64_t *ret, char why[STORE_WHY]);

/* All rows; leaf is called for each leaf. */
int index_read_all(struct index *x, index_leaf_fn *leaf, void *arg, char why[STORE_WHY]);

#endif
