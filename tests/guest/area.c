/* Areas: their model, and which one is worked on next. */
#include "guest.h"

#include "advice.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static void *must_alloc(void *p)
{
	if (!p) {
		dprintf(2, "guest: out of memory\n");
		_exit(2);
	}
	return p;
}

void note(struct worker *w, struct area *a, enum op op, size_t first, size_t count)
{
	struct event e = {.serial = w->serial,
		.first = (uint32_t)first,
		.count = (uint32_t)count,
		.op = (uint8_t)op};

	a->history[a->events++ % HISTORY] = e;
	w->last = e;
	w->last_area = a;
	a->split |= op > OP_poke && count < a->pages;
	trace_area(w, a, first, count);
}

bool has_room(const struct worker *w, size_t pages)
{
	return w->area_count + 2 <= AREAS_MAX && w->pages + pages <= w->pages_max;
}

/* ---- the model ---- */

static void pages_init(struct worker *w, struct page *p, size_t count)
{
	for (size_t i = 0; i < count; i++)
		p[i] = (struct page){.id = ++w->next_id};
}

/* Half of the areas are always in use; the others rest, so that there are cold pages. */
static unsigned choose_cold(struct worker *w)
{
	static const unsigned cold[] = {0, 0, 0, 0, 5, 8, 10, 12};

	return cold[random_below(w, sizeof(cold) / sizeof(cold[0]))];
}

struct area *area_add(struct worker *w, char *at, size_t pages)
{
	struct area *a = must_alloc(calloc(1, sizeof(*a)));

	a->at = at;
	a->pages = pages;
	a->page = must_alloc(malloc(pages * sizeof(*a->page)));
	a->number = (uint32_t)mix(w->seed + ((uint64_t)++w->areas_made << 32));
	a->uniform = true;
	a->cold = choose_cold(w);
	pages_init(w, a->page, pages);
	w->areas[w->area_count++] = a;
	w->pages += pages;
	return a;
}

void area_drop(struct worker *w, struct area *a)
{
	for (size_t i = 0; i < w->area_count; i++)
		if (w->areas[i] == a)
			w->areas[i] = w->areas[--w->area_count];
	w->pages -= a->pages;
	if (w->last_area == a)
		w->last_area = NULL;
	free(a->page);
	free(a);
}

void area_resize(struct worker *w, struct area *a, size_t pages)
{
	a->page = must_alloc(realloc(a->page, pages * sizeof(*a->page)));
	if (pages > a->pages)
		pages_init(w, a->page + a->pages, pages - a->pages);
	w->pages += pages - a->pages;
	a->pages = pages;
}

void area_cut(struct worker *w, struct area *a, size_t first, size_t count)
{
	size_t after = first + count, tail = a->pages - after;

	if (tail > 0 && first > 0) {
		struct area *t = area_add(w, a->at + after * PAGE, tail);
		struct page *page = t->page;
		uint32_t number = t->number;
		memcpy(page, a->page + after, tail * sizeof(*page));
		*t = *a; /* with flags and history */
		t->page = page;
		t->at = a->at + after * PAGE;
		t->pages = tail;
		t->number = number;
	} else if (tail > 0) {
		memmove(a->page, a->page + after, tail * sizeof(*a->page));
		a->at += after * PAGE;
		first = tail;
	}
	if (first == 0)
		area_drop(w, a);
	else
		area_resize(w, a, first);
}

struct area *area_part(struct worker *w, struct area *a, size_t first, size_t count, char *at)
{
	struct area *part = area_add(w, at, count);

	memcpy(part->page, a->page + first, count * sizeof(*part->page));
	part->uniform = a->uniform;
	part->split = a->split;
	part->advised = a->advised;
	part->moved = a->moved;
	return part;
}

void range_zeroed(struct area *a, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++)
		page_zeroed(&a->page[i]);
}

/* A new mapping merges with what is on either side only if that is all of one piece, and has
 * its page offsets from where it was mapped first. */
void range_replaced(struct worker *w, struct area *a, size_t first, size_t count)
{
	range_zeroed(a, first, count);
	if (count == a->pages) {
		a->uniform = true;
		a->moved = a->advised = false;
		area_touch_first(w, a);
	} else if (first == 0 || first + count == a->pages || a->moved || a->advised ||
		   w->depth > 0) {
		a->uniform = false;
	}
}

/* ---- memory ---- */

/* The first write gives the kernel's mapping its anon_vma. Were it first split (by mprotect,
 * say), the pieces could get different ones, and never merge again. */
void area_touch_first(struct worker *w, struct area *a)
{
	page_check(w, a, 0);
	page_write(w, a, 0);
}

