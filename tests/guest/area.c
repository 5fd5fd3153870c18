/* Areas: their model, and which one is worked on next. */
#include "guest.h"

#include "advice.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { REST_MAX_US = 20000000 }; /* several times any sensible age of "cold" in a test */

uint64_t clock_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

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

struct area *area_add(struct worker *w, char *at, size_t pages)
{
	struct area *a = must_alloc(calloc(1, sizeof(*a)));

	a->at = at;
	a->pages = pages;
	a->page = must_alloc(malloc(pages * sizeof(*a->page)));
	a->number = ++w->next_area;
	a->uniform = true;
	a->cold = random_one_in(w, 2);
	a->uses = 16 + (uint32_t)random_below(w, 64);
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
		uint64_t number = t->number;
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

/* Most pages are written; the others wait for their first touch. */
void area_fill(struct worker *w, struct area *a, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++)
		if (!random_one_in(w, 8))
			page_write(w, a, i);
}

void area_free(struct worker *w, struct area *a)
{
	if (a->heap)
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
	if (random_one_in(w, 3))
		return;
	for (size_t i = first; i < first + count; i++)
		if (may_read(a, i))
			page_check(w, a, i);
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

/* A cold area is left alone for a while after some uses, then verified whole. In a child all
 * are to be used: it has no time to wait. */
static bool is_awake(struct worker *w, struct area *a)
{
	uint64_t third = w->options->seconds * 1000000 / 3;
	uint64_t most = third < REST_MAX_US ? third : REST_MAX_US;

	if (w->depth > 0 || !a->cold)
		return true;
	if (a->resting_until > w->now)
		return false;
	if (a->resting_until != 0) {
		a->resting_until = 0;
		a->uses = 16 + (uint32_t)random_below(w, 64);
		note(w, a, OP_wake, 0, a->pages);
		area_check(w, a);
	}
	if (a->uses-- > 0)
		return true;
	a->resting_until = w->now + most / 20 + random_below(w, most + 1);
	return false;
}

struct area *area_pick(struct worker *w, enum want want)
{
	for (unsigned tries = 0; tries < 12 && w->area_count > 0; tries++) {
		struct area *a = w->areas[random_below(w, w->area_count)];
		bool fits = want == WANT_ANY || a->heap == (want == WANT_HEAP);
		if (fits && is_awake(w, a))
			return a;
	}
	return NULL;
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
	switch (random_below(w, 8)) {
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
