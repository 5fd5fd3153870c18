#include "index.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "index_sql.h"

#define INDEX_FILE "index.db"

static const char *const index_files[] = {
	INDEX_FILE, INDEX_FILE "-wal", INDEX_FILE "-shm",
	INDEX_FILE "-journal", /* while the database is made */
};

enum { INDEX_FILES = sizeof(index_files) / sizeof(index_files[0]) };

/* Fewer unused pages than this (1 MiB) aren't worth moving others; they are used again soon. */
enum { SHRINK_ABOVE = 128 };

enum statement {
#define X(name, text) SQL_##name,
	INDEX_SQL_STATEMENTS(X)
#undef X
		SQL_COUNT
};

static const char *const statement_text[SQL_COUNT] = {
#define X(name, text) [SQL_##name] = text,
	INDEX_SQL_STATEMENTS(X)
#undef X
};

struct index {
	int dirfd;			    /* borrowed */
	sqlite3 *db;			    /* owned */
	sqlite3_stmt *statement[SQL_COUNT]; /* owned */
	_Atomic uint64_t memory_bytes;
	unsigned char packed[ENTRIES_MAX]; /* of the leaf that is being written */
};

static int to_errno(int rc)
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

/* ---- open, close ---- */

static int open_database(struct index *x, const char *dir)
{
	char *path;

	/* Made here for its mode, which SQLite gives to the log as well. */
	int fd = openat(x->dirfd, INDEX_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(fd);

	if (asprintf(&path, "%s/" INDEX_FILE, dir) < 0)
		return -ENOMEM;
	/* SQLite opens with O_CLOEXEC. No mutex: one thread at a time. */
	int rc = sqlite3_open_v2(
		path, &x->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	free(path);
	if (rc != SQLITE_OK)
		return to_errno(rc);
	sqlite3_extended_result_codes(x->db, 1);
	rc = sqlite3_exec(
		x->db, INDEX_SQL_OPEN "BEGIN;" INDEX_SQL_SCHEMA "COMMIT;", NULL, NULL, NULL);
	return to_errno(rc);
}

int index_open(struct index **ret, int dirfd, const char *dir)
{
	struct index *x = calloc(1, sizeof(*x));

	if (!x)
		return -ENOMEM;
	x->dirfd = dirfd;
	int r = open_database(x, dir);
	for (unsigned i = 0; r == 0 && i < SQL_COUNT; i++)
		r = to_errno(sqlite3_prepare_v3(x->db, statement_text[i], -1,
			SQLITE_PREPARE_PERSISTENT, &x->statement[i], NULL));
	if (r < 0) {
		index_close(x);
		return r;
	}
	*ret = x;
	return 0;
}

void index_close(struct index *x)
{
	if (!x)
		return;
	for (unsigned i = 0; i < SQL_COUNT; i++)
		sqlite3_finalize(x->statement[i]);
	sqlite3_close(x->db);
	free(x);
}

/* SQLite's file format: what a database's first bytes are, and where in them, high byte first,
 * the numbers lie. */
#define HEADER_MAGIC "SQLite format 3"
enum { HEADER_SIZE = 100, HEADER_VERSION_AT = 60, HEADER_APPLICATION_AT = 68 };

static uint32_t header_number(const unsigned char *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static int check_header(int fd)
{
	unsigned char header[HEADER_SIZE];
	ssize_t n = pread(fd, header, sizeof(header), 0);

	if (n < 0)
		return -errno;
	if (n == 0)
		return 0; /* made, and killed before SQLite wrote to it */
	if (n < HEADER_SIZE || memcmp(header, HEADER_MAGIC, sizeof(HEADER_MAGIC)) != 0 ||
		header_number(header + HEADER_APPLICATION_AT) != INDEX_SQL_APPLICATION)
		return -EEXIST;
	return header_number(header + HEADER_VERSION_AT) > INDEX_SQL_VERSION ? -EPROTONOSUPPORT
									     : 0;
}

int index_check(int dirfd)
{
	struct stat st;

	/* Not opened yet: opening a pipe would wait. */
	if (fstatat(dirfd, INDEX_FILE, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -EEXIST;
	int fd = openat(dirfd, INDEX_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = check_header(fd);
	close(fd);
	return r;
}

void index_remove(int dirfd)
{
	for (unsigned i = 0; i < INDEX_FILES; i++)
		(void)unlinkat(dirfd, index_files[i], 0); /* not there: as good */
}

/* ---- statements ---- */

/* SQLite's integers are signed; numbers of 64 bits keep their bits. */
static void bind_u64(sqlite3_stmt *st, int i, uint64_t n)
{
	sqlite3_bind_int64(st, i, (sqlite3_int64)n);
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
	return to_errno(rc);
}

static int run_u64(sqlite3_stmt *st, uint64_t n)
{
	bind_u64(st, 1, n);
	return run(st);
}

int index_begin(struct index *x)
{
	return run(x->statement[SQL_BEGIN]);
}

int index_commit(struct index *x)
{
	int now = 0, high = 0;

	int r = run(x->statement[SQL_COMMIT]);
	if (r < 0)
		return r;
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

/* ---- rows ---- */

int index_client(struct index *x, const struct store_client *c)
{
	sqlite3_stmt *st = x->statement[SQL_CLIENT];

	bind_u64(st, 1, c->id);
	bind_u64(st, 2, c->parent);
	sqlite3_bind_int64(st, 3, c->pid);
	bind_text(st, 4, c->exe);
	bind_text(st, 5, c->policy);
	bind_u64(st, 6, c->clock);
	return run(st);
}

int index_client_drop(struct index *x, uint64_t client)
{
	int r = run_u64(x->statement[SQL_CLIENT_BLOCKS_DROP], client);
	return r < 0 ? r : run_u64(x->statement[SQL_CLIENT_DROP], client);
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
	return run(st);
}

int index_leaf_drop(struct index *x, uint64_t leaf)
{
	return run_u64(x->statement[SQL_LEAF_DROP], leaf);
}

int index_block(struct index *x, uint64_t client, uint64_t block, uint64_t leaf)
{
	sqlite3_stmt *st = x->statement[leaf != 0 ? SQL_BLOCK : SQL_BLOCK_DROP];

	bind_u64(st, 1, client);
	bind_u64(st, 2, block);
	if (leaf != 0)
		bind_u64(st, 3, leaf);
	return run(st);
}

/* ---- size ---- */

int index_shrink(struct index *x)
{
	sqlite3_stmt *st = x->statement[SQL_FREE_PAGES];

	int rc = sqlite3_step(st);
	sqlite3_int64 pages = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
	sqlite3_reset(st);
	if (rc != SQLITE_ROW)
		return to_errno(rc);
	if (pages <= SHRINK_ABOVE)
		return 0;
	int r = run(x->statement[SQL_VACUUM]);
	/* The file is cut when the log is copied back. A reader can put that off: as well. */
	return r < 0 ? r : run(x->statement[SQL_CHECKPOINT]);
}

void index_usage(const struct index *x, struct index_usage *ret)
{
	struct stat st;

	*ret = (struct index_usage){
		.memory_bytes = atomic_load_explicit(&x->memory_bytes, memory_order_relaxed)};
	for (unsigned i = 0; i < INDEX_FILES; i++)
		if (fstatat(x->dirfd, index_files[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
			ret->file_bytes += (uint64_t)st.st_blocks * 512; /* st_blocks' unit */
}
