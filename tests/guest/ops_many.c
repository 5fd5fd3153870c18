/* One call on several areas that lie side by side, with gaps or without. */
#include "guest.h"

#include "advice.h"

#include <errno.h>
#include <sys/mman.h>

enum { ROW_MAX = 4, GAP_MAX = 3 };

/* Areas in ascending order, within a stretch of addresses that is ours. */
struct row {
	struct area *area[ROW_MAX];
	size_t count;
	char *at;     /* of the first area */
	size_t pages; /* to the end of the last */
};

enum gaps { GAPS_NONE, GAPS_SOME };

/* A new area there. Every second one can't merge with those beside it. */
static struct area *place_new(struct worker *w, char *at, size_t pages, bool apart)
{
	if (mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		fail_step(w, "mmap says", errno);
	struct area *a = area_add(w, at, pages);
	if (apart && madvise(at, pages * PAGE, MADV_DONTDUMP) == 0)
		a->advised = true;
	note(w, a, w->op, 0, pages);
	area_touch_first(w, a);
	area_fill(w, a, 0, pages);
	return a;
}

/* An area that has been in use, so that some of its pages may be out. */
static struct area *place_old(struct worker *w, char *at, struct area *a)
{
	area_settle(w, a);
	if (move_to(a->at, a->pages, at) != at)
		fail_call(w, a, "mremap into a row", errno);
	a->at = at;
	a->moved = true;
	note(w, a, w->op, 0, a->pages);
	return a;
}

static bool row_has(const struct row *row, const struct area *a)
{
	for (size_t i = 0; i < row->count; i++)
		if (row->area[i] == a)
			return true;
	return false;
}

/* Chooses areas that exist and leaves NULL for others; the sizes are of both. */
static size_t row_choose(struct worker *w, struct row *row, size_t *size)
{
	size_t pages_new = 0;

	row->count = 0;
	for (size_t n = 2 + random_below(w, ROW_MAX - 1); n > 0; n--) {
		struct area *a = random_one_in(w, 3) ? NULL : area_pick(w, WANT_MAP);
		if (a && (!a->uniform || row_has(row, a)))
			a = NULL;
		size[row->count] = a ? a->pages : 1 + random_below(w, 48);
		pages_new += a ? 0 : size[row->count];
		row->area[row->count++] = a;
	}
	return pages_new;
}

static bool row_make(struct worker *w, struct row *row, enum gaps gaps)
{
	size_t size[ROW_MAX], gap[ROW_MAX], new = row_choose(w, row, size);

	row->pages = 0;
	for (size_t i = 0; i < row->count; i++) {
		gap[i] = gaps == GAPS_SOME && i > 0 ? random_below(w, GAP_MAX + 1) : 0;
		row->pages += size[i] + gap[i];
	}
	if (w->area_count + row->count + 2 > AREAS_MAX || !has_room(w, new))
		return false;
	row->at = reserve(row->pages);
	if (row->at == MAP_FAILED)
		return false;
	char *at = row->at;
	for (size_t i = 0; i < row->count; i++) {
		at += gap[i] * PAGE;
		row->area[i] = row->area[i] ? place_old(w, at, row->area[i])
					    : place_new(w, at, size[i], i % 2 == 1);
		at += size[i] * PAGE;
	}
	return true;
}

/* Gaps are reserved until the call, which finds them unmapped in half of the cases: another
 * thread's mapping there would be hit by it, so they are opened only where there is none. */
static void row_open_gaps(struct worker *w, const struct row *row)
{
	bool alone = w->depth > 0 || w->options->threads == 1;

	for (size_t i = 1; alone && i < row->count; i++) {
		char *end = row->area[i - 1]->at + row->area[i - 1]->pages * PAGE;
		if (end < row->area[i]->at && random_one_in(w, 2))
			munmap(end, (size_t)(row->area[i]->at - end));
	}
}

static void row_close_gaps(const struct row *row)
{
	for (size_t i = 1; i < row->count; i++) {
		char *end = row->area[i - 1]->at + row->area[i - 1]->pages * PAGE;
		if (end < row->area[i]->at)
			munmap(end, (size_t)(row->area[i]->at - end));
	}
}

/* The stretch from the middle of the first area to the middle of the last. */
static size_t row_middle(struct worker *w, const struct row *row, size_t *ret_pages)
{
	const struct area *last = row->area[row->count - 1];
	size_t from = random_below(w, row->area[0]->pages);
	size_t left = random_below(w, last->pages);

	*ret_pages = row->pages - from - left;
	return from;
}

/* What of area i lies in the stretch. */
static size_t row_part(const struct row *row, size_t i, size_t from, size_t pages, size_t *ret)
{
	size_t start = (size_t)(row->area[i]->at - row->at) / PAGE,
	       end = start + row->area[i]->pages;
	size_t first = from > start ? from : start;
	size_t stop = from + pages < end ? from + pages : end;

	*ret = stop - first;
	return first - start;
}

static void row_note(struct worker *w, const struct row *row, size_t from, size_t pages)
{
	for (size_t i = 0; i < row->count; i++) {
		size_t count, first = row_part(row, i, from, pages, &count);
		note(w, row->area[i], w->op, first, count);
	}
}

bool op_unmapmany(struct worker *w)
{
	struct row row;
	size_t pages;

	if (!row_make(w, &row, GAPS_SOME))
		return false;
	size_t from = row_middle(w, &row, &pages);
	if (munmap(row.at + from * PAGE, pages * PAGE) < 0)
		fail_call(w, row.area[0], "munmap of many", errno);
	row_note(w, &row, from, pages);
	for (size_t i = 0; i < row.count; i++) {
		size_t count, first = row_part(&row, i, from, pages, &count);
		area_cut(w, row.area[i], first, count);
	}
	return true;
}

/* All of it is one new mapping then, at the end of what is left of the first area. */
bool op_mapmany(struct worker *w)
{
	struct row row;
	size_t pages;

	if (!row_make(w, &row, GAPS_SOME))
		return false;
	size_t from = row_middle(w, &row, &pages);
	char *at = row.at + from * PAGE;
	if (mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		fail_call(w, row.area[0], "mmap over many", errno);
	row_note(w, &row, from, pages);
	for (size_t i = 0; i < row.count; i++) {
		size_t count, first = row_part(&row, i, from, pages, &count);
		area_cut(w, row.area[i], first, count);
	}
	struct area *a = area_add(w, at, pages);
	a->uniform = false;
	note(w, a, OP_mapmany, 0, pages);
	area_check_some(w, a, 8);
	area_fill(w, a, 0, pages);
	return true;
}

/* With a gap the kernel goes on behind it, and says so by ENOMEM. */
bool op_dontneedmany(struct worker *w)
{
	struct row row;
	size_t pages;

	if (!row_make(w, &row, GAPS_SOME))
		return false;
	row_open_gaps(w, &row);
	size_t from = row_middle(w, &row, &pages);
	if (madvise(row.at + from * PAGE, pages * PAGE, MADV_DONTNEED) < 0 && errno != ENOMEM)
		fail_call(w, row.area[0], "madvise on many", errno);
	row_note(w, &row, from, pages);
	for (size_t i = 0; i < row.count; i++) {
		size_t count, first = row_part(&row, i, from, pages, &count);
		range_zeroed(row.area[i], first, count);
		area_check_some(w, row.area[i], 4);
	}
	row_close_gaps(&row);
	return true;
}

bool op_movemany(struct worker *w)
{
	struct row row;

	if (!w->options->multi_move || !row_make(w, &row, GAPS_NONE))
		return false;
	char *to = reserve(row.pages);
	if (to == MAP_FAILED)
		return false;
	row_note(w, &row, 0, row.pages);
	if (move_to(row.at, row.pages, to) != to)
		fail_call(w, row.area[0], "mremap of many", errno);
	for (size_t i = 0; i < row.count; i++) {
		row.area[i]->at = to + (row.area[i]->at - row.at);
		row.area[i]->moved = true;
		note(w, row.area[i], OP_movemany, 0, row.area[i]->pages);
		area_check_some(w, row.area[i], 4);
	}
	return true;
}
