/* Indexes of other versions, and rows that aren't as the store writes them: by hands other than
 * ours, where no checksum tells. An index of version 1 has none, so whatever such rows say
 * comes to be looked at. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_again.h"
#include "store_sql.h"

/* As version 1 made it. */
static const char schema_1[] =
	"PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL;"
	"PRAGMA application_id = 0x4c726472; PRAGMA user_version = 1; PRAGMA journal_mode = "
	"WAL;"
	"CREATE TABLE client (\n"
	"  -- A program whose memory is managed.\n"
	"  id     INTEGER PRIMARY KEY, -- the service's number for it, never used twice\n"
	"  parent INTEGER NOT NULL,    -- id of the client it was forked from, 0 = none\n"
	"  pid    INTEGER NOT NULL,    -- 0 = not known yet\n"
	"  exe    TEXT    NOT NULL,\n"
	"  policy TEXT    NOT NULL,\n"
	"  clock  INTEGER NOT NULL     -- the client's clock when this was written\n"
	");\n"
	"CREATE TABLE leaf (\n"
	"  id           INTEGER PRIMARY KEY,\n"
	"  clock        INTEGER NOT NULL,\n"
	"  pages        INTEGER NOT NULL, -- how many of them are in the store\n"
	"  stored_bytes INTEGER NOT NULL, -- what these take there, without headers\n"
	"  entries      BLOB    NOT NULL  -- which blobs they are, packed (entries.h)\n"
	");\n"
	"CREATE TABLE block (\n"
	"  client INTEGER NOT NULL,\n"
	"  block  INTEGER NOT NULL, -- address >> 21\n"
	"  leaf   INTEGER NOT NULL,\n"
	"  PRIMARY KEY (client, block)\n"
	") WITHOUT ROWID;\n"
	"CREATE VIEW clients AS SELECT client.id, client.pid FROM client;\n"
	"CREATE VIEW pages_by_block AS SELECT block.block, leaf.pages FROM block"
	" JOIN leaf ON leaf.id = block.leaf;\n";

static const char rows_1[] =
	"INSERT INTO client SELECT id, parent, pid, exe, policy, clock FROM new.client;"
	"INSERT INTO leaf SELECT id, clock, pages, stored_bytes, entries FROM new.leaf;"
	"INSERT INTO block SELECT client, block, leaf FROM new.block;";

enum { PAGES = 60 };

static void execute(sqlite3 *db, const char *sql)
{
	char *said = NULL;

	if (sqlite3_exec(db, sql, NULL, NULL, &said) != SQLITE_OK)
		fail_msg("%s: %s", sql, said);
}

static void path_of(char path[128], const struct world *w, const char *name)
{
	snprintf(path, 128, "%s/%s", w->dir, name);
}

/* Client 3, blocks 1 and 2 of leaves 5 and 6; left. */
static void write_store(struct world *w, blob_t entries[STORE_LEAF_PAGES])
{
	const struct store_client c = {
		.id = 3, .parent = 2, .pid = 44, .exe = "/bin/x", .policy = "p", .clock = 12};

	memset(entries, 0, STORE_LEAF_PAGES * sizeof(*entries));
	for (unsigned i = 0; i < PAGES; i++)
		entries[i] = world_put(w, (enum page_kind)(i % PAGE_KINDS), i);
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_client(w->s, &c), 0);
	assert_int_equal(store_index_leaf(w->s, 5, 10, entries), 0);
	assert_int_equal(store_index_leaf(w->s, 6, 11, entries), 0);
	assert_int_equal(store_index_block(w->s, 3, 1, 5), 0);
	assert_int_equal(store_index_block(w->s, 3, 2, 6), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
	store_leave(w->s);
	store_scratch_free(w->x);
}

/* The index as version 1 would have left it; rows still in its log, if so told. */
static void make_1(const struct world *w, bool in_log, const char *sql)
{
	char new[128], old[128], run[128], attach[256];
	sqlite3 *db;

	path_of(new, w, "new.db");
	path_of(old, w, "index.db");
	path_of(run, w, "index.run");
	assert_int_equal(rename(old, new), 0);
	assert_int_equal(unlink(run), 0);
	assert_int_equal(sqlite3_open(old, &db), SQLITE_OK);
	assert_int_equal(sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, in_log, NULL),
		SQLITE_OK);
	execute(db, schema_1);
	snprintf(attach, sizeof(attach), "ATTACH '%s' AS new", new);
	execute(db, attach);
	execute(db, rows_1);
	execute(db, sql);
	sqlite3_close(db);
	assert_int_equal(unlink(new), 0);
	path_of(new, w, "new.db-wal");
	path_of(old, w, "new.db-shm");
	(void)unlink(new); /* there, if it wasn't copied back */
	(void)unlink(old);
}

