/* The index as an administrator sees it, and transactions. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_sql.h"
#include "store_world.h"

/* Client 1 (pid 100) has two blocks of leaves 1 and 2; client 2, forked from it, shares leaf 1.
 */
static void write_family(struct world *w, blob_t entries[STORE_LEAF_PAGES])
{
	const struct store_client parent = {
		.id = 1, .pid = 100, .exe = "/usr/bin/redis", .policy = "default", .clock = 5};
	const struct store_client child = {
		.id = 2, .parent = 1, .exe = "", .policy = "default"};

	memset(entries, 0, STORE_LEAF_PAGES * sizeof(*entries));
	for (unsigned i = 0; i < 10; i++)
		entries[i * 3] = world_put(w, PAGE_FILL, i);
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_client(w->s, &parent), 0);
	assert_int_equal(store_index_client(w->s, &child), 0);
	assert_int_equal(store_index_leaf(w->s, 1, 4, entries), 0);
	entries[511] = world_put(w, PAGE_NOISE, 1);
	assert_int_equal(store_index_leaf(w->s, 2, 5, entries), 0);
	assert_int_equal(store_index_block(w->s, 1, 0x55aa00000000 >> 21, 1), 0);
	assert_int_equal(store_index_block(w->s, 1, 0x7fff00000000 >> 21, 2), 0);
	assert_int_equal(store_index_block(w->s, 2, 0x55aa00000000 >> 21, 1), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
}

static void views_say_who_has_what(void **state)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	write_family(&w, entries);
	sqlite3 *db = sql_open(w.dir);
	assert_string_equal(
		sql_text(db,
			"SELECT group_concat(id || '|' || pid || '|' || exe || '|' || policy"
			" || '|' || pages || '|' || bytes || '|' || stored_bytes, ' ')"
			" FROM (SELECT * FROM clients ORDER BY id)"),
		"1|100|/usr/bin/redis|default|21|86016|4256 2|0||default|10|40960|80");
	assert_string_equal(
		sql_text(db, "SELECT group_concat(pid || '|' || exe || '|' || address"
			     " || '|' || pages || '|' || stored_bytes, ' ')"
			     " FROM pages_by_block"),
		"100|/usr/bin/redis|0x55aa00000000|10|80 "
		"100|/usr/bin/redis|0x7fff00000000|11|4176 "
		"0||0x55aa00000000|10|80");
	sqlite3_close(db);
	world_close(&w);
}

static void schema_documents_itself(void **state)
{
	static const char *const objects[] = {
		"client", "leaf", "block", "meta", "clients", "pages_by_block"};
	struct world w;
	char query[128];

	(void)state;
	world_open(&w, 0);
	sqlite3 *db = sql_open(w.dir);
	for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); i++) {
		snprintf(query, sizeof(query),
			"SELECT sql FROM sqlite_schema WHERE name = '%s'", objects[i]);
		assert_non_null(strstr(sql_text(db, query), "\n  -- "));
	}
	assert_int_equal(sql_number(db, "PRAGMA application_id"), 0x4c726472);
	assert_int_equal(sql_number(db, "PRAGMA user_version"), 2);
	assert_string_equal(sql_text(db, "PRAGMA journal_mode"), "wal");
	assert_int_equal(sql_number(db, "PRAGMA page_size"), 8192);
	assert_int_equal(sql_number(db, "PRAGMA auto_vacuum"), 2);
	sqlite3_close(db);
	world_close(&w);
}

static void entries_name_the_blobs(void **state)
{
	struct index_entry got[STORE_LEAF_PAGES];
	blob_t entries[STORE_LEAF_PAGES];
	unsigned char page[STORE_PAGE];
	struct store_packed p;
	struct world w;

	(void)state;
	world_open(&w, 0);
	write_family(&w, entries);
	sqlite3 *db = sql_open(w.dir);
	assert_true(sql_leaf(db, 2, got));
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		assert_int_equal(got[i].blob, entries[i]);
	page_make(page, PAGE_NOISE, 1);
	assert_int_equal(store_pack(w.x, NULL, page, &p), 0);
	assert_int_equal(got[511].check, (uint32_t)p.checksum);
	assert_int_equal(sql_number(db, "SELECT clock FROM leaf WHERE id = 2"), 5);
	sqlite3_close(db);
	world_close(&w);
}

