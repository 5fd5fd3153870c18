/* A store that is opened again: after store_leave, and after a process that ended in the middle
 * of something. test_store_reopen_kill.c has the random ends, test_store_reopen_damage.c what
 * damage does. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "segments.h"
#include "store_again.h"

enum { PAGES = 40 };
#define BLOCK (0x55aa00000000u >> 21)

static const char state[] = "mappings";

/* Client 1 with one block of leaf 5, client 2 that shares it. The seed of page i is i. */
static void write_two(struct world *w, blob_t entries[STORE_LEAF_PAGES])
{
	const struct store_client parent = {.id = 1,
		.pid = 100,
		.exe = "/usr/bin/redis",
		.policy = "p",
		.clock = 7,
		.state = state,
		.state_length = sizeof(state)};
	const struct store_client child = {
		.id = 2, .parent = 1, .exe = "", .policy = "", .clock = 8};

	memset(entries, 0, STORE_LEAF_PAGES * sizeof(*entries));
	for (unsigned i = 0; i < PAGES; i++)
		entries[i * 3] = world_put(w, (enum page_kind)(i % PAGE_KINDS), i);
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_client(w->s, &parent), 0);
	assert_int_equal(store_index_client(w->s, &child), 0);
	assert_int_equal(store_index_leaf(w->s, 5, 6, entries), 0);
	assert_int_equal(store_index_block(w->s, 1, BLOCK, 5), 0);
	assert_int_equal(store_index_block(w->s, 2, BLOCK, 5), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
}

static void leave(struct world *w)
{
	store_leave(w->s);
	store_scratch_free(w->x);
}

/* The index that names nothing but leaf 5, as here. */
static void rewrite_leaf(struct world *w, const blob_t entries[STORE_LEAF_PAGES])
{
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_leaf(w->s, 5, 9, entries), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
}

static void expect_pages(struct world *w, const blob_t entries[STORE_LEAF_PAGES])
{
	for (unsigned i = 0; i < PAGES; i++)
		world_expect(w, entries[i * 3], (enum page_kind)(i % PAGE_KINDS), i);
}

static int compare_client(void *arg, const struct store_client *c)
{
	unsigned *n = arg;

	assert_int_equal(c->id, ++*n);
	assert_int_equal(c->parent, *n == 2);
	assert_int_equal(c->pid, *n == 1 ? 100 : 0);
	assert_string_equal(c->exe, *n == 1 ? "/usr/bin/redis" : "");
	assert_string_equal(c->policy, *n == 1 ? "p" : "");
	assert_int_equal(c->clock, *n + 6);
	assert_int_equal(c->state_length, *n == 1 ? sizeof(state) : 0);
	assert_memory_equal(c->state, state, c->state_length);
	return 0;
}

static void all_is_found_again(void **unused)
{
	blob_t entries[STORE_LEAF_PAGES], got[STORE_LEAF_PAGES];
	uint64_t clock, client, leaf;
	char why[STORE_WHY];
	unsigned n = 0;
	struct world w;

	(void)unused;
	world_open(&w, 0);
	write_two(&w, entries);
	struct store_stats before = world_stats(&w);
	leave(&w);

	again_open(&w, 0);
	assert_int_equal(store_each_client(w.s, compare_client, &n, why), 0);
	assert_int_equal(n, 2);
	assert_int_equal(again_block(&w, 1, BLOCK), 5);
	assert_int_equal(again_block(&w, 2, BLOCK), 5);
	assert_int_equal(again_block(&w, 2, BLOCK + 1), 0);
	assert_true(again_leaf(&w, 5, &clock, got));
	assert_false(again_leaf(&w, 6, &clock, got));
	assert_int_equal(clock, 6);
	assert_memory_equal(got, entries, sizeof(entries));
	store_last_ids(w.s, &client, &leaf);
	assert_int_equal(client, 2);
	assert_int_equal(leaf, 5);
	assert_int_equal(again_take_all(&w), PAGES);
	store_reopen_finish(w.s);
	store_check(w.s);
	expect_pages(&w, entries);
	struct store_stats after = world_stats(&w);
	assert_int_equal(after.blobs, before.blobs);
	assert_int_equal(after.blob_bytes, before.blob_bytes);
	assert_int_equal(after.segment_bytes, before.segment_bytes);
	assert_memory_equal(after.codec_bytes, before.codec_bytes, sizeof(after.codec_bytes));
	assert_int_equal(after.lost_blobs, 0);
	world_close(&w);
}