static void expect_all(struct world *w, const blob_t entries[STORE_LEAF_PAGES])
{
	blob_t got[STORE_LEAF_PAGES];
	uint64_t client, leaf, clock;

	assert_int_equal(again_block(w, 3, 1), 5);
	assert_int_equal(again_block(w, 3, 2), 6);
	for (uint64_t l = 5; l <= 6; l++) {
		assert_true(again_leaf(w, l, &clock, got));
		assert_int_equal(clock, l + 5);
		assert_memory_equal(got, entries, sizeof(got));
	}
	for (unsigned i = 0; i < PAGES; i++)
		world_expect(w, entries[i], (enum page_kind)(i % PAGE_KINDS), i);
	store_last_ids(w->s, &client, &leaf);
	assert_int_equal(client, 3);
	assert_int_equal(leaf, 6);
}

static const char schema_query[] = "SELECT group_concat(sql, ';') FROM (SELECT sql FROM"
				   " sqlite_schema ORDER BY name)";

static int compare_client(void *arg, const struct store_client *c)
{
	(void)arg;
	assert_int_equal(c->id, 3);
	assert_int_equal(c->parent, 2);
	assert_int_equal(c->pid, 44);
	assert_string_equal(c->exe, "/bin/x");
	assert_string_equal(c->policy, "p");
	assert_int_equal(c->clock, 12);
	assert_int_equal(c->state_length, 0);
	return 0;
}

static void version_1_becomes_this_one(void **state)
{
	blob_t entries[STORE_LEAF_PAGES];
	char fresh[8192], why[STORE_WHY];
	struct world w;

	(void)state;
	for (unsigned in_log = 0; in_log < 2; in_log++) {
		world_open(&w, 0);
		sqlite3 *db = sql_open(w.dir);
		snprintf(fresh, sizeof(fresh), "%s", sql_text(db, schema_query));
		sqlite3_close(db);
		write_store(&w, entries);
		make_1(&w, in_log, "");
		again_open(&w, 0);
		expect_all(&w, entries);
		assert_int_equal(store_each_client(w.s, compare_client, NULL, why), 0);
		db = sql_open(w.dir);
		assert_string_equal(sql_text(db, schema_query), fresh);
		assert_int_equal(sql_number(db, "PRAGMA user_version"), 2);
		assert_int_equal(sql_number(db, "SELECT pages FROM clients"), 2 * PAGES);
		sqlite3_close(db);
		/* And it goes on as this version's. */
		again_take_all(&w);
		store_reopen_finish(w.s);
		world_commit_nothing(&w);
		store_leave(w.s);
		store_scratch_free(w.x);
		again_open(&w, 0);
		expect_all(&w, entries);
		world_close(&w);
	}
}

/* Reopens, and is killed at its n-th stop (test_store_open.c has the same for opening). */
static bool killed_while_reopening(const struct world *w, unsigned n)
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		struct store_options opt = {.dir = w->dir};
		char why[STORE_WHY];
		struct store *s;
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(2);
		raise(SIGSTOP);
		_exit(store_reopen(&s, &opt, why) < 0);
	}
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(waitpid(child, &status, 0), child);
		if (WIFEXITED(status)) {
			assert_int_equal(WEXITSTATUS(status), 0);
			return false;
		}
		assert_int_equal(ptrace(PTRACE_SYSCALL, child, NULL, NULL), 0);
	}
	kill(child, SIGKILL);
	while (waitpid(child, &status, 0) == child && !WIFSIGNALED(status) &&
		!WIFEXITED(status))
		;
	return true;
}

/* Both while it is brought to this version, and while it is only read. */
static void who_was_killed_while_reopening_reopens(void **state)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	for (unsigned old = 0; old < 2; old++) {
		bool more = true;
		unsigned n;
		for (n = 1; more; n += 2) {
			world_open(&w, 0);
			write_store(&w, entries);
			if (old)
				make_1(&w, n % 4 == 1, "");
			more = killed_while_reopening(&w, n);
			again_open(&w, 0);
			expect_all(&w, entries);
			again_take_all(&w);
			store_reopen_finish(w.s);
			world_close(&w);
		}
		print_message("%u stops\n", n / 2);
		assert_true(n > 40);
	}
}

/* ---- rows ---- */

struct bad {
	const char *sql, *why;
};

