/* Damaged segments: never another page, never a crash. The damage is done through the file. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "segments.h"
#include "store_world.h"

static void flip(int fd, off_t at, unsigned char mask)
{
	unsigned char c;

	assert_int_equal(pread(fd, &c, 1, at), 1);
	c ^= mask;
	assert_int_equal(pwrite(fd, &c, 1, at), 1);
}

/* The only blob of the store lies at offset 0. Some flips inside lz4's bytes are another way to
 * write the same page: these may succeed, with that page. */
static void damage_each_byte(enum page_kind kind, bool may_be_same)
{
	unsigned char want[STORE_PAGE], got[STORE_PAGE];
	unsigned same = 0;
	struct world w;

	world_open(&w, 0);
	page_make(want, kind, 9);
	blob_t b = world_put(&w, kind, 9);
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	off_t size = BLOB_HEADER + (off_t)store_blob_length(w.s, b);
	for (off_t at = 0; at < size; at++) {
		for (unsigned bit = 0; bit <= 8; bit++) {
			unsigned char mask = (unsigned char)(bit < 8 ? 1u << bit : 0xffu);
			flip(fd, at, mask);
			int r = store_get(w.s, w.x, b, got);
			flip(fd, at, mask);
			if (r == 0 && may_be_same && at >= BLOB_HEADER) {
				same++;
				assert_memory_equal(got, want, STORE_PAGE);
				continue;
			}
			assert_int_equal(r, -EBADMSG);
		}
	}
	assert_in_range(same, 0, size); /* a ninth of the flips: far more are found */
	world_expect(&w, b, kind, 9);
	close(fd);
	world_close(&w);
}

static void damaged_fill_is_found(void **state)
{
	(void)state;
	damage_each_byte(PAGE_FILL, false);
}

static void damaged_lz4_is_found(void **state)
{
	(void)state;
	damage_each_byte(PAGE_TEXT, true);
}

static void damaged_raw_is_found(void **state)
{
	(void)state;
	damage_each_byte(PAGE_NOISE, false);
}

static void another_blobs_bytes_are_found(void **state)
{
	unsigned char blob[BLOB_HEADER + STORE_PAGE], got[STORE_PAGE];
	struct world w;

	(void)state;
	world_open(&w, 0);
	blob_t a = world_put(&w, PAGE_NOISE, 1), b = world_put(&w, PAGE_NOISE, 2);
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	assert_int_equal(pread(fd, blob, sizeof(blob), sizeof(blob)), sizeof(blob));
	assert_int_equal(pwrite(fd, blob, sizeof(blob), 0), sizeof(blob));
	assert_int_equal(store_get(w.s, w.x, a, got), -EBADMSG);
	world_expect(&w, b, PAGE_NOISE, 2);
	close(fd);

	store_close(w.s); /* without store_check, which would rightly abort */
	store_scratch_free(w.x);
	assert_int_equal(rmdir(w.dir), 0);
}

/* A segment in which compaction can't find a blob again stays as it is, and the others' are
 * moved. */
static void compaction_loses_nothing_to_a_damaged_header(void **state)
{
	enum { PER_SEGMENT = SEGMENT_SIZE / (BLOB_HEADER + STORE_PAGE), N = 3 * PER_SEGMENT };
	unsigned char got[STORE_PAGE];
	static blob_t b[N];
	struct world w;

	(void)state;
	world_open(&w, 0);
	for (unsigned i = 0; i < N; i++)
		b[i] = world_put(&w, PAGE_NOISE, i);
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	for (unsigned i = 0; i < N; i++)
		if (i % 10 != 0)
			store_unref(w.s, b[i]);
	world_commit_nothing(&w);
	flip(fd, 0, 0xff);				  /* handle of blob 0 */
	flip(fd, 20 * (BLOB_HEADER + STORE_PAGE) + 4, 1); /* length of blob 20 */
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
	assert_int_equal(store_get(w.s, w.x, b[0], got), -EBADMSG);
	for (unsigned i = 10; i < N; i += 10)
		world_expect(&w, b[i], PAGE_NOISE, i);

	for (unsigned i = 0; i < N; i += 10)
		store_unref(w.s, b[i]);
	world_commit_nothing(&w);
	assert_int_equal(world_file_bytes(&w, "warm.seg"), 0);
	close(fd);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damaged_fill_is_found),
		cmocka_unit_test(damaged_lz4_is_found),
		cmocka_unit_test(damaged_raw_is_found),
		cmocka_unit_test(another_blobs_bytes_are_found),
		cmocka_unit_test(compaction_loses_nothing_to_a_damaged_header),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
