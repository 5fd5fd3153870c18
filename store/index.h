/* The index: index.db, a SQLite database that says which client's pages are in which blobs.
 * Only index.c knows SQLite, index_sql.h has all of the SQL.
 *
 * It survives kill -9 at any instruction (write-ahead log; what was written stays in the tmpfs
 * when the process is gone), not power loss, so nothing is ever synced. An administrator may
 * read it with sqlite3 at any time; one who writes makes index_begin fail with -EBUSY
 * meanwhile.
 *
 * One thread at a time, but for index_usage. Calls that change rows belong between index_begin
 * and index_commit or index_rollback; after one of them has failed, only index_rollback may
 * follow. */
#ifndef LARDER_STORE_INDEX_H
#define LARDER_STORE_INDEX_H

#include "entries.h"

struct index;

struct index_leaf {
	uint64_t id, clock;
	uint32_t pages;
	uint64_t stored_bytes; /* packed bytes of its blobs, without headers */
	struct index_entry entries[STORE_LEAF_PAGES];
};

struct index_usage {
	uint64_t file_bytes;   /* of the tmpfs: database, log, and the log's own index */
	uint64_t memory_bytes; /* page cache, as of the last commit */
};

/* dir: the directory's name, dirfd: the same (borrowed, for the index's life). */
int index_open(struct index **ret, int dirfd, const char *dir);
void index_close(struct index *x); /* NULL is fine */
void index_remove(int dirfd);	   /* the files of an earlier run */

/* Is what lies in the index's place, if anything, of an earlier run and so to be replaced? 0:
 * yes. -EISDIR: a directory. -EEXIST: no index of ours. -EPROTONOSUPPORT: of a newer version.
 * Another error: it can't be read. */
int index_check(int dirfd);

int index_begin(struct index *x);
int index_commit(struct index *x);
void index_rollback(struct index *x);

int index_client(struct index *x, const struct store_client *c);
int index_client_drop(struct index *x, uint64_t client);
int index_leaf(struct index *x, const struct index_leaf *l);
int index_leaf_drop(struct index *x, uint64_t leaf);
int index_block(struct index *x, uint64_t client, uint64_t block, uint64_t leaf);

/* Gives pages that rows no longer need back to the tmpfs, some at a time. Outside of
 * transactions. */
int index_shrink(struct index *x);

void index_usage(const struct index *x, struct index_usage *ret); /* from any thread */

#endif
