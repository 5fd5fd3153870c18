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
#include "index_files.h"

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

/* dir: the directory's name, dirfd: the same (borrowed, for the index's life). g: the segments
 * that it is for. The earlier run's files are removed (index_files.h). */
int index_open(struct index **ret, int dirfd, const char *dir, const struct index_segments *g);

/* What reading gives: each row once, by id. What a callback returns other than 0 ends it and is
 * returned. It gets borrowed memory, and calls no function of the index. */
typedef int index_client_fn(void *arg, const struct store_client *c);
typedef int index_block_fn(void *arg, uint64_t block, uint64_t leaf);
typedef int index_leaf_fn(void *arg, const struct index_leaf *l);

/* The index that is there, as the last commit left it, after any kill. Every row is read and
 * checked, as of one moment; leaf is called for each leaf. An older version's index is brought
 * to this one. -EBADMSG: damaged, or older than its last commit, or not of these segments; why
 * says it in words. -ENODATA: no index yet, its process was killed while it made it.
 * -EPROTONOSUPPORT: of a newer version. -EBUSY: another process is writing. Whenever it fails,
 * database and log are as they were. */
int index_reopen(struct index **ret, int dirfd, const char *dir, const struct index_segments *g,
	index_leaf_fn *leaf, void *arg, char why[STORE_WHY]);
void index_close(struct index *x); /* NULL is fine */

/* ---- reading: between transactions, or in one ---- */
/* -EBADMSG: damaged; why names table and row. */
int index_each_client(struct index *x, index_client_fn *found, void *arg, char why[STORE_WHY]);
int index_each_block(struct index *x, uint64_t client, index_block_fn *found, void *arg,
	char why[STORE_WHY]);
int index_each_leaf(struct index *x, index_leaf_fn *found, void *arg, char why[STORE_WHY]);
/* found is called for it. -ENOENT: there is no such leaf. */
int index_find_leaf(
	struct index *x, uint64_t leaf, index_leaf_fn *found, void *arg, char why[STORE_WHY]);

/* The highest ids that ever were in a committed row. 0 = none. */
void index_last_ids(const struct index *x, uint64_t *ret_client, uint64_t *ret_leaf);

/* ---- writing ---- */
int index_begin(struct index *x);
int index_commit(struct index *x);
void index_rollback(struct index *x);

int index_client(struct index *x, const struct store_client *c); /* state NULL: as it was */
int index_client_drop(struct index *x, uint64_t client);
int index_leaf(struct index *x, const struct index_leaf *l);
int index_leaf_drop(struct index *x, uint64_t leaf);
int index_block(struct index *x, uint64_t client, uint64_t block, uint64_t leaf);

/* Outside of transactions: pages that rows no longer need are taken out of the file, some at a
 * time. 1: some were, and index_cut gives them back to the tmpfs, for the file is cut when the
 * log is copied back. (A reader can put that off: as well.) 0: they aren't worth it. */
int index_shrink(struct index *x);
int index_cut(struct index *x);

void index_usage(const struct index *x, struct index_usage *ret); /* from any thread */

#endif
