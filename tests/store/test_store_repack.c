/* Packing blobs anew: what changes, what must not, and when the old bytes go. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "segments.h"
#include "store_sql.h"
#include "store_world.h"

static const struct store_method zstd = {.codec = CODEC_ZSTD, .level = 3};

static blob_t put_stamped(struct world *w, enum page_kind kind, uint64_t seed, uint32_t stamp)
{
	unsigned char page[STORE_PAGE];
	struct store_packed p;
	blob_t b;

	page_make(page, kind, seed);
	assert_int_equal(store_pack(w->x, NULL, page, &p), 0);
	assert_int_equal(store_put(w->s, &p, stamp, &b), 0);
	return b;
}

static void a_page_keeps_its_handle_and_its_bytes(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = put_stamped(&w, PAGE_TEXT, 1, 0);
	uint32_t before = store_blob_length(w.s, b);
	assert_int_equal(store_repack(w.s, w.x, b, &zstd), 1);
	world_expect(&w, b, PAGE_TEXT, 1);
	store_repack_finish(w.s);
	world_expect(&w, b, PAGE_TEXT, 1);
	struct store_stats st = world_stats(&w);
	assert_int_equal(st.codec_blobs[CODEC_LZ4], 0);
	assert_int_equal(st.codec_bytes[CODEC_LZ4], 0);
	assert_int_equal(st.codec_blobs[CODEC_ZSTD], 1);
	assert_int_equal(st.codec_bytes[CODEC_ZSTD], store_blob_length(w.s, b));
	assert_in_range(store_blob_length(w.s, b), 1, before - 1);
	world_close(&w);
}

static void blobs_are_due_by_stamp_and_codec(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t text = put_stamped(&w, PAGE_TEXT, 1, 5);
	blob_t noise = put_stamped(&w, PAGE_NOISE, 1, 5);
	blob_t fill = put_stamped(&w, PAGE_FILL, 1, 5);
	blob_t last = put_stamped(&w, PAGE_TEXT, 2, STORE_STAMP_MAX - 1);
	assert_false(store_repack_due(w.s, text, 4));
	assert_true(store_repack_due(w.s, text, 5));
	assert_true(store_repack_due(w.s, noise, 6));
	assert_false(store_repack_due(w.s, fill, 6));
	assert_true(store_repack_due(w.s, last, STORE_STAMP_MAX - 1));
	assert_int_equal(store_repack(w.s, w.x, text, &zstd), 1);
	assert_false(store_repack_due(w.s, text, STORE_STAMP_MAX));
	store_repack_finish(w.s);
	world_close(&w);
}

static void what_packs_no_better_stays_for_good(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = put_stamped(&w, PAGE_NOISE, 1, 0);
	uint64_t before = world_stats(&w).segment_bytes;
	assert_int_equal(store_repack(w.s, w.x, b, &zstd), 0);
	assert_false(store_repack_due(w.s, b, STORE_STAMP_MAX));
	assert_int_equal(world_stats(&w).codec_blobs[CODEC_RAW], 1);
	assert_int_equal(world_stats(&w).segment_bytes, before);
	world_expect(&w, b, PAGE_NOISE, 1);
	world_close(&w);
}

/* What lz4 leaves raw may do for zstd: bytes of few values, without a repetition. */
static void a_raw_page_can_become_smaller(void **state)
{
	unsigned char page[STORE_PAGE], got[STORE_PAGE];
	struct store_packed p;
	uint64_t seed = 1;
	struct world w;
	blob_t b;

	(void)state;
	world_open(&w, 0);
	for (size_t i = 0; i < STORE_PAGE; i++)
		page[i] = (unsigned char)(next_random(&seed) % 32);
	assert_int_equal(store_pack(w.x, NULL, page, &p), 0);
	assert_int_equal(p.codec, CODEC_RAW);
	assert_int_equal(store_put(w.s, &p, 0, &b), 0);
	assert_int_equal(store_repack(w.s, w.x, b, &zstd), 1);
	store_repack_finish(w.s);
	assert_int_equal(store_get(w.s, w.x, b, got), 0);
	assert_memory_equal(got, page, STORE_PAGE);
	world_close(&w);
}

/* The header at the start of the segments: the first blob that was put. */
static struct blob_header first_header(const struct world *w)
{
	struct blob_header h;
	int fd = world_open_file(w, "warm.seg", O_RDONLY);

	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	close(fd);
	return h;
}

struct moment {
	struct world w;
	unsigned calls;
	struct blob_header then;
};

static void note_moment(void *arg)
{
	struct moment *m = arg;

	m->calls++;
	m->then = first_header(&m->w);
}

