/* Compaction: what it wins, what it must leave alone, and readers at work meanwhile, which
 * packing anew mustn't disturb either. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "segments.h"
#include "store_world.h"

enum { PER_SEGMENT = SEGMENT_SIZE / (BLOB_HEADER + STORE_PAGE) };

/* Noise pages 0 .. n-1, of which every `keep`th is left; b is BLOB_NONE where one is gone. */
static void put_and_thin(struct world *w, blob_t *b, unsigned n, unsigned keep)
{
	for (unsigned i = 0; i < n; i++)
		b[i] = world_put(w, PAGE_NOISE, i);
	for (unsigned i = 0; i < n; i++) {
		if (i % keep == 0)
			continue;
		store_unref(w->s, b[i]);
		b[i] = BLOB_NONE;
	}
	world_commit_nothing(w);
}

static void expect_all(struct world *w, const blob_t *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (b[i] != BLOB_NONE)
			world_expect(w, b[i], PAGE_NOISE, i);
}

static void dead_space_goes_under_the_percentage(void **state)
{
	enum { N = 40 * PER_SEGMENT };
	static blob_t b[N];
	struct world w;

	(void)state;
	world_open(&w, 0);
	put_and_thin(&w, b, N, 2);
	struct store_stats st = world_stats(&w);
	assert_in_range(st.dead_bytes, st.segment_bytes / 3, st.segment_bytes);
	assert_int_equal(store_compact(w.s, 5, UINT64_MAX), 0);
	st = world_stats(&w);
	/* Two segments are open, and what isn't used of these yet is counted as dead. */
	assert_in_range(st.dead_bytes, 0, st.segment_bytes * 5 / 100 + 2 * SEGMENT_STEP);
	assert_int_equal(world_file_bytes(&w, "warm.seg"), st.segment_bytes);
	expect_all(&w, b, N);
	world_close(&w);
}

static void an_open_segment_is_no_exception(void **state)
{
	enum { N = PER_SEGMENT / 2 };
	static blob_t b[N];
	struct world w;

	(void)state;
	world_open(&w, 0);
	put_and_thin(&w, b, N, 8);
	assert_int_equal(store_compact(w.s, 5, UINT64_MAX), 0);
	struct store_stats st = world_stats(&w);
	assert_in_range(st.dead_bytes, 0, SEGMENT_STEP);
	assert_int_equal(world_file_bytes(&w, "warm.seg"), st.segment_bytes);
	expect_all(&w, b, N);
	world_close(&w);
}

static void nothing_is_moved_under_the_percentage(void **state)
{
	enum { N = 10 * PER_SEGMENT };
	static blob_t b[N];
	struct world w;

	(void)state;
	world_open(&w, 0);
	put_and_thin(&w, b, N, 2);
	uint64_t before = world_stats(&w).segment_bytes;
	assert_int_equal(store_compact(w.s, 60, UINT64_MAX), 0);
	assert_int_equal(world_stats(&w).segment_bytes, before);
	world_close(&w);
}

static void budget_bounds_the_copying(void **state)
{
	enum { N = 20 * PER_SEGMENT };
	static blob_t b[N];
	struct world w;

	(void)state;
	world_open(&w, 0);
	put_and_thin(&w, b, N, 2);
	uint64_t before = world_stats(&w).segment_bytes;
	assert_int_equal(store_compact(w.s, 0, 0), 0);
	assert_int_equal(world_stats(&w).segment_bytes, before);
	/* A segment is taken up each time, and half of its bytes copied. */
	for (unsigned n = 1; n <= 2; n++) {
		assert_int_equal(store_compact(w.s, 0, 1), 0);
		assert_int_equal(world_stats(&w).segment_bytes, before - n * SEGMENT_SIZE / 2);
	}
	expect_all(&w, b, N);
	world_close(&w);
}