static void where_nothing_is_it_is_fresh(void **unused)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)unused;
	world_make_dir(w.dir);
	again_open(&w, 0);
	store_reopen_finish(w.s);
	write_two(&w, entries);
	leave(&w);
	again_open(&w, 0);
	assert_int_equal(again_take_all(&w), PAGES);
	world_close(&w);
}

/* What nobody took is dead, and free after a commit; what wasn't committed is gone at once. */
static void what_nobody_takes_is_freed(void **unused)
{
	blob_t entries[STORE_LEAF_PAGES], none[STORE_LEAF_PAGES] = {BLOB_NONE};
	struct world w;

	(void)unused;
	world_open(&w, 0);
	write_two(&w, entries);
	for (unsigned i = 0; i < 100; i++)
		world_put(&w, PAGE_NOISE, 1000 + i);
	leave(&w);

	again_open(&w, 0);
	assert_int_equal(world_stats(&w).blobs, PAGES);
	store_ref(w.s, entries[0]);
	store_reopen_finish(w.s);
	store_reopen_finish(w.s);
	store_check(w.s);
	assert_int_equal(world_stats(&w).blobs, 1);
	assert_true(store_has_dead(w.s));
	none[0] = entries[0];
	rewrite_leaf(&w, none);
	assert_false(store_has_dead(w.s));
	store_check(w.s);
	/* Their handles are used again. */
	for (unsigned i = 0; i < PAGES - 1; i++)
		assert_in_range(world_put(&w, PAGE_NOISE, i), 1, PAGES);
	world_expect(&w, entries[0], PAGE_FILL, 0);
	store_unref(w.s, entries[0]);
	world_close(&w);
}

/* Between the two calls, the store is one to work with. */
static void new_blobs_come_before_the_end(void **unused)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)unused;
	world_open(&w, 0);
	write_two(&w, entries);
	leave(&w);
	again_open(&w, 0);
	again_take_all(&w);
	blob_t b = world_put(&w, PAGE_NOISE, 77);
	assert_int_equal(b, PAGES + 1);
	world_commit_nothing(&w);
	store_check(w.s);
	store_reopen_finish(w.s);
	world_expect(&w, b, PAGE_NOISE, 77);
	expect_pages(&w, entries);
	world_close(&w);
}

/* ---- lost blobs ---- */

static void a_lost_blob_stays_lost_while_a_row_names_it(void **unused)
{
	blob_t entries[STORE_LEAF_PAGES], got[STORE_LEAF_PAGES];
	unsigned char page[STORE_PAGE];
	struct world w;
	uint64_t clock;

	(void)unused;
	world_open(&w, 0);
	write_two(&w, entries);
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	leave(&w);
	flip_bit(fd, 0, 0); /* the handle in the first header: page 0 */
	for (unsigned round = 0; round < 3; round++) {
		again_open(&w, 0);
		assert_true(store_is_lost(w.s, entries[0]));
		assert_false(store_is_lost(w.s, entries[3]));
		assert_int_equal(world_stats(&w).lost_blobs, 1);
		assert_int_equal(world_stats(&w).blobs, PAGES - 1);
		again_take_all(&w);
		store_reopen_finish(w.s);
		store_check(w.s);
		assert_int_equal(store_get(w.s, w.x, entries[0], page), -EBADMSG);
		assert_int_equal(store_blob_length(w.s, entries[0]), 0);
		assert_int_equal(store_blob_share(w.s, entries[0], 1), 0);
		assert_false(store_repack_due(w.s, entries[0], STORE_STAMP_MAX - 1));
		world_expect(&w, entries[3], PAGE_TEXT, 1);
		for (unsigned i = 0; i < 3000; i++)
			assert_int_not_equal(world_put(&w, PAGE_FILL, i), entries[0]);
		rewrite_leaf(&w, entries); /* names it still, with its check */
		assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
		store_check(w.s);
		leave(&w);
	}
	/* Dropped as any other; then its handle is free. */
	again_open(&w, 0);
	assert_true(again_leaf(&w, 5, &clock, got));
	again_take_all(&w);
	store_reopen_finish(w.s);
	store_unref(w.s, entries[0]);
	store_check(w.s);
	assert_int_equal(world_stats(&w).lost_blobs, 0);
	got[0] = BLOB_NONE;
	rewrite_leaf(&w, got);
	assert_false(store_is_lost(w.s, entries[0]));
	bool again = false;
	for (unsigned i = 0; i < 3000; i++)
		again |= world_put(&w, PAGE_FILL, i) == entries[0];
	assert_true(again);
	close(fd);
	world_close(&w);
}

