/* Dead space: what the store holds of the tmpfs beyond its live blobs, at rest and while blobs
 * come and go at random. SEED=n repeats a run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "segments.h"
#include "store_world.h"

/* What the service does each period (svc/evictor.c): commit, twice as what is let go of after a
 * commit waits for the next; then compact, first what is urgent. */
enum {
	URGENT_PERCENT = 9,
	URGENT_BUDGET = 256 << 20,
	REST_PERCENT = 3,
	REST_BUDGET = 64 << 20,
};

enum { SLOTS_MAX = 30000 };

struct churn {
	struct world w;
	uint64_t seed;
	unsigned slots;
	blob_t blob[SLOTS_MAX];
	uint64_t page[SLOTS_MAX]; /* seed of its page */
	double worst;		  /* dead share in percent, so far */
};

/* Noise with zeros behind it packs to about the noise. Lengths as of real programs' pages: a
 * few fills, many of a quarter to a half of a page, some that don't pack. */
static void make_page(unsigned char page[STORE_PAGE], uint64_t seed)
{
	uint64_t state = seed, kind = next_random(&state) % 100;
	size_t noise = kind < 4	   ? 0
		       : kind < 70 ? 400 + next_random(&state) % 1600
		       : kind < 90 ? 1500 + next_random(&state) % 1700
				   : STORE_PAGE;

	page_make(page, PAGE_NOISE, seed);
	memset(page + noise, 0, STORE_PAGE - noise);
}

static void put(struct churn *c, unsigned slot)
{
	unsigned char page[STORE_PAGE];
	struct store_packed p;

	c->page[slot] = next_random(&c->seed);
	make_page(page, c->page[slot]);
	assert_int_equal(store_pack(c->w.x, NULL, page, &p), 0);
	assert_int_equal(store_put(c->w.s, &p, 0, &c->blob[slot]), 0);
}

/* Of the bytes that the file has in the tmpfs, those that aren't a live blob's. */
static double dead_percent(struct churn *c)
{
	struct store_stats st = world_stats(&c->w);
	uint64_t have = world_file_bytes(&c->w, "warm.seg");

	assert_int_equal(have, st.segment_bytes);
	return 100.0 * (double)(have - st.blob_bytes - st.header_bytes) / (double)have;
}

static void housekeeping(struct churn *c)
{
	world_commit_nothing(&c->w);
	world_commit_nothing(&c->w);
	assert_int_equal(store_compact(c->w.s, URGENT_PERCENT, URGENT_BUDGET), 0);
	assert_int_equal(store_compact(c->w.s, REST_PERCENT, REST_BUDGET), 0);
}

/* One period: a share of the blobs goes, and as many others come; dead space is looked at
 * before the housekeeping, when it is largest. */
static void period(struct churn *c, unsigned share_percent)
{
	for (unsigned n = 0; n < c->slots * share_percent / 100; n++) {
		unsigned slot = (unsigned)(next_random(&c->seed) % c->slots);
		store_unref(c->w.s, c->blob[slot]);
		put(c, slot);
	}
	double dead = dead_percent(c);
	if (dead > c->worst)
		c->worst = dead;
	housekeeping(c);
}

static void expect_pages(struct churn *c)
{
	unsigned char got[STORE_PAGE], want[STORE_PAGE];

	for (unsigned i = 0; i < c->slots; i++) {
		make_page(want, c->page[i]);
		assert_int_equal(store_get(c->w.s, c->w.x, c->blob[i], got), 0);
		assert_memory_equal(got, want, STORE_PAGE);
	}
}

static void run(unsigned slots, unsigned share_percent, unsigned periods)
{
	static struct churn c;
	const char *given = getenv("SEED");

	memset(&c, 0, sizeof(c));
	c.seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
	c.slots = slots;
	print_message("SEED=%llu\n", (unsigned long long)c.seed);
	world_open(&c.w, 0);
	for (unsigned i = 0; i < slots; i++)
		put(&c, i);
	housekeeping(&c);
	double filled = dead_percent(&c);
	for (unsigned n = 0; n < periods; n++)
		period(&c, share_percent);
	double worst = c.worst;
	housekeeping(&c);
	double rest = dead_percent(&c);
	struct store_stats st = world_stats(&c.w);
	print_message(
		"%u blobs, %.1f MiB: dead %.1f %% when filled; %.1f %% at worst while %u %% "
		"are replaced each period; %.1f %% at rest\n",
		slots, (double)st.segment_bytes / (1 << 20), filled, worst, share_percent,
		rest);
	assert_true(filled <= 5);
	assert_true(worst <= 12);
	assert_true(rest <= 5);
	expect_pages(&c);
	world_close(&c.w);
}

static void dead_space_is_bounded(void **state)
{
	(void)state;
	run(SLOTS_MAX, 1, 100);
	run(SLOTS_MAX, 3, 40);
}

static void also_in_a_small_store(void **state)
{
	(void)state;
	run(4000, 2, 150);
}

/* All that is freed goes back to the system. */
static void nothing_is_kept_of_what_is_gone(void **state)
{
	static struct churn c;

	(void)state;
	memset(&c, 0, sizeof(c));
	c.slots = 4000;
	world_open(&c.w, 0);
	for (unsigned i = 0; i < c.slots; i++)
		put(&c, i);
	for (unsigned i = 0; i < c.slots; i++)
		store_unref(c.w.s, c.blob[i]);
	assert_true(store_has_dead(c.w.s));
	world_commit_nothing(&c.w);
	assert_false(store_has_dead(c.w.s));
	assert_int_equal(world_file_bytes(&c.w, "warm.seg"), 0);
	world_close(&c.w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dead_space_is_bounded),
		cmocka_unit_test(also_in_a_small_store),
		cmocka_unit_test(nothing_is_kept_of_what_is_gone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
