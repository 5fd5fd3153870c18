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
#include "store_sql.h"

enum { LEAVES = 12, PAGES = 24, CLIENTS = 20, STATE = 6000, CLOCK = 8, FILE_MAX = 4 << 20 };

static const char *const file_name[] = {
	"index.db", "index.db-wal", "index.db-shm", "index.run", "warm.seg"};
enum file { DB, WAL, SHM, RUN, SEG, FILES };

/* The files as a killed process has left them. */
struct left {
	char dir[64];
	unsigned char *bytes[FILES];
	size_t size[FILES]; /* up to the last byte that isn't 0, of SEG */
};

static uint64_t seed_of(unsigned l, unsigned i)
{
	return 1 + l * 1000 + i;
}

static enum page_kind kind_of(unsigned i)
{
	return (enum page_kind)(i % PAGE_KINDS);
}

static uint64_t block_of(unsigned l)
{
	return 100 + 7 * (uint64_t)l;
}

static int put_leaf(struct world *w, unsigned l, blob_t entries[STORE_LEAF_PAGES])
{
	memset(entries, 0, STORE_LEAF_PAGES * sizeof(*entries));
	for (unsigned i = 0; i < PAGES; i++) {
		store_unref(w->s, entries[i * 5 + l]);
		entries[i * 5 + l] = world_put(w, kind_of(i), seed_of(l, i));
	}
	return 0;
}

static void fill_state(unsigned char state[STATE], uint64_t id)
{
	for (unsigned i = 0; i < STATE; i++)
		state[i] = (unsigned char)(i * 7 + id);
}

static int write_client(struct world *w, uint64_t id, uint64_t clock)
{
	unsigned char state[STATE];
	struct store_client c = {.id = id,
		.pid = 9,
		.exe = "exe",
		.policy = "p",
		.clock = clock,
		.state = state,
		.state_length = sizeof(state)};

	fill_state(state, id);
	return store_index_client(w->s, &c);
}

/* Leaves from..to-1 get clock n. */
static void write_leaves(struct world *w, blob_t entries[LEAVES][STORE_LEAF_PAGES],
	unsigned from, unsigned to, uint64_t n)
{
	int r = store_txn_begin(w->s) < 0 || write_client(w, 1, n) < 0;

	for (unsigned l = from; l < to; l++)
		r |= store_index_leaf(w->s, l + 1, n, entries[l]) < 0 ||
		     store_index_block(w->s, 1, block_of(l), l + 1) < 0;
	if (r || store_txn_commit(w->s) < 0)
		_exit(2);
}

/* All is in the database, and then some of it in the log, which has no older frames; ends
 * without closing. */
static void run_and_die(const char *dir)
{
	static blob_t entries[LEAVES][STORE_LEAF_PAGES];
	struct store_options opt = {.dir = dir};
	char why[STORE_WHY];
	struct world w;

	strcpy(w.dir, dir);
	if (store_open(&w.s, &opt) < 0 || store_scratch_new(&w.x) < 0)
		_exit(1);
	for (unsigned l = 0; l < LEAVES; l++)
		put_leaf(&w, l, entries[l]);
	write_leaves(&w, entries, 0, LEAVES, 1);
	if (store_txn_begin(w.s) < 0)
		_exit(2);
	for (uint64_t id = 2; id <= CLIENTS; id++)
		if (write_client(&w, id, 1) < 0)
			_exit(2);
	if (store_txn_commit(w.s) < 0)
		_exit(2);
	store_leave(w.s);
	if (store_reopen(&w.s, &opt, why) < 0)
		_exit(3);
	for (uint64_t n = 2; n <= CLOCK; n++)
		write_leaves(&w, entries, 0, LEAVES / 2, n);
	_exit(0);
}

static void in_child(void (*what)(const char *dir), const char *dir)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		what(dir);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static int open_file(const struct left *f, enum file i, int flags)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", f->dir, file_name[i]);
	return open(path, flags | O_CLOEXEC, 0600);
}

/* -1: there is none. */
static ssize_t read_file(const struct left *f, enum file i, unsigned char *bytes)
{
	int fd = open_file(f, i, O_RDONLY);

	if (fd < 0)
		return -1;
	ssize_t n = pread(fd, bytes, FILE_MAX, 0);
	assert_true(n >= 0);
	while (i == SEG && n > 0 && bytes[n - 1] == 0)
		n--;
	close(fd);
	return n;
}