static void old_bytes_stay_until_readers_are_out(void **state)
{
	struct moment m = {0};

	(void)state;
	world_make_dir(m.w.dir);
	struct store_options opt = {.dir = m.w.dir, .synchronize = note_moment, .arg = &m};
	assert_int_equal(store_open(&m.w.s, &opt), 0);
	assert_int_equal(store_scratch_new(&m.w.x), 0);
	blob_t b = put_stamped(&m.w, PAGE_TEXT, 1, 0);
	assert_int_equal(store_repack(m.w.s, m.w.x, b, &zstd), 1);
	assert_int_equal(m.calls, 0);
	store_check(m.w.s);
	/* Nothing that happens meanwhile frees the place. */
	store_unref(m.w.s, put_stamped(&m.w, PAGE_TEXT, 2, 0));
	world_commit_nothing(&m.w);
	assert_int_equal(first_header(&m.w).handle, b);
	assert_int_equal(first_header(&m.w).codec, CODEC_LZ4);
	store_repack_finish(m.w.s);
	assert_int_equal(m.calls, 1);
	assert_int_equal(m.then.handle, b);
	assert_int_equal(m.then.codec, CODEC_LZ4);
	assert_int_equal(first_header(&m.w).codec, 0); /* the segment was given back */
	store_repack_finish(m.w.s);
	assert_int_equal(m.calls, 1);
	world_expect(&m.w, b, PAGE_TEXT, 1);
	world_close(&m.w);
}

static void compaction_finishes_first(void **state)
{
	enum { N = STORE_LEAF_PAGES };
	static blob_t b[N + 1];
	struct world w;

	(void)state;
	world_open(&w, 0);
	for (unsigned i = 0; i <= N; i++)
		b[i] = put_stamped(&w, PAGE_TEXT, i, 0);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(store_repack(w.s, w.x, b[i], &zstd), 1);
	assert_int_equal(store_repack(w.s, w.x, b[N], &zstd), -EAGAIN);
	assert_true(store_repack_due(w.s, b[N], 0));
	store_check(w.s);
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
	store_check(w.s);
	assert_int_equal(store_repack(w.s, w.x, b[N], &zstd), 1);
	store_repack_finish(w.s);
	for (unsigned i = 0; i <= N; i++)
		world_expect(&w, b[i], PAGE_TEXT, i);
	struct store_stats st = world_stats(&w);
	assert_in_range(st.dead_bytes, 0, 2 * SEGMENT_STEP);
	world_close(&w);
}

/* The index names pages by handle and checksum: neither changes. */
static void committed_rows_hold(void **state)
{
	static blob_t entries[STORE_LEAF_PAGES];
	struct index_entry before[STORE_LEAF_PAGES], after[STORE_LEAF_PAGES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	sqlite3 *db = sql_open(w.dir);
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++)
		entries[i] = put_stamped(&w, PAGE_TEXT, i, 0);
	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(store_txn_begin(w.s), 0);
		assert_int_equal(store_index_leaf(w.s, 1, round, entries), 0);
		assert_int_equal(store_txn_commit(w.s), 0);
		assert_true(sql_leaf(db, 1, round ? after : before));
		for (unsigned i = 0; round == 0 && i < STORE_LEAF_PAGES; i++)
			assert_int_equal(store_repack(w.s, w.x, entries[i], &zstd), 1);
		store_repack_finish(w.s);
	}
	assert_memory_equal(before, after, sizeof(before));
	uint64_t bytes = (uint64_t)sql_number(db, "SELECT stored_bytes FROM leaf");
	assert_int_equal(bytes, world_stats(&w).blob_bytes);
	sqlite3_close(db);
	world_close(&w);
}

static void a_full_store_leaves_them_as_they_are(void **state)
{
	enum { LIMIT = 3 * SEGMENT_SIZE };
	struct world w;
	blob_t b = BLOB_NONE, first = BLOB_NONE;
	int r = 0;

	(void)state;
	world_open(&w, LIMIT);
	for (uint64_t i = 0; r == 0; i++) {
		r = world_try_put(&w, PAGE_TEXT, i, &b);
		first = first == BLOB_NONE ? b : first;
	}
	assert_int_equal(r, -ENOSPC);
	/* The last segment is compaction's. */
	assert_int_equal(store_repack(w.s, w.x, first, &zstd), -ENOSPC);
	assert_true(store_repack_due(w.s, first, 0));
	world_expect(&w, first, PAGE_TEXT, 0);
	world_close(&w);
}

static void damage_is_not_packed_anew(void **state)
{
	unsigned char page[STORE_PAGE], byte;
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t b = put_stamped(&w, PAGE_TEXT, 1, 0);
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	assert_int_equal(pread(fd, &byte, 1, BLOB_HEADER + 100), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, BLOB_HEADER + 100), 1);
	close(fd);
	assert_int_equal(store_repack(w.s, w.x, b, &zstd), -EBADMSG);
	assert_int_equal(store_get(w.s, w.x, b, page), -EBADMSG);
	assert_int_equal(world_stats(&w).codec_blobs[CODEC_LZ4], 1);
	assert_false(store_repack_due(w.s, b, STORE_STAMP_MAX));
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_keeps_its_handle_and_its_bytes),
		cmocka_unit_test(blobs_are_due_by_stamp_and_codec),
		cmocka_unit_test(what_packs_no_better_stays_for_good),
		cmocka_unit_test(a_raw_page_can_become_smaller),
		cmocka_unit_test(old_bytes_stay_until_readers_are_out),
		cmocka_unit_test(compaction_finishes_first),
		cmocka_unit_test(committed_rows_hold),
		cmocka_unit_test(a_full_store_leaves_them_as_they_are),
		cmocka_unit_test(damage_is_not_packed_anew),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
