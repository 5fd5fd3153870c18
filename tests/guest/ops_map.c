/* Operations that change which addresses are mapped. */
#include "guest.h"

#include "advice.h"

#include <errno.h>
#include <sys/mman.h>

enum { RW = PROT_READ | PROT_WRITE, PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS };

/* ---- mmap and munmap ---- */

bool op_mmap(struct worker *w)
{
	size_t pages = size_pick(w);

	if (!has_room(w, pages))
		return false;
	struct area *a = area_map(w, pages);
	if (!a)
		return false;
	note(w, a, OP_mmap, 0, pages);
	area_fill(w, a, 0, pages);
	return true;
}

bool op_munmap(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);
	size_t first, count;

	if (!a || !has_room(w, 0))
		return false;
	area_settle(w, a);
	range_pick(w, a, &first, &count);
	range_farewell(w, a, first, count);
	if (munmap(a->at + first * PAGE, count * PAGE) < 0)
		fail_call(w, a, "munmap", errno);
	note(w, a, OP_munmap, first, count);
	area_cut(w, a, first, count);
	return true;
}

bool op_reuse(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);
	size_t first, count;

	if (!a || !has_room(w, 0))
		return false;
	area_settle(w, a);
	range_pick(w, a, &first, &count);
	range_farewell(w, a, first, count);
	char *at = a->at + first * PAGE;
	if (munmap(at, count * PAGE) < 0)
		fail_call(w, a, "munmap", errno);
	note(w, a, OP_reuse, first, count);
	char *again = mmap(at, count * PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0);
	if (again != at) { /* another thread was faster */
		if (again != MAP_FAILED)
			munmap(again, count * PAGE);
		area_cut(w, a, first, count);
		return false;
	}
	range_replaced(w, a, first, count);
	if (random_one_in(w, 2))
		area_fill(w, a, first, count);
	return true;
}

bool op_mapover(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);
	size_t first, count;

	if (!a)
		return false;
	area_settle(w, a);
	range_pick(w, a, &first, &count);
	range_farewell(w, a, first, count);
	if (mmap(a->at + first * PAGE, count * PAGE, RW, PRIVATE | MAP_FIXED, -1, 0) ==
		MAP_FAILED)
		fail_call(w, a, "mmap", errno);
	note(w, a, OP_mapover, first, count);
	range_replaced(w, a, first, count);
	if (random_one_in(w, 2))
		area_fill(w, a, first, count);
	return true;
}

/* ---- mremap ---- */

/* ENOMEM is for the kernel to say; anything else only where the area may be several mappings.
 */
static bool refused(struct worker *w, struct area *a, const char *call, bool must_work)
{
	int error = errno;

	if (error != ENOMEM && (a->uniform || must_work))
		fail_call(w, a, call, error);
	return false;
}

static bool grow(struct worker *w, enum op op, int flags)
{
	struct area *a = area_pick(w, WANT_MAP);
	size_t more = size_pick(w);

	if (!a || !has_room(w, more))
		return false;
	area_settle(w, a);
	size_t old = a->pages;
	char *at = mremap(a->at, old * PAGE, (old + more) * PAGE, flags);
	if (at == MAP_FAILED)
		return refused(w, a, "growing mremap", false);
	a->moved |= at != a->at;
	a->at = at;
	area_resize(w, a, old + more);
	note(w, a, op, old, more);
	area_check_some(w, a, 4);
	if (random_one_in(w, 2))
		area_fill(w, a, old, more);
	return true;
}

bool op_grow(struct worker *w)
{
	return grow(w, OP_grow, MREMAP_MAYMOVE);
}

bool op_growhere(struct worker *w)
{
	return grow(w, OP_growhere, 0);
}

bool op_shrink(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);

	if (!a || a->pages < 2)
		return false;
	area_settle(w, a);
	size_t old = a->pages, pages = 1 + random_below(w, old - 1);
	range_farewell(w, a, pages, old - pages);
	char *at = mremap(
		a->at, old * PAGE, pages * PAGE, random_below(w, 2) ? MREMAP_MAYMOVE : 0);
	if (at == MAP_FAILED)
		return refused(w, a, "shrinking mremap", false);
	a->moved |= at != a->at;
	a->at = at;
	area_resize(w, a, pages);
	note(w, a, OP_shrink, pages, old - pages);
	return true;
}

char *reserve(size_t pages)
{
	return mmap(NULL, pages * PAGE, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0);
}