static void left_make(struct left *f)
{
	world_make_dir(f->dir);
	in_child(run_and_die, f->dir);
	for (unsigned i = 0; i < FILES; i++) {
		f->bytes[i] = malloc(FILE_MAX);
		assert_non_null(f->bytes[i]);
		ssize_t n = read_file(f, (enum file)i, f->bytes[i]);
		assert_true(n > 0);
		f->size[i] = (size_t)n;
	}
}

/* In place: warm.seg is known by its inode. */
static void put_back_file(const struct left *f, enum file i)
{
	int fd = open_file(f, i, O_RDWR | O_CREAT);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	if (i == SEG)
		assert_int_equal(ftruncate(fd, 64 * SEGMENT_SIZE), 0);
	assert_int_equal(pwrite(fd, f->bytes[i], f->size[i], 0), f->size[i]);
	close(fd);
}

static void put_back(const struct left *f)
{
	char path[128];

	for (unsigned i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/%s", f->dir, file_name[i]);
		if (f->size[i] > 0)
			put_back_file(f, (enum file)i);
		else
			unlink(path);
	}
}

/* The same, but closed in order: all of the index is in index.db. */
static void left_settle(struct left *f)
{
	struct world w;

	strcpy(w.dir, f->dir);
	again_open(&w, 0);
	again_take_all(&w);
	store_reopen_finish(w.s);
	store_leave(w.s);
	store_scratch_free(w.x);
	for (unsigned i = 0; i < FILES; i++) {
		ssize_t n = read_file(f, (enum file)i, f->bytes[i]);
		assert_true(i == WAL || i == SHM ? n < 0 : n > 0);
		f->size[i] = n < 0 ? 0 : (size_t)n;
	}
}

static void left_done(struct left *f)
{
	char path[128];

	for (unsigned i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "%s/%s", f->dir, file_name[i]);
		unlink(path);
		free(f->bytes[i]);
	}
	assert_int_equal(rmdir(f->dir), 0);
}

/* ---- what may come of it ---- */

static int compare_client(void *arg, const struct store_client *c)
{
	unsigned char state[STATE];
	unsigned *n = arg;

	assert_int_equal(c->id, ++*n);
	assert_int_equal(c->clock, c->id == 1 ? CLOCK : 1);
	assert_int_equal(c->pid, 9);
	assert_int_equal(c->state_length, sizeof(state));
	fill_state(state, c->id);
	assert_memory_equal(c->state, state, sizeof(state));
	return 0;
}

/* How many pages can't be read; all others are right, in the right place. */
static unsigned compare_leaf(struct world *w, unsigned l)
{
	unsigned char want[STORE_PAGE], got[STORE_PAGE];
	blob_t entries[STORE_LEAF_PAGES];
	uint64_t clock = 0;
	unsigned n = 0, lost = 0;

	assert_int_equal(again_block(w, 1, block_of(l)), l + 1);
	assert_true(again_leaf(w, l + 1, &clock, entries));
	assert_int_equal(clock, l < LEAVES / 2 ? CLOCK : 1);
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		n += entries[i] != BLOB_NONE;
	assert_int_equal(n, PAGES);
	for (unsigned i = 0; i < PAGES; i++) {
		blob_t b = entries[i * 5 + l];
		assert_int_not_equal(b, BLOB_NONE);
		int r = store_get(w->s, w->x, b, got);
		if (r < 0) {
			assert_int_equal(r, -EBADMSG);
			lost++;
			continue;
		}
		assert_false(store_is_lost(w->s, b));
		page_make(want, kind_of(i), seed_of(l, i));
		assert_memory_equal(want, got, STORE_PAGE);
	}
	return lost;
}

static unsigned compare_all(struct world *w)
{
	char why[STORE_WHY];
	unsigned lost = 0, clients = 0;

	assert_int_equal(store_each_client(w->s, compare_client, &clients, why), 0);
	assert_int_equal(clients, CLIENTS);
	for (unsigned l = 0; l < LEAVES; l++)
		lost += compare_leaf(w, l);
	return lost;
}

struct tally {
	unsigned refused, right, lost;
};

/* Database and log are, byte for byte, as they were damaged. (No log, or an empty one: it is as
 * good, and SQLite makes one.) */
static void assert_untouched(const struct left *f, unsigned char *before[2], ssize_t size[2])
{
	static unsigned char after[FILE_MAX];

	for (enum file i = DB; i <= WAL; i++) {
		ssize_t n = read_file(f, i, after);
		assert_int_equal(n < 0 ? 0 : n, size[i] < 0 ? 0 : size[i]);
		if (size[i] > 0)
			assert_memory_equal(before[i], after, (size_t)size[i]);
	}
}

