/* What an earlier run has left, damaged before it is reopened: never a wrong page, never a page
 * that is silently missing. Either store_reopen says what is wrong, and leaves index.db and its
 * log as they are; or every row is there, and a page is right or says that it isn't. SEED=n
 * repeats a run, ROUNDS=n makes more flips. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "index_files.h"
#include "segments.h"
#include "store_again.h"
#include "store_left.h"
#include "store_sql.h"

/* ---- flips ---- */

static uint64_t the_seed(void)
{
	const char *given = getenv("SEED");
	uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);

	print_message("SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

static unsigned rounds(unsigned usual)
{
	const char *more = getenv("ROUNDS");

	return more ? (unsigned)strtoul(more, NULL, 10) : usual;
}

/* A flip in a length can hide the next page's header as well. */
static const unsigned may_lose[FILES] = {[SEG] = 2};

static void a_flipped_bit_is_found_or_harmless(void **state)
{
	struct left f;
	uint64_t seed = the_seed();

	(void)state;
	left_make(&f);
	for (unsigned i = 0; i < FILES; i++) {
		struct tally t = {0};
		for (unsigned n = rounds(i == SHM || i == RUN ? 60 : 300); n > 0; n--) {
			uint64_t at = next_random(&seed) % f.size[i];
			unsigned bit = (unsigned)(next_random(&seed) % 8);
			left_put_back(&f);
			left_flip(&f, (enum file)i, at, bit);
			left_reopen(&f, may_lose[i], &t);
		}
		left_report((enum file)i, &t);
		assert_true(t.refused + t.right + t.lost > 0);
		assert_true(i == SHM || i == SEG || t.refused > 0);
		assert_true(i != SEG || (t.refused == 0 && t.lost > 0));
		assert_true(i != SHM || t.refused == 0);
	}
	left_done(&f);
}

/* Each bit of the first bytes, where numbers are that rule over all the rest. */
static void each_bit_of_a_header_is_found_or_harmless(void **state)
{
	static const struct {
		enum file file;
		unsigned bytes, step;
	} headers[] = {{DB, 108, 1}, {WAL, 32 + 24, 1}, {RUN, sizeof(struct index_run), 1},
		{SEG, 3 * BLOB_HEADER, 1}};
	struct left f;

	(void)state;
	left_make(&f);
	for (size_t h = 0; h < sizeof(headers) / sizeof(headers[0]); h++) {
		struct tally t = {0};
		for (unsigned n = 0; n < headers[h].bytes * 8; n++) {
			left_put_back(&f);
			left_flip(&f, headers[h].file, n / 8, n % 8);
			left_reopen(&f, may_lose[headers[h].file], &t);
		}
		left_report(headers[h].file, &t);
	}
	left_done(&f);
}

/* Of the pages that are the tables' roots, each bit of what says where the rows are: so rows go
 * without a trace in those that are left. */
static void each_bit_of_a_tables_root_is_found_or_harmless(void **state)
{
	enum { DB_PAGE = 8192, BYTES = 8 + 2 * LEFT_LEAVES };
	struct tally t = {0};
	struct left f;

	(void)state;
	left_make(&f);
	left_settle(&f);
	sqlite3 *db = sql_open(f.dir);
	uint64_t root[] = {
		(uint64_t)sql_number(
			db, "SELECT rootpage FROM sqlite_schema WHERE name='block'"),
		(uint64_t)sql_number(
			db, "SELECT rootpage FROM sqlite_schema WHERE name='leaf'"),
	};
	sqlite3_close(db);
	for (unsigned i = 0; i < 2; i++)
		for (unsigned n = 0; n < BYTES * 8; n++) {
			left_put_back(&f);
			left_flip(&f, DB, (root[i] - 1) * DB_PAGE + n / 8, n % 8);
			left_reopen(&f, 0, &t);
		}
	left_report(DB, &t);
	assert_true(t.refused > BYTES);
	left_done(&f);
}

static void a_cut_file_is_found_or_harmless(void **state)
{
	struct left f;
	uint64_t seed = the_seed();

	(void)state;
	left_make(&f);
	for (unsigned i = 0; i < FILES; i++) {
		struct tally t = {0};
		for (unsigned n = rounds(60); n > 0; n--) {
			off_t size = (off_t)(next_random(&seed) % f.size[i]);
			left_put_back(&f);
			if (n % 8 == 0)
				size = n % 16 == 0 ? 0 : size / 8192 * 8192;
			int fd = left_open(&f, (enum file)i, O_RDWR);
			assert_int_equal(ftruncate(fd, size), 0);
			close(fd);
			left_reopen(&f, i == SEG ? UINT32_MAX : 0, &t);
		}
		left_report((enum file)i, &t);
		assert_true(i == SHM || i == SEG ? t.refused == 0 : t.refused > 0);
	}
	left_done(&f);
}

/* ---- with a reader who keeps the log's index alive ---- */

/* Attached: so SQLite in another process believes what the log's index says. */
static pid_t attach(const char *dir, int *ret_go)
{
	int there[2], go[2];
	char c;

	assert_int_equal(pipe(there), 0);
	assert_int_equal(pipe(go), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(go[1]);
		sqlite3 *db = sql_open(dir);
		sql_number(db, "SELECT count(*) FROM leaf");
		if (write(there[1], "x", 1) == 1)
			(void)!read(go[0], &c, 1);
		_exit(0);
	}
	close(there[1]);
	close(go[0]);
	assert_int_equal(read(there[0], &c, 1), 1);
	close(there[0]);
	*ret_go = go[1];
	return pid;
}

static void the_logs_index_is_not_believed(void **state)
{
	static const enum file file[] = {SHM, WAL};
	struct left f;
	uint64_t seed = the_seed();
	int go;

	(void)state;
	left_make(&f);
	for (unsigned i = 0; i < 2; i++) {
		struct tally t = {0};
		for (unsigned n = rounds(80); n > 0; n--) {
			left_put_back(&f);
			pid_t reader = attach(f.dir, &go);
			/* Of the log's index, what is in use: page numbers, and their hashes.
			 */
			uint64_t at = file[i] == SHM ? 136 + next_random(&seed) % (4 * 100)
						     : next_random(&seed) % f.size[WAL];
			left_flip(&f, file[i], at, (unsigned)(next_random(&seed) % 8));
			left_reopen(&f, 0, &t);
			close(go);
			waitpid(reader, NULL, 0);
		}
		left_report(file[i], &t);
		assert_true(file[i] == SHM ? t.refused == 0 : t.refused > 0);
	}
	left_done(&f);
}

/* ---- files that don't belong together ---- */

static void remove_file(const struct left *f, enum file i)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", f->dir, left_file_name(i));
	assert_int_equal(unlink(path), 0);
}

