/* A store that is opened again: after store_leave, and after a process that ended.
 * test_store_reopen_ends.c has what that was doing, test_store_reopen_kill.c the random
 * ends, test_store_reopen_damage.c what damage does. */
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

static int compare_client(void *arg, const struct store_client *c)
{
	unsigned *n = arg;

	assert_int_equal(c->id, ++*n);
	assert_int_equal(c->parent, *n == 2);
	assert_int_equal(c->pid, *n == 1 ? 100 : 0);
	assert_string_equal(c->exe, *n == 1 ? "/usr/bin/redis" : "");
	assert_string_equal(c->policy, *n == 1 ? "p" : "");
	assert_int_equal(c->clock, *n + 6);
	assert_int_equal(c->state_length, *n == 1 ? AGAIN_STATE : 0);
	assert_memory_equal(c->state, again_state, c->state_length);
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
	again_write(&w, entries);
	struct store_stats before = world_stats(&w);
	again_leave(&w);

	again_open(&w, 0);
	assert_int_equal(store_each_client(w.s, compare_client, &n, why), 0);
	assert_int_equal(n, 2);
	assert_int_equal(again_block(&w, 1, AGAIN_BLOCK), 5);
	assert_int_equal(again_block(&w, 2, AGAIN_BLOCK), 5);
	assert_int_equal(again_block(&w, 2, AGAIN_BLOCK + 1), 0);
	assert_true(again_leaf(&w, 5, &clock, got));
	assert_false(again_leaf(&w, 6, &clock, got));
	assert_int_equal(clock, 6);
	assert_memory_equal(got, entries, sizeof(entries));
	store_last_ids(w.s, &client, &leaf);
	assert_int_equal(client, 2);
	assert_int_equal(leaf, 5);
	assert_int_equal(again_take_all(&w), AGAIN_PAGES);
	store_reopen_finish(w.s);
	store_check(w.s);
	again_expect(&w, entries);
	assert_true(store_repack_due(w.s, entries[3], 7));
	assert_false(store_repack_due(w.s, entries[3], 6));
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
	again_write(&w, entries);
	again_leave(&w);
	again_open(&w, 0);
	assert_int_equal(again_take_all(&w), AGAIN_PAGES);
	world_close(&w);
}

/* What nobody took is dead, and free after a commit; what wasn't committed is gone at once. */
static void what_nobody_takes_is_freed(void **unused)
{
	blob_t entries[STORE_LEAF_PAGES], none[STORE_LEAF_PAGES] = {BLOB_NONE};
	struct world w;

	(void)unused;
	world_open(&w, 0);
	again_write(&w, entries);
	for (unsigned i = 0; i < 100; i++)
		world_put(&w, PAGE_NOISE, 1000 + i);
	again_leave(&w);

	assert_int_equal(again_count_headers(w.dir), AGAIN_PAGES + 100);
	again_open(&w, 0);
	assert_int_equal(world_stats(&w).blobs, AGAIN_PAGES);
	assert_int_equal(again_count_headers(w.dir), AGAIN_PAGES);
	store_ref(w.s, entries[0]);
	store_reopen_finish(w.s);
	store_reopen_finish(w.s);
	store_check(w.s);
	assert_int_equal(world_stats(&w).blobs, 1);
	assert_true(store_has_dead(w.s));
	none[0] = entries[0];
	again_rewrite(&w, none);
	assert_false(store_has_dead(w.s));
	store_check(w.s);
	/* Their handles are used again. */
	for (unsigned i = 0; i < AGAIN_PAGES - 1; i++)
		assert_in_range(world_put(&w, PAGE_NOISE, i), 1, AGAIN_PAGES);
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
	again_write(&w, entries);
	again_leave(&w);
	again_open(&w, 0);
	again_take_all(&w);
	blob_t b = world_put(&w, PAGE_NOISE, 77);
	assert_int_equal(b, AGAIN_PAGES + 1);
	world_commit_nothing(&w);
	store_check(w.s);
	store_reopen_finish(w.s);
	world_expect(&w, b, PAGE_NOISE, 77);
	again_expect(&w, entries);
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
	again_write(&w, entries);
	/* A second row names it, which stays as it is. */
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_leaf(w.s, 6, 6, entries), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	again_leave(&w);
	flip_bit(fd, 0, 0); /* the handle in the first header: page 0 */
	for (unsigned round = 0; round < 3; round++) {
		again_open(&w, 0);
		assert_true(store_is_lost(w.s, entries[0]));
		assert_false(store_is_lost(w.s, entries[3]));
		assert_int_equal(world_stats(&w).lost_blobs, 1);
		assert_int_equal(world_stats(&w).blobs, AGAIN_PAGES - 1);
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
		again_rewrite(&w, entries); /* names it still, with its check */
		assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
		store_check(w.s);
		again_leave(&w);
	}
	/* Dropped as any other; then its handle is free. */
	again_open(&w, 0);
	assert_true(again_leaf(&w, 5, &clock, got));
	again_take_all(&w);
	store_reopen_finish(w.s);
	store_unref(w.s, entries[0]);
	store_unref(w.s, entries[0]);
	store_check(w.s);
	assert_int_equal(world_stats(&w).lost_blobs, 0);
	got[0] = BLOB_NONE;
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_leaf_drop(w.s, 6), 0);
	assert_int_equal(store_index_leaf(w.s, 5, 9, got), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	assert_false(store_is_lost(w.s, entries[0]));
	bool again = false;
	for (unsigned i = 0; i < 3000; i++)
		again |= world_put(&w, PAGE_FILL, i) == entries[0];
	assert_true(again);
	close(fd);
	world_close(&w);
}

