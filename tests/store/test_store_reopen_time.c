/* How long a store takes to be reopened, printed. MIB=4096 is 4 GiB of evicted pages, 1 M
 * blobs, which take 1.4 GiB; the usual run is small, and asserts only that all of them are
 * there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store_again.h"

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Packed once, with a checksum for each: nobody reads them. */
static void write_leaf(struct world *w, struct store_packed *p, uint64_t leaf)
{
	blob_t entries[STORE_LEAF_PAGES];

	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
		p->checksum = leaf << 32 | i * UINT32_C(0x9e3779b1);
		assert_int_equal(store_put(w->s, p, 0, &entries[i]), 0);
	}
	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_leaf(w->s, leaf, 1, entries), 0);
	assert_int_equal(store_index_block(w->s, 1, leaf, leaf), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
}

static uint64_t fill(struct world *w)
{
	const char *given = getenv("MIB");
	uint64_t leaves = (given ? strtoull(given, NULL, 10) : 64) / 2;
	const struct store_client c = {.id = 1, .exe = "", .policy = ""};
	unsigned char page[STORE_PAGE];
	struct store_packed p;

	assert_int_equal(store_txn_begin(w->s), 0);
	assert_int_equal(store_index_client(w->s, &c), 0);
	assert_int_equal(store_txn_commit(w->s), 0);
	page_make(page, PAGE_TEXT, 1);
	assert_int_equal(store_pack(w->x, NULL, page, &p), 0);
	double start = now_ms();
	for (uint64_t l = 1; l <= leaves; l++)
		write_leaf(w, &p, l);
	print_message("%u leaves of %u bytes a page written in %.0f ms\n", (unsigned)leaves,
		p.length, now_ms() - start);
	return leaves * STORE_LEAF_PAGES;
}

static void all_is_there_soon(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	uint64_t blobs = fill(&w);
	struct store_stats before = world_stats(&w);
	store_leave(w.s);
	struct store_options opt = {.dir = w.dir};
	char why[STORE_WHY];
	double start = now_ms();
	assert_int_equal(store_reopen(&w.s, &opt, why), 0);
	double opened = now_ms();
	assert_int_equal(again_take_all(&w), blobs);
	double taken = now_ms();
	store_reopen_finish(w.s);
	print_message(
		"%llu blobs, index of %llu KiB: reopened in %.1f ms, leaves read in %.1f, "
		"finished in %.1f\n",
		(unsigned long long)blobs, (unsigned long long)before.index_bytes >> 10,
		opened - start, taken - opened, now_ms() - taken);
	struct store_stats after = world_stats(&w);
	assert_int_equal(after.blobs, blobs);
	assert_int_equal(after.lost_blobs, 0);
	assert_int_equal(after.segment_bytes, before.segment_bytes);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_is_there_soon),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
