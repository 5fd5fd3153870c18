/* mremap. */
#include "calls.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	RW = PROT_READ | PROT_WRITE,
	PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS,
	MOVE = MREMAP_MAYMOVE | MREMAP_FIXED,
	FAR = 4096, /* the arena page that things are moved to */
};
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* Watches what was moved, also when it lies in the arena. */
static void moved(struct test *t, char *at, size_t pages)
{
	if (at != MAP_FAILED)
		watch(t, at, pages);
}

static void room_behind(struct test *t)
{
	map_default(t);
	munmap(t->base + PAGES * PAGE, 2 * PAGES * PAGE);
}

/* Of different kinds, so that they never merge. */
static void three_kinds(struct test *t)
{
	map_new(t, t->base, 100);
	map_new(t, t->base + 100 * PAGE, 100);
	map_new(t, t->base + 200 * PAGE, 100);
	madvise(t->base + 100 * PAGE, 100 * PAGE, MADV_DONTDUMP);
}

static void three_and_a_hole(struct test *t)
{
	three_kinds(t);
	munmap(t->base + 190 * PAGE, 10 * PAGE);
	t->watch[1].pages = 90;
}

/* One mapping, of which a part was mapped when the other had pages already. */
static void two_times(struct test *t)
{
	map_new(t, t->base, PAGES);
}

static void map_second(struct test *t)
{
	do_mmap(t, t->base + PAGES * PAGE, 100 * PAGE, RW, PRIVATE | MAP_FIXED, -1);
	for (size_t i = 0; i < 100; i += 2)
		write_page(t, t->base + (PAGES + i) * PAGE, (uint32_t)(7000 + i));
}

static void and_a_target(struct test *t)
{
	map_new(t, t->base, PAGES);
	map_new(t, arena_page(FAR), PAGES + 64);
}

static void grow_here(struct test *t)
{
	do_mremap(t, t->base, PAGES * PAGE, 2 * PAGES * PAGE, 0, NULL);
	watch(t, t->base + PAGES * PAGE, PAGES);
	write_page(t, t->base + (PAGES + 9) * PAGE, 7000);
}

static void grow_here_moved(struct test *t)
{
	grow_here(t);
	evict_again(t);
	moved(t,
		do_mremap(
			t, t->base + 100 * PAGE, 300 * PAGE, 300 * PAGE, MOVE, arena_page(FAR)),
		300);
}

static void grow_here_end(struct test *t)
{
	grow_here(t);
	evict_again(t);
	moved(t,
		do_mremap(t, t->base + (PAGES + 1) * PAGE, 100 * PAGE, 100 * PAGE, MOVE,
			arena_page(FAR)),
		100);
}

static void grow_part_here(struct test *t)
{
	do_mremap(t, t->base + 100 * PAGE, (PAGES - 100) * PAGE, PAGES * PAGE, 0, NULL);
	watch(t, t->base + PAGES * PAGE, 100);
}

static void grow_blocked(struct test *t)
{
	do_mremap(t, t->base, PAGES * PAGE, 2 * PAGES * PAGE, 0, NULL);
}

static void grow_away(struct test *t)
{
	moved(t, do_mremap(t, t->base, PAGES * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE, NULL),
		2 * PAGES);
}

static void grow_to(struct test *t)
{
	moved(t, do_mremap(t, t->base, PAGES * PAGE, 2 * PAGES * PAGE, MOVE, arena_page(FAR)),
		2 * PAGES);
}

static void grow_part(struct test *t)
{
	moved(t,
		do_mremap(t, t->base + 50 * PAGE, 100 * PAGE, 150 * PAGE, MREMAP_MAYMOVE, NULL),
		150);
}

static void shrink(struct test *t)
{
	do_mremap(t, t->base, PAGES * PAGE, 100 * PAGE, 0, NULL);
}

