/* Opening.
 *
 * Locks. SQLite locks by fcntl, and the owner of such locks is not a process but its descriptor
 * table. Where that is shared with a process which outlives this one, the dead one's
 * descriptors and locks stay. That is harmless as long as all of these descriptors are closed
 * before the database is opened here: closing the first one drops all of a file's locks, as the
 * process's end would have, and what follows is SQLite's ordinary recovery, beside other
 * processes that read. Were one closed later, the locks of this connection would be dropped
 * with it: the next sqlite3 of an administrator's to end would believe itself the last, and
 * remove the log under us. So the caller closes what store_files names, and then opens.
 *
 * The alternatives, tried with SQLite 3.40: under the VFS unix-none, and with nolock=1, there
 * is no log (PRAGMA journal_mode = WAL leaves "delete"), but with unix-none in exclusive
 * locking mode, where the log's index is in private memory: an administrator's sqlite3 then
 * makes one of its own, and misses what is committed after that; unix-dotfile is the same.
 * Under unix-excl it finds the database locked. A VFS of our own, with locks of open files
 * (F_OFD_SETLK), would bear late closes, but be some hundred lines that have to follow
 * SQLite's. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checksum.h"
#include "index_private.h"
#include "segments.h"

/* Blobs of another version aren't refused by themselves (segments.h): the index's version says
 * of which they are, so it grows with theirs, and this line with both. */
_Static_assert(INDEX_SQL_VERSION >= 2 && BLOB_VERSION == 1, "blobs grew, the index has to");

/* Of all arguments, by type and value. */
static void row_checksum(sqlite3_context *ctx, int n, sqlite3_value **v)
{
	uint64_t sum = 0;

	for (int i = 0; i < n; i++) {
		int type = sqlite3_value_type(v[i]);
		uint64_t head[2] = {(uint64_t)type};
		const void *bytes = NULL;

		if (type == SQLITE_INTEGER)
			head[1] = (uint64_t)sqlite3_value_int64(v[i]);
		if (type == SQLITE_TEXT || type == SQLITE_BLOB) {
			bytes = sqlite3_value_blob(v[i]);
			head[1] = (uint64_t)sqlite3_value_bytes(v[i]);
		}
		sum = checksum_more(sum, head, sizeof(head));
		if (bytes)
			sum = checksum_more(sum, bytes, head[1]);
	}
	sqlite3_result_int64(ctx, (sqlite3_int64)sum);
}