char *move_to(char *from, size_t pages, char *to)
{
	return mremap(from, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

/* Moving several mappings at once: newer kernels do, and may then leave half of them moved if
 * it fails; so it is asked for only where it must work. */
static bool may_move(const struct worker *w, const struct area *a)
{
	return a->uniform || w->options->multi_move;
}

bool op_move(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);

	if (!a || !may_move(w, a))
		return false;
	area_settle(w, a);
	char *to = reserve(a->pages);
	if (to == MAP_FAILED)
		return false;
	if (move_to(a->at, a->pages, to) != to) {
		refused(w, a, "moving mremap", true);
		munmap(to, a->pages * PAGE);
		return false;
	}
	a->at = to;
	a->moved = true;
	note(w, a, OP_move, 0, a->pages);
	area_check_some(w, a, 4);
	return true;
}

bool op_movepart(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);
	size_t first, count;

	if (!a || !has_room(w, 0) || !may_move(w, a))
		return false;
	area_settle(w, a);
	range_pick(w, a, &first, &count);
	char *to = reserve(count);
	if (to == MAP_FAILED)
		return false;
	if (move_to(a->at + first * PAGE, count, to) != to) {
		refused(w, a, "moving mremap of a part", true);
		munmap(to, count * PAGE);
		return false;
	}
	struct area *part = area_part(w, a, first, count, to);
	part->moved = true;
	note(w, a, OP_movepart, first, count);
	note(w, part, OP_movepart, 0, count);
	area_cut(w, a, first, count);
	area_check_some(w, part, 4);
	return true;
}

bool op_moveover(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP), *target = area_pick(w, WANT_MAP);

	if (!a || !target || a == target || target->pages < a->pages || !may_move(w, a) ||
		!has_room(w, 0))
		return false;
	area_settle(w, a);
	area_settle(w, target);
	size_t first = random_below(w, target->pages - a->pages + 1);
	range_farewell(w, target, first, a->pages);
	char *to = target->at + first * PAGE;
	if (move_to(a->at, a->pages, to) != to)
		fail_call(w, a, "mremap onto another area", errno);
	note(w, target, OP_moveover, first, a->pages);
	area_cut(w, target, first, a->pages);
	a->at = to;
	a->moved = true;
	note(w, a, OP_moveover, 0, a->pages);
	area_check_some(w, a, 4);
	return true;
}

/* A part that changes its size has its new pages read zeros, at an address of our choice. */
bool op_resize(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);
	size_t first, count, pages = size_pick(w);

	if (!a || !has_room(w, pages) || !a->uniform)
		return false;
	area_settle(w, a);
	range_pick(w, a, &first, &count);
	if (pages < count)
		range_farewell(w, a, first + pages, count - pages);
	char *to = reserve(pages);
	if (to == MAP_FAILED)
		return false;
	if (mremap(a->at + first * PAGE, count * PAGE, pages * PAGE,
		    MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) {
		refused(w, a, "mremap to another place and size", false);
		munmap(to, pages * PAGE);
		return false;
	}
	struct area *part = area_part(w, a, first, count, to);
	part->moved = true;
	area_resize(w, part, pages);
	note(w, a, OP_resize, first, count);
	note(w, part, OP_resize, 0, pages);
	area_cut(w, a, first, count);
	area_check_some(w, part, 4);
	if (random_one_in(w, 2))
		area_fill(w, part, 0, pages);
	return true;
}

/* To an address that the kernel chooses, or to one of ours. */
static char *move_without_unmap(struct area *a, bool fixed)
{
	size_t bytes = a->pages * PAGE;
	char *at = fixed ? reserve(a->pages) : NULL;

	if (at == MAP_FAILED)
		return at;
	char *to = mremap(a->at, bytes, bytes,
		MREMAP_MAYMOVE | MREMAP_DONTUNMAP | (fixed ? MREMAP_FIXED : 0), at);
	int error = errno;
	if (to == MAP_FAILED && fixed)
		munmap(at, bytes);
	errno = error;
	return to;
}

bool op_dontunmap(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);

	if (!a || !has_room(w, a->pages) || !a->uniform)
		return false;
	area_settle(w, a);
	char *to = move_without_unmap(a, random_one_in(w, 2));
	if (to == MAP_FAILED) {
		if (errno != EINVAL)
			return refused(w, a, "mremap with DONTUNMAP", false);
		w->unavailable[OP_dontunmap]++;
		return false;
	}
	struct area *moved = area_part(w, a, 0, a->pages, to);
	moved->moved = true;
	range_zeroed(a, 0, a->pages);
	for (size_t i = 0; i < a->pages; i++)
		a->page[i].id = ++w->next_id;
	note(w, a, OP_dontunmap, 0, a->pages);
	note(w, moved, OP_dontunmap, 0, a->pages);
	area_touch_first(w, a);
	area_check_some(w, a, 4);
	area_check_some(w, moved, 4);
	return true;
}

bool probe_multi_move(void)
{
	char *from = mmap(NULL, 2 * PAGE, RW, PRIVATE, -1, 0), *to = reserve(2);
	bool moved = false;

	if (from == MAP_FAILED || to == MAP_FAILED)
		return false;
	from[0] = from[PAGE] = 1;
	if (madvise(from, PAGE, MADV_DONTDUMP) == 0)
		moved = move_to(from, 2, to) == to;
	munmap(from, 2 * PAGE);
	munmap(to, 2 * PAGE);
	return moved;
}