/* ---- what an end in the middle leaves ---- */

/* Runs `work` on a store in dir in another process, which ends in it. */
static void in_child(const char *dir, uint64_t limit, void (*work)(struct world *w),
	void (*synchronize)(void *))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct store_options opt = {
			.dir = dir, .memory_limit = limit, .synchronize = synchronize};
		struct world w;
		strcpy(w.dir, dir);
		if (store_open(&w.s, &opt) < 0 || store_scratch_new(&w.x) < 0)
			_exit(1);
		work(&w);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void end_here(void *arg)
{
	(void)arg;
	_exit(0);
}

/* Ends in the compaction's, or the repacking's, synchronize: all copies are made. */
static void compact_until_the_end(struct world *w)
{
	blob_t entries[STORE_LEAF_PAGES];

	blob_t big[200];
	for (unsigned i = 0; i < 200; i++)
		big[i] = world_put(w, PAGE_NOISE, 500 + i);
	write_two(w, entries);
	for (unsigned i = 0; i < 200; i++)
		store_unref(w->s, big[i]);
	world_commit_nothing(w);
	store_compact(w->s, 0, UINT64_MAX);
	_exit(2);
}

static void repack_until_the_end(struct world *w)
{
	static const struct store_method zstd = {.codec = CODEC_ZSTD};
	blob_t entries[STORE_LEAF_PAGES];
	unsigned n = 0;

	write_two(w, entries);
	for (unsigned i = 0; i < PAGES; i++)
		if (store_repack_due(w->s, entries[i * 3], 0))
			n += store_repack(w->s, w->x, entries[i * 3], &zstd) == 1;
	if (n < 10)
		_exit(3);
	store_repack_finish(w->s);
	_exit(2);
}

/* How many headers in the file bear this handle, and codec; where the last one is. */
static unsigned count_copies(int fd, blob_t b, unsigned codec, uint64_t *ret_at)
{
	static unsigned char bytes[2 * SEGMENT_SIZE];
	ssize_t size = pread(fd, bytes, sizeof(bytes), 0);
	unsigned n = 0;

	for (ssize_t at = 0; at + BLOB_HEADER <= size; at += BLOB_ALIGN) {
		const struct blob_header *h = (const void *)(bytes + at);
		if (h->handle == b && h->version == BLOB_VERSION && h->codec == codec &&
			h->length >= 1 && h->length <= STORE_PAGE) {
			n++;
			*ret_at = (uint64_t)at;
		}
	}
	return n;
}

static void leaf_5(struct world *w, blob_t entries[STORE_LEAF_PAGES])
{
	uint64_t clock;

	assert_true(again_leaf(w, 5, &clock, entries));
}

static void of_two_copies_one_stays(void **unused)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;
	uint64_t at;

	(void)unused;
	world_make_dir(w.dir);
	in_child(w.dir, 0, compact_until_the_end, end_here);
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	assert_int_equal(count_copies(fd, 201, CODEC_FILL, &at), 2);
	again_open(&w, 0);
	assert_int_equal(count_copies(fd, 201, CODEC_FILL, &at), 1);
	leaf_5(&w, entries);
	expect_pages(&w, entries);
	assert_int_equal(world_stats(&w).blobs, PAGES);
	again_take_all(&w);
	store_reopen_finish(w.s);
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
	expect_pages(&w, entries);
	assert_int_equal(world_stats(&w).segment_bytes, world_file_bytes(&w, "warm.seg"));
	close(fd);
	world_close(&w);
}

static void the_denser_copy_stays(void **unused)
{
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)unused;
	world_make_dir(w.dir);
	in_child(w.dir, 0, repack_until_the_end, end_here);
	again_open(&w, 0);
	leaf_5(&w, entries);
	expect_pages(&w, entries);
	struct store_stats st = world_stats(&w);
	assert_int_equal(st.codec_blobs[CODEC_LZ4], 0);
	assert_in_range(st.codec_blobs[CODEC_ZSTD], 10, PAGES);
	world_close(&w);
}

