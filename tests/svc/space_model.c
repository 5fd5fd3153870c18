/* Random operations on a few spaces against a naive model: one array of pages a space. Rules 4
 * to 6 in the small: what an event drops is gone, what a fork shares stays, and every blob is
 * let go of exactly once. The store is a counter of references. */
#include "space.h"
#include "store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { BLOCKS = 4, PAGES = BLOCKS * BLOCK_PAGES, SPACES = 4, STEPS = 4000, BLOBS = 1 << 20 };
static const uint64_t base = 0x7f0000000000;

struct model_page {
	bool registered, suspect;
	enum page_state state;
	blob_t blob;
};

struct world {
	struct graveyard graveyard;
	struct space space[SPACES];
	struct model_page page[SPACES][PAGES];
	bool used[SPACES];
	uint64_t seed;
};

static int references[BLOBS];
static blob_t next_blob;

void store_ref(struct store *s, blob_t b)
{
	(void)s;
	assert_true(b != BLOB_NONE && references[b] > 0);
	references[b]++;
}

static void let_go(blob_t b)
{
	if (b == BLOB_NONE)
		return;
	assert_true(references[b] > 0);
	references[b]--;
}

static uint64_t rnd(struct world *w, uint64_t below)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed % below;
}

static uint64_t addr_of(unsigned page)
{
	return base + page * PAGE_SIZE;
}

static void pick_range(struct world *w, unsigned *from, unsigned *to)
{
	*from = (unsigned)rnd(w, PAGES);
	unsigned most = rnd(w, 4) == 0 ? PAGES : 40;
	*to = *from + 1 + (unsigned)rnd(w, most);
	if (*to > PAGES)
		*to = PAGES;
}

/* The fence is seen down: what is in doubt is asked of the kernel, here of the model. */
static void calm(struct world *w, unsigned s)
{
	for (unsigned i = 0; space_in_doubt(&w->space[s]) && i < PAGES; i++)
		if (!w->page[s][i].registered)
			space_drop_range(&w->space[s], addr_of(i), addr_of(i + 1));
	space_forget_aside(&w->space[s]);
}

static void op_register(struct world *w, unsigned s)
{
	unsigned from, to;
	calm(w, s);
	pick_range(w, &from, &to);
	space_region_add(&w->space[s], addr_of(from), addr_of(to));
	for (unsigned i = from; i < to; i++)
		w->page[s][i].registered = true;
}

static void op_resident(struct world *w, unsigned s)
{
	unsigned i = (unsigned)rnd(w, PAGES);
	calm(w, s);
	if (!w->page[s][i].registered)
		return;
	space_set_state(&w->space[s], addr_of(i), PAGE_RESIDENT);
	w->page[s][i] = (struct model_page){.registered = true, .state = PAGE_RESIDENT};
}

static void op_store(struct world *w, unsigned s)
{
	unsigned from, to;
	calm(w, s);
	pick_range(w, &from, &to);
	for (unsigned i = from; i < to; i++) {
		if (w->page[s][i].state != PAGE_RESIDENT)
			continue;
		uint64_t number = addr_of(i) >> BLOCK_SHIFT;
		struct leaf *leaf = space_leaf(&w->space[s], number);
		let_go(entry_blob(leaf->entry[i % BLOCK_PAGES]));
		blob_t b = ++next_blob;
		references[b] = 1;
		space_set(&w->space[s], number, leaf, i % BLOCK_PAGES,
			entry_make(PAGE_STORED, b));
		w->page[s][i].state = PAGE_STORED;
		w->page[s][i].blob = b;
	}
}

static void op_fault(struct world *w, unsigned s)
{
	unsigned i = (unsigned)rnd(w, PAGES);
	calm(w, s);
	if (!w->page[s][i].registered)
		return;
	space_set_state(&w->space[s], addr_of(i), PAGE_RESIDENT);
	w->page[s][i] = (struct model_page){.registered = true, .state = PAGE_RESIDENT};
}

