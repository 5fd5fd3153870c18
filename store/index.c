/* Invariants:
 *
 * 1. index.db, its log and the log's index are opened and closed by SQLite only, while a
 * connection is open: closing any other descriptor of theirs would drop SQLite's locks.
 * 2. In the database, meta.commits is what index.run says; between a commit's last write and
 * its return, one more.
 * 3. A row's checksum is of that row; written and looked at by row_checksum.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "index_private.h"

/* Fewer unused pages than this (1 MiB) aren't worth moving others; they are used again soon. */
enum { SHRINK_ABOVE = 128 };

static const char *const statement_text[SQL_COUNT] = {
#define X(name, text) [SQL_##name] = text,
	INDEX_SQL_STATEMENTS(X)
#undef X
};

int index_errno(int rc)
{
	switch (rc & 0xff) { /* the low byte of SQLite's extended codes is the kind */
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_PROTOCOL: /* somebody's lock kept us from reading the log, many times */
		return -EBUSY;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EBADMSG;
	case SQLITE_IOERR:
		/* The log's index is grown by a write of its own, which doesn't say why it
		 * failed: in a tmpfs it is for want of space. */
		if (rc == SQLITE_IOERR_SHMSIZE)
			return -ENOSPC;
		return rc == SQLITE_IOERR_NOMEM ? -ENOMEM : -EIO;
	default:
		return -EIO;
	}
}

/* ---- statements ---- */

int index_prepare(struct index *x)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < SQL_COUNT; i++)
		r = index_errno(sqlite3_prepare_v3(x->db, statement_text[i], -1,
			SQLITE_PREPARE_PERSISTENT, &x->statement[i], NULL));
	return r;
}

/* Text is only borrowed: every statement is reset before its function returns. */
static void bind_text(sqlite3_stmt *st, int i, const char *text)
{
	sqlite3_bind_text(st, i, text ? text : "", -1, SQLITE_STATIC);
}

/* A binding that failed would show here: it leaves NULL, and no column takes that. */
static int run(sqlite3_stmt *st)
{
	int rc;

	do {
		rc = sqlite3_step(st);
	} while (rc == SQLITE_ROW);
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	return index_errno(rc);
}

int index_write_meta(struct index *x, const char *key, uint64_t value)
{
	sqlite3_stmt *st = x->statement[SQL_META];

	bind_text(st, 1, key);
	bind_u64(st, 2, value);
	return run(st);
}

/* Those that differ from what is committed: one row in most transactions. */
int index_write_numbers(struct index *x)
{
	const struct numbers *old = &x->committed, *new = &x->next;
	bool first = new->commits == 0;
	int r = 0;

	if (first || new->commits != old->commits)
		r = index_write_meta(x, "commits", new->commits);
	if (r == 0 && (first || new->last_client != old->last_client))
		r = index_write_meta(x, "last_client", new->last_client);
	if (r == 0 && (first || new->last_leaf != old->last_leaf))
		r = index_write_meta(x, "last_leaf", new->last_leaf);
	return r;
}

int index_begin(struct index *x)
{
	x->next = x->committed;
	x->changed = x->failed;
	int r = run(x->statement[SQL_BEGIN]);
	if (r == 0 && x->patient) {
		sqlite3_busy_timeout(x->db, 0);
		x->patient = false;
	}
	return r;
}

int index_commit(struct index *x)
{
	int now = 0, high = 0, r = 0;

	if (x->changed) {
		x->next.commits++;
		r = index_write_numbers(x);
	}
	if (r == 0) {
		r = run(x->statement[SQL_COMMIT]);
		/* Were it found in the log after a kill, its rows would name blobs that the
		 * next commit frees. So that one writes something, in the same place. */
		x->failed = r < 0;
	}
	if (r < 0)
		return r;
	x->committed = x->next;
	atomic_store_explicit(&x->run->commits, x->committed.commits, memory_order_release);
	if (sqlite3_db_status(x->db, SQLITE_DBSTATUS_CACHE_USED, &now, &high, 0) == SQLITE_OK)
		atomic_store_explicit(&x->memory_bytes, (uint64_t)now, memory_order_relaxed);
	return 0;
}

