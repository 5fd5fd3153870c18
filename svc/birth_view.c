/* The address space in pieces that go one way as a whole (birth_view.h). */
#include "birth_view.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
	PASSES_MAX = 64,
	/* More is somebody's who means it. */
	PIECES_MAX = 65536,
	SORT_WORK = 16, /* for each piece, at most */
};

/* ---- pieces ---- */

static int by_start(const void *a, const void *b)
{
	uint64_t x = ((const struct piece_of_space *)a)->start;
	uint64_t y = ((const struct piece_of_space *)b)->start;
	return x < y ? -1 : x > y;
}

static void cut(struct view *v, uint64_t addr)
{
	space_make_room((void **)&v->piece, v->pieces, &v->room, sizeof(*v->piece));
	v->piece[v->pieces++] =
		(struct piece_of_space){.start = addr, .first = OPEN, .owner = -1, .last = -1};
}

static void cut_at(struct view *v, const struct step *step, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		cut(v, step[i].from);
		cut(v, step[i].from + step[i].len);
		if (!is_remap(&step[i]))
			continue;
		cut(v, step[i].to);
		cut(v, step[i].to + step[i].len);
	}
}

static void sort_pieces(struct view *v)
{
	size_t n = 1;

	v->work += v->pieces * SORT_WORK;
	qsort(v->piece, v->pieces, sizeof(*v->piece), by_start);
	for (size_t i = 1; i < v->pieces; i++)
		if (v->piece[i].start != v->piece[n - 1].start)
			v->piece[n++] = v->piece[i];
	v->pieces = n;
}

size_t view_piece_at(const struct view *v, uint64_t addr)
{
	size_t low = 0, high = v->pieces;

	while (high - low > 1) {
		size_t mid = (low + high) / 2;
		if (v->piece[mid].start <= addr)
			low = mid;
		else
			high = mid;
	}
	return low;
}

uint64_t view_piece_end(const struct view *v, uint64_t addr)
{
	size_t i = view_piece_at(v, addr);
	return i + 1 < v->pieces ? v->piece[i + 1].start : UINT64_MAX;
}

/* A cut in what moved is a cut where it came from, and the other way round. */
static void cut_images(struct view *v, uint64_t from, uint64_t len, uint64_t to, size_t sorted)
{
	size_t all = v->pieces;

	v->pieces = sorted;
	for (size_t i = view_piece_at(v, from); i < sorted && v->piece[i].start < from + len;
		i++) {
		uint64_t image = to + (v->piece[i].start - from);
		v->work++;
		v->pieces = sorted;
		bool known = v->piece[i].start < from ||
			     v->piece[view_piece_at(v, image)].start == image;
		v->pieces = all;
		if (!known)
			cut(v, image);
		all = v->pieces;
	}
	v->pieces = all;
}

static bool cut_all_images(struct view *v, const struct step *step, size_t count)
{
	size_t first = v->pieces, sorted = first;

	for (size_t i = 0; i < count && v->pieces <= PIECES_MAX && !view_tired(v); i++) {
		if (!is_remap(&step[i]))
			continue;
		cut_images(v, step[i].from, step[i].len, step[i].to, sorted);
		cut_images(v, step[i].to, step[i].len, step[i].from, sorted);
		if (v->pieces > 2 * sorted) {
			sort_pieces(v); /* the same ones, mostly */
			sorted = v->pieces;
		}
	}
	sort_pieces(v);
	return v->pieces > first;
}

/* The UNMAP of a source follows its REMAP, and nobody moves from there again in between. */
static void match_unmaps(struct view *v)
{
	const struct step *step = v->steps->step;
	unsigned *open = view_zeroed(v->steps->count * sizeof(*open));
	size_t opens = 0;

	for (unsigned i = 0; i < v->steps->count; i++) {
		if (is_remap(&step[i])) {
			v->stays[i] = true;
			open[opens++] = i;
			continue;
		}
		for (size_t k = opens; k-- > 0; v->work++)
			if (step[open[k]].from == step[i].from &&
				step[open[k]].len == step[i].len) {
				v->part[i] = true;
				v->stays[open[k]] = false;
				memmove(&open[k], &open[k + 1], (--opens - k) * sizeof(*open));
				break;
			}
	}
	free(open);
}

void *view_zeroed(size_t size)
{
	void *p = space_alloc(size + 1);
	memset(p, 0, size + 1);
	return p;
}

static void touch(struct view *v, uint64_t start, uint64_t end)
{
	for (size_t i = view_piece_at(v, start); i < v->pieces && v->piece[i].start < end; i++)
		v->piece[i].touched = true, v->work++;
}

static void touch_all(struct view *v, const struct step *step, size_t count)
{
	for (size_t i = 0; i < count && !view_tired(v); i++) {
		touch(v, step[i].from, step[i].from + step[i].len);
		if (is_remap(&step[i]))
			touch(v, step[i].to, step[i].to + step[i].len);
	}
}

int view_open(struct view *v)
{
	const struct steps *l = v->steps;
	const struct midwife *m = v->midwife;
	bool more = true;

	v->part = view_zeroed(l->count);
	v->stays = view_zeroed(l->count);
	v->found = view_zeroed(l->count);
	match_unmaps(v);
	cut(v, 0);
	for (unsigned i = 0; i < m->grown_count; i++) {
		cut(v, m->grown[i].start);
		cut(v, m->grown[i].end);
	}
	for (unsigned i = 0; i < v->late_count; i++) {
		cut(v, v->late[i].at.start);
		cut(v, v->late[i].at.end);
	}
	cut_at(v, l->step, l->count);
	cut_at(v, m->line, m->line_count);
	cut_at(v, m->early, m->early_count);
	sort_pieces(v);
	for (int i = 0; more; i++) {
		more = cut_all_images(v, l->step, l->count);
		more |= cut_all_images(v, m->line, m->line_count);
		if (v->pieces > PIECES_MAX || view_tired(v) || (more && i == PASSES_MAX))
			return -E2BIG;
	}
	touch_all(v, l->step, l->count);
	touch_all(v, m->line, m->line_count);
	for (unsigned i = 0; i < v->late_count; i++)
		touch(v, v->late[i].at.start, v->late[i].at.end);
	return view_tired(v) ? -E2BIG : 0;
}

