/* Operations that leave the addresses mapped, and change contents, access, or nothing. */
#include "guest.h"

#include "advice.h"

#include <errno.h>
#include <sys/mman.h>

/* ---- using pages ---- */

/* Mostly one page; else a few in a row, as programs do that go through their memory. */
static size_t run_pick(struct worker *w, const struct area *a, size_t *ret_first)
{
	size_t most = random_one_in(w, 12) ? 24 : 1;

	*ret_first = random_below(w, a->pages);
	return a->pages - *ret_first < most ? a->pages - *ret_first : most;
}

bool op_read(struct worker *w)
{
	struct area *a = area_pick(w, WANT_ANY);
	size_t first, count;

	if (!a)
		return false;
	count = run_pick(w, a, &first);
	note(w, a, OP_read, first, count);
	for (size_t i = first; i < first + count; i++)
		if (may_read(a, i))
			page_check(w, a, i);
	return true;
}

bool op_write(struct worker *w)
{
	struct area *a = area_pick(w, WANT_ANY);
	size_t first, count;
	bool check = random_one_in(w, 2);

	if (!a)
		return false;
	count = run_pick(w, a, &first);
	note(w, a, OP_write, first, count);
	for (size_t i = first; i < first + count; i++) {
		if (!may_write(a, i))
			continue;
		if (check)
			page_check(w, a, i);
		page_write(w, a, i);
	}
	return true;
}

bool op_poke(struct worker *w)
{
	struct area *a = area_pick(w, WANT_ANY);

	if (!a)
		return false;
	size_t i = random_below(w, a->pages);
	if (!may_write(a, i))
		return false;
	note(w, a, OP_poke, i, 1);
	page_poke(w, a, i);
	return true;
}

/* ---- madvise ---- */

struct range {
	struct area *area;
	size_t first, count;
};

static bool pick(struct worker *w, struct range *ret)
{
	ret->area = area_pick(w, WANT_RANGE);
	if (!ret->area)
		return false;
	range_pick(w, ret->area, &ret->first, &ret->count);
	return true;
}

/* False: this kernel doesn't know the advice. */
static bool advise(struct worker *w, enum op op, const struct range *r, int advice)
{
	if (madvise(r->area->at + r->first * PAGE, r->count * PAGE, advice) < 0) {
		if (errno != EINVAL)
			fail_call(w, r->area, "madvise", errno);
		w->unavailable[op]++;
		return false;
	}
	note(w, r->area, op, r->first, r->count);
	return true;
}

static void check_range(struct worker *w, const struct range *r, size_t most)
{
	for (size_t n = 0; n < most && n < r->count; n++) {
		size_t i = r->first + random_below(w, r->count);
		if (may_read(r->area, i))
			page_check(w, r->area, i);
	}
}

/* Also where there is no access at the moment. */
bool op_dontneed(struct worker *w)
{
	struct range r;

	if (!pick(w, &r) || r.area->access == ACCESS_GUARDED)
		return false;
	range_farewell(w, r.area, r.first, r.count);
	if (!advise(w, OP_dontneed, &r, MADV_DONTNEED))
		return false;
	range_zeroed(r.area, r.first, r.count);
	check_range(w, &r, 4);
	if (random_one_in(w, 3)) {
		area_settle(w, r.area);
		area_fill(w, r.area, r.first, r.count);
	}
	return true;
}

bool op_free(struct worker *w)
{
	struct range r;

	if (!pick(w, &r))
		return false;
	area_settle(w, r.area);
	/* A page of zeros with a word poked has no pattern that could be "the old page". */
	for (size_t i = r.first; i < r.first + r.count; i++)
		if (r.area->page[i].state == PAGE_ZERO && r.area->page[i].poked)
			page_write(w, r.area, i);
	if (!advise(w, OP_free, &r, MADV_FREE))
		return false;
	for (size_t i = r.first; i < r.first + r.count; i++)
		page_freed(&r.area->page[i]);
	check_range(w, &r, 4);
	return true;
}

/* Advice that changes no content. */
static bool advise_only(struct worker *w, enum op op, int advice)
{
	struct range r;

	if (!pick(w, &r))
		return false;
	area_settle(w, r.area);
	if (!advise(w, op, &r, advice))
		return false;
	check_range(w, &r, 2);
	return true;
}

bool op_cold(struct worker *w)
{
	return advise_only(w, OP_cold, MADV_COLD);
}

bool op_pageout(struct worker *w)
{
	return advise_only(w, OP_pageout, MADV_PAGEOUT);
}

bool op_populate(struct worker *w)
{
	return advise_only(
		w, OP_populate, random_one_in(w, 2) ? MADV_POPULATE_READ : MADV_POPULATE_WRITE);
}

bool op_hugepage(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);

	if (!a)
		return false;
	area_settle(w, a);
	struct range r = {a, 0, a->pages};
	if (!advise(w, OP_hugepage, &r, random_one_in(w, 2) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		return false;
	a->advised = true;
	area_check_some(w, a, 2);
	return true;
}

/* Two areas are tried for one that a huge page fits into. */
static struct area *pick_huge(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);

	return a && a->pages >= 512 ? a : area_pick(w, WANT_MAP);
}

/* It may not come about for many reasons; contents stay in every case. */
bool op_collapse(struct worker *w)
{
	struct area *a = pick_huge(w);

	if (!a)
		return false;
	area_settle(w, a);
	madvise(a->at, a->pages * PAGE, MADV_COLLAPSE);
	note(w, a, OP_collapse, 0, a->pages);
	area_check_some(w, a, 8);
	return true;
}

bool op_mlock(struct worker *w)
{
	struct range r;

	if (!pick(w, &r))
		return false;
	area_settle(w, r.area);
	char *at = r.area->at + r.first * PAGE;
	if (mlock(at, r.count * PAGE) < 0) { /* RLIMIT_MEMLOCK */
		w->unavailable[OP_mlock]++;
		return false;
	}
	note(w, r.area, OP_mlock, r.first, r.count);
	check_range(w, &r, 8);
	if (munlock(at, r.count * PAGE) < 0)
		fail_call(w, r.area, "munlock", errno);
	return true;
}

/* ---- access ---- */

bool op_protect(struct worker *w)
{
	struct range r;

	if (!pick(w, &r))
		return false;
	area_settle(w, r.area);
	bool readable = random_one_in(w, 2);
	if (mprotect(r.area->at + r.first * PAGE, r.count * PAGE,
		    readable ? PROT_READ : PROT_NONE) < 0)
		fail_call(w, r.area, "mprotect", errno);
	r.area->access = readable ? ACCESS_READ : ACCESS_NONE;
	r.area->access_first = r.first;
	r.area->access_count = r.count;
	note(w, r.area, OP_protect, r.first, r.count);
	check_range(w, &r, 4);
	return true;
}

/* Guards throw away what was there. */
bool op_guard(struct worker *w)
{
	struct range r;

	if (!pick(w, &r))
		return false;
	area_settle(w, r.area);
	range_farewell(w, r.area, r.first, r.count);
	if (!advise(w, OP_guard, &r, MADV_GUARD_INSTALL))
		return false;
	range_zeroed(r.area, r.first, r.count);
	r.area->access = ACCESS_GUARDED;
	r.area->access_first = r.first;
	r.area->access_count = r.count;
	return true;
}