static void reopen(const struct left *f, unsigned may_lose, struct tally *t)
{
	static unsigned char db[FILE_MAX], wal[FILE_MAX];
	unsigned char *before[] = {db, wal};
	ssize_t size[] = {read_file(f, DB, db), read_file(f, WAL, wal)};
	struct store_options opt = {.dir = f->dir};
	char why[STORE_WHY] = "";
	struct world w;

	strcpy(w.dir, f->dir);
	int r = store_reopen(&w.s, &opt, why);
	if (r < 0) {
		if (r != -EEXIST && r != -EPROTONOSUPPORT &&
			(r != -EBADMSG || strlen(why) < 20))
			fail_msg("%d: %s", r, why);
		assert_untouched(f, before, size);
		t->refused++;
		return;
	}
	assert_int_equal(store_scratch_new(&w.x), 0);
	store_check(w.s);
	unsigned lost = compare_all(&w);
	assert_in_range(lost, 0, may_lose);
	*(lost ? &t->lost : &t->right) += 1;
	again_take_all(&w);
	store_reopen_finish(w.s);
	store_check(w.s);
	store_leave(w.s);
	store_scratch_free(w.x);
}

static void report(enum file i, const struct tally *t)
{
	print_message("%-13s %u refused, %u right, %u with lost pages\n", file_name[i],
		t->refused, t->right, t->lost);
}

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

static void flip_in(const struct left *f, enum file i, uint64_t byte, unsigned bit)
{
	int fd = open_file(f, i, O_RDWR);

	flip_bit(fd, byte, bit);
	close(fd);
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
			put_back(&f);
			flip_in(&f, (enum file)i, at, bit);
			reopen(&f, may_lose[i], &t);
		}
		report((enum file)i, &t);
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
			put_back(&f);
			flip_in(&f, headers[h].file, n / 8, n % 8);
			reopen(&f, may_lose[headers[h].file], &t);
		}
		report(headers[h].file, &t);
	}
	left_done(&f);
}

/* Of the pages that are the tables' roots, each bit of what says where the rows are: so rows go
 * without a trace in those that are left. */
static void each_bit_of_a_tables_root_is_found_or_harmless(void **state)
{
	enum { DB_PAGE = 8192, BYTES = 8 + 2 * LEAVES };
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
			put_back(&f);
			flip_in(&f, DB, (root[i] - 1) * DB_PAGE + n / 8, n % 8);
			reopen(&f, 0, &t);
		}
	report(DB, &t);
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
			put_back(&f);
			if (n % 8 == 0)
				size = n % 16 == 0 ? 0 : size / 8192 * 8192;
			int fd = open_file(&f, (enum file)i, O_RDWR);
			assert_int_equal(ftruncate(fd, size), 0);
			close(fd);
			reopen(&f, i == SEG ? UINT32_MAX : 0, &t);
		}
		report((enum file)i, &t);
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
			put_back(&f);
			pid_t reader = attach(f.dir, &go);
			/* Of the log's index, what is in use: page numbers, and their hashes.
			 */
			uint64_t at = file[i] == SHM ? 136 + next_random(&seed) % (4 * 100)
						     : next_random(&seed) % f.size[WAL];
			flip_in(&f, file[i], at, (unsigned)(next_random(&seed) % 8));
			reopen(&f, 0, &t);
			close(go);
			waitpid(reader, NULL, 0);
		}
		report(file[i], &t);
		assert_true(file[i] == SHM ? t.refused == 0 : t.refused > 0);
	}
	left_done(&f);
}

/* ---- files that don't belong together ---- */

static void remove_file(const struct left *f, enum file i)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", f->dir, file_name[i]);
	assert_int_equal(unlink(path), 0);
}

static void take_file(const struct left *to, const struct left *from, enum file i)
{
	struct left f = *from;

	strcpy(f.dir, to->dir);
	put_back_file(&f, i);
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
	put_back(&f);
	remove_file(&f, SEG);
	put_back_file(&f, SEG);
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
			put_back(&f);
		remove_file(&f, cases[i].file);
		again_refused(f.dir, -EBADMSG, cases[i].why);
	}
	left_done(&f);

	left_make(&f);
	remove_file(&f, DB);
	remove_file(&f, WAL);
	again_refused(f.dir, -EBADMSG, "index.db is missing or empty, and warm.seg isn't");
	put_back(&f);
	remove_file(&f, SHM);
	reopen(&f, 0, &t);
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
		put_back(&f);
		old.size[WAL] = size;
		put_back_file(&old, WAL);
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
