/* What lies in the store's directory already: leavings of our own are replaced, and what isn't
 * ours stays as it is. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store_sql.h"
#include "store_world.h"

struct place {
	char dir[64], index[96], segments[96];
};

static void place_make(struct place *p)
{
	world_make_dir(p->dir);
	snprintf(p->index, sizeof(p->index), "%s/index.db", p->dir);
	snprintf(p->segments, sizeof(p->segments), "%s/warm.seg", p->dir);
}

static void write_bytes(const char *path, const void *bytes, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, size), size);
	close(fd);
}

static size_t read_bytes(const char *path, void *bytes, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	ssize_t n = read(fd, bytes, size);
	assert_true(n >= 0);
	close(fd);
	return (size_t)n;
}

static int open_error(const struct place *p)
{
	struct store_options opt = {.dir = p->dir};
	struct store *s = NULL;
	int r = store_open(&s, &opt);

	assert_true((r == 0) == (s != NULL));
	store_close(s);
	return r;
}

/* Refused with that error, and no byte of index.db or warm.seg is lost. */
static void assert_refused(const struct place *p, int error)
{
	static unsigned char before[1 << 20], after[1 << 20];

	write_bytes(p->segments, "mine", 4);
	size_t size = read_bytes(p->index, before, sizeof(before));
	assert_int_equal(open_error(p), error);
	assert_int_equal(read_bytes(p->index, after, sizeof(after)), size);
	assert_memory_equal(before, after, size);
	assert_int_equal(read_bytes(p->segments, after, sizeof(after)), 4);
	assert_int_equal(unlink(p->segments), 0);
}

static void place_done(const struct place *p)
{
	assert_int_equal(unlink(p->index), 0);
	assert_int_equal(rmdir(p->dir), 0);
}

static void make_database(const struct place *p, const char *sql)
{
	sqlite3 *db;

	assert_int_equal(sqlite3_open(p->index, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void no_database_is_refused(void **state)
{
	static const char text[] =
		"Some text of somebody's, longer than the header of a database, "
		"so that all of the header can be read, and none of it is right.";
	static const struct {
		const char *bytes;
		size_t size;
	} files[] = {{"x", 1}, {"SQLite format 3", 16}, {text, sizeof(text)}};
	static const unsigned char zeros[8192];
	struct place p;

	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		place_make(&p);
		write_bytes(p.index, files[i].bytes, files[i].size);
		assert_refused(&p, -EEXIST);
		place_done(&p);
	}
	place_make(&p);
	write_bytes(p.index, zeros, sizeof(zeros));
	assert_refused(&p, -EEXIST);
	place_done(&p);
}

static void another_programs_database_is_refused(void **state)
{
	static const char *const databases[] = {
		"CREATE TABLE t (x); INSERT INTO t VALUES (1)",
		"PRAGMA application_id = 1; CREATE TABLE leaf (x)",
		"PRAGMA user_version = 1; CREATE TABLE leaf (x)",
		"PRAGMA journal_mode = WAL; CREATE TABLE t (x)",
	};
	struct place p;

	(void)state;
	for (size_t i = 0; i < sizeof(databases) / sizeof(databases[0]); i++) {
		place_make(&p);
		make_database(&p, databases[i]);
		assert_refused(&p, -EEXIST);
		place_done(&p);
	}
}

static void a_newer_version_is_refused(void **state)
{
	struct place p;

	(void)state;
	place_make(&p);
	make_database(&p, "PRAGMA application_id = 0x4c726472; PRAGMA user_version = 3");
	assert_refused(&p, -EPROTONOSUPPORT);
	place_done(&p);
}

static void no_file_is_refused(void **state)
{
	struct place p;

	(void)state;
	place_make(&p);
	assert_int_equal(mkdir(p.index, 0700), 0);
	assert_int_equal(open_error(&p), -EISDIR);
	assert_int_equal(rmdir(p.index), 0);

	assert_int_equal(mkfifo(p.index, 0600), 0); /* must not wait for a writer */
	assert_int_equal(open_error(&p), -EEXIST);
	assert_int_equal(unlink(p.index), 0);

	assert_int_equal(symlink("/dev/null", p.index), 0);
	assert_int_equal(open_error(&p), -EEXIST);
	place_done(&p);
}

/* As a user that isn't root; root reads everything. */
static int open_as_nobody(const struct place *p)
{
	pid_t child = fork();
	int status;

	assert_true(child >= 0);
	if (child == 0) {
		struct store_options opt = {.dir = p->dir};
		struct store *s;
		if (geteuid() == 0 && setuid(65534) < 0)
			_exit(255);
		_exit(-store_open(&s, &opt));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return -WEXITSTATUS(status);
}

static void what_cannot_be_read_is_refused(void **state)
{
	struct place p;

	(void)state;
	place_make(&p);
	assert_int_equal(chmod(p.dir, 0), 0);
	assert_int_equal(open_as_nobody(&p), -EACCES);

	assert_int_equal(chmod(p.dir, 0777), 0);
	write_bytes(p.index, "x", 1);
	assert_int_equal(chmod(p.index, 0), 0);
	assert_int_equal(open_as_nobody(&p), -EACCES);
	place_done(&p);
}

/* A process that ended without a word, at the worst moments. */
static void leavings_of_ours_are_replaced(void **state)
{
	struct place p;
	struct store *s;

	(void)state;
	place_make(&p);
	write_bytes(p.index, "", 0);
	write_bytes(p.segments, "old", 3);
	assert_int_equal(open_error(&p), 0);

	make_database(&p, "PRAGMA application_id = 0x4c726472; PRAGMA user_version = 0");
	assert_int_equal(open_error(&p), 0);

	/* An index in use, whose rows are in its log only. */
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct store_options opt = {.dir = p.dir};
		const struct store_client c = {.id = 1, .exe = "", .policy = ""};
		_exit(store_open(&s, &opt) < 0 || store_txn_begin(s) < 0 ||
			store_index_client(s, &c) < 0 || store_txn_commit(s) < 0);
	}
	int status = -1;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	struct store_options opt = {.dir = p.dir};
	assert_int_equal(store_open(&s, &opt), 0);
	sqlite3 *db = sql_open(p.dir);
	assert_int_equal(sql_number(db, "SELECT count(*) FROM client"), 0);
	sqlite3_close(db);
	store_close(s);
	assert_int_equal(rmdir(p.dir), 0);
}

/* Opens a store, and is killed at its n-th stop (each system call has two: before and after).
 * Was it still running? */
static bool killed_while_opening(const struct place *p, unsigned n)
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		struct store_options opt = {.dir = p->dir};
		struct store *s;
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(2);
		raise(SIGSTOP);
		_exit(store_open(&s, &opt) < 0);
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

static void who_was_killed_while_opening_opens_again(void **state)
{
	struct place p;
	unsigned n = 1;

	(void)state;
	place_make(&p);
	while (killed_while_opening(&p, n)) {
		int r = open_error(&p);
		if (r < 0)
			fail_msg("killed at stop %u, then: %d", n, r);
		n += 2; /* nothing happens between one call's end and the next one's start */
	}
	assert_true(n > 20);
	assert_int_equal(open_error(&p), 0);
	assert_int_equal(rmdir(p.dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_database_is_refused),
		cmocka_unit_test(another_programs_database_is_refused),
		cmocka_unit_test(a_newer_version_is_refused),
		cmocka_unit_test(no_file_is_refused),
		cmocka_unit_test(what_cannot_be_read_is_refused),
		cmocka_unit_test(leavings_of_ours_are_replaced),
		cmocka_unit_test(who_was_killed_while_opening_opens_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
