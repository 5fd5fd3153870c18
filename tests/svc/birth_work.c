/* What it costs to find out where a forked child has what, counted in looks and not in time: a
 * program can't make it more than BIRTH_WORK_MAX, whatever it does, and what busy ones do takes
 * a small part of that. */
#include "birth_view.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
	/* Between two looks at the bound: all pieces are sorted. */
	SLACK = 1 << 22,
	PLACES = 4096, /* of a block each */
};

struct family {
	struct graveyard graveyard;
	struct space parent, child;
	struct steps *steps;
	size_t before;
	uint64_t work, seed;
	unsigned asked;
	bool registered[2 * PLACES]; /* in the child */
	bool busy; /* the child is in a call of its own, whenever it is asked */
};

static const uint64_t base = 0x7f0000000000;

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

static unsigned rnd(struct family *f, unsigned below)
{
	f->seed ^= f->seed << 13;
	f->seed ^= f->seed >> 7;
	f->seed ^= f->seed << 17;
	return (unsigned)(f->seed % below);
}

static uint64_t addr(unsigned place)
{
	return base + place * BLOCK_SIZE;
}

static int is_registered(void *arg, uint64_t at)
{
	struct family *f = arg;

	f->asked++;
	return f->busy ? -EAGAIN : f->registered[(at - base) / BLOCK_SIZE];
}

/* Pages `from` to `to` of a place are out. */
static void put(struct space *s, unsigned place, unsigned from, unsigned to)
{
	struct leaf *leaf = space_leaf(s, addr(place) >> BLOCK_SHIFT);

	space_region_add(s, addr(place), addr(place + 1));
	for (unsigned i = from; i < to; i++)
		space_set(s, addr(place) >> BLOCK_SHIFT, leaf, i,
			entry_make(PAGE_STORED, place * BLOCK_PAGES + i + 1));
}

static int setup(void **state)
{
	struct family *f = calloc(1, sizeof(*f));

	graveyard_init(&f->graveyard, NULL);
	space_init(&f->parent, &f->graveyard, 1);
	space_init(&f->child, &f->graveyard, 1);
	f->seed = 88172645463325252;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct family *f = *state;

	steps_unref(f->steps);
	space_done(&f->parent);
	space_done(&f->child);
	for (struct leaf *l = graveyard_take(&f->graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&f->graveyard, l);
	}
	free(f);
	return 0;
}

static void do_fork(struct family *f)
{
	f->steps = space_fork(&f->parent, &f->child);
	f->before = f->steps->count;
}

static int bear(struct family *f, const struct step *early, size_t count)
{
	const struct midwife m = {.registered = is_registered,
		.arg = f,
		.early = early,
		.early_count = count,
		.work = &f->work};

	return space_bear(&f->child, f->steps, f->before, &m);
}

static void assert_bounded(const struct family *f)
{
	assert_true(f->work <= BIRTH_WORK_MAX + SLACK);
}

/* As many calls as there can be, in a program of 8 GiB of which all is out: each of its
 * mappings is moved, or unmapped, by then or only later. */
static void what_a_large_busy_program_costs(void **state)
{
	struct family *f = *state;

	for (unsigned i = 0; i < PLACES; i++) {
		put(&f->parent, i, 0, BLOCK_PAGES);
		f->registered[i] = true;
	}
	for (unsigned i = 0; i < 2 * STEPS_OVERTAKE; i++) {
		unsigned place = 2 * i;
		bool had = i < STEPS_OVERTAKE / 2;

		if (i == STEPS_OVERTAKE)
			do_fork(f);
		if (i % 4 == 0) {
			space_remap(&f->parent, addr(place), addr(PLACES + place), BLOCK_SIZE);
			f->registered[PLACES + place] = had;
		}
		space_unmap(&f->parent, addr(place), addr(place + 1));
		f->registered[place] = !had;
	}
	assert_int_equal(bear(f, NULL, 0), 0);
	print_message("a large busy program: %u asked, work %u\n", f->asked, (unsigned)f->work);
	assert_true(f->work < BIRTH_WORK_MAX / 10);
	/* Of what was read long before: what is unmapped is in doubt, for it is so often. */
	assert_true(space_in_doubt(&f->child));
	for (unsigned i = 0; i < 2 * PLACES; i++)
		if (!f->registered[i])
			space_drop_range(&f->child, addr(i), addr(i + 1));
	assert_int_equal(f->child.out_pages,
		(PLACES - STEPS_OVERTAKE / 4 - STEPS_OVERTAKE / 8) * BLOCK_PAGES);
}

/* An UNMAP that may have been of what came there leaves all on record until the kernel is
 * asked: by the child too, though it was read so long ago that there is nothing else to find
 * out. */