/* What a lost blob's row has in place of a place, its check, is no place: also where a blob
 * that had its handle once has lain just there. */
static void a_lost_blob_has_no_place(void **unused)
{
	enum { PER_SEGMENT = SEGMENT_SIZE / (BLOB_HEADER + STORE_PAGE) };
	blob_t entries[STORE_LEAF_PAGES] = {BLOB_NONE}, b[PER_SEGMENT];
	unsigned char page[STORE_PAGE];
	struct store_packed p;
	struct world w;

	(void)unused;
	world_open(&w, 0);
	for (unsigned i = 0; i < PER_SEGMENT; i++)
		b[i] = world_put(&w, PAGE_NOISE, i);
	store_unref(w.s, b[0]);
	world_commit_nothing(&w);
	page_make(page, PAGE_NOISE, 99);
	assert_int_equal(store_pack(w.x, NULL, page, &p), 0);
	p.checksum = 0; /* so its check is the place of b[0], in the segment before */
	assert_int_equal(store_put(w.s, &p, 0, &entries[0]), 0);
	assert_int_equal(entries[0], b[0]);
	for (unsigned i = 1; i < 20; i++)
		entries[i] = b[i];
	again_rewrite(&w, entries);
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	again_leave(&w);
	flip_bit(fd, SEGMENT_SIZE + 7, 1);
	again_open(&w, 0);
	assert_true(store_is_lost(w.s, entries[0]));
	again_take_all(&w);
	store_reopen_finish(w.s);
	world_put(&w, PAGE_NOISE, 100);
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
	store_check(w.s);
	assert_true(store_is_lost(w.s, entries[0]));
	for (unsigned i = 1; i < 20; i++)
		world_expect(&w, entries[i], PAGE_NOISE, i);
	close(fd);
	world_close(&w);
}

/* ---- the rest of the interface ---- */

static int keep_state(void *arg, const struct store_client *c)
{
	if (c->id == 1) {
		assert_int_equal(c->clock, 20);
		assert_int_equal(c->state_length, AGAIN_STATE);
		assert_memory_equal(c->state, again_state, AGAIN_STATE);
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
	again_write(&w, entries);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_index_client(w.s, &c), 0);
	large.state_length--;
	assert_int_equal(store_index_client(w.s, &large), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	assert_int_equal(store_txn_begin(w.s), 0);
	large.state_length++;
	assert_int_equal(store_index_client(w.s, &large), -EINVAL);
	store_txn_abort(w.s);
	again_leave(&w);
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
	again_write(&w, entries);
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
	again_leave(&w);
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
		cmocka_unit_test(a_lost_blob_has_no_place),
		cmocka_unit_test(a_state_is_kept_when_none_is_given),
		cmocka_unit_test(a_callback_ends_the_reading),
		cmocka_unit_test(ids_are_never_used_twice),
		cmocka_unit_test(files_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
