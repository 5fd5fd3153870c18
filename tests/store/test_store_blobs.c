/* Life of a blob: references, the limit, when handles and memory come back. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "segments.h"
#include "store_world.h"

static void pages_of_all_kinds_come_back(void **state)
{
	struct world w;
	blob_t b[300];

	(void)state;
	world_open(&w, 0);
	for (unsigned i = 0; i < 300; i++)
		b[i] = world_put(&w, i % PAGE_KINDS, i);
	for (unsigned i = 0; i < 300; i++)
		world_expect(&w, b[i], i % PAGE_KINDS, i);

	struct store_stats st = world_stats(&w);
	assert_int_equal(st.blobs, 300);
	assert_int_equal(st.codec_blobs[CODEC_FILL], 100);
	assert_int_equal(st.codec_blobs[CODEC_RAW], 100);
	assert_int_equal(st.segment_bytes, st.blob_bytes + st.header_bytes + st.dead_bytes);
	world_close(&w);
}

static void no_blob_is_refused(void **state)
{
	unsigned char page[STORE_PAGE];
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = world_put(&w, PAGE_TEXT, 1);
	assert_int_equal(store_get(w.s, w.x, BLOB_NONE, page), -EBADMSG);
	assert_int_equal(store_get(w.s, w.x, b + 1, page), -EBADMSG);
	assert_int_equal(store_get(w.s, w.x, BLOB_MAX, page), -EBADMSG);
	assert_int_equal(store_get(w.s, w.x, UINT32_MAX, page), -EBADMSG);
	store_unref(w.s, BLOB_NONE);
	world_close(&w);
}

/* Whole for one, and divided among references and those who share them. */
static void shares_add_up_to_what_holds_the_blob(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = world_put(&w, PAGE_NOISE, 1);
	assert_int_equal(store_blob_share(w.s, b, 1), STORE_BLOB_MAX);
	assert_int_equal(store_blob_share(w.s, b, 4), STORE_BLOB_MAX / 4);
	store_ref(w.s, b);
	assert_int_equal(store_blob_share(w.s, b, 1), STORE_BLOB_MAX / 2);
	/* One reference has three sharers, the other is one's own; rounded up. */
	assert_in_range(3 * store_blob_share(w.s, b, 3) + store_blob_share(w.s, b, 1),
		STORE_BLOB_MAX, STORE_BLOB_MAX + 3);
	blob_t small = world_put(&w, PAGE_FILL, 1);
	assert_int_equal(store_blob_share(w.s, small, 1), BLOB_HEADER + 16);
	world_close(&w);
}

static void length_is_the_packed_one(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	assert_int_equal(store_blob_length(w.s, world_put(&w, PAGE_FILL, 1)), 8);
	assert_int_equal(store_blob_length(w.s, world_put(&w, PAGE_NOISE, 1)), STORE_PAGE);
	assert_int_equal(store_blob_length(w.s, BLOB_NONE), 0);
	world_close(&w);
}

static void last_reference_ends_it(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = world_put(&w, PAGE_TEXT, 1);
	store_ref(w.s, b);
	store_unref(w.s, b);
	assert_int_equal(world_stats(&w).blobs, 1);
	world_expect(&w, b, PAGE_TEXT, 1);
	store_unref(w.s, b);
	assert_int_equal(world_stats(&w).blobs, 0);
	world_close(&w);
}

/* Puts until a handle comes a second time; returns whether one of the next 100 is `b`. */
static bool handle_comes_back(struct world *w, blob_t b)
{
	for (unsigned i = 0; i < 100; i++)
		if (world_put(w, PAGE_FILL, i) == b)
			return true;
	return false;
}

static void handle_waits_for_the_commit(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = world_put(&w, PAGE_TEXT, 1);
	assert_false(store_has_dead(w.s));
	store_unref(w.s, b);
	assert_true(store_has_dead(w.s));
	assert_false(handle_comes_back(&w, b));
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_false(handle_comes_back(&w, b));
	store_txn_abort(w.s);
	assert_true(store_has_dead(w.s));
	world_commit_nothing(&w);
	assert_false(store_has_dead(w.s));
	assert_true(handle_comes_back(&w, b));
	world_close(&w);
}

static void drop_inside_a_transaction_waits_for_the_next(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = world_put(&w, PAGE_TEXT, 1);
	assert_int_equal(store_txn_begin(w.s), 0);
	store_unref(w.s, b);
	assert_int_equal(store_txn_commit(w.s), 0);
	assert_false(handle_comes_back(&w, b));
	world_commit_nothing(&w);
	assert_true(handle_comes_back(&w, b));
	world_close(&w);
}

static void aborted_transaction_frees_nothing(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = world_put(&w, PAGE_TEXT, 1);
	store_unref(w.s, b);
	assert_int_equal(store_txn_begin(w.s), 0);
	store_txn_abort(w.s);
	assert_false(handle_comes_back(&w, b));
	world_commit_nothing(&w);
	assert_true(handle_comes_back(&w, b));
	world_close(&w);
}

static unsigned fill_up(struct world *w, blob_t *b, unsigned max)
{
	blob_t none = 12345;

	for (unsigned n = 0; n < max; n++) {
		int r = world_try_put(w, PAGE_NOISE, n, &b[n]);
		if (r == 0)
			continue;
		assert_int_equal(r, -ENOSPC);
		assert_int_equal(world_try_put(w, PAGE_NOISE, n, &none), -ENOSPC);
		assert_int_equal(none, 12345);
		return n;
	}
	fail_msg("the limit was never reached");
	return 0;
}

