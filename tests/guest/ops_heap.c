/* Operations on blocks of malloc: small enough ones make the C library move brk, larger ones
 * make it mmap, mremap and munmap. */
#include "guest.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

enum { BRK_PAGES = 256 }; /* most that one call asks for */

static struct area *adopt(struct worker *w, char *at, size_t pages)
{
	struct area *a = area_add(w, at, pages);

	a->kind = AREA_HEAP;
	return a;
}

/* malloc promises no contents, so all is written; calloc promises zeros. */
bool op_malloc(struct worker *w)
{
	size_t pages = size_pick(w);
	bool zeroed = random_one_in(w, 3);

	if (!has_room(w, pages))
		return false;
	char *at = zeroed ? calloc(pages, PAGE) : malloc(pages * PAGE);
	if (!at)
		return false;
	struct area *a = adopt(w, at, pages);
	note(w, a, OP_malloc, 0, pages);
	if (zeroed) {
		area_check_some(w, a, 8);
		area_fill(w, a, 0, pages / 2);
		return true;
	}
	for (size_t i = 0; i < pages; i++)
		page_write(w, a, i);
	return true;
}

bool op_realloc(struct worker *w)
{
	struct area *a = area_pick(w, WANT_HEAP);
	size_t pages = size_pick(w);

	if (!a || !has_room(w, pages))
		return false;
	size_t old = a->pages;
	if (pages < old)
		range_farewell(w, a, pages, old - pages);
	char *at = realloc(a->at, pages * PAGE);
	if (!at)
		return false;
	a->at = at;
	area_resize(w, a, pages);
	note(w, a, OP_realloc, old < pages ? old : pages, pages);
	for (size_t i = old; i < pages; i++)
		page_write(w, a, i);
	area_check_some(w, a, 8);
	return true;
}

bool op_release(struct worker *w)
{
	struct area *a = area_pick(w, WANT_HEAP);

	if (!a)
		return false;
	range_farewell(w, a, 0, a->pages);
	area_free(w, a);
	if (random_one_in(w, 4))
		malloc_trim(0);
	return true;
}

/* ---- brk ---- */

/* malloc in another thread could move the end between our look at it and our call. */
static bool brk_is_ours(const struct worker *w)
{
	return w->depth > 0 || w->options->threads == 1;
}

static bool brk_new(struct worker *w)
{
	size_t pages = 1 + random_below(w, BRK_PAGES);
	size_t gap = -(size_t)sbrk(0) % PAGE;

	if (!has_room(w, pages))
		return false;
	char *at = sbrk((intptr_t)(gap + pages * PAGE));
	if (at == (void *)-1)
		return false;
	struct area *a = area_add(w, at + gap, pages);
	a->kind = AREA_BRK;
	a->uniform = false;
	note(w, a, OP_brk, 0, pages);
	area_touch_first(w, a);
	area_fill(w, a, 0, pages);
	return true;
}

static bool brk_up(struct worker *w, struct area *a)
{
	size_t old = a->pages, more = 1 + random_below(w, BRK_PAGES);

	if (!has_room(w, more) || sbrk((intptr_t)(more * PAGE)) == (void *)-1)
		return false;
	area_resize(w, a, old + more);
	note(w, a, OP_brk, old, more);
	area_check_some(w, a, 4);
	area_fill(w, a, old, more);
	return true;
}

static bool brk_down(struct worker *w, struct area *a)
{
	size_t less = 1 + random_below(w, a->pages), left = a->pages - less;

	range_farewell(w, a, left, less);
	if (sbrk(-(intptr_t)(less * PAGE)) == (void *)-1)
		fail_call(w, a, "brk", errno);
	note(w, a, OP_brk, left, less);
	area_cut(w, a, left, less);
	return true;
}

/* What malloc has built upon in the meantime is given up. */
bool op_brk(struct worker *w)
{
	struct area *a = area_pick(w, WANT_BRK);

	if (!brk_is_ours(w))
		return false;
	if (!a)
		return brk_new(w);
	area_settle(w, a);
	if (sbrk(0) != a->at + a->pages * PAGE) {
		range_farewell(w, a, 0, a->pages);
		area_free(w, a);
		return brk_new(w);
	}
	return random_one_in(w, 2) ? brk_up(w, a) : brk_down(w, a);
}
