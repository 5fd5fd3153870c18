/* The address space in pieces that go one way as a whole (birth_view.h). */
#include "birth_view.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
	PASSES_MAX = 64,
	/* More is somebody's who means it. */
	PIECES_MAX = 65536,
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
		(struct piece_of_space){.start = addr, .first = OPEN, .last = -1};
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
	size_t i = view_piece_at(v, from), all = v->pieces;

	for (; i < sorted && v->piece[i].start < from + len; i++) {
		uint64_t image = to + (v->piece[i].start - from);
		v->pieces = sorted;
		bool known = v->piece[i].start < from ||
			     v->piece[view_piece_at(v, image)].start == image;
		v->pieces = all;
		if (!known) {
			cut(v, image);
			all = v->pieces;
		}
	}
}

static bool cut_all_images(struct view *v, const struct step *step, size_t count)
{
	size_t sorted = v->pieces;

	for (size_t i = 0; i < count; i++) {
		if (!is_remap(&step[i]))
			continue;
		cut_images(v, step[i].from, step[i].len, step[i].to, sorted);
		cut_images(v, step[i].to, step[i].len, step[i].from, sorted);
	}
	return v->pieces > sorted;
}

/* The UNMAP of a source follows its REMAP, and nobody moves from there again in between. */
static void match_unmaps(struct view *v)
{
	const struct step *step = v->steps->step;

	for (size_t i = 0; i < v->steps->count; i++) {
		v->stays[i] = is_remap(&step[i]);
		for (size_t k = i; !is_remap(&step[i]) && k-- > 0;)
			if (v->stays[k] && step[k].from == step[i].from &&
				step[k].len == step[i].len) {
				v->part[i] = true;
				v->stays[k] = false;
				break;
			}
	}
}

void *view_zeroed(size_t size)
{
	void *p = space_alloc(size + 1);
	memset(p, 0, size + 1);
	return p;
}

int view_open(struct view *v)
{
	const struct steps *l = v->steps;
	const struct midwife *m = v->midwife;
	bool more = true;

	v->part = view_zeroed(l->count);
	v->stays = view_zeroed(l->count);
	v->happened = view_zeroed(l->count);
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
	for (int i = 0; more && i < PASSES_MAX; i++) {
		more = cut_all_images(v, l->step, l->count);
		sort_pieces(v);
		more |= cut_all_images(v, m->line, m->line_count);
		sort_pieces(v);
		if (v->pieces > PIECES_MAX)
			return -EBADMSG;
	}
	return more ? -EBADMSG : 0;
}

void view_close(struct view *v)
{
	free(v->part);
	free(v->stays);
	free(v->happened);
	free(v->found);
	free(v->undo);
	free(v->piece);
	free(v->sample);
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

int view_ask(struct view *v, uint64_t addr)
{
	struct piece_of_space *p = &v->piece[view_piece_at(v, addr)];
	const struct midwife *m = v->midwife;
	int r;

	if (p->matters)
		return 0;
	r = by_calls(m->early, m->early_count, addr);
	if (r == -ENOENT)
		r = m->registered(m->arg, addr);
	if (r < 0)
		return r;
	p->matters = true;
	p->is = r;
	r = by_calls(m->line, m->line_count, addr);
	p->was = r == -ENOENT ? p->is : r;
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

uint64_t view_at_first(const struct view *v, uint64_t addr, size_t at)
{
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

uint64_t view_at_last(
	const struct view *v, const struct group *g, const bool *happened, uint64_t addr)
{
	const struct midwife *m = v->midwife;
	size_t count = g ? g->count : v->steps->count;

	if (discarded(v, 1, v->first, addr))
		return GONE;
	for (size_t i = 0; i < count && addr != GONE; i++) {
		size_t step = g ? g->step[i] : i;
		size_t number = v->first + step + 1;
		if (!happened[step] || v->part[step])
			continue;
		addr = through(&v->steps->step[step], addr);
		if (addr != GONE && discarded(v, number, number, addr))
			addr = GONE;
	}
	/* The unmapping that is part of a move finds nothing: it moved on. */
	for (size_t i = 0; i < m->line_count && addr != GONE; i++)
		addr = through(&m->line[i], addr);
	return addr;
}