static void op_remove(struct world *w, unsigned s)
{
	unsigned from, to;
	pick_range(w, &from, &to);
	space_remove(&w->space[s], addr_of(from), addr_of(to));
	for (unsigned i = from; i < to; i++) {
		struct model_page *p = &w->page[s][i];
		if (!p->registered)
			continue;
		if (p->state == PAGE_RESIDENT || p->state == PAGE_ABSENT)
			p->suspect = true;
		p->state = PAGE_ABSENT;
		p->blob = BLOB_NONE;
	}
}

static void op_unmap(struct world *w, unsigned s)
{
	unsigned from, to;
	pick_range(w, &from, &to);
	space_unmap(&w->space[s], addr_of(from), addr_of(to));
	for (unsigned i = from; i < to; i++)
		w->page[s][i] = (struct model_page){.registered = false};
}

/* A move within the range, of a registered run, over a target that was unmapped first. */
static void op_remap(struct world *w, unsigned s)
{
	unsigned from, to, n, target;
	pick_range(w, &from, &to);
	n = (to - from) / 2;
	target = (unsigned)rnd(w, PAGES - n + 1);
	if (n == 0 || (target < from + n && from < target + n))
		return;
	for (unsigned i = from; i < from + n; i++)
		if (!w->page[s][i].registered)
			return;
	space_unmap(&w->space[s], addr_of(target), addr_of(target + n));
	space_remap(&w->space[s], addr_of(from), addr_of(target), n * PAGE_SIZE);
	memcpy(&w->page[s][target], &w->page[s][from], n * sizeof(struct model_page));
	for (unsigned i = from; i < from + n; i++)
		w->page[s][i] = (struct model_page){.registered = true};
	if (rnd(w, 2)) { /* else DONTUNMAP */
		space_unmap(&w->space[s], addr_of(from), addr_of(from + n));
		for (unsigned i = from; i < from + n; i++)
			w->page[s][i].registered = false;
	}
}

static void op_fork(struct world *w, unsigned s)
{
	unsigned child = (unsigned)rnd(w, SPACES);
	if (child == s)
		return;
	if (w->used[child])
		space_done(&w->space[child]);
	space_init(&w->space[child], &w->graveyard, 1);
	/* A fork that follows what was dropped: with the fence down nothing is aside. Others
	 * are in space_birth.c. */
	calm(w, s);
	steps_unref(space_fork(&w->space[s], &w->space[child]));
	space_bear_none(&w->space[child]);
	memcpy(w->page[child], w->page[s], sizeof(w->page[s]));
	w->used[child] = true;
}

static void op_calm(struct world *w, unsigned s)
{
	uint64_t number = (base >> BLOCK_SHIFT) + rnd(w, BLOCKS);
	space_clear_suspects(&w->space[s], number);
	for (unsigned i = 0; i < PAGES; i++)
		if (addr_of(i) >> BLOCK_SHIFT == number)
			w->page[s][i].suspect = false;
}

static void compare(struct world *w, unsigned s)
{
	calm(w, s);
	space_check(&w->space[s]);
	for (unsigned i = 0; i < PAGES; i++) {
		const struct model_page *p = &w->page[s][i];
		uint32_t e = space_entry(&w->space[s], addr_of(i));
		assert_int_equal(entry_state(e), p->state);
		assert_int_equal((e & ENTRY_SUSPECT) != 0, p->suspect);
		assert_int_equal(
			space_region_at(&w->space[s], addr_of(i)) != NULL, p->registered);
		if (p->state == PAGE_STORED) {
			assert_int_equal(entry_value(e), p->blob);
			assert_true(references[p->blob] > 0);
		}
	}
}

static void bury_all(struct world *w)
{
	for (struct leaf *l = graveyard_take(&w->graveyard), *next; l; l = next) {
		next = l->next;
		for (unsigned i = 0; i < BLOCK_PAGES; i++)
			let_go(entry_blob(l->entry[i]));
		leaf_free(&w->graveyard, l);
	}
}

