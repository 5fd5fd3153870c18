/* Answers to faults need no memory: what they record finds its room kept. And where none was
 * kept and there is none, nothing waits and nothing is changed. */
#include "space.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { BLOCKS = 200, SPARES = 256 };

static const uint64_t base = 0x7f0000000000;

/* While it is set, there is none; how often it was asked for. */
static bool no_memory;
static unsigned asked;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size);

void *__wrap_malloc(size_t size)
{
	asked++;
	return no_memory ? NULL : __real_malloc(size);
}

void *__wrap_realloc(void *p, size_t size)
{
	asked++;
	return no_memory ? NULL : __real_realloc(p, size);
}

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

static uint64_t page_of(unsigned block, unsigned page)
{
	return base + block * BLOCK_SIZE + page * PAGE_SIZE;
}

static void store(struct space *s, uint64_t addr, blob_t blob)
{
	uint64_t number = addr >> BLOCK_SHIFT;

	space_set(s, number, space_leaf(s, number), (unsigned)(addr / PAGE_SIZE % BLOCK_PAGES),
		entry_make(PAGE_STORED, blob));
}

static void memory_ends(void)
{
	no_memory = true;
	asked = 0;
}

/* The index has written all. */
static void unlist(struct space *s)
{
	while (s->dirty_count > 0)
		s->dirty_count--;
	for (size_t i = 0; i < s->block_count; i++) {
		s->block[i].listed = false;
		atomic_store(&s->block[i].leaf->row, LEAF_CLEAN);
	}
}

static void set_up(struct graveyard *g, struct space *s, unsigned blocks)
{
	no_memory = false;
	graveyard_init(g, NULL);
	space_init(s, g, 1);
	space_region_add(s, base, page_of(blocks, 0));
	for (unsigned i = 0; i < blocks; i++) {
		store(s, page_of(i, 3), i + 1);
		store(s, page_of(i, 4), i + 1);
	}
	unlist(s);
}

static void tear_down(struct graveyard *g, struct space *s)
{
	no_memory = false;
	space_check(s);
	space_done(s);
	for (struct leaf *l = graveyard_take(g), *next; l; l = next) {
		next = l->next;
		leaf_free(g, l);
	}
	graveyard_done(g);
}

static void what_comes_back_is_listed_without_memory(void **state)
{
	struct graveyard g;
	struct space s;

	(void)state;
	set_up(&g, &s, BLOCKS);
	memory_ends();
	for (unsigned i = 0; i < BLOCKS; i++) {
		assert_true(space_ready(&s, page_of(i, 3)));
		space_set_state(&s, page_of(i, 3), PAGE_RESIDENT);
	}
	assert_int_equal(asked, 0);
	assert_int_equal(s.dirty_count, BLOCKS);
	assert_int_equal(s.out_pages, BLOCKS);
	tear_down(&g, &s);
}

static void after_a_fork_spares_are_taken(void **state)
{
	struct space parent, child;
	struct graveyard g;

	(void)state;
	set_up(&g, &parent, BLOCKS);
	space_init(&child, &g, 1);
	steps_unref(space_fork(&parent, &child));
	unlist(&child);
	graveyard_fill(&g);
	memory_ends();
	for (unsigned i = 0; i < BLOCKS; i++) {
		assert_true(space_ready(&child, page_of(i, 3)));
		space_set_state(&child, page_of(i, 3), PAGE_RESIDENT);
	}
	assert_int_equal(asked, 0);
	assert_int_equal(child.out_pages, BLOCKS);
	assert_int_equal(parent.out_pages, 2 * BLOCKS);
	no_memory = false;
	space_check(&child);
	space_done(&child);
	tear_down(&g, &parent);
}

/* New blocks, as for first touches: room for some is kept. */
static void first_touches_find_room(void **state)
{
	struct graveyard g;
	struct space s;

	(void)state;
	set_up(&g, &s, 16); /* exactly full */
	graveyard_fill(&g);
	space_keep_room(&s);
	memory_ends();
	for (unsigned i = 16; i < 16 + 64; i++) {
		assert_true(space_ready(&s, page_of(i, 0)));
		space_set_state(&s, page_of(i, 0), PAGE_RESIDENT);
	}
	assert_int_equal(asked, 0);
	tear_down(&g, &s);
}

static void without_any_nothing_waits(void **state)
{
	struct space parent, child;
	struct graveyard g;
	unsigned ready = 0;

	(void)state;
	set_up(&g, &parent, SPARES + 10);
	space_init(&child, &g, 1);
	steps_unref(space_fork(&parent, &child));
	graveyard_fill(&g);
	memory_ends();
	for (unsigned i = 0; i < SPARES + 10; i++)
		ready += space_ready(&child, page_of(i, 3));
	assert_int_equal(ready, SPARES);
	assert_true(space_ready(&child, page_of(0, 4))); /* those that are its own */
	assert_false(space_ready(&child, page_of(SPARES + 1000, 0)));
	no_memory = false;
	assert_int_equal(child.out_pages, 2 * (SPARES + 10));
	space_check(&child);
	assert_true(space_ready(&child, page_of(SPARES + 5, 3)));
	space_done(&child);
	tear_down(&g, &parent);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_comes_back_is_listed_without_memory),
		cmocka_unit_test(after_a_fork_spares_are_taken),
		cmocka_unit_test(first_touches_find_room),
		cmocka_unit_test(without_any_nothing_waits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