static int connect(struct index *x, const char *dir)
{
	char *path;

	if (asprintf(&path, "%s/" INDEX_FILE, dir) < 0)
		return -ENOMEM;
	/* SQLite opens with O_CLOEXEC. No mutex: one thread at a time. */
	int rc = sqlite3_open_v2(
		path, &x->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	free(path);
	if (rc != SQLITE_OK)
		return index_errno(rc);
	sqlite3_extended_result_codes(x->db, 1);
	sqlite3_busy_timeout(x->db, INDEX_WAIT_MS);
	return index_errno(sqlite3_create_function(x->db, "row_checksum", -1,
		SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, row_checksum, NULL, NULL));
}

static int execute(struct index *x, const char *sql)
{
	return index_errno(sqlite3_exec(x->db, sql, NULL, NULL, NULL));
}

static struct index *index_new(int dirfd)
{
	struct index *x = calloc(1, sizeof(*x));

	if (x)
		x->dirfd = dirfd;
	return x;
}

void index_close(struct index *x)
{
	if (!x)
		return;
	for (unsigned i = 0; i < SQL_COUNT; i++)
		sqlite3_finalize(x->statement[i]);
	sqlite3_close(x->db);
	index_run_unmap(x->run);
	free(x);
}

static int make_database(struct index *x, const char *dir, const struct index_segments *g)
{
	int r = index_run_new(x->dirfd, g, &x->run);
	if (r < 0)
		return r;
	/* Made here for its mode, which SQLite gives to the log as well. */
	int fd = openat(x->dirfd, INDEX_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(fd);

	if ((r = connect(x, dir)) < 0 ||
		(r = execute(x, INDEX_SQL_CREATE INDEX_SQL_TUNE
			 "BEGIN;" INDEX_SQL_TABLES INDEX_SQL_VIEWS)) < 0 ||
		(r = index_prepare(x)) < 0 ||
		(r = index_write_meta(x, "run", x->run->id)) < 0 ||
		(r = index_write_numbers(x)) < 0)
		return r;
	return execute(x, "COMMIT; PRAGMA busy_timeout = 0");
}

int index_open(struct index **ret, int dirfd, const char *dir, const struct index_segments *g)
{
	struct index *x = index_new(dirfd);

	if (!x)
		return -ENOMEM;
	int r = make_database(x, dir, g);
	if (r < 0) {
		index_close(x);
		return r;
	}
	*ret = x;
	return 0;
}

/* ---- an earlier run's ---- */

/* Whatever has no other errno is damage, when it comes while a database is opened. */
static int reopen_errno(const struct index *x, int r, char why[STORE_WHY])
{
	int kind = x->db ? sqlite3_errcode(x->db) & 0xff : SQLITE_OK;

	if (r == -EIO && kind != SQLITE_IOERR && kind != SQLITE_CANTOPEN)
		r = -EBADMSG;
	if (r == -EBADMSG && why[0] == '\0')
		snprintf(why, STORE_WHY, "index.db: %s", sqlite3_errmsg(x->db));
	return r;
}

/* The first row's first column; a text is cut. */
static int query(struct index *x, const char *sql, uint64_t *ret, char *text, size_t size)
{
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(x->db, sql, -1, &st, NULL);

	if (rc != SQLITE_OK)
		return index_errno(rc);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW && ret)
		*ret = (uint64_t)sqlite3_column_int64(st, 0);
	if (rc == SQLITE_ROW && text)
		snprintf(text, size, "%s", (const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
	return rc == SQLITE_DONE ? -EBADMSG : index_errno(rc);
}

/* The b-trees are what they should be: no row can be missing from one without a trace. It reads
 * the whole file: of 4 GiB of evicted pages, 7 MiB, in 6 ms. */
static int check_pages(struct index *x, char why[STORE_WHY])
{
	char said[STORE_WHY / 2] = "";

	int r = query(x, "PRAGMA quick_check(1)", NULL, said, sizeof(said));
	if (r == 0 && strcmp(said, "ok") != 0) {
		snprintf(why, STORE_WHY, "index.db: %s", said);
		r = -EBADMSG;
	}
	return r;
}

static int migrate(struct index *x, uint64_t version)
{
	static const struct {
		uint64_t from;
		const char *sql;
	} steps[] = {
#define X(from, sql) {from, sql},
		INDEX_SQL_STEPS(X)
#undef X
	};
	int r = 0;

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && r == 0; i++)
		if (version <= steps[i].from)
			r = execute(x, steps[i].sql);
	return r == 0 && version < INDEX_SQL_VERSION
		       ? execute(x, "PRAGMA user_version = " INDEX_SQL_VALUE(INDEX_SQL_VERSION))
		       : r;
}

/* Of version 1. Its rows get checksums, so from here on it is what the old version left. */
static int bring_here(struct index *x, const struct index_segments *g)
{
	struct numbers *n = &x->next;

	index_run_unmap(x->run); /* of an earlier try */
	x->run = NULL;
	int r = index_run_new(x->dirfd, g, &x->run);
	if (r == 0)
		r = migrate(x, 1);
	if (r == 0)
		r = index_prepare(x);
	if (r == 0)
		r = query(
			x, "SELECT coalesce(max(id), 0) FROM client", &n->last_client, NULL, 0);
	if (r == 0)
		r = query(x, "SELECT coalesce(max(id), 0) FROM leaf", &n->last_leaf, NULL, 0);
	if (r == 0)
		r = index_write_meta(x, "run", x->run->id);
	if (r == 0)
		r = index_write_numbers(x);
	x->committed = x->next;
	return r;
}

/* Is this the index that index.run is of, and these the segments, and is nothing missing? */
static int check_run(struct index *x, const struct index_segments *g, char why[STORE_WHY])
{
	struct numbers *n = &x->committed;
	uint64_t id;
	int r;

	if ((r = index_prepare(x)) < 0 || (r = index_read_meta(x, "run", &id, why)) < 0 ||
		(r = index_read_meta(x, "commits", &n->commits, why)) < 0 ||
		(r = index_read_meta(x, "last_client", &n->last_client, why)) < 0 ||
		(r = index_read_meta(x, "last_leaf", &n->last_leaf, why)) < 0)
		return r;
	if (!x->run) {
		snprintf(why, STORE_WHY, "index.run is missing or damaged");
		return -EBADMSG;
	}
	if (id != x->run->id || memcmp(g, &x->run->segments, sizeof(*g)) != 0) {
		snprintf(why, STORE_WHY, "index.db, index.run and warm.seg aren't of one run");
		return -EBADMSG;
	}
	uint64_t said = atomic_load_explicit(&x->run->commits, memory_order_acquire);
	if (n->commits != said && n->commits != said + 1) {
		snprintf(why, STORE_WHY,
			"index.db or its log is damaged: it ends at transaction %llu, not %llu",
			(unsigned long long)n->commits, (unsigned long long)said);
		return -EBADMSG;
	}
	return 0;
}

/* In a transaction. */
static int check_all(struct index *x, const struct index_segments *g, uint64_t version,
	index_leaf_fn *leaf, void *arg, char why[STORE_WHY])
{
	bool has_run = version > 1;
	int r = check_pages(x, why);

	if (r == 0 && has_run)
		r = migrate(x, version);
	if (r == 0)
		r = has_run ? check_run(x, g, why) : bring_here(x, g);
	return r == 0 ? index_read_all(x, leaf, arg, why) : r;
}

static int adopt(struct index *x, const char *dir, const struct index_segments *g,
	index_leaf_fn *leaf, void *arg, char why[STORE_WHY])
{
	uint64_t tables = 0, version = 0;

	int r = index_run_map(x->dirfd, &x->run);
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	if ((r = index_distrust_shm(x->dirfd)) < 0 || (r = connect(x, dir)) < 0)
		return r;
	/* Until all is known to be right: closing would copy a damaged log back, and remove it.
	 */
	sqlite3_db_config(x->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	if ((r = query(x, "SELECT count(*) FROM sqlite_schema", &tables, NULL, 0)) < 0 ||
		(r = query(x, "PRAGMA user_version", &version, NULL, 0)) < 0)
		return r;
	if (tables == 0)
		return -ENODATA;
	if (version > INDEX_SQL_VERSION)
		return -EPROTONOSUPPORT;
	bool old = version < INDEX_SQL_VERSION;
	if ((r = execute(x, old ? "BEGIN IMMEDIATE" : "BEGIN")) < 0 ||
		(r = check_all(x, g, version, leaf, arg, why)) < 0)
		return r;
	r = execute(x, "COMMIT;" INDEX_SQL_TUNE);
	if (r < 0)
		return r;
	/* So that the file's first bytes have the version (index_check); at the latest when its
	 * readers let go of it. */
	if (old)
		(void)execute(x, "PRAGMA wal_checkpoint(PASSIVE)");
	/* A reader that came upon the log before us may have the writer's lock for a moment. */
	x->patient = true;
	atomic_store_explicit(&x->run->commits, x->committed.commits, memory_order_release);
	sqlite3_db_config(x->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	return 0;
}

int index_reopen(struct index **ret, int dirfd, const char *dir, const struct index_segments *g,
	index_leaf_fn *leaf, void *arg, char why[STORE_WHY])
{
	struct index *x = index_new(dirfd);

	if (!x)
		return -ENOMEM;
	int r = adopt(x, dir, g, leaf, arg, why);
	if (r < 0) {
		r = reopen_errno(x, r, why);
		index_close(x);
		return r;
	}
	*ret = x;
	return 0;
}