static void emptiest_segment_goes_first(void **state)
{
	enum { N = 4 * PER_SEGMENT };
	static blob_t b[N];
	struct world w;

	(void)state;
	world_open(&w, 0);
	for (unsigned i = 0; i < N; i++)
		b[i] = world_put(&w, PAGE_NOISE, i);
	/* Of the second segment one is left, of the first all but ten. */
	for (unsigned i = 0; i < 2 * PER_SEGMENT; i++) {
		if (i >= 10 && i <= PER_SEGMENT)
			continue;
		store_unref(w.s, b[i]);
		b[i] = BLOB_NONE;
	}
	world_commit_nothing(&w);
	uint64_t offset = (uint64_t)SEGMENT_SIZE;
	unsigned char c[BLOB_HEADER];
	int fd = world_open_file(&w, "warm.seg", 0);
	assert_int_equal(store_compact(w.s, 0, 1), 0);
	assert_int_equal(pread(fd, c, sizeof(c), (off_t)offset), sizeof(c));
	assert_int_equal(((struct blob_header *)(void *)c)->handle, 0); /* punched */
	assert_int_equal(pread(fd, c, sizeof(c), 0), sizeof(c));
	assert_int_not_equal(((struct blob_header *)(void *)c)->handle, 0);
	close(fd);
	expect_all(&w, b, N);
	world_close(&w);
}

static void full_store_can_be_compacted(void **state)
{
	enum { LIMIT = 8 * SEGMENT_SIZE, N = 7 * PER_SEGMENT };
	static blob_t b[N];
	struct world w;
	blob_t more;

	(void)state;
	world_open(&w, LIMIT);
	put_and_thin(&w, b, N, 3);
	assert_int_equal(world_stats(&w).segment_bytes, 7 * SEGMENT_SIZE);
	assert_int_equal(world_try_put(&w, PAGE_NOISE, 1, &more), -ENOSPC);
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
	assert_int_equal(world_try_put(&w, PAGE_NOISE, 1, &more), 0);
	assert_in_range(world_stats(&w).segment_bytes, 1, 5 * SEGMENT_SIZE);
	expect_all(&w, b, N);
	world_close(&w);
}

/* What the committed index may name is moved along, and freed by the commit all the same. */
static void dying_blobs_keep_their_bytes(void **state)
{
	enum { N = 4 * PER_SEGMENT };
	static blob_t b[N];
	unsigned char got[STORE_PAGE], want[STORE_PAGE];
	struct world w;

	(void)state;
	world_open(&w, 0);
	put_and_thin(&w, b, N, 4);
	for (unsigned i = 0; i < N; i += 4)
		store_unref(w.s, b[i]);
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
	for (unsigned i = 0; i < N; i += 4) {
		page_make(want, PAGE_NOISE, i);
		assert_int_equal(store_get(w.s, w.x, b[i], got), 0);
		assert_memory_equal(got, want, STORE_PAGE);
	}
	store_check(w.s);
	world_commit_nothing(&w);
	assert_int_equal(world_file_bytes(&w, "warm.seg"), 0);
	world_close(&w);
}

/* The handle in the header at the start of the only segment that is worth compacting. */
static uint32_t handle_at_start(const struct world *w)
{
	struct blob_header h;
	int fd = world_open_file(w, "warm.seg", O_RDONLY);

	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	close(fd);
	return h.handle;
}

struct moment {
	struct world w;
	unsigned calls;
	uint32_t handle; /* as it was during synchronize */
};

static void note_moment(void *arg)
{
	struct moment *m = arg;

	m->calls++;
	m->handle = handle_at_start(&m->w);
}

static void old_bytes_stay_until_readers_are_out(void **state)
{
	enum { N = PER_SEGMENT };
	static blob_t b[N];
	struct moment m = {0};

	(void)state;
	world_make_dir(m.w.dir);
	struct store_options opt = {.dir = m.w.dir, .synchronize = note_moment, .arg = &m};
	assert_int_equal(store_open(&m.w.s, &opt), 0);
	assert_int_equal(store_scratch_new(&m.w.x), 0);
	put_and_thin(&m.w, b, N, 2);
	assert_int_equal(store_compact(m.w.s, 0, 1), 0);
	assert_int_equal(m.calls, 1);
	assert_int_equal(m.handle, b[0]);
	assert_int_equal(handle_at_start(&m.w), 0);
	expect_all(&m.w, b, N);
	world_close(&m.w);
}

