/* mremap onto registered memory, of which the UNMAP isn't read yet: nothing of what was there
 * is found afterwards, also where the source had nothing (DESIGN rule 6). */
#include "space.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const uint64_t from = 0x7f0000000000, to = 0x7f0010000000;

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

static void store(struct space *s, uint64_t addr, blob_t blob)
{
	uint64_t number = addr >> BLOCK_SHIFT;

	space_set(s, number, space_leaf(s, number), (unsigned)(addr / PAGE_SIZE % BLOCK_PAGES),
		entry_make(PAGE_STORED, blob));
}

static void the_target_keeps_nothing(void **state)
{
	struct graveyard g;
	struct space s;

	(void)state;
	graveyard_init(&g, NULL);
	space_init(&s, &g, 1);
	space_region_add(&s, from, from + 2 * BLOCK_SIZE);
	space_region_add(&s, to, to + 2 * BLOCK_SIZE);
	store(&s, from + 3 * PAGE_SIZE, 9);
	store(&s, to + 3 * PAGE_SIZE, 6);
	store(&s, to + 5 * PAGE_SIZE, 7);
	store(&s, to + BLOCK_SIZE, 8);
	space_remap(&s, from, to, 2 * BLOCK_SIZE);
	assert_int_equal(entry_value(space_entry(&s, to + 3 * PAGE_SIZE)), 9);
	assert_int_equal(entry_state(space_entry(&s, to + 5 * PAGE_SIZE)), PAGE_ABSENT);
	assert_int_equal(entry_state(space_entry(&s, to + BLOCK_SIZE)), PAGE_ABSENT);
	assert_int_equal(entry_state(space_entry(&s, from + 3 * PAGE_SIZE)), PAGE_ABSENT);
	space_check(&s);
	space_done(&s);
	for (struct leaf *l = graveyard_take(&g), *next; l; l = next) {
		next = l->next;
		leaf_free(&g, l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_target_keeps_nothing)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
