/* Events that were read in another order than things happened in: which waits for which, and
 * for how long (sequence.h). */
#include "sequence.h"
#include "pager.h"
#include "worker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint64_t base = 0x7f0000000000;
static struct client client;
static struct graveyard graveyard;
static uint64_t now_ns;
static unsigned applied, forks;
static uint32_t in_child; /* what a child that was forked last has at place 3 */

/* ---- the rest of the service ---- */

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

uint64_t worker_now_ns(void)
{
	return now_ns;
}

/* Places are pages. */
static uint64_t addr(unsigned place)
{
	return base + place * PAGE_SIZE;
}

static uint32_t entry(unsigned place)
{
	return space_entry(&client.space, addr(place));
}

void pager_apply(struct client *c, const struct uffd_msg *m)
{
	applied++;
	switch (m->event) {
	case UFFD_EVENT_REMAP:
		space_remap(&c->space, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		break;
	case UFFD_EVENT_UNMAP:
		space_unmap(&c->space, m->arg.remove.start, m->arg.remove.end);
		break;
	case UFFD_EVENT_REMOVE:
		space_remove(&c->space, m->arg.remove.start, m->arg.remove.end);
		break;
	default:
		forks++;
		in_child = entry(3);
	}
}

/* ---- what is read ---- */

static void take_remap(unsigned from, unsigned to, unsigned pages)
{
	struct uffd_msg m = {.event = UFFD_EVENT_REMAP};

	m.arg.remap.from = addr(from);
	m.arg.remap.to = addr(to);
	m.arg.remap.len = pages * PAGE_SIZE;
	sequence_add(&client, &m);
}

static void take(uint8_t event, unsigned from, unsigned pages)
{
	struct uffd_msg m = {.event = event};

	m.arg.remove.start = addr(from);
	m.arg.remove.end = addr(from + pages);
	sequence_add(&client, &m);
}

static int setup(void **state)
{
	(void)state;
	memset(&client, 0, sizeof(client));
	graveyard_init(&graveyard, NULL);
	space_init(&client.space, &graveyard, 1);
	now_ns = 1000000000;
	applied = forks = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	space_done(&client.space);
	free(client.waiting);
	for (struct leaf *l = graveyard_take(&graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&graveyard, l);
	}
	return 0;
}

/* A mapping of one page, which is out. */
static void put(unsigned place, blob_t blob)
{
	uint64_t number = addr(place) >> BLOCK_SHIFT;

	space_region_add(&client.space, addr(place), addr(place + 1));
	space_set(&client.space, number, space_leaf(&client.space, number),
		(unsigned)(addr(place) / PAGE_SIZE % BLOCK_PAGES),
		entry_make(PAGE_STORED, blob));
}

#define assert_has(place, blob) assert_int_equal(entry(place), entry_make(PAGE_STORED, blob))
#define assert_none(place)	assert_false(entry_out(entry(place)))

/* ---- arrivals and departures ---- */

static void leave(void)
{
	take_remap(3, 9, 1);
	take(UFFD_EVENT_UNMAP, 3, 1);
}

/* One thread moves 3 to 9, and is held up; another moves 5 to 3, which is free. */
static void an_arrival_waits_for_the_departure(void **state)
{
	(void)state;
	put(3, 33);
	put(5, 55);
	take_remap(5, 3, 1);
	assert_int_equal(applied, 0);
	assert_true(space_in_doubt(&client.space));
	take(UFFD_EVENT_FORK, 0, 0);
	leave();
	assert_int_equal(applied, 4);
	assert_int_equal(forks, 1);
	assert_has(3, 55);
	assert_has(9, 33);
	assert_int_equal(entry_value(in_child), 55); /* the arrival was read before */
	assert_false(client.space.overtaken);
}

/* What arrived is discarded, by a thread that knows that it has; and then the departure is
 * read. */
static void a_departure_passes_a_discard_of_what_arrived(void **state)
{
	(void)state;
	put(3, 33);
	put(5, 55);
	take_remap(5, 3, 1);
	take(UFFD_EVENT_UNMAP, 5, 1);
	take(UFFD_EVENT_REMOVE, 3, 1);
	assert_int_equal(applied, 0);
	leave();
	assert_int_equal(applied, 5);
	assert_none(3);
	assert_has(9, 33);
}

/* Also one of more than what arrived: with the neighbour. No program discards what another
 * thread is just moving away. */
static void a_departure_passes_a_discard_of_that_and_more(void **state)
{
	(void)state;
	put(3, 33);
	put(4, 44);
	put(5, 55);
	take_remap(5, 3, 1);
	take(UFFD_EVENT_REMOVE, 3, 2);
	assert_int_equal(applied, 0);
	leave();
	assert_int_equal(applied, 4);
	assert_none(3);
	assert_none(4);
	assert_has(9, 33);
}

/* The departure that others wait for brings something to where a third thread has discarded it:
 * that doesn't hold it up. */
static void a_departure_passes_a_discard_of_what_it_brings(void **state)
{
	(void)state;
	put(3, 33);
	put(5, 55);
	take_remap(5, 3, 1);
	take(UFFD_EVENT_UNMAP, 5, 1);
	take(UFFD_EVENT_REMOVE, 9, 1);
	leave();
	assert_int_equal(applied, 5);
	assert_has(3, 55);
	assert_none(9);
}

/* Page 3 was free. Two pages arrive, at 3 and 4, and one is held up by what left 4; then they
 * move on from 3: they came there, and that makes no room at 4. */
static void what_arrived_and_moves_on_makes_no_room(void **state)
{
	(void)state;
	put(4, 44);
	put(5, 55);
	put(6, 66);
	take_remap(5, 3, 2);
	take(UFFD_EVENT_UNMAP, 5, 2);
	take_remap(3, 9, 1);
	take(UFFD_EVENT_UNMAP, 3, 1);
	assert_int_equal(applied, 0);
	take(UFFD_EVENT_UNMAP, 4, 1);
	assert_int_equal(applied, 5);
	assert_has(9, 55);
	assert_has(4, 66);
	assert_none(3);
}

/* The fence is down: nothing else can come, as when the thread was killed. */
static void what_waits_in_vain_is_applied_as_it_was_read(void **state)
{
	(void)state;
	put(3, 33);
	put(5, 55);
	take_remap(5, 3, 1);
	take(UFFD_EVENT_REMOVE, 7, 1);
	sequence_flush(&client);
	assert_int_equal(applied, 2);
	assert_has(3, 55);
	assert_false(client.space.overtaken);
}

/* ---- the pause ---- */

/* So that a thread that was preempted between its call's work and its event can go on, before
 * the arrival is in use and leaves as well. */
static void nothing_is_read_for_a_moment(void **state)
{
	(void)state;
	put(3, 33);
	put(5, 55);
	assert_false(sequence_pause(&client));
	take_remap(5, 3, 1);
	assert_true(sequence_pause(&client));
	now_ns += 999999;
	assert_true(sequence_pause(&client));
	now_ns += 1;
	assert_false(sequence_pause(&client));
	/* What is read behind it doesn't begin it anew. */
	take(UFFD_EVENT_REMOVE, 7, 1);
	assert_false(sequence_pause(&client));
}

static void what_needs_no_order_is_read_on(void **state)
{
	(void)state;
	put(3, 33);
	put(5, 55);
	take(UFFD_EVENT_UNMAP, 3, 1);
	take_remap(5, 3, 1);
	assert_int_equal(applied, 2);
	assert_false(sequence_pause(&client));
	/* Nor is anything waited for any more once it has come. */
	put(9, 99);
	take_remap(3, 9, 1);
	assert_true(sequence_pause(&client));
	take(UFFD_EVENT_UNMAP, 9, 1);
	assert_false(sequence_pause(&client));
	assert_has(9, 55);
}

/* In the same region, but not there: it waits in its turn. */
static void what_leaves_elsewhere_makes_no_room(void **state)
{
	(void)state;
	for (unsigned i = 3; i < 9; i++)
		put(i, 11 * i);
	take_remap(5, 3, 1);
	take(UFFD_EVENT_UNMAP, 8, 1);
	take_remap(7, 21, 1);
	assert_int_equal(applied, 0);
	leave();
	assert_int_equal(applied, 5);
	assert_has(3, 55);
	assert_has(9, 33);
	assert_has(21, 77);
}

/* ---- bounds ---- */

/* More than any program has in flight that doesn't mean to: the kernel is asked for all. */
static void what_waits_is_bounded(void **state)
{
	unsigned i = 0;

	(void)state;
	put(3, 33);
	put(5, 55);
	take_remap(5, 3, 1);
	while (applied == 0 && i++ < 10000)
		take(UFFD_EVENT_REMOVE, 7, 1);
	assert_true(i < 1000);
	assert_int_equal(client.waiting_count, 0);
	assert_true(space_in_doubt(&client.space));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(an_arrival_waits_for_the_departure),
		T(a_departure_passes_a_discard_of_what_arrived),
		T(a_departure_passes_a_discard_of_that_and_more),
		T(a_departure_passes_a_discard_of_what_it_brings),
		T(what_arrived_and_moves_on_makes_no_room),
		T(what_leaves_elsewhere_makes_no_room),
		T(what_waits_in_vain_is_applied_as_it_was_read),
		T(nothing_is_read_for_a_moment),
		T(what_needs_no_order_is_read_on),
		T(what_waits_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
