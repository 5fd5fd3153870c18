/* What a process leaves that ended in the middle of something: copies, parts of blobs, memory
 * for more of them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "segments.h"
#include "store_again.h"

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
	again_write(w, entries);
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

	again_write(w, entries);
	for (unsigned i = 0; i < AGAIN_PAGES; i++)
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
	again_expect(&w, entries);
	assert_int_equal(world_stats(&w).blobs, AGAIN_PAGES);
	again_take_all(&w);
	store_reopen_finish(w.s);
	assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
	again_expect(&w, entries);
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
	again_expect(&w, entries);
	struct store_stats st = world_stats(&w);
	assert_int_equal(st.codec_blobs[CODEC_LZ4], 0);
	assert_in_range(st.codec_blobs[CODEC_ZSTD], 10, AGAIN_PAGES);
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
		again_expect(&w, entries);
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
		again_expect(&w, entries);
		close(fd);
		world_close(&w);
	}
}

/* Neither can be read: then the page is lost, and neither is taken for it. A length that is
 * damaged misleads the walk, too; the bytes aren't looked at before they are wanted. */
static void of_two_damaged_copies_none_is_taken(void **unused)
{
	static const struct {
		unsigned byte, bit;
		bool known;
	} first[] = {{4, 5, true}, {BLOB_HEADER, 7, false}};
	blob_t entries[STORE_LEAF_PAGES];
	unsigned char page[STORE_PAGE];
	struct world w;
	uint64_t at = 0;

	(void)unused;
	for (unsigned n = 0; n < 2; n++) {
		world_make_dir(w.dir);
		in_child(w.dir, 0, repack_until_the_end, end_here);
		int fd = world_open_file(&w, "warm.seg", O_RDWR);
		assert_int_equal(count_copies(fd, 2, CODEC_LZ4, &at), 1);
		flip_bit(fd, at + first[n].byte, first[n].bit);
		assert_int_equal(count_copies(fd, 2, CODEC_ZSTD, &at), 1);
		flip_bit(fd, at + 5, 11 - 8); /* longer than the other */
		again_open(&w, 0);
		leaf_5(&w, entries);
		assert_int_equal(entries[3], 2);
		assert_int_equal(store_is_lost(w.s, 2), first[n].known);
		assert_int_equal(store_get(w.s, w.x, 2, page), -EBADMSG);
		assert_int_equal(world_stats(&w).codec_blobs[0], 0);
		entries[3] = BLOB_NONE;
		for (unsigned i = 0; i < AGAIN_PAGES; i++)
			if (entries[i * 3] != BLOB_NONE)
				world_expect(&w, entries[i * 3],
					(enum page_kind)(i % PAGE_KINDS), i);
		close(fd);
		world_close(&w);
	}
}

/* ---- much damage at once ---- */

enum { BYTES = 2 * SEGMENT_SIZE };

/* Where a blob's header is, or anywhere. */
static uint64_t somewhere(const unsigned char bytes[BYTES], uint64_t *seed)
{
	uint64_t at = next_random(seed) % BYTES / BLOB_ALIGN * BLOB_ALIGN;

	for (; at < BYTES; at += BLOB_ALIGN) {
		const struct blob_header *h = (const void *)(bytes + at);
		if (h->version == BLOB_VERSION && h->codec < STORE_CODECS && h->handle > 0 &&
			h->handle < 1000)
			break;
	}
	at += next_random(seed) % (next_random(seed) % 4 ? BLOB_HEADER : 500);
	return at % BYTES;
}

/* Every page is right, or says that it isn't. */
static void expect_right_or_lost(struct world *w)
{
	unsigned char want[STORE_PAGE], got[STORE_PAGE];
	blob_t entries[STORE_LEAF_PAGES];

	leaf_5(w, entries);
	for (unsigned i = 0; i < AGAIN_PAGES; i++) {
		assert_int_not_equal(entries[i * 3], BLOB_NONE);
		int r = store_get(w->s, w->x, entries[i * 3], got);
		assert_true(r == 0 || r == -EBADMSG);
		page_make(want, (enum page_kind)(i % PAGE_KINDS), i);
		if (r == 0)
			assert_memory_equal(want, got, STORE_PAGE);
	}
}

static void damage_much(void (*work)(struct world *w), uint64_t *seed)
{
	static unsigned char bytes[BYTES];
	struct world w;

	world_make_dir(w.dir);
	in_child(w.dir, 0, work, end_here);
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	assert_int_equal(pread(fd, bytes, BYTES, 0), BYTES);
	for (unsigned n = 0; n < 300; n++) {
		assert_int_equal(pwrite(fd, bytes, BYTES, 0), BYTES);
		for (uint64_t flips = 1 + next_random(seed) % 12; flips > 0; flips--)
			flip_bit(fd, somewhere(bytes, seed), next_random(seed) % 8);
		again_open(&w, 0);
		assert_int_equal(world_stats(&w).codec_blobs[0], 0);
		expect_right_or_lost(&w);
		assert_int_equal(again_take_all(&w), AGAIN_PAGES);
		store_reopen_finish(w.s);
		assert_int_equal(store_compact(w.s, 0, UINT64_MAX), 0);
		store_leave(w.s);
		store_scratch_free(w.x);
	}
	struct store_options opt = {.dir = w.dir};
	assert_int_equal(store_open(&w.s, &opt), 0);
	store_close(w.s);
	close(fd);
	assert_int_equal(rmdir(w.dir), 0);
}

static void much_damage_is_survived(void **unused)
{
	const char *given = getenv("SEED");
	uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);

	(void)unused;
	print_message("SEED=%llu\n", (unsigned long long)seed);
	damage_much(compact_until_the_end, &seed);
	damage_much(repack_until_the_end, &seed);
}

/* ---- parts of blobs, and memory for more ---- */

/* Bytes without a header, memory without bytes, a segment that was to be given back. */
static void leavings_in_the_segments_are_tidied_up(void **unused)
{
	static unsigned char junk[3 * STORE_PAGE];
	blob_t entries[STORE_LEAF_PAGES];
	struct world w;

	(void)unused;
	world_open(&w, 0);
	again_write(&w, entries);
	uint64_t used = world_stats(&w).blob_bytes + world_stats(&w).header_bytes;
	uint64_t bytes = world_stats(&w).segment_bytes;
	int fd = world_open_file(&w, "warm.seg", O_RDWR);
	again_leave(&w);
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
	again_expect(&w, entries);
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
	again_leave(&w);

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(of_two_copies_one_stays),
		cmocka_unit_test(the_denser_copy_stays),
		cmocka_unit_test(the_copy_that_can_be_read_stays),
		cmocka_unit_test(of_two_damaged_copies_none_is_taken),
		cmocka_unit_test(much_damage_is_survived),
		cmocka_unit_test(leavings_in_the_segments_are_tidied_up),
		cmocka_unit_test(a_lower_limit_is_reached_by_compaction),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