static void run(uint64_t seed)
{
	typedef void op_fn(struct world *, unsigned);
	static op_fn *const op[] = {op_register, op_resident, op_resident, op_store, op_store,
		op_fault, op_remove, op_unmap, op_remap, op_fork, op_calm};
	struct world *w = calloc(1, sizeof(*w));

	print_message("seed %llu\n", (unsigned long long)seed);
	w->seed = seed * 2654435761u + 1;
	memset(references, 0, sizeof(references));
	next_blob = 0;
	graveyard_init(&w->graveyard, NULL);
	space_init(&w->space[0], &w->graveyard, 1);
	w->used[0] = true;
	for (unsigned step = 0; step < STEPS; step++) {
		unsigned s = (unsigned)rnd(w, SPACES);
		if (!w->used[s])
			s = 0;
		op[rnd(w, sizeof(op) / sizeof(op[0]))](w, s);
		if (step % 16 == 0)
			compare(w, s);
		if (rnd(w, 8) == 0)
			calm(w, s);
		if (rnd(w, 64) == 0)
			bury_all(w);
	}
	for (unsigned s = 0; s < SPACES; s++)
		if (w->used[s]) {
			compare(w, s);
			space_done(&w->space[s]);
		}
	bury_all(w);
	assert_int_equal(atomic_load(&w->graveyard.leaves), 0);
	for (blob_t b = 1; b <= next_blob; b++)
		assert_int_equal(references[b], 0);
	free(w);
}

static void random_operations(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 6; seed++)
		run(seed);
	run((uint64_t)time(NULL));
}

/* ---- single behaviours ---- */

static void put_stored(struct space *s, uint64_t addr, blob_t b)
{
	struct leaf *leaf = space_leaf(s, addr >> BLOCK_SHIFT);
	references[b] = 1;
	space_set(s, addr >> BLOCK_SHIFT, leaf, (unsigned)(addr / PAGE_SIZE % BLOCK_PAGES),
		entry_make(PAGE_STORED, b));
}

struct pair {
	struct graveyard g;
	struct space parent, child;
};

static int setup(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));
	memset(references, 0, sizeof(references));
	graveyard_init(&p->g, NULL);
	space_init(&p->parent, &p->g, 1);
	space_init(&p->child, &p->g, 1);
	space_region_add(&p->parent, base, base + 4 * BLOCK_SIZE);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;
	space_done(&p->parent);
	space_done(&p->child);
	for (struct leaf *l = graveyard_take(&p->g), *next; l; l = next) {
		next = l->next;
		leaf_free(&p->g, l);
	}
	free(p);
	return 0;
}

/* A thread that discards and then forks may do both before the fence is seen down. */
static void fork_after_remove_reads_zeros(void **state)
{
	struct pair *p = *state;
	put_stored(&p->parent, base, 7);
	space_remove(&p->parent, base, base + PAGE_SIZE);
	steps_unref(space_fork(&p->parent, &p->child));
	assert_int_equal(entry_state(space_entry(&p->child, base)), PAGE_ABSENT);
}

static void fork_shares_a_leaf_and_change_copies_it(void **state)
{
	struct pair *p = *state;
	put_stored(&p->parent, base, 7);
	steps_unref(space_fork(&p->parent, &p->child));
	assert_ptr_equal(p->parent.block[0].leaf, p->child.block[0].leaf);
	assert_int_equal(references[7], 1); /* one leaf, one reference */
	space_set_state(&p->child, base, PAGE_RESIDENT);
	assert_ptr_not_equal(p->parent.block[0].leaf, p->child.block[0].leaf);
	assert_int_equal(entry_state(space_entry(&p->parent, base)), PAGE_STORED);
}