static void shrink_to(struct test *t)
{
	moved(t, do_mremap(t, t->base, PAGES * PAGE, 100 * PAGE, MOVE, arena_page(FAR)), 100);
}

static void shrink_and_grow(struct test *t)
{
	do_mremap(t, t->base, PAGES * PAGE, 100 * PAGE, MREMAP_MAYMOVE, NULL);
	do_mremap(t, t->base, 100 * PAGE, PAGES * PAGE, 0, NULL);
}

static void move(struct test *t)
{
	moved(t, do_mremap(t, t->base, PAGES * PAGE, PAGES * PAGE, MOVE, arena_page(FAR)),
		PAGES);
}

static void move_odd(struct test *t)
{
	moved(t,
		do_mremap(
			t, t->base, PAGES * PAGE - 9, PAGES * PAGE - 7, MOVE, arena_page(FAR)),
		PAGES);
}

/* One page to the side in its block, so that no page keeps its place. */
static void move_askew(struct test *t)
{
	moved(t, do_mremap(t, t->base, PAGES * PAGE, PAGES * PAGE, MOVE, arena_page(FAR + 77)),
		PAGES);
}

static void move_part(struct test *t)
{
	moved(t,
		do_mremap(
			t, t->base + 60 * PAGE, 130 * PAGE, 130 * PAGE, MOVE, arena_page(FAR)),
		130);
}

static void move_back(struct test *t)
{
	char *to = arena_page(FAR + 3);

	do_mremap(t, t->base + 60 * PAGE, 130 * PAGE, 130 * PAGE, MOVE, to);
	write_page(t, to + 5 * PAGE, 7000);
	evict_again(t);
	do_mremap(t, to, 130 * PAGE, 130 * PAGE, MOVE, t->base + 60 * PAGE);
}

static void move_and_map(struct test *t)
{
	move(t);
	do_mmap(t, t->base, PAGES * PAGE, RW, PRIVATE | MAP_FIXED, -1);
	write_page(t, t->base + 30 * PAGE, 7000);
}

static void move_over(struct test *t)
{
	do_mremap(t, t->base, PAGES * PAGE, PAGES * PAGE, MOVE, arena_page(FAR + 20));
}

static void move_chain(struct test *t)
{
	do_mremap(t, t->base, PAGES * PAGE, PAGES * PAGE, MOVE, arena_page(FAR + 20));
	evict_again(t);
	do_mremap(t, arena_page(FAR), 100 * PAGE, 100 * PAGE, MOVE, t->base);
	do_mremap(t, arena_page(FAR + 100), 50 * PAGE, 50 * PAGE, MOVE, arena_page(FAR + 1000));
	watch(t, arena_page(FAR + 1000), 50);
}

static void stay_behind(struct test *t)
{
	moved(t,
		do_mremap(t, t->base, PAGES * PAGE, PAGES * PAGE,
			MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL),
		PAGES);
	absent(t, t->base, PAGES);
	write_page(t, t->base + 6 * PAGE, 7000);
}

static void stay_behind_part(struct test *t)
{
	moved(t,
		do_mremap(t, t->base + 33 * PAGE, 130 * PAGE, 130 * PAGE,
			MOVE | MREMAP_DONTUNMAP, arena_page(FAR)),
		130);
	evict_again(t);
	do_mremap(t, arena_page(FAR), 130 * PAGE, 130 * PAGE, MOVE, t->base + 20 * PAGE);
}

static void stay_behind_over(struct test *t)
{
	do_mremap(t, t->base, PAGES * PAGE, PAGES * PAGE, MOVE | MREMAP_DONTUNMAP,
		arena_page(FAR + 20));
}

static void move_several(struct test *t)
{
	moved(t, do_mremap(t, t->base, 300 * PAGE, 300 * PAGE, MOVE, arena_page(FAR)), 300);
}

static void move_several_part(struct test *t)
{
	moved(t,
		do_mremap(t, t->base + 30 * PAGE, 200 * PAGE, 200 * PAGE, MOVE,
			arena_page(FAR + 9)),
		200);
}