void view_close(struct view *v)
{
	free(v->part);
	free(v->stays);
	free(v->found);
	free(v->piece);
	free(v->sample);
}

bool view_is_touched(struct view *v, uint64_t start, uint64_t end)
{
	bool touched = false;

	for (size_t i = view_piece_at(v, start);
		!touched && i < v->pieces && v->piece[i].start < end; i++, v->work++)
		touched = v->piece[i].touched;
	return touched;
}

/* ---- what the kernel says ---- */

/* The first call that concerned the place; -ENOENT: none did. */
static int by_calls(const struct step *call, size_t count, uint64_t addr)
{
	for (size_t i = 0; i < count; i++) {
		const struct step *s = &call[i];
		if (s->to == STEP_REMOVE)
			continue;
		if (covers(s->from, s->len, addr))
			return is_remap(s) ? YES : OPEN;
		if (is_remap(s) && covers(s->to, s->len, addr))
			return NO; /* else it had been unmapped before */
	}
	return -ENOENT;
}

/* May what the child has there be a mapping that had grown there when it was forked, in the
 * place of one that was gone by then? Or it was forked before, and has that one: the parent's
 * mapping has grown by now in either case. What lies beside the growth tells which. */
static bool grown_over(const struct view *v, uint64_t addr)
{
	const struct midwife *m = v->midwife;
	bool grown = false, gone = false;

	for (unsigned i = 0; i < m->grown_count; i++)
		grown |= m->grown[i].start <= addr && addr < m->grown[i].end;
	for (size_t i = 0; grown && i < v->steps->count; i++) {
		const struct step *t = &v->steps->step[i];
		if (is_remap(t) && covers(t->to, t->len, addr))
			return false;
		gone |= i < v->before && covers(t->from, t->len, addr);
	}
	return grown && gone;
}

int view_ask(struct view *v, uint64_t addr)
{
	struct piece_of_space *p = &v->piece[view_piece_at(v, addr)];
	const struct midwife *m = v->midwife;
	int r;

	if (p->matters)
		return 0;
	v->work += 1 + m->early_count + m->line_count + m->grown_count;
	v->work += m->grown_count > 0 ? v->steps->count : 0;
	if (view_tired(v))
		return -E2BIG;
	r = by_calls(m->early, m->early_count, addr);
	if (r == -ENOENT)
		r = m->registered(m->arg, addr);
	if (r < 0)
		return r;
	p->matters = true;
	p->is = r;
	r = by_calls(m->line, m->line_count, addr);
	p->was = r == -ENOENT ? p->is : r;
	if (p->was == YES && grown_over(v, addr))
		p->was = OPEN;
	return 0;
}

bool view_is_there(const struct view *v, uint64_t addr)
{
	const struct piece_of_space *p = &v->piece[view_piece_at(v, addr)];

	assert(p->matters);
	return p->is != NO;
}

bool view_is_seen(const struct view *v, uint64_t addr)
{
	const struct piece_of_space *p = &v->piece[view_piece_at(v, addr)];

	assert(p->matters);
	return p->is == YES || (p->is == OPEN && v->midwife->forked);
}

/* ---- where a page goes ---- */

uint64_t view_at_first(struct view *v, uint64_t addr, size_t at)
{
	v->work += at;
	while (at-- > 0) {
		const struct step *s = &v->steps->step[at];
		if (is_remap(s) && covers(s->to, s->len, addr))
			addr = s->from + (addr - s->to);
	}
	return addr;
}

static uint64_t through(const struct step *s, uint64_t addr)
{
	if (covers(s->from, s->len, addr))
		return is_remap(s) ? s->to + (addr - s->from) : GONE;
	return is_remap(s) && covers(s->to, s->len, addr) ? GONE : addr;
}

/* What one of these steps had brought to there. */
static bool discarded(const struct view *v, size_t from, size_t to, uint64_t addr)
{
	for (unsigned i = 0; i < v->late_count; i++) {
		const struct late *l = &v->late[i];
		if (l->met >= from && l->met <= to && l->at.start <= addr && addr < l->at.end)
			return true;
	}
	return false;
}

bool view_is_discarded(const struct view *v, uint64_t addr)
{
	return discarded(v, 1, v->first, addr);
}

uint64_t view_through(const struct view *v, size_t step, uint64_t addr)
{
	size_t number = v->first + step + 1;

	addr = through(&v->steps->step[step], addr);
	return addr != GONE && discarded(v, number, number, addr) ? GONE : addr;
}

/* The unmapping that is part of a move finds nothing: it moved on. */
uint64_t view_through_line(struct view *v, uint64_t addr)
{
	const struct midwife *m = v->midwife;

	v->work += m->line_count;
	for (size_t i = 0; i < m->line_count && addr != GONE; i++)
		addr = through(&m->line[i], addr);
	return addr;
}

uint64_t view_at_last(struct view *v, uint64_t addr)
{
	if (view_is_discarded(v, addr))
		return GONE;
	v->work += v->steps->count * (1 + v->late_count);
	for (size_t i = 0; i < v->steps->count && addr != GONE; i++)
		if (v->found[i])
			addr = view_through(v, i, addr);
	return view_through_line(v, addr);
}