/* Whichever copy is damaged, the other one is taken. */
static void the_copy_that_can_be_read_stays(void **unused)
{
	static const unsigned codec[] = {CODEC_LZ4, CODEC_ZSTD};
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;
	uint64_t at = 0;

	(void)unused;
	for (unsigned i = 0; i < 2; i++) {
		world_make_dir(w.dir);
		in_child(w.dir, 0, repack_until_the_end, end_here);
		int fd = world_open_file(&w, "warm.seg", O_RDWR);
		assert_int_equal(count_copies(fd, 2, codec[i], &at), 1);
		flip_bit(fd, at + 8, 3); /* the checksum's low half, so that it is no copy */
		again_open(&w, 0);
		leaf_5(&w, entries);
		expect_pages(&w, entries);
		store_leave(w.s);
		store_scratch_free(w.x);
		close(fd);
		/* And once more, in the bytes. */
		struct store_options opt = {.dir = w.dir};
		assert_int_equal(store_open(&w.s, &opt), 0);
		store_close(w.s);
		in_child(w.dir, 0, repack_until_the_end, end_here);
		fd = world_open_file(&w, "warm.seg", O_RDWR);
		assert_int_equal(count_copies(fd, 2, codec[i], &at), 1);
		flip_bit(fd, at + BLOB_HEADER, 7);
		again_open(&w, 0);
		leaf_5(&w, entries);
		expect_pages(&w, entries);
		close(fd);
		world_close(&w);
	}
}

/* Bytes without a header, memory without bytes, a segment that was to be given back. */
static void leavings_in_the_segments_are_tidied_up(void **unused)
{
	static unsigned char junk[3 * STORE_PAGE];
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)unused;
	world_open(&w, 0);
	write_two(&w, entries);
	uint64_t used = world_stats(&w).blob_bytes + world_stats(&w).header_bytes;
	uint64_t bytes = world_stats(&w).segment_bytes;
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	leave(&w);
	memset(junk, 0xa5, sizeof(junk));
	assert_int_equal(pwrite(fd, junk, 200, (off_t)used + BLOB_HEADER), 200);
	assert_int_equal(fallocate(fd, 0, SEGMENT_STEP, 2 * SEGMENT_STEP), 0);
	assert_int_equal(
		pwrite(fd, junk, sizeof(junk), 3 * SEGMENT_SIZE + STORE_PAGE), sizeof(junk));
	assert_int_equal(fallocate(fd, 0, 4 * SEGMENT_SIZE, SEGMENT_STEP), 0);
	again_open(&w, 0); /* store_check looks for zeros */
	assert_int_equal(world_stats(&w).segment_bytes, bytes);
	assert_int_equal(world_file_bytes(&w, "warm.seg"), bytes);
	leaf_5(&w, entries);
	expect_pages(&w, entries);
	/* The next blob goes where the junk was. */
	blob_t b = world_put(&w, PAGE_NOISE, 5);
	assert_int_equal(world_file_bytes(&w, "warm.seg"), bytes);
	world_expect(&w, b, PAGE_NOISE, 5);
	close(fd);
	world_close(&w);
}