static void move_several_behind(struct test *t)
{
	moved(t,
		do_mremap(t, t->base, 300 * PAGE, 300 * PAGE, MOVE | MREMAP_DONTUNMAP,
			arena_page(FAR)),
		300);
}

static void several_refused(struct test *t)
{
	do_mremap(t, t->base, 300 * PAGE, 300 * PAGE, MREMAP_MAYMOVE, NULL);
	do_mremap(t, t->base, 300 * PAGE, 300 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	do_mremap(t, t->base, 300 * PAGE, 280 * PAGE, MOVE, arena_page(FAR));
}

static void grow_several(struct test *t)
{
	moved(t, do_mremap(t, t->base, 300 * PAGE, 400 * PAGE, MOVE, arena_page(FAR)), 400);
}

static void shrink_several(struct test *t)
{
	do_mremap(t, t->base, 300 * PAGE, 70 * PAGE, 0, NULL);
}

static void grow_two_times(struct test *t)
{
	map_second(t);
	moved(t, do_mremap(t, t->base, (PAGES + 100) * PAGE, 450 * PAGE, MREMAP_MAYMOVE, NULL),
		450);
}

static void move_two_times(struct test *t)
{
	map_second(t);
	moved(t,
		do_mremap(t, t->base, (PAGES + 100) * PAGE, (PAGES + 100) * PAGE, MOVE,
			arena_page(FAR)),
		PAGES + 100);
}

static void behind_two_times(struct test *t)
{
	map_second(t);
	moved(t,
		do_mremap(t, t->base, (PAGES + 100) * PAGE, (PAGES + 100) * PAGE,
			MOVE | MREMAP_DONTUNMAP, arena_page(FAR)),
		PAGES + 100);
}

static void locked(struct test *t)
{
	do_mlock(t, t->base + 20 * PAGE, 100 * PAGE);
	moved(t,
		do_mremap(t, t->base + 20 * PAGE, 100 * PAGE, 150 * PAGE, MREMAP_MAYMOVE, NULL),
		150);
	absent(t, t->watch[t->watches - 1].at, 150);
	munlockall();
}

static void refused(struct test *t)
{
	const size_t all = PAGES * PAGE;

	do_mremap(t, t->base + 1, all, all, MREMAP_MAYMOVE, NULL);
	do_mremap(t, t->base, all, 0, MREMAP_MAYMOVE, NULL);
	do_mremap(t, t->base, 0, all, MREMAP_MAYMOVE, NULL);
	do_mremap(t, t->base, all, all, MREMAP_FIXED, arena_page(FAR));
	do_mremap(t, t->base, all, all, MOVE, arena_page(FAR) + 1);
	do_mremap(t, t->base, all, all, MOVE, t->base + 10 * PAGE);
	do_mremap(t, t->base, all, 2 * all, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	do_mremap(t, t->base, all, all, 64, NULL);
	do_mremap(t, arena_page(FAR + 9), all, ~(size_t)0, MREMAP_MAYMOVE, NULL);
	munmap(arena_page(FAR), 2 * all);
	do_mremap(t, arena_page(FAR), all, all, MREMAP_MAYMOVE, NULL);
	munmap(t->base + PAGES * PAGE, all);
	do_mremap(t, t->base, 2 * all, 3 * all, MREMAP_MAYMOVE, NULL);
}

static const struct act acts[] = {
	{"mremap-grow-here", "in place", room_behind, grow_here, NULL, ACT_RAW, 0, 0},
	{"mremap-grow-here-moved", "in place, then moved over the old end", room_behind,
		grow_here_moved, NULL, ACT_RAW, 0, 0},
	{"mremap-grow-here-end", "in place, then only what grew is moved", room_behind,
		grow_here_end, NULL, ACT_RAW, 0, 0},
	{"mremap-grow-part-here", "its last part, in place", room_behind, grow_part_here, NULL,
		ACT_RAW, 0, 0},
	{"mremap-grow-blocked", "ENOMEM", NULL, grow_blocked, NULL, ACT_RAW, 0, 0},
	{"mremap-grow", "wherever there is room", NULL, grow_away, NULL, ACT_RAW, 0, 0},
	{"mremap-grow-to", "at a place", NULL, grow_to, NULL, ACT_RAW, 0, 0},
	{"mremap-grow-part", "a part out of the middle", NULL, grow_part, NULL, ACT_RAW, 0, 0},
	{"mremap-shrink", "in place", NULL, shrink, NULL, ACT_RAW, 0, 0},
	{"mremap-shrink-to", "at a place", NULL, shrink_to, NULL, ACT_RAW, 0, 0},
	{"mremap-shrink-grow", "and what grows again is zeros", room_behind, shrink_and_grow,
		NULL, ACT_RAW, 0, 0},
	{"mremap-move", "to a place", NULL, move, NULL, ACT_RAW, 0, 0},
	{"mremap-move-odd", "lengths that aren't of pages", NULL, move_odd, NULL, ACT_RAW, 0,
		0},
	{"mremap-move-askew", "to another place in a block", NULL, move_askew, NULL, ACT_RAW, 0,
		0},
	{"mremap-move-part", "a part out of the middle", NULL, move_part, NULL, ACT_RAW, 0, 0},
	{"mremap-move-back", "there, evicted, and back", NULL, move_back, NULL, ACT_RAW, 0, 0},
	{"mremap-move-map", "and mapped anew where it was", NULL, move_and_map, NULL, ACT_RAW,
		0, 0},
	{"mremap-move-over", "onto another", and_a_target, move_over, NULL, ACT_RAW, 0, 0},
	{"mremap-move-chain", "onto another, whose rest goes on", and_a_target, move_chain,
		NULL, ACT_RAW, 0, 0},
	{"mremap-dontunmap", "the source stays, empty", NULL, stay_behind, NULL, ACT_RAW, 0, 0},
	{"mremap-dontunmap-part", "of a part, and back onto it", NULL, stay_behind_part, NULL,
		ACT_RAW, 0, 0},
	{"mremap-dontunmap-over", "onto another", and_a_target, stay_behind_over, NULL, ACT_RAW,
		0, 0},
	{"mremap-several", "three mappings", three_kinds, move_several, NULL, 0, 0, 0},
	{"mremap-several-hole", "and a hole", three_and_a_hole, move_several, NULL, 0, 0, 0},
	{"mremap-several-part", "parts of three", three_kinds, move_several_part, NULL, 0, 0,
		0},
	{"mremap-several-dontunmap", "the sources stay", three_kinds, move_several_behind, NULL,
		0, 0, 0},
	{"mremap-several-refused", "what can't be done to several", three_kinds,
		several_refused, NULL, 0, 0, 0},
	{"mremap-several-grow", "EFAULT", three_kinds, grow_several, NULL, ACT_RAW, 0, 0},
	{"mremap-several-shrink", "to the first", three_kinds, shrink_several, NULL, ACT_RAW, 0,
		0},
	{"mremap-twice-grow", "mapped in two steps", two_times, grow_two_times, NULL, 0, 0, 0},
	{"mremap-twice-move", "mapped in two steps", two_times, move_two_times, NULL, 0, 0, 0},
	{"mremap-twice-dontunmap", "mapped in two steps", two_times, behind_two_times, NULL, 0,
		0, 0},
	{"mremap-locked", "what is locked grows", NULL, locked, NULL, 0, 0, 0},
	{"mremap-refused", "all kinds of nonsense", NULL, refused, NULL, ACT_RAW, 0, 0},
};

struct acts acts_mremap(void)
{
	return (struct acts){acts, sizeof(acts) / sizeof(acts[0])};
}