static void what_was_in_doubt_long_before_is_asked_for(void **state)
{
	struct family *f = *state;

	put(&f->parent, 0, 0, BLOCK_PAGES);
	space_remap(&f->parent, addr(0), addr(1), BLOCK_SIZE);
	space_unmap(&f->parent, addr(1), addr(2));
	for (unsigned i = 0; i < STEPS_OVERTAKE; i++)
		space_unmap(&f->parent, addr(100 + 2 * i), addr(101 + 2 * i));
	do_fork(f);
	assert_int_equal(bear(f, NULL, 0), 0);
	assert_int_equal(f->child.out_pages, BLOCK_PAGES);
	assert_true(space_in_doubt(&f->child));
}

/* Blocks that move in circles, each of which may have happened or not, as far as anybody can
 * tell; but nothing of them is out. What is out beside them, in the same mapping once, is
 * found. */
static void circles_of_nothing_cost_nothing(void **state)
{
	struct family *f = *state;
	enum { CIRCLES = 300, ALL = 1 + 3 * CIRCLES, TO = 1000 };

	put(&f->parent, 0, 0, BLOCK_PAGES);
	space_region_add(&f->parent, addr(0), addr(ALL));
	space_remap(&f->parent, addr(0), addr(TO), ALL * BLOCK_SIZE);
	for (unsigned i = 0; i < CIRCLES; i++) {
		unsigned a = TO + 1 + 3 * i, b = a + 1, spare = a + 2;
		space_remap(&f->parent, addr(a), addr(spare), BLOCK_SIZE);
		space_remap(&f->parent, addr(b), addr(a), BLOCK_SIZE);
		space_remap(&f->parent, addr(spare), addr(b), BLOCK_SIZE);
	}
	do_fork(f);
	for (unsigned i = 0; i < ALL; i++)
		f->registered[i] = f->registered[TO + i] = true;
	assert_int_equal(bear(f, NULL, 0), 0);
	print_message("circles of nothing: work %u\n", (unsigned)f->work);
	assert_true(f->work < BIRTH_WORK_MAX / 10);
	assert_int_equal(entry_value(space_entry(&f->child, addr(TO))), 1);
}

/* Anything over anything else, in pieces of pages, and whatever the child says. */
static void do_anything(struct family *f, unsigned places)
{
	uint64_t pages = places * BLOCK_PAGES;

	for (unsigned i = 0; i < 2 * STEPS_OVERTAKE; i++) {
		uint64_t len = (1 + rnd(f, (unsigned)pages / 2)) * PAGE_SIZE;
		uint64_t from = base + rnd(f, (unsigned)pages / 2) * PAGE_SIZE;
		uint64_t to = base + rnd(f, (unsigned)pages / 2) * PAGE_SIZE;

		if (i == STEPS_OVERTAKE)
			do_fork(f);
		if (rnd(f, 4) == 0)
			space_unmap(&f->parent, from, from + len);
		else
			space_remap(&f->parent, from, to, len);
	}
	for (unsigned i = 0; i < places; i++)
		f->registered[i] = rnd(f, 2);
}

static void nothing_costs_more_than_it_may(void **state)
{
	uint64_t most = 0;

	(void)state;
	for (unsigned i = 0; i < 12; i++) {
		struct family *f;
		unsigned places = i < 8 ? 1 + i : 64 * (i - 7);

		setup((void **)&f);
		f->seed += i;
		for (unsigned k = 0; k < places; k++)
			put(&f->parent, k, k % 7, BLOCK_PAGES);
		do_anything(f, places);
		int r = bear(f, NULL, 0);
		assert_true(r == 0 || r == -EBADMSG || r == -E2BIG);
		assert_bounded(f);
		most = f->work > most ? f->work : most;
		teardown((void **)&f);
	}
	print_message("anything: work %u at most\n", (unsigned)most);
}

/* It makes one call after the other, so that it can't be asked, and each has to be considered
 * the next time. */
static void a_child_that_goes_on_for_ever_is_given_up(void **state)
{
	struct family *f = *state;
	enum { EARLY = 2000 };
	struct step *early = calloc(EARLY, sizeof(*early));
	unsigned count = 0;
	int r;

	for (unsigned i = 0; i < 64; i++)
		put(&f->parent, i, 0, BLOCK_PAGES);
	for (unsigned i = 0; i < STEPS_OVERTAKE; i++)
		space_remap(&f->parent, addr(i % 64), addr(64 + i % 64), BLOCK_SIZE);
	do_fork(f);
	f->busy = true;
	while ((r = bear(f, early, count)) == -EAGAIN && count < EARLY) {
		early[count] = (struct step){addr(count % 64), STEP_UNMAP, PAGE_SIZE};
		count++;
	}
	free(early);
	print_message("for ever: given up after %u calls\n", count);
	assert_int_equal(r, -E2BIG);
	assert_bounded(f);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_a_large_busy_program_costs),
		T(what_was_in_doubt_long_before_is_asked_for),
		T(circles_of_nothing_cost_nothing),
		cmocka_unit_test(nothing_costs_more_than_it_may),
		T(a_child_that_goes_on_for_ever_is_given_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