static void take_file(const struct left *to, const struct left *from, enum file i)
{
	struct left f = *from;

	strcpy(f.dir, to->dir);
	left_put_back_file(&f, i);
}

static void files_of_another_run_are_refused(void **state)
{
	struct left f, other;

	(void)state;
	left_make(&f);
	left_make(&other);
	/* The other's index, the same without what says so, and the other's segments. */
	take_file(&f, &other, DB);
	take_file(&f, &other, WAL);
	again_refused(f.dir, -EBADMSG, "aren't of one run");
	take_file(&f, &other, RUN);
	again_refused(f.dir, -EBADMSG, "aren't of one run");
	left_put_back(&f);
	remove_file(&f, SEG);
	left_put_back_file(&f, SEG);
	again_refused(f.dir, -EBADMSG, "aren't of one run");
	left_done(&f);
	left_done(&other);
}

static void a_missing_file_is_refused(void **state)
{
	static const struct {
		enum file file;
		const char *why;
	} cases[] = {
		{DB, "index.db is missing or empty, and index.db-wal is there"},
		{WAL, "index.db or its log is damaged: it ends at transaction"},
		{RUN, "index.run is missing or damaged"},
		{SEG, "warm.seg is missing, and index.db is there"},
	};
	struct tally t = {0};
	struct left f;

	(void)state;
	left_make(&f);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (cases[i].file != SEG) /* by its inode it would be another one */
			left_put_back(&f);
		remove_file(&f, cases[i].file);
		again_refused(f.dir, -EBADMSG, cases[i].why);
	}
	left_done(&f);

	left_make(&f);
	remove_file(&f, DB);
	remove_file(&f, WAL);
	again_refused(f.dir, -EBADMSG, "index.db is missing or empty, and warm.seg isn't");
	left_put_back(&f);
	remove_file(&f, SHM);
	left_reopen(&f, 0, &t);
	assert_int_equal(t.right, 1);
	left_done(&f);
}

/* An index as it was some commits ago: whole, and wrong. */
static void an_older_index_is_refused(void **state)
{
	struct left f, old;

	(void)state;
	left_make(&f);
	old = f;
	/* The log up to its middle: SQLite takes what is whole of it. */
	for (size_t size = 5000; size < f.size[WAL]; size += 9000) {
		left_put_back(&f);
		old.size[WAL] = size;
		left_put_back_file(&old, WAL);
		again_refused(f.dir, -EBADMSG, "it ends at transaction");
	}
	left_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_flipped_bit_is_found_or_harmless),
		cmocka_unit_test(each_bit_of_a_header_is_found_or_harmless),
		cmocka_unit_test(each_bit_of_a_tables_root_is_found_or_harmless),
		cmocka_unit_test(a_cut_file_is_found_or_harmless),
		cmocka_unit_test(the_logs_index_is_not_believed),
		cmocka_unit_test(files_of_another_run_are_refused),
		cmocka_unit_test(a_missing_file_is_refused),
		cmocka_unit_test(an_older_index_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