/* Held pages change soon, for parent and child at different moments. */
static void fork_copies_a_leaf_with_held_pages(void **state)
{
	struct pair *p = *state;
	struct leaf *leaf = space_leaf(&p->parent, base >> BLOCK_SHIFT);
	int tag = space_hold(&p->parent, (struct batch *)p);
	space_set(&p->parent, base >> BLOCK_SHIFT, leaf, 3,
		entry_make(PAGE_HELD, (uint32_t)tag << HELD_SLOT_BITS | 3));
	steps_unref(space_fork(&p->parent, &p->child));
	assert_ptr_not_equal(p->parent.block[0].leaf, p->child.block[0].leaf);
	assert_int_equal(space_held_tag(&p->child, (struct batch *)p), tag);
	assert_int_equal(entry_state(space_entry(&p->child, base + 3 * PAGE_SIZE)), PAGE_HELD);
	space_check(&p->child);
}

static void remap_moves_pages_and_region(void **state)
{
	struct pair *p = *state;
	uint64_t to = base + 64 * BLOCK_SIZE + 3 * PAGE_SIZE;
	put_stored(&p->parent, base + PAGE_SIZE, 9);
	space_remap(&p->parent, base, to, 2 * PAGE_SIZE);
	assert_int_equal(entry_value(space_entry(&p->parent, to + PAGE_SIZE)), 9);
	assert_int_equal(entry_state(space_entry(&p->parent, base + PAGE_SIZE)), PAGE_ABSENT);
	assert_non_null(space_region_at(&p->parent, to + PAGE_SIZE));
	assert_null(space_region_at(&p->parent, to + 2 * PAGE_SIZE));
	assert_non_null(space_region_at(&p->parent, base)); /* until UNMAP says otherwise */
}

/* Rule 6: another thread moved a mapping to where one was just unmapped, and its REMAP is read
 * first. Only the kernel can tell; until then the record stays, and later events change it. */
static void late_unmap_is_doubtful_and_drops_nothing(void **state)
{
	struct pair *p = *state;
	uint64_t to = base + 8 * BLOCK_SIZE, further = base + 32 * BLOCK_SIZE;

	put_stored(&p->parent, base + PAGE_SIZE, 9);
	put_stored(&p->parent, base + 2 * PAGE_SIZE, 11);
	space_remap(&p->parent, base, to, 4 * PAGE_SIZE);
	assert_false(space_in_doubt(&p->parent));
	space_unmap(&p->parent, to, to + 4 * PAGE_SIZE);
	assert_true(space_in_doubt(&p->parent));
	assert_int_equal(entry_value(space_entry(&p->parent, to + PAGE_SIZE)), 9);

	space_remove(&p->parent, to + PAGE_SIZE, to + 2 * PAGE_SIZE);
	assert_int_equal(entry_state(space_entry(&p->parent, to + PAGE_SIZE)), PAGE_ABSENT);
	space_remap(&p->parent, to, further, 4 * PAGE_SIZE);
	assert_int_equal(entry_value(space_entry(&p->parent, further + 2 * PAGE_SIZE)), 11);
	assert_true(space_in_doubt(&p->parent));
	space_forget_aside(&p->parent);
	assert_false(space_in_doubt(&p->parent));
	space_check(&p->parent);
}

/* A program with one thread: what is in doubt is asked of the child's own mappings. */
static void a_child_has_its_parents_doubt(void **state)
{
	struct pair *p = *state;
	uint64_t to = base + 8 * BLOCK_SIZE;

	put_stored(&p->parent, base + PAGE_SIZE, 9);
	space_remap(&p->parent, base, to, 4 * PAGE_SIZE);
	space_unmap(&p->parent, to, to + 4 * PAGE_SIZE);
	steps_unref(space_fork(&p->parent, &p->child));
	space_bear_none(&p->child);
	assert_false(space_in_doubt(&p->child));
	space_inherit_doubt(&p->parent, &p->child);
	assert_true(space_in_doubt(&p->child));
	assert_int_equal(entry_value(space_entry(&p->child, to + PAGE_SIZE)), 9);
	space_drop_range(&p->child, to, to + 4 * PAGE_SIZE);
	space_forget_aside(&p->child);
	assert_int_equal(entry_value(space_entry(&p->parent, to + PAGE_SIZE)), 9);
}