static void rows_are_replaced_and_dropped(void **state)
{
	const struct store_client renamed = {.id = 1, .pid = 101, .exe = "x", .policy = "p"};
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	write_family(&w, entries);
	sqlite3 *db = sql_open(w.dir);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_client(w.s, &renamed), 0);
	assert_int_equal(store_index_client_drop(w.s, 2), 0);
	assert_int_equal(store_index_block(w.s, 1, 0x55aa00000000 >> 21, 0), 0);
	assert_int_equal(store_index_leaf_drop(w.s, 1), 0);
	entries[0] = BLOB_NONE;
	assert_int_equal(store_index_leaf(w.s, 2, 6, entries), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	assert_int_equal(sql_number(db, "SELECT count(*) FROM client"), 1);
	assert_int_equal(sql_number(db, "SELECT count(*) FROM block"), 1);
	assert_int_equal(sql_number(db, "SELECT count(*) FROM leaf"), 1);
	assert_int_equal(sql_number(db, "SELECT pid FROM clients"), 101);
	assert_int_equal(sql_number(db, "SELECT pages FROM clients"), 10);
	sqlite3_close(db);
	world_close(&w);
}

static void abort_rolls_all_back(void **state)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	write_family(&w, entries);
	sqlite3 *db = sql_open(w.dir);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_client_drop(w.s, 1), 0);
	assert_int_equal(store_index_leaf_drop(w.s, 2), 0);
	store_txn_abort(w.s);
	assert_int_equal(sql_number(db, "SELECT count(*) FROM client"), 2);
	assert_int_equal(sql_number(db, "SELECT count(*) FROM leaf"), 2);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_leaf_drop(w.s, 2), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	assert_int_equal(sql_number(db, "SELECT count(*) FROM leaf"), 1);
	sqlite3_close(db);
	world_close(&w);
}

static void calls_out_of_turn_are_refused(void **state)
{
	static const blob_t none[STORE_LEAF_PAGES];
	const struct store_client c = {.id = 1, .exe = "", .policy = ""};
	struct world w;

	(void)state;
	world_open(&w, 0);
	assert_int_equal(store_index_client(w.s, &c), -EINVAL);
	assert_int_equal(store_index_client_drop(w.s, 1), -EINVAL);
	assert_int_equal(store_index_leaf(w.s, 1, 1, none), -EINVAL);
	assert_int_equal(store_index_leaf_drop(w.s, 1), -EINVAL);
	assert_int_equal(store_index_block(w.s, 1, 1, 1), -EINVAL);
	assert_int_equal(store_txn_commit(w.s), -EINVAL);
	store_txn_abort(w.s);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_txn_begin(w.s), -EINVAL);
	assert_int_equal(store_txn_commit(w.s), 0);
	world_close(&w);
}

/* One call fails (somebody has dropped its table), those before it succeeded. */
static void failed_call_fails_the_commit(void **state)
{
	static const blob_t none[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	sqlite3 *db = sql_open(w.dir);
	assert_int_equal(sqlite3_exec(db, "DROP TABLE block", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_leaf(w.s, 1, 1, none), 0);
	assert_int_equal(store_index_block(w.s, 1, 1, 1), -EIO);
	assert_int_equal(store_txn_commit(w.s), -EIO);
	assert_int_equal(sql_number(db, "SELECT count(*) FROM leaf"), 0);
	world_commit_nothing(&w);
	sqlite3_close(db);
	world_close(&w);
}

static bool commit_fails;

int __real_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st)
{
	int rc = __real_sqlite3_step(st);

	return commit_fails && strncmp(sqlite3_sql(st), "COMMIT", 6) == 0 ? SQLITE_IOERR : rc;
}

/* It is in the log, and nobody knows: the next commit frees what its rows may name, so that one
 * has to take its place there, also when it has nothing to say. */
static void failed_commit_is_written_over(void **state)
{
	static const blob_t none[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	sqlite3 *db = sql_open(w.dir);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_leaf(w.s, 1, 1, none), 0);
	commit_fails = true;
	assert_int_equal(store_txn_commit(w.s), -EIO);
	commit_fails = false;
	int64_t version = sql_number(db, "PRAGMA data_version");
	world_commit_nothing(&w);
	assert_int_not_equal(sql_number(db, "PRAGMA data_version"), version);
	version = sql_number(db, "PRAGMA data_version");
	world_commit_nothing(&w);
	assert_int_equal(sql_number(db, "PRAGMA data_version"), version);
	sqlite3_close(db);
	world_close(&w);
}

static void other_writer_makes_begin_busy(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	sqlite3 *db = sql_open(w.dir);
	assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(store_txn_begin(w.s), -EBUSY);
	assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	world_commit_nothing(&w);
	sqlite3_close(db);
	world_close(&w);
}

static void commit_leaf(struct world *w, uint64_t leaf, uint64_t clock, const blob_t *entries)
{
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_leaf(w->s, leaf, clock, entries), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
}

static void log_stays_small(void **state)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	write_family(&w, entries);
	for (uint64_t n = 0; n < 2000; n++)
		commit_leaf(&w, 1 + n % 50, n, entries);
	assert_in_range(world_file_bytes(&w, "index.db-wal"), 1, 2 << 20);
	assert_in_range(world_stats(&w).index_bytes, 1, 4 << 20);
	world_close(&w);
}

