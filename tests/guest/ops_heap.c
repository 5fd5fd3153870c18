/* Operations on blocks of malloc: small enough ones make the C library move brk, larger ones
 * make it mmap, mremap and munmap. */
#include "guest.h"

#include <malloc.h>
#include <stdlib.h>

static struct area *adopt(struct worker *w, char *at, size_t pages)
{
	struct area *a = area_add(w, at, pages);

	a->heap = true;
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