static void not_in_a_transaction(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	assert_int_equal(store_txn_begin(w.s), 0);
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), -EINVAL);
	store_txn_abort(w.s);
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
	world_close(&w);
}

static void deleted_rows_give_index_memory_back(void **state)
{
	enum { LEAVES = 1000 };
	static blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = world_put(&w, PAGE_FILL, 1);
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		entries[i] = b;
	for (unsigned i = 1; i <= LEAVES; i++) {
		assert_int_equal(store_txn_begin(w.s), 0);
		assert_int_equal(store_index_leaf(w.s, i, 1, entries), 0);
		assert_int_equal(store_txn_commit(w.s), 0);
	}
	uint64_t full = world_file_bytes(&w, "index.db");
	assert_in_range(full, LEAVES * 2600, LEAVES * 3200);
	assert_int_equal(store_txn_begin(w.s), 0);
	for (unsigned i = 1; i <= LEAVES; i++)
		assert_int_equal(store_index_leaf_drop(w.s, i), 0);
	assert_int_equal(store_txn_commit(w.s), 0);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(store_compact(w.s, 100, 1), 0);
	assert_in_range(world_file_bytes(&w, "index.db"), 1, full - full / 3);
	world_close(&w);
}

/* ---- readers at work ---- */

enum { READERS = 3, SLOTS = 4 * PER_SEGMENT };

/* A reader's epoch is odd while it is inside store_get. */
struct reader {
	_Atomic uint64_t epoch;
	struct crowd *crowd;
	uint64_t seed;
	_Atomic unsigned wrong;
	_Atomic uint64_t reads;
};

/* Slots hold live blobs; a reader takes a reference under the lock, as the service's gate does.
 */
struct crowd {
	struct world w;
	pthread_mutex_t lock;
	blob_t slot[SLOTS];   /* lock */
	uint64_t seed[SLOTS]; /* lock */
	struct reader reader[READERS];
	_Atomic unsigned synchronized;
	_Atomic bool stop;
};

static void wait_for_readers(void *arg)
{
	struct crowd *c = arg;

	for (unsigned i = 0; i < READERS; i++) {
		uint64_t epoch = atomic_load(&c->reader[i].epoch);
		while (epoch % 2 == 1 && atomic_load(&c->reader[i].epoch) == epoch)
			sched_yield();
	}
	atomic_fetch_add(&c->synchronized, 1);
}

static void *reader_run(void *arg)
{
	struct reader *me = arg;
	struct crowd *c = me->crowd;
	unsigned char got[STORE_PAGE], want[STORE_PAGE];
	struct store_scratch *x;

	if (store_scratch_new(&x) < 0)
		return NULL;
	while (!atomic_load(&c->stop)) {
		unsigned i = (unsigned)(next_random(&me->seed) % SLOTS);
		pthread_mutex_lock(&c->lock);
		blob_t b = c->slot[i];
		uint64_t seed = c->seed[i];
		store_ref(c->w.s, b);
		pthread_mutex_unlock(&c->lock);

		atomic_fetch_add(&me->epoch, 1);
		int r = store_get(c->w.s, x, b, got);
		atomic_fetch_add(&me->epoch, 1);
		store_unref(c->w.s, b);

		page_make(want, PAGE_TEXT, seed);
		if (r < 0 || memcmp(got, want, STORE_PAGE) != 0)
			atomic_fetch_add(&me->wrong, 1);
		atomic_fetch_add(&me->reads, 1);
	}
	store_scratch_free(x);
	return NULL;
}