/* Rule 4: what was given back may be registered again before the zap is done. */
static void suspicion_outlives_the_record(void **state)
{
	struct pair *p = *state;

	space_drop_range(&p->parent, base + BLOCK_SIZE, base + BLOCK_SIZE + PAGE_SIZE);
	assert_false(p->parent.strays);
	space_suspect(&p->parent, base, base + PAGE_SIZE);
	space_drop_range(&p->parent, base + PAGE_SIZE, base + 2 * PAGE_SIZE);
	assert_false(p->parent.strays);
	space_drop_range(&p->parent, base, base + PAGE_SIZE);
	assert_true(p->parent.strays);
}

/* Rule 4: memory that is registered and not on record yet is discarded. When it comes on
 * record, the zap may be still to come. */
static void a_discard_off_the_record_is_not_forgotten(void **state)
{
	struct pair *p = *state;
	uint64_t end = p->parent.region[p->parent.region_count - 1].end;

	space_remove(&p->parent, end - PAGE_SIZE, end);
	assert_false(p->parent.strays);
	space_remove(&p->parent, end - PAGE_SIZE, end + PAGE_SIZE);
	assert_true(p->parent.strays);
	put_stored(&p->parent, base + PAGE_SIZE, 9);
	space_suspect(&p->parent, base, base + 4 * PAGE_SIZE);
	assert_int_equal(entry_state(space_entry(&p->parent, base + PAGE_SIZE)), PAGE_STORED);
	assert_true(space_entry(&p->parent, base) & ENTRY_SUSPECT);
	space_check(&p->parent);
}

/* A thread moves a mapping, and another, which has seen that it is there, discards of it: its
 * REMOVE is read first. */
static void a_discard_ahead_of_the_move_is_of_what_comes(void **state)
{
	struct pair *p = *state;
	uint64_t to = base + 8 * BLOCK_SIZE;

	put_stored(&p->parent, base + PAGE_SIZE, 9);
	put_stored(&p->parent, base + 2 * PAGE_SIZE, 11);
	space_set_state(&p->parent, base, PAGE_RESIDENT);
	space_remove(&p->parent, to - PAGE_SIZE, to + 2 * PAGE_SIZE);
	assert_false(space_in_doubt(&p->parent));
	space_remap(&p->parent, base, to, 4 * PAGE_SIZE);
	assert_true(space_in_doubt(&p->parent)); /* nothing is answered with it meanwhile */
	space_forget_aside(&p->parent);
	assert_false(space_in_doubt(&p->parent));
	assert_int_equal(entry_state(space_entry(&p->parent, to + PAGE_SIZE)), PAGE_ABSENT);
	assert_true(space_entry(&p->parent, to) & ENTRY_SUSPECT);
	assert_int_equal(entry_value(space_entry(&p->parent, to + 2 * PAGE_SIZE)), 11);
	space_check(&p->parent);
	/* Of that and nothing else. */
	space_unmap(&p->parent, to, to + PAGE_SIZE);
	space_forget_aside(&p->parent);
	space_remap(&p->parent, to + 2 * PAGE_SIZE, to, PAGE_SIZE);
	assert_false(space_in_doubt(&p->parent));
	assert_int_equal(entry_value(space_entry(&p->parent, to)), 11);
}

/* The same where something else was discarded there (it had grown, or was unmapped by a third
 * thread at the same time), and another thread got its place: what came must stay. The UNMAP
 * that tells may be read first or last. */