struct area *area_map(struct worker *w, size_t pages)
{
	char *at = mmap(
		NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	struct area *a = area_add(w, at, pages);
	area_touch_first(w, a);
	return a;
}

/* Mostly a few pages, now and then most; the others wait for their first touch. */
void area_fill(struct worker *w, struct area *a, size_t first, size_t count)
{
	size_t most = count > 64 && !random_one_in(w, 4) ? 64 : count;
	size_t from = first + random_below(w, count - most + 1);

	for (size_t i = from; i < from + most; i++)
		if (!random_one_in(w, 8))
			page_write(w, a, i);
}

/* Only the top of what brk made can be given back. What lies under a block of malloc is emptied
 * and left there. */
static void free_brk(struct worker *w, struct area *a)
{
	size_t bytes = a->pages * PAGE;

	if (sbrk(0) == a->at + bytes ? sbrk(-(intptr_t)bytes) == (void *)-1
				     : madvise(a->at, bytes, MADV_DONTNEED) < 0)
		fail_call(w, a, "brk", errno);
}

void area_free(struct worker *w, struct area *a)
{
	trace_area(w, a, 0, a->pages);
	if (a->kind == AREA_BRK)
		free_brk(w, a);
	else if (a->kind == AREA_HEAP)
		free(a->at);
	else if (munmap(a->at, a->pages * PAGE) < 0)
		fail_call(w, a, "munmap", errno);
	area_drop(w, a);
}

static bool is_limited(const struct area *a, size_t i)
{
	return a->access != ACCESS_ALL && i >= a->access_first &&
	       i - a->access_first < a->access_count;
}

bool may_read(const struct area *a, size_t i)
{
	return !is_limited(a, i) || a->access == ACCESS_READ;
}

bool may_write(const struct area *a, size_t i)
{
	return !is_limited(a, i);
}

void area_check(struct worker *w, struct area *a)
{
	for (size_t i = 0; i < a->pages; i++)
		if (may_read(a, i))
			page_check(w, a, i);
}

void area_check_some(struct worker *w, struct area *a, size_t count)
{
	for (; count > 0; count--) {
		size_t i = random_below(w, a->pages);
		if (may_read(a, i))
			page_check(w, a, i);
	}
}

/* What is about to be thrown away is mostly verified before: else nobody would ever look. Not
 * always, so that pages are also thrown away that nobody has touched for long. */
void range_farewell(struct worker *w, struct area *a, size_t first, size_t count)
{
	size_t looks = random_one_in(w, 16) || w->options->sabotage >= 0 ? count : 6;

	if (random_one_in(w, 3))
		return;
	for (size_t n = 0; n < looks && n < count; n++) {
		size_t i = looks == count ? first + n : first + random_below(w, count);
		if (may_read(a, i))
			page_check(w, a, i);
	}
}

/* Without access the kernel can't read for us either. */
static void check_no_access(struct worker *w, struct area *a)
{
	char byte;
	size_t i = a->access_first + random_below(w, a->access_count);
	struct iovec here = {&byte, 1}, there = {a->at + i * PAGE, 1};

	if (process_vm_readv(getpid(), &here, 1, &there, 1, 0) == 1)
		fail_call(w, a, "reading a page without access", 0);
}

void area_settle(struct worker *w, struct area *a)
{
	char *at = a->at + a->access_first * PAGE;
	size_t bytes = a->access_count * PAGE;

	if (a->access == ACCESS_ALL)
		return;
	if (a->access != ACCESS_READ)
		check_no_access(w, a);
	if (a->access == ACCESS_GUARDED ? madvise(at, bytes, MADV_GUARD_REMOVE) < 0
					: mprotect(at, bytes, PROT_READ | PROT_WRITE) < 0)
		fail_call(w, a, "giving access back", errno);
	a->access = ACCESS_ALL;
	note(w, a, OP_settle, a->access_first, a->access_count);
	page_check(w, a, a->access_first);
}

/* ---- choosing ---- */

static bool is_wanted(const struct area *a, enum want want)
{
	static const bool wanted[][3] = {
		[WANT_ANY] = {true, true, true},
		[WANT_MAP] = {[AREA_MAP] = true},
		[WANT_HEAP] = {[AREA_HEAP] = true},
		[WANT_BRK] = {[AREA_BRK] = true},
		[WANT_RANGE] = {[AREA_MAP] = true, [AREA_BRK] = true},
	};

	return wanted[want][a->kind];
}

/* The area with the highest hash: which of two it is doesn't depend on any other. */
static struct area *pick(struct worker *w, enum want want, bool resting)
{
	uint64_t salt = mix(w->seed + ((uint64_t)++w->picks << 40)), highest = 0;
	struct area *best = NULL;

	for (size_t i = 0; i < w->area_count; i++) {
		struct area *a = w->areas[i];
		uint64_t hash = mix(salt ^ a->number);
		bool rests = !resting && (hash & ((1u << a->cold) - 1)) != 0;
		if (!rests && is_wanted(a, want) && hash >= highest) {
			highest = hash;
			best = a;
		}
	}
	return best;
}

/* In a child all are to be used, also those that the parent leaves alone for long. */
struct area *area_pick(struct worker *w, enum want want)
{
	struct area *a = pick(w, want, w->depth > 0);

	if (a && a->cold > 0 && w->depth == 0) {
		note(w, a, OP_wake, 0, a->pages);
		if (random_one_in(w, 8))
			area_check(w, a);
	}
	return a;
}

/* By choices of its own, so that those of the step don't depend on how much there is. */
void make_room(struct worker *w)
{
	unsigned picks = w->picks;
	uint64_t random = w->random;

	w->picks = 1000;
	w->random = mix(random);
	for (unsigned n = 0; n < 4; n++) {
		if (w->area_count + 12 <= AREAS_MAX && w->pages <= w->pages_max / 8 * 7)
			break;
		struct area *a = pick(w, n < 3 ? WANT_MAP : WANT_HEAP, true);
		if (!a)
			continue;
		area_settle(w, a);
		range_farewell(w, a, 0, a->pages);
		area_free(w, a);
	}
	w->picks = picks;
	w->random = random;
}

void range_pick(struct worker *w, const struct area *a, size_t *ret_first, size_t *ret_count)
{
	size_t most = random_one_in(w, 2) && a->pages > 8 ? 8 : a->pages;
	size_t count = random_one_in(w, 10) ? a->pages : 1 + random_below(w, most);

	*ret_count = count;
	*ret_first = random_below(w, a->pages - count + 1);
}

/* Small ones are many, and some have room for huge pages. */
size_t size_pick(struct worker *w)
{
	switch (random_below(w, 16)) {
	case 0:
		return 512 + random_below(w, 1536);
	case 1:
	case 2:
	case 3:
		return 64 + random_below(w, 448);
	default:
		return 1 + random_below(w, 64);
	}
}