/* No table is as it should be, and nothing of it was changed. */
static void expect_refused(const struct bad *b, bool old)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;
	char path[128];

	world_open(&w, 0);
	write_store(&w, entries);
	sqlite3 *db;
	if (old) {
		make_1(&w, false, b->sql);
	} else {
		db = sql_open(w.dir);
		execute(db, b->sql);
		sqlite3_close(db);
	}
	again_refused(w.dir, -EBADMSG, b->why);
	again_refused(w.dir, -EBADMSG, b->why);
	db = sql_open(w.dir);
	assert_int_equal(sql_number(db, "PRAGMA user_version"), old ? 1 : 2);
	sqlite3_close(db);
	struct store_options opt = {.dir = w.dir};
	assert_int_equal(store_open(&w.s, &opt), 0);
	store_close(w.s);
	path_of(path, &w, "");
	assert_int_equal(rmdir(path), 0);
}

#define ENTRIES_BUT_ONE_BYTE "CAST(substr(entries, 1, length(entries) - 1) || x'ff' AS BLOB)"

static void a_row_of_version_1_is_looked_at(void **state)
{
	static const struct bad bad[] = {
		{"UPDATE client SET pid = 'abc'",
			"index.db, table client, row 3: a value is of the wrong type"},
		{"UPDATE client SET pid = -5",
			"index.db, table client, row 3: a number is out of range"},
		{"UPDATE client SET pid = 1 << 40", "row 3: a number is out of range"},
		{"UPDATE client SET id = 0", "table client, row 0: a number is out of range"},
		{"UPDATE client SET exe = x'00'", "row 3: a value is of the wrong type"},
		{"UPDATE client SET clock = 1.5", "row 3: a value is of the wrong type"},
		{"UPDATE leaf SET entries = x'01' WHERE id = 6",
			"index.db, table leaf, row 6: its entries are no entries"},
		{"UPDATE leaf SET entries = x'' WHERE id = 6",
			"row 6: its entries are no entries"},
		{"UPDATE leaf SET entries = 'x' WHERE id = 6",
			"row 6: a value is of the wrong type"},
		{"UPDATE leaf SET entries = zeroblob(10000000) WHERE id = 6", "row 6: "},
		{"UPDATE leaf SET pages = 513 WHERE id = 6", "row 6: a number is out of range"},
		{"UPDATE leaf SET pages = pages - 1 WHERE id = 6",
			"row 6: a number is out of range"},
		{"UPDATE leaf SET stored_bytes = -1 WHERE id = 6",
			"row 6: a number is out of range"},
		{"UPDATE leaf SET id = 0 WHERE id = 6", "row 0: a number is out of range"},
		{"UPDATE leaf SET clock = x'01' WHERE id = 5",
			"row 5: a value is of the wrong type"},
		{"UPDATE leaf SET entries = " ENTRIES_BUT_ONE_BYTE " WHERE id = 6",
			"table leaf, row 6: its blob 60 is another page in a row before"},
		{"DELETE FROM leaf WHERE id = 6",
			"index.db, table block, row 3, 2: there is no such leaf"},
		{"DELETE FROM client",
			"index.db, table block, row 3, 1: there is no such client"},
		{"UPDATE block SET block = -1 WHERE block = 2",
			"index.db, table block, row 3, -1: no such address"},
		{"UPDATE block SET block = 'x' WHERE block = 2",
			"row 3, x: a value is of the wrong type"},
		{"DROP VIEW clients; DROP TABLE client", "no such table: client"},
		{"DROP TABLE leaf", "no such table"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		expect_refused(&bad[i], true);
}

#define BARE_LEAF                                                                              \
	"DROP TABLE leaf; CREATE TABLE leaf (id INTEGER PRIMARY KEY, clock, pages,"            \
	" stored_bytes, entries, checksum);"

static void a_row_of_this_version_has_a_checksum(void **state)
{
	static const struct bad bad[] = {
		{"UPDATE client SET pid = 45",
			"index.db, table client, row 3: its checksum is wrong"},
		{"UPDATE client SET state = x'00'", "row 3: its checksum is wrong"},
		{"UPDATE client SET state = 7", "row 3: a value is of the wrong type"},
		{"UPDATE client SET state = zeroblob(1048577)", "row 3: its checksum is wrong"},
		{"UPDATE leaf SET id = 7 WHERE id = 6", "row 7: its checksum is wrong"},
		{"UPDATE leaf SET checksum = checksum + 1 WHERE id = 6",
			"table leaf, row 6: its checksum is wrong"},
		{"UPDATE leaf SET checksum = 'x' WHERE id = 6", "its checksum is wrong"},
		{"UPDATE block SET leaf = 6 WHERE block = 1",
			"index.db, table block, row 3, 1: its checksum is wrong"},
		{"UPDATE block SET block = 9 WHERE block = 1",
			"row 3, 9: its checksum is wrong"},
		{"DELETE FROM meta WHERE key = 'run'", "index.db, table meta: there is no run"},
		{"DELETE FROM meta WHERE key = 'last_leaf'", "there is no last_leaf"},
		{"UPDATE meta SET value = 7 WHERE key = 'commits'",
			"index.db, table meta, row commits: its checksum is wrong"},
		{"DROP TABLE block", "no such table"},
		{"DROP TABLE meta", "no such table"},
		{"ALTER TABLE leaf RENAME pages TO many", "no such column"},
		{"ALTER TABLE leaf ADD COLUMN more INTEGER", "columns"},
		{BARE_LEAF "INSERT INTO leaf VALUES (5, NULL, 0, 0, x'', 1)",
			"table leaf, row 5: a value is of the wrong type"},
		{BARE_LEAF "INSERT INTO leaf VALUES (5, 1, 0, 0, NULL, 1)",
			"row 5: a value is of the wrong type"},
		{BARE_LEAF "INSERT INTO leaf VALUES (5, 1, 0, 0, x'', NULL)",
			"row 5: a value is of the wrong type"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		expect_refused(&bad[i], false);
}

/* Also when the log only has it, and the file's first bytes are of this one. */
static void a_newer_version_is_refused(void **state)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	for (unsigned in_log = 0; in_log < 2; in_log++) {
		world_open(&w, 0);
		write_store(&w, entries);
		sqlite3 *db = sql_open(w.dir);
		assert_int_equal(
			sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, in_log, NULL),
			SQLITE_OK);
		execute(db, "PRAGMA user_version = 3");
		sqlite3_close(db);
		again_refused(w.dir, -EPROTONOSUPPORT, NULL);
		db = sql_open(w.dir);
		assert_int_equal(sql_number(db, "SELECT count(*) FROM leaf"), 2);
		execute(db, "PRAGMA user_version = 2");
		sqlite3_close(db);
		again_open(&w, 0);
		expect_all(&w, entries);
		world_close(&w);
	}
}

/* Somebody writes: refused, and unharmed. */
static void a_writer_is_not_disturbed(void **state)
{
	blob_t entries[STORE_LEAF_PAGES];
	int go[2], there[2];
	struct world w;
	char c;

	(void)state;
	world_open(&w, 0);
	write_store(&w, entries);
	make_1(&w, false, "");
	assert_int_equal(pipe(go), 0);
	assert_int_equal(pipe(there), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(go[1]);
		sqlite3 *db = sql_open(w.dir);
		sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
		if (write(there[1], "x", 1) == 1)
			(void)!read(go[0], &c, 1);
		sqlite3_close(db);
		_exit(0);
	}
	assert_int_equal(read(there[0], &c, 1), 1);
	again_refused(w.dir, -EBUSY, NULL);
	close(go[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	again_open(&w, 0);
	expect_all(&w, entries);
	close(go[0]);
	close(there[0]);
	close(there[1]);
	world_close(&w);
}

/* A process that writes, for so long. */
static pid_t start_writer(const char *dir, unsigned ms)
{
	int there[2];
	char c;

	assert_int_equal(pipe(there), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		sqlite3 *db = sql_open(dir);
		sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
		if (write(there[1], "x", 1) != 1)
			_exit(1);
		usleep(ms * 1000);
		sqlite3_close(db);
		_exit(0);
	}
	assert_int_equal(read(there[0], &c, 1), 1);
	close(there[0]);
	close(there[1]);
	return pid;
}

/* Readers that come upon a dead process's log have the writer's lock for a moment. */
static void the_first_transaction_waits(void **state)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	write_store(&w, entries);
	again_open(&w, 0);
	pid_t pid = start_writer(w.dir, 200);
	world_commit_nothing(&w);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	pid = start_writer(w.dir, 60000);
	assert_int_equal(store_txn_begin(w.s), -EBUSY);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	world_commit_nothing(&w);
	store_reopen_finish(w.s);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(version_1_becomes_this_one),
		cmocka_unit_test(who_was_killed_while_reopening_reopens),
		cmocka_unit_test(a_row_of_version_1_is_looked_at),
		cmocka_unit_test(a_row_of_this_version_has_a_checksum),
		cmocka_unit_test(a_newer_version_is_refused),
		cmocka_unit_test(a_writer_is_not_disturbed),
		cmocka_unit_test(the_first_transaction_waits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