static void a_discard_of_what_left_is_not_of_what_comes(void **state)
{
	struct pair *p = *state;
	uint64_t to = base + 8 * BLOCK_SIZE, end = to + 4 * PAGE_SIZE;

	for (int when = 0; when < 3; when++) {
		put_stored(&p->parent, base + PAGE_SIZE, 9);
		if (when == 0)
			space_unmap(&p->parent, to, end);
		space_remove(&p->parent, to, to + 2 * PAGE_SIZE);
		if (when == 1)
			space_unmap(&p->parent, to, end);
		space_remap(&p->parent, base, to, 4 * PAGE_SIZE);
		if (when == 2)
			space_unmap(&p->parent, to, end);
		space_forget_aside(&p->parent);
		assert_int_equal(entry_value(space_entry(&p->parent, to + PAGE_SIZE)), 9);
		space_drop_range(&p->parent, to, end);
	}
}

/* A part of it left. */
static void a_discard_is_of_what_comes_where_nothing_left(void **state)
{
	struct pair *p = *state;
	uint64_t to = base + 8 * BLOCK_SIZE;

	for (unsigned i = 0; i < 4; i++)
		put_stored(&p->parent, base + i * PAGE_SIZE, 9 + i);
	space_remove(&p->parent, to, to + 4 * PAGE_SIZE);
	space_unmap(&p->parent, to + PAGE_SIZE, to + 3 * PAGE_SIZE);
	space_remap(&p->parent, base, to, 4 * PAGE_SIZE);
	space_forget_aside(&p->parent);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(entry_out(space_entry(&p->parent, to + i * PAGE_SIZE)),
			i == 1 || i == 2);
}

/* mremap over a registered target reports UNMAP, then REMAP: what was there before must not
 * come back into the holes of what is there now. */
static void target_of_a_move_gets_nothing_of_what_was_there(void **state)
{
	struct pair *p = *state;
	uint64_t to = base + 2 * BLOCK_SIZE;

	put_stored(&p->parent, base + PAGE_SIZE, 9);
	put_stored(&p->parent, to + 2 * PAGE_SIZE, 11); /* the target's own */
	space_unmap(&p->parent, to, to + 4 * PAGE_SIZE);
	space_remap(&p->parent, base, to, 4 * PAGE_SIZE);
	assert_true(space_in_doubt(&p->parent));
	assert_int_equal(entry_value(space_entry(&p->parent, to + PAGE_SIZE)), 9);
	assert_int_equal(entry_state(space_entry(&p->parent, to + 2 * PAGE_SIZE)), PAGE_ABSENT);
}

static void a_fallen_fence_ends_all_doubt(void **state)
{
	struct pair *p = *state;
	uint64_t to = base + 8 * BLOCK_SIZE;

	space_remap(&p->parent, base, to, PAGE_SIZE);
	space_forget_aside(&p->parent); /* the fence was seen down */
	space_unmap(&p->parent, to, to + PAGE_SIZE);
	assert_false(space_in_doubt(&p->parent));
}

static void more_events_than_can_be_noted_leave_everything_in_doubt(void **state)
{
	struct pair *p = *state;

	for (unsigned i = 0; i <= DOUBT_MAX; i++)
		space_unmap(
			&p->parent, base + 2 * i * PAGE_SIZE, base + (2 * i + 1) * PAGE_SIZE);
	assert_true(space_in_doubt(&p->parent));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(fork_after_remove_reads_zeros),
		T(fork_shares_a_leaf_and_change_copies_it),
		T(fork_copies_a_leaf_with_held_pages),
		T(remap_moves_pages_and_region),
		T(late_unmap_is_doubtful_and_drops_nothing),
		T(a_child_has_its_parents_doubt),
		T(suspicion_outlives_the_record),
		T(a_discard_off_the_record_is_not_forgotten),
		T(a_discard_ahead_of_the_move_is_of_what_comes),
		T(a_discard_of_what_left_is_not_of_what_comes),
		T(a_discard_is_of_what_comes_where_nothing_left),
		T(target_of_a_move_gets_nothing_of_what_was_there),
		T(a_fallen_fence_ends_all_doubt),
		T(more_events_than_can_be_noted_leave_everything_in_doubt),
		cmocka_unit_test(random_operations),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