static void open_reader_keeps_its_view_and_disturbs_nobody(void **state)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	write_family(&w, entries);
	sqlite3 *db = sql_open(w.dir);
	assert_int_equal(sqlite3_exec(db, "BEGIN", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sql_number(db, "SELECT clock FROM leaf WHERE id = 1"), 4);
	for (uint64_t n = 100; n < 1100; n++)
		commit_leaf(&w, 1, n, entries);
	assert_int_equal(sql_number(db, "SELECT clock FROM leaf WHERE id = 1"), 4);
	assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sql_number(db, "SELECT clock FROM leaf WHERE id = 1"), 1099);
	/* The log grew as long as it was read, and is cut once it isn't. */
	for (uint64_t n = 0; n < 200; n++)
		commit_leaf(&w, 1, n, entries);
	assert_in_range(world_file_bytes(&w, "index.db-wal"), 1, 2 << 20);
	sqlite3_close(db);
	world_close(&w);
}

/* ---- another process reads while we commit ---- */

enum { READS = 200 };

/* Each transaction gives three blocks the same number of pages, so any other sight is half of
 * one. Exits 0 when all reads were right. */
static int read_views(const char *dir, int start)
{
	char path[128], c;
	sqlite3_stmt *st;
	sqlite3 *db;

	if (read(start, &c, 1) != 1)
		return 1;
	snprintf(path, sizeof(path), "%s/index.db", dir);
	for (unsigned n = 0; n < READS; n++) {
		/* Opened each time, as by somebody's `watch sqlite3 ...`. */
		if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK)
			return 2;
		sqlite3_busy_timeout(db, 10000);
		if (sqlite3_prepare_v2(db,
			    "SELECT min(pages), max(pages), count(*),"
			    " (SELECT pages FROM clients) FROM pages_by_block",
			    -1, &st, NULL) != SQLITE_OK)
			return 3;
		if (sqlite3_step(st) != SQLITE_ROW)
			return 4;
		int least = sqlite3_column_int(st, 0), most = sqlite3_column_int(st, 1);
		if (least != most || sqlite3_column_int(st, 2) != 3 ||
			sqlite3_column_int(st, 3) != 3 * least)
			return 5;
		sqlite3_finalize(st);
		sqlite3_close(db);
	}
	return 0;
}

static void commit_three_leaves(struct world *w, blob_t b, uint64_t n)
{
	const struct store_client c = {
		.id = 1, .pid = 100, .exe = "a", .policy = "p", .clock = n};
	blob_t entries[STORE_LEAF_PAGES] = {BLOB_NONE};

	for (unsigned i = 0; i <= n % STORE_LEAF_PAGES; i++)
		entries[i] = b;
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_client(w->s, &c), 0);
	for (uint64_t leaf = 1; leaf <= 3; leaf++) {
		assert_int_equal(store_index_leaf(w->s, leaf, n, entries), 0);
		assert_int_equal(store_index_block(w->s, 1, leaf, leaf), 0);
	}
	assert_int_equal(store_txn_commit(w->s), 0);
}

static void another_process_reads_while_we_commit(void **state)
{
	struct world w;
	int start[2], status = -1;
	uint64_t n = 0;

	(void)state;
	world_make_dir(w.dir);
	assert_int_equal(pipe(start), 0);
	/* Forked first: SQLite's connections don't survive a fork. */
	pid_t reader = fork();
	assert_true(reader >= 0);
	if (reader == 0) {
		close(start[1]);
		_exit(read_views(w.dir, start[0]));
	}
	struct store_options opt = {.dir = w.dir};
	assert_int_equal(store_open(&w.s, &opt), 0);
	assert_int_equal(store_scratch_new(&w.x), 0);
	blob_t b = world_put(&w, PAGE_FILL, 1);
	commit_three_leaves(&w, b, n++);
	assert_int_equal(write(start[1], "x", 1), 1);
	pid_t ended;
	while ((ended = waitpid(reader, &status, WNOHANG)) == 0)
		commit_three_leaves(&w, b, n++);
	assert_int_equal(ended, reader);
	assert_int_equal(status, 0);
	assert_true(n > 1);
	close(start[0]);
	close(start[1]);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(views_say_who_has_what),
		cmocka_unit_test(schema_documents_itself),
		cmocka_unit_test(entries_name_the_blobs),
		cmocka_unit_test(rows_are_replaced_and_dropped),
		cmocka_unit_test(abort_rolls_all_back),
		cmocka_unit_test(calls_out_of_turn_are_refused),
		cmocka_unit_test(failed_call_fails_the_commit),
		cmocka_unit_test(failed_commit_is_written_over),
		cmocka_unit_test(other_writer_makes_begin_busy),
		cmocka_unit_test(log_stays_small),
		cmocka_unit_test(open_reader_keeps_its_view_and_disturbs_nobody),
		cmocka_unit_test(another_process_reads_while_we_commit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