void index_rollback(struct index *x)
{
	/* After errors like a full file system, SQLite has done it already. */
	if (!sqlite3_get_autocommit(x->db))
		(void)run(x->statement[SQL_ROLLBACK]);
}

static int change(struct index *x, sqlite3_stmt *st)
{
	x->changed = true;
	return run(st);
}

static int change_u64(struct index *x, enum statement i, uint64_t n)
{
	bind_u64(x->statement[i], 1, n);
	return change(x, x->statement[i]);
}

/* ---- rows ---- */

int index_client(struct index *x, const struct store_client *c)
{
	sqlite3_stmt *st = x->statement[c->state ? SQL_CLIENT : SQL_CLIENT_KEEP];

	bind_u64(st, 1, c->id);
	bind_u64(st, 2, c->parent);
	sqlite3_bind_int64(st, 3, c->pid);
	bind_text(st, 4, c->exe);
	bind_text(st, 5, c->policy);
	bind_u64(st, 6, c->clock);
	if (c->state)
		sqlite3_bind_blob64(st, 7, c->state, c->state_length, SQLITE_STATIC);
	if (x->next.last_client < c->id)
		x->next.last_client = c->id;
	return change(x, st);
}

int index_client_drop(struct index *x, uint64_t client)
{
	int r = change_u64(x, SQL_CLIENT_BLOCKS_DROP, client);
	return r < 0 ? r : change_u64(x, SQL_CLIENT_DROP, client);
}

int index_leaf(struct index *x, const struct index_leaf *l)
{
	sqlite3_stmt *st = x->statement[SQL_LEAF];
	size_t n = index_pack(l->entries, x->packed);

	bind_u64(st, 1, l->id);
	bind_u64(st, 2, l->clock);
	sqlite3_bind_int64(st, 3, l->pages);
	bind_u64(st, 4, l->stored_bytes);
	sqlite3_bind_blob64(st, 5, x->packed, n, SQLITE_STATIC);
	if (x->next.last_leaf < l->id)
		x->next.last_leaf = l->id;
	return change(x, st);
}

int index_leaf_drop(struct index *x, uint64_t leaf)
{
	return change_u64(x, SQL_LEAF_DROP, leaf);
}

int index_block(struct index *x, uint64_t client, uint64_t block, uint64_t leaf)
{
	sqlite3_stmt *st = x->statement[leaf != 0 ? SQL_BLOCK : SQL_BLOCK_DROP];

	bind_u64(st, 1, client);
	bind_u64(st, 2, block);
	if (leaf != 0)
		bind_u64(st, 3, leaf);
	return change(x, st);
}

void index_last_ids(const struct index *x, uint64_t *ret_client, uint64_t *ret_leaf)
{
	*ret_client = x->committed.last_client;
	*ret_leaf = x->committed.last_leaf;
}

/* ---- size ---- */

int index_shrink(struct index *x)
{
	sqlite3_stmt *st = x->statement[SQL_FREE_PAGES];

	int rc = sqlite3_step(st);
	sqlite3_int64 pages = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
	sqlite3_reset(st);
	if (rc != SQLITE_ROW)
		return index_errno(rc);
	if (pages <= SHRINK_ABOVE)
		return 0;
	int r = run(x->statement[SQL_VACUUM]);
	return r < 0 ? r : 1;
}

int index_cut(struct index *x)
{
	return run(x->statement[SQL_CHECKPOINT]);
}

void index_usage(const struct index *x, struct index_usage *ret)
{
	struct stat st;

	*ret = (struct index_usage){
		.memory_bytes = atomic_load_explicit(&x->memory_bytes, memory_order_relaxed)};
	for (unsigned i = 0; index_file_name(i); i++)
		if (fstatat(x->dirfd, index_file_name(i), &st, AT_SYMLINK_NOFOLLOW) == 0)
			ret->file_bytes += (uint64_t)st.st_blocks * 512; /* st_blocks' unit */
}