/* A store that was full, in compaction's reserve, with a limit that is lower now. */
static void a_lower_limit_is_reached_by_compaction(void **unused)
{
	enum { PER_SEGMENT = SEGMENT_SIZE / (BLOB_HEADER + STORE_PAGE), N = 7 * PER_SEGMENT };
	static blob_t b[N];
	blob_t entries[8][STORE_LEAF_PAGES] = {{BLOB_NONE}};
	unsigned at = 0;
	struct world w;

	(void)unused;
	world_open(&w, 8 * SEGMENT_SIZE);
	for (unsigned i = 0; i < N; i++) {
		b[i] = world_put(&w, PAGE_NOISE, i);
		if (i % 4 != 0)
			store_unref(w.s, b[i]);
		else
			entries[at / STORE_LEAF_PAGES][at % STORE_LEAF_PAGES] = b[i], at++;
	}
	assert_int_equal(store_txn_begin(w.s), 0);
	for (unsigned l = 0; l < 8; l++)
		assert_int_equal(store_index_leaf(w.s, l + 1, 1, entries[l]), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	leave(&w);

	blob_t refused;
	again_open(&w, 3 * SEGMENT_SIZE);
	assert_int_equal(world_try_put(&w, PAGE_NOISE, 1, &refused), -ENOSPC);
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
	store_check(w.s);
	assert_in_range(world_stats(&w).segment_bytes, 1, 3 * SEGMENT_SIZE);
	for (unsigned i = 0; i < N; i += 4)
		world_expect(&w, b[i], PAGE_NOISE, i);
	store_reopen_finish(w.s);
	world_close(&w);
}

/* ---- the rest of the interface ---- */

static int keep_state(void *arg, const struct store_client *c)
{
	if (c->id == 1) {
		assert_int_equal(c->clock, 20);
		assert_int_equal(c->state_length, sizeof(state));
		assert_memory_equal(c->state, state, sizeof(state));
		*(bool *)arg = true;
	}
	return 0;
}

static void a_state_is_kept_when_none_is_given(void **unused)
{
	const struct store_client c = {
		.id = 1, .pid = 100, .exe = "x", .policy = "p", .clock = 20};
	static unsigned char much[STORE_STATE_MAX + 1];
	struct store_client large = {
		.id = 3, .exe = "", .policy = "", .state = much, .state_length = sizeof(much)};
	blob_t entries[STORE_LEAF_PAGES];
	char why[STORE_WHY];
	bool seen = false;
	struct world w;

	(void)unused;
	world_open(&w, 0);
	write_two(&w, entries);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_client(w.s, &c), 0);
	large.state_length--;
	assert_int_equal(store_index_client(w.s, &large), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	assert_int_equal(store_txn_begin(w.s), 0);
	large.state_length++;
	assert_int_equal(store_index_client(w.s, &large), -EINVAL);
	store_txn_abort(w.s);
	leave(&w);
	again_open(&w, 0);
	assert_int_equal(store_each_client(w.s, keep_state, &seen, why), 0);
	assert_true(seen);
	world_close(&w);
}

static int stop_at_2(void *arg, const struct store_client *c)
{
	++*(unsigned *)arg;
	return c->id == 1 ? 42 : 0;
}

static void a_callback_ends_the_reading(void **unused)
{
	blob_t entries[STORE_LEAF_PAGES];
	char why[STORE_WHY];
	unsigned n = 0;
	struct world w;

	(void)unused;
	world_open(&w, 0);
	write_two(&w, entries);
	assert_int_equal(store_each_client(w.s, stop_at_2, &n, why), 42);
	assert_int_equal(n, 1);
	/* Entries are only given while they are sure to be alive. */
	assert_int_equal(store_each_leaf(w.s, NULL, NULL, why), -EINVAL);
	assert_int_equal(store_find_leaf(w.s, 5, NULL, NULL, why), -EINVAL);
	world_close(&w);
}

/* Ids go up, whatever was dropped. */
static void ids_are_never_used_twice(void **unused)
{
	const struct store_client c = {.id = 900, .exe = "", .policy = ""};
	blob_t none[STORE_LEAF_PAGES] = {BLOB_NONE};
	uint64_t client, leaf;
	struct world w;

	(void)unused;
	world_open(&w, 0);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_client(w.s, &c), 0);
	assert_int_equal(store_index_leaf(w.s, 800, 1, none), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_client_drop(w.s, 900), 0);
	assert_int_equal(store_index_leaf_drop(w.s, 800), 0);
	assert_int_equal(store_index_leaf(w.s, 7, 1, none), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	/* Rolled back: never was. */
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_leaf(w.s, 1000, 1, none), 0);
	store_txn_abort(w.s);
	world_commit_nothing(&w);
	leave(&w);
	again_open(&w, 0);
	store_last_ids(w.s, &client, &leaf);
	assert_int_equal(client, 900);
	assert_int_equal(leaf, 800);
	world_close(&w);
}

static void files_are_named(void **unused)
{
	struct store_file file[STORE_FILES];
	struct stat st;
	struct world w;

	(void)unused;
	world_open(&w, 0);
	int fd = world_open_file(&w, "index.db-shm", O_RDONLY);
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	int n = store_files(w.dir, file);
	assert_int_equal(n, 5); /* index.db, -wal, -shm, index.run, warm.seg */
	bool named = false;
	for (int i = 0; i < n; i++)
		named |= file[i].device == st.st_dev && file[i].inode == st.st_ino;
	assert_true(named);
	world_close(&w);
	assert_int_equal(store_files(w.dir, file), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_is_found_again),
		cmocka_unit_test(where_nothing_is_it_is_fresh),
		cmocka_unit_test(what_nobody_takes_is_freed),
		cmocka_unit_test(new_blobs_come_before_the_end),
		cmocka_unit_test(a_lost_blob_stays_lost_while_a_row_names_it),
		cmocka_unit_test(of_two_copies_one_stays),
		cmocka_unit_test(the_denser_copy_stays),
		cmocka_unit_test(the_copy_that_can_be_read_stays),
		cmocka_unit_test(leavings_in_the_segments_are_tidied_up),
		cmocka_unit_test(a_lower_limit_is_reached_by_compaction),
		cmocka_unit_test(a_state_is_kept_when_none_is_given),
		cmocka_unit_test(a_callback_ends_the_reading),
		cmocka_unit_test(ids_are_never_used_twice),
		cmocka_unit_test(files_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