/* Replaces a tenth of the blobs, so that there is dead space to win. */
static void churn(struct crowd *c, uint64_t *seed)
{
	for (unsigned n = 0; n < SLOTS / 10; n++) {
		unsigned i = (unsigned)(next_random(seed) % SLOTS);
		uint64_t page = next_random(seed);
		blob_t b = world_put(&c->w, PAGE_TEXT, page), old;
		pthread_mutex_lock(&c->lock);
		old = c->slot[i];
		c->slot[i] = b;
		c->seed[i] = page;
		pthread_mutex_unlock(&c->lock);
		store_unref(c->w.s, old);
	}
	world_commit_nothing(&c->w);
}

/* Packs some anew; what they hold stays. */
static void repack_some(struct crowd *c, uint64_t *seed)
{
	static const struct store_method zstd = {.codec = CODEC_ZSTD, .level = 1};

	for (unsigned n = 0; n < SLOTS / 20; n++) {
		unsigned i = (unsigned)(next_random(seed) % SLOTS);
		pthread_mutex_lock(&c->lock);
		blob_t b = c->slot[i];
		store_ref(c->w.s, b);
		pthread_mutex_unlock(&c->lock);
		if (store_repack_due(c->w.s, b, 0))
			assert_in_range(store_repack(c->w.s, c->w.x, b, &zstd), 0, 1);
		store_unref(c->w.s, b);
	}
	store_repack_finish(c->w.s);
}

static void open_crowd(struct crowd *c)
{
	struct store_options opt = {.synchronize = wait_for_readers, .arg = c};

	world_make_dir(c->w.dir);
	opt.dir = c->w.dir;
	assert_int_equal(store_open(&c->w.s, &opt), 0);
	assert_int_equal(store_scratch_new(&c->w.x), 0);
	pthread_mutex_init(&c->lock, NULL);
	for (unsigned i = 0; i < SLOTS; i++) {
		c->seed[i] = i;
		c->slot[i] = world_put(&c->w, PAGE_TEXT, i);
	}
}

static void readers_see_whole_pages_during_compaction(void **state)
{
	static struct crowd c;
	pthread_t thread[READERS];
	uint64_t seed = 11, reads = 0;

	(void)state;
	open_crowd(&c);
	for (unsigned i = 0; i < READERS; i++) {
		c.reader[i].crowd = &c;
		c.reader[i].seed = i;
		assert_int_equal(pthread_create(&thread[i], NULL, reader_run, &c.reader[i]), 0);
	}
	/* Readers may be slow to start: so until there were enough of both. */
	for (unsigned round = 0; round < 300 || reads < 2000; round++) {
		churn(&c, &seed);
		repack_some(&c, &seed);
		assert_int_equal(store_compact(c.w.s, 0, UINT64_MAX), 0);
		reads = 0;
		for (unsigned i = 0; i < READERS; i++)
			reads += atomic_load(&c.reader[i].reads);
	}
	atomic_store(&c.stop, true);
	for (unsigned i = 0; i < READERS; i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(c.reader[i].wrong, 0);
	}
	assert_true(atomic_load(&c.synchronized) > 20);
	for (unsigned i = 0; i < SLOTS; i++)
		world_expect(&c.w, c.slot[i], PAGE_TEXT, c.seed[i]);
	pthread_mutex_destroy(&c.lock);
	world_close(&c.w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dead_space_goes_under_the_percentage),
		cmocka_unit_test(an_open_segment_is_no_exception),
		cmocka_unit_test(nothing_is_moved_under_the_percentage),
		cmocka_unit_test(budget_bounds_the_copying),
		cmocka_unit_test(emptiest_segment_goes_first),
		cmocka_unit_test(full_store_can_be_compacted),
		cmocka_unit_test(dying_blobs_keep_their_bytes),
		cmocka_unit_test(old_bytes_stay_until_readers_are_out),
		cmocka_unit_test(not_in_a_transaction),
		cmocka_unit_test(deleted_rows_give_index_memory_back),
		cmocka_unit_test(readers_see_whole_pages_during_compaction),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