static void limit_is_kept_and_heals(void **state)
{
	enum { LIMIT = 4 * SEGMENT_SIZE, MAX = LIMIT / STORE_PAGE };
	static blob_t b[MAX];
	struct world w;

	(void)state;
	world_open(&w, LIMIT);
	unsigned n = fill_up(&w, b, MAX);
	assert_in_range(n, 3 * 250, MAX - 1);
	assert_in_range(world_stats(&w).segment_bytes, 1, LIMIT);
	for (unsigned i = 0; i < n; i++)
		world_expect(&w, b[i], PAGE_NOISE, i);
	store_check(w.s);

	for (unsigned i = 0; i < n; i++)
		store_unref(w.s, b[i]);
	assert_int_equal(world_try_put(&w, PAGE_NOISE, 1, b), -ENOSPC);
	world_commit_nothing(&w);
	assert_int_equal(fill_up(&w, b, MAX), n);
	world_close(&w);
}

static void free_memory_returns_to_the_system(void **state)
{
	enum { N = 1500 };
	static blob_t b[N];
	struct world w;

	(void)state;
	world_open(&w, 0);
	for (unsigned i = 0; i < N; i++)
		b[i] = world_put(&w, PAGE_NOISE, i);
	uint64_t full = world_file_bytes(&w, "warm.seg");
	assert_int_equal(full, world_stats(&w).segment_bytes);
	assert_in_range(full, N * STORE_PAGE, N * STORE_PAGE + 2 * SEGMENT_SIZE);

	for (unsigned i = 0; i < N; i++)
		store_unref(w.s, b[i]);
	assert_int_equal(world_file_bytes(&w, "warm.seg"), full);
	world_commit_nothing(&w);
	assert_int_equal(world_file_bytes(&w, "warm.seg"), 0);
	assert_int_equal(world_stats(&w).segment_bytes, 0);
	world_close(&w);
}

static void table_costs_sixteen_bytes_a_blob(void **state)
{
	enum { N = 200000 };
	struct world w;

	(void)state;
	world_open(&w, 0);
	uint64_t before = world_stats(&w).table_bytes;
	for (unsigned i = 0; i < N; i++)
		world_put(&w, PAGE_FILL, i);
	assert_in_range(world_stats(&w).table_bytes - before, N, 24 * N);
	world_close(&w);
}

static void other_file_systems_are_refused(void **state)
{
	static const char *const dirs[] = {"/proc", "/sys"};
	struct store *s = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		struct store_options opt = {.dir = dirs[i]};
		assert_int_equal(store_open(&s, &opt), -ENOTSUP);
		assert_null(s);
	}
}

static void bad_options_are_refused(void **state)
{
	struct store *s = NULL;
	char dir[64];

	(void)state;
	world_make_dir(dir);
	struct store_options small = {.dir = dir, .memory_limit = 2 * SEGMENT_SIZE - 1};
	assert_int_equal(store_open(&s, &small), -EINVAL);
	assert_int_equal(rmdir(dir), 0);
	struct store_options gone = {.dir = dir};
	assert_int_equal(store_open(&s, &gone), -ENOENT);
	assert_null(s);
}

static void files_are_private(void **state)
{
	static const char *const names[] = {
		"warm.seg", "index.db", "index.db-wal", "index.db-shm"};
	struct world w;
	struct stat st;

	(void)state;
	umask(0);
	world_open(&w, 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		int fd = world_open_file(&w, names[i], O_RDONLY);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
		close(fd);
	}
	world_close(&w);
}

static void descriptors_close_on_exec(void **state)
{
	struct world w;
	unsigned seen = 0;

	(void)state;
	world_open(&w, 0);
	for (int fd = 3; fd < 256; fd++) {
		char link[64], name[256];
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		ssize_t n = readlink(link, name, sizeof(name) - 1);
		if (n < 0)
			continue;
		name[n] = 0;
		if (strncmp(name, w.dir, strlen(w.dir)) != 0)
			continue;
		seen++;
		assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	}
	assert_in_range(seen, 4, 10);
	world_close(&w);
}

static void files_of_an_earlier_run_are_removed(void **state)
{
	static const char *const names[] = {
		"warm.seg", "index.db", "index.db-wal", "index.db-shm", "index.db-journal"};
	struct world w;
	char path[128];

	(void)state;
	world_make_dir(w.dir);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", w.dir, names[i]);
		int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		/* index.db has to be an index: as a process that ends at once leaves it */
		if (i != 1)
			assert_int_equal(write(fd, "left over", 9), 9);
		close(fd);
	}
	struct store_options opt = {.dir = w.dir};
	assert_int_equal(store_open(&w.s, &opt), 0);
	assert_int_equal(store_scratch_new(&w.x), 0);
	world_expect(&w, world_put(&w, PAGE_TEXT, 1), PAGE_TEXT, 1);
	world_commit_nothing(&w);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_of_all_kinds_come_back),
		cmocka_unit_test(no_blob_is_refused),
		cmocka_unit_test(shares_add_up_to_what_holds_the_blob),
		cmocka_unit_test(length_is_the_packed_one),
		cmocka_unit_test(last_reference_ends_it),
		cmocka_unit_test(handle_waits_for_the_commit),
		cmocka_unit_test(drop_inside_a_transaction_waits_for_the_next),
		cmocka_unit_test(aborted_transaction_frees_nothing),
		cmocka_unit_test(limit_is_kept_and_heals),
		cmocka_unit_test(free_memory_returns_to_the_system),
		cmocka_unit_test(table_costs_sixteen_bytes_a_blob),
		cmocka_unit_test(other_file_systems_are_refused),
		cmocka_unit_test(bad_options_are_refused),
		cmocka_unit_test(files_are_private),
		cmocka_unit_test(descriptors_close_on_exec),
		cmocka_unit_test(files_of_an_earlier_run_are_removed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
