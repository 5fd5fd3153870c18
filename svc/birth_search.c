/* Which steps had happened when the page tables were copied: those with which, and without the
 * others, just that would be registered which is. */
#include "birth_view.h"

#include <errno.h>

enum {
	/* How many ways are tried for steps that have to do with each other. */
	TRIES_MAX = 4000000,
	VISITS_MAX = 50000000,
};

static int by_number(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
	return x < y ? -1 : x > y;
}

/* Calls with each piece of a step's ranges. */
static void each_piece_of(struct view *v, unsigned step,
	void (*what)(struct view *v, struct piece_of_space *p, unsigned step, bool target))
{
	const struct step *s = &v->steps->step[step];

	v->visits++;
	for (size_t i = view_piece_at(v, s->from);
		i < v->pieces && v->piece[i].start < s->from + s->len; i++)
		what(v, &v->piece[i], step, false), v->visits++;
	if (!is_remap(s))
		return;
	for (size_t i = view_piece_at(v, s->to);
		i < v->pieces && v->piece[i].start < s->to + s->len; i++)
		what(v, &v->piece[i], step, true), v->visits++;
}

static void note_last(struct view *v, struct piece_of_space *p, unsigned step, bool target)
{
	(void)v;
	/* The first step that touches it tells how it was before. */
	if (p->last < 0 && p->first == OPEN && is_remap(&v->steps->step[step]))
		p->first = target ? NO : YES;
	p->last = (int)step;
}

static void count_missing(struct view *v, struct piece_of_space *p, unsigned step, bool target)
{
	(void)v;
	(void)step;
	(void)target;
	p->missing++;
}

static void count_back(struct view *v, struct piece_of_space *p, unsigned step, bool target)
{
	(void)v;
	(void)step;
	(void)target;
	p->missing--;
}

static void set_now(struct view *v, struct piece_of_space *p, unsigned step, bool target)
{
	space_make_room((void **)&v->undo, v->undos, &v->undo_room, sizeof(*v->undo));
	v->undo[v->undos++] = (struct undo){p, p->now};
	p->now = target || v->stays[step] ? YES : NO;
}

/* -1: it can't have happened, as one before it hadn't. */
static void look_missing(struct view *v, struct piece_of_space *p, unsigned step, bool target)
{
	(void)step;
	(void)target;
	if (p->missing > 0)
		v->result = -1;
}

static void look_final(struct view *v, struct piece_of_space *p, unsigned step, bool target)
{
	(void)target;
	if (p->last == (int)step && p->matters && p->was != OPEN && p->now != OPEN &&
		p->was != p->now)
		v->result = -1;
}

static bool passes(struct view *v, unsigned step,
	void (*look)(struct view *v, struct piece_of_space *p, unsigned step, bool target))
{
	v->result = 0;
	each_piece_of(v, step, look);
	return v->result == 0;
}

/* 0: a first solution, or one that puts every page to the same place. */
static int solution(struct view *v, const struct group *g)
{
	if (!v->any) {
		v->any = true;
		for (size_t i = 0; i < g->count; i++)
			v->found[g->step[i]] = v->happened[g->step[i]];
		return 0;
	}
	for (size_t i = 0; i < v->sample_count; i++) {
		if (!v->piece[view_piece_at(v, v->sample[i])].chosen)
			continue;
		uint64_t a = view_at_last(v, g, v->found, v->sample[i]);
		uint64_t b = view_at_last(v, g, v->happened, v->sample[i]);
		bool a_gone = a == GONE || !view_is_seen(v, a);
		bool b_gone = b == GONE || !view_is_seen(v, b);
		if (a_gone != b_gone || (!a_gone && a != b))
			return -EBADMSG;
	}
	return 0;
}

/* Tries each of the steps from the i-th of a group on as happened and as not. */
static int try_from(struct view *v, const struct group *g, size_t i)
{
	size_t undo = v->undos;
	unsigned step;
	int r = 0;

	if (i == g->count)
		return solution(v, g);
	if (++v->tries > TRIES_MAX || v->visits > VISITS_MAX)
		return -EBADMSG;
	step = g->step[i];
	if (passes(v, step, look_missing)) {
		v->happened[step] = true;
		each_piece_of(v, step, set_now);
		if (passes(v, step, look_final))
			r = try_from(v, g, i + 1);
		v->happened[step] = false;
		while (v->undos > undo) {
			v->undos--;
			v->undo[v->undos].piece->now = v->undo[v->undos].now;
		}
	}
	if (r == 0 && passes(v, step, look_final)) {
		each_piece_of(v, step, count_missing);
		r = try_from(v, g, i + 1);
		each_piece_of(v, step, count_back);
	}
	return r;
}

static void look_chosen(struct view *v, struct piece_of_space *p, unsigned step, bool target)
{
	(void)step;
	(void)target;
	if (p->chosen)
		v->result = -1;
}

static void choose(struct view *v, struct piece_of_space *p, unsigned step, bool target)
{
	(void)step;
	(void)target;
	v->result |= !p->chosen;
	p->chosen = true;
}

/* The steps that touch what comes from one place, or what such a step touches, and so on. */
static void group_of(struct view *v, uint64_t sample, bool *taken, struct group *g)
{
	bool more = true;

	for (size_t i = 0; i < v->pieces; i++)
		v->piece[i].chosen = false;
	v->piece[view_piece_at(v, sample)].chosen = true;
	while (more) {
		more = false;
		for (unsigned i = 0; i < v->steps->count; i++) {
			if (taken[i] || v->part[i] || passes(v, i, look_chosen))
				continue;
			each_piece_of(v, i, choose);
			taken[i] = more = true;
			g->step[g->count++] = i;
		}
	}
	qsort(g->step, g->count, sizeof(*g->step), by_number);
}

/* Everywhere that something may have been moved to. */
static int ask_about(struct view *v, const struct step *s)
{
	int r = 0;

	if (!is_remap(s))
		return 0;
	for (uint64_t a = s->from; a < s->from + s->len && r == 0; a = view_piece_end(v, a))
		r = view_ask(v, a);
	for (uint64_t a = s->to; a < s->to + s->len && r == 0; a = view_piece_end(v, a))
		r = view_ask(v, a);
	return r;
}

static int solve_group(struct view *v, const struct group *g)
{
	int r = 0;

	for (size_t i = 0; i < g->count && r == 0; i++) {
		each_piece_of(v, g->step[i], note_last);
		r = ask_about(v, &v->steps->step[g->step[i]]);
	}
	for (size_t i = 0; i < v->pieces; i++)
		v->piece[i].now = v->piece[i].first;
	v->any = false;
	if (r == 0)
		r = try_from(v, g, 0);
	return r == 0 && !v->any ? -EBADMSG : r;
}

/* Blocks that have nothing to do with each other are looked at one by one: together they would
 * have as many solutions as all of theirs multiplied. */
int search_happened(struct view *v)
{
	const struct midwife *m = v->midwife;
	bool *taken = view_zeroed(v->steps->count);
	struct group g = {.step = view_zeroed(v->steps->count * sizeof(*g.step))};
	int r = 0;

	for (size_t i = 0; i < m->line_count && r == 0; i++)
		r = ask_about(v, &m->line[i]);
	for (size_t i = 0; i < v->sample_count && r == 0; i++) {
		g.count = 0;
		group_of(v, v->sample[i], taken, &g);
		/* None: in one of the groups before, or nothing happened to it. */
		if (g.count > 0)
			r = solve_group(v, &g);
	}
	free(g.step);
	free(taken);
	return r;
}
