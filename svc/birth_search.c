/* Which steps had happened when the page tables were copied: those with which, and without the
 * others, just that would be registered which is.
 *
 * All that is known of them has one form, "if this one had happened, so had that one":
 *
 *  - Of two that touch one place, the later one says so of the earlier one.
 *  - The earlier one says so of the later one where, between the two, the place would have been
 *    registered and it wasn't, or the other way round.
 *  - Where it would have been so before all that touch it, the first of them must have
 * happened; where after all, the last one can't have.
 *
 * So nothing has to be tried. Following these from what must have happened leads to all that
 * must have; backwards, from what can't have, to all that can't. The rest may have happened,
 * and all of it together is a solution. And a page, which goes a way that is the same in each
 * solution, can have stopped in it between steps a and b where no way leads from a to b. */
#include "birth_view.h"

#include <errno.h>
#include <limits.h>

enum { EDGES_MAX = 1 << 18 };

struct edge {
	unsigned from, to;
	unsigned next; /* of the same `from`, or NONE */
};
#define NONE UINT_MAX

struct search {
	struct view *v;
	unsigned *parent; /* by step: of a tree of those that have to do with each other */
	unsigned *next;	  /* the next one of its tree, by number */
	unsigned *head;	  /* by root: the first one */
	bool *asked;	  /* by root */
	bool *must, *cannot;
	struct edge *edge;
	size_t edges, edge_room;
	unsigned char *known;	/* a bit for each two steps: there is that edge */
	unsigned *first, *back; /* by step: its edges, and those that lead to it turned round */
	unsigned *queue;
	bool **reaches; /* by step: to which others it leads; NULL: not asked for so far */
};

/* Calls with each piece of a step's ranges. */
static void each_piece_of(struct search *s, unsigned step,
	void (*what)(struct search *s, struct piece_of_space *p, unsigned step, bool target))
{
	struct view *v = s->v;
	const struct step *t = &v->steps->step[step];

	v->work++;
	for (size_t i = view_piece_at(v, t->from);
		i < v->pieces && v->piece[i].start < t->from + t->len; i++, v->work++)
		what(s, &v->piece[i], step, false);
	if (!is_remap(t))
		return;
	for (size_t i = view_piece_at(v, t->to);
		i < v->pieces && v->piece[i].start < t->to + t->len; i++, v->work++)
		what(s, &v->piece[i], step, true);
}

/* ---- groups: steps that touch the same places, directly or by others ---- */

static unsigned root_of(const struct search *s, unsigned step)
{
	while (s->parent[step] != step)
		step = s->parent[step] = s->parent[s->parent[step]];
	return step;
}

static void join(struct search *s, struct piece_of_space *p, unsigned step, bool target)
{
	(void)target;
	if (p->owner >= 0)
		s->parent[root_of(s, step)] = root_of(s, (unsigned)p->owner);
	p->owner = (int)step;
}

static int make_groups(struct search *s)
{
	struct view *v = s->v;
	unsigned count = (unsigned)v->steps->count;

	for (unsigned i = 0; i < count; i++)
		s->parent[i] = i, s->head[i] = NONE;
	for (unsigned i = 0; i < count && !view_tired(v); i++)
		if (!v->part[i])
			each_piece_of(s, i, join);
	for (unsigned i = count; i-- > 0;) {
		unsigned root = root_of(s, i);
		if (v->part[i])
			continue;
		s->next[i] = s->head[root];
		s->head[root] = i;
	}
	return view_tired(v) ? -E2BIG : 0;
}

/* The first step of the group that a piece has to do with; NONE: there is none. */
static unsigned group_at(const struct search *s, uint64_t addr)
{
	const struct piece_of_space *p = &s->v->piece[view_piece_at(s->v, addr)];

	return p->owner < 0 ? NONE : s->head[root_of(s, (unsigned)p->owner)];
}

/* ---- questions ---- */

/* Everywhere that something may have been moved to. */
static int ask_about(struct view *v, const struct step *t)
{
	int r = 0;

	if (!is_remap(t))
		return 0;
	for (uint64_t a = t->from; a < t->from + t->len && r == 0; a = view_piece_end(v, a))
		r = view_ask(v, a);
	for (uint64_t a = t->to; a < t->to + t->len && r == 0; a = view_piece_end(v, a))
		r = view_ask(v, a);
	return r;
}

/* Of groups that have pages that are out. */
static int ask(struct search *s)
{
	struct view *v = s->v;
	const struct midwife *m = v->midwife;
	int r = 0;

	for (size_t i = 0; i < m->line_count && r == 0; i++)
		r = ask_about(v, &m->line[i]);
	for (size_t i = 0; i < v->sample_count && r == 0; i++) {
		unsigned step = group_at(s, v->sample[i]);
		if (step == NONE || s->asked[root_of(s, step)])
			continue;
		s->asked[root_of(s, step)] = true;
		for (; step != NONE && r == 0; step = s->next[step])
			r = ask_about(v, &v->steps->step[step]);
	}
	return r;
}

/* ---- what follows from what ---- */

static void add_edge(struct search *s, unsigned from, unsigned to)
{
	uint64_t bit = (uint64_t)from * s->v->steps->count + to;

	if (s->known[bit / CHAR_BIT] & 1u << bit % CHAR_BIT)
		return;
	s->known[bit / CHAR_BIT] |= (unsigned char)(1u << bit % CHAR_BIT);
	if (s->edges == EDGES_MAX) {
		s->v->work = UINT64_MAX;
		return;
	}
	space_make_room((void **)&s->edge, s->edges, &s->edge_room, sizeof(*s->edge));
	s->edge[s->edges] = (struct edge){from, to, s->first[from]};
	s->first[from] = (unsigned)s->edges++;
}

static bool is_wrong(const struct piece_of_space *p)
{
	return p->matters && p->was != OPEN && p->now != OPEN && p->was != p->now;
}

static void follow(struct search *s, struct piece_of_space *p, unsigned step, bool target)
{
	if (p->last < 0) {
		/* The first step that touches it tells how it was before. */
		if (p->first == OPEN && is_remap(&s->v->steps->step[step]))
			p->first = target ? NO : YES;
		p->now = p->first;
		s->must[step] |= is_wrong(p);
	} else if (p->last != (int)step) {
		add_edge(s, step, (unsigned)p->last);
		if (is_wrong(p))
			add_edge(s, (unsigned)p->last, step);
	}
	p->last = (int)step;
	p->now = target || s->v->stays[step] ? YES : NO;
}

static int make_edges(struct search *s)
{
	struct view *v = s->v;

	for (unsigned i = 0; i < v->steps->count; i++)
		s->first[i] = NONE;
	for (unsigned i = 0; i < v->steps->count && !view_tired(v); i++)
		if (!v->part[i] && s->asked[root_of(s, i)])
			each_piece_of(s, i, follow);
	for (size_t i = 0; i < v->pieces; i++)
		if (v->piece[i].last >= 0 && is_wrong(&v->piece[i]))
			s->cannot[v->piece[i].last] = true;
	return view_tired(v) ? -E2BIG : 0;
}

/* Sets is[] for all to which the edges lead from those that have it. */
static void spread(struct search *s, const unsigned *first, bool *is)
{
	size_t count = 0;

	for (unsigned i = 0; i < s->v->steps->count; i++)
		if (is[i])
			s->queue[count++] = i;
	while (count > 0) {
		unsigned e = first[s->queue[--count]];
		for (s->v->work++; e != NONE; e = s->edge[e].next, s->v->work++) {
			if (is[s->edge[e].to])
				continue;
			is[s->edge[e].to] = true;
			s->queue[count++] = s->edge[e].to;
		}
	}
}

/* Appends them: edges[n + i] is edges[i] turned round. */
static void turn_edges(struct search *s)
{
	size_t count = s->edges;

	for (unsigned i = 0; i < s->v->steps->count; i++)
		s->back[i] = NONE;
	for (size_t i = 0; i < count; i++) {
		const struct edge e = s->edge[i];
		space_make_room((void **)&s->edge, s->edges, &s->edge_room, sizeof(*s->edge));
		s->edge[s->edges] = (struct edge){e.to, e.from, s->back[e.to]};
		s->back[e.to] = (unsigned)s->edges++;
	}
}

static int solve(struct search *s)
{
	struct view *v = s->v;

	turn_edges(s);
	spread(s, s->first, s->must);
	spread(s, s->back, s->cannot);
	for (unsigned i = 0; i < v->steps->count; i++) {
		if (s->must[i] && s->cannot[i])
			return -EBADMSG;
		v->found[i] = !v->part[i] && s->asked[root_of(s, i)] && !s->cannot[i];
	}
	return 0;
}

/* ---- is there another one that matters? ---- */

static bool leads(struct search *s, unsigned from, unsigned to)
{
	if (!s->reaches[from]) {
		s->reaches[from] = view_zeroed(s->v->steps->count);
		s->reaches[from][from] = true;
		s->v->work += s->v->steps->count;
		spread(s, s->first, s->reaches[from]);
	}
	return s->reaches[from][to];
}

/* Is there a solution in which `had` had happened and `hadnt` not? NONE: whatever. */
static bool is_possible(struct search *s, unsigned had, unsigned hadnt)
{
	if ((had != NONE && s->cannot[had]) || (hadnt != NONE && s->must[hadnt]))
		return false;
	return had == NONE || hadnt == NONE || !leads(s, had, hadnt);
}

/* Where a page is that stopped there; and is it elsewhere than where it was seen before? */
static bool differs(struct view *v, uint64_t addr, uint64_t *seen, bool *any)
{
	addr = view_through_line(v, addr);
	if (addr != GONE && !view_is_seen(v, addr))
		addr = GONE;
	bool other = *any && *seen != addr;
	*seen = addr;
	*any = true;
	return other;
}

/* All places on its way where a page can be. */
static int follow_page(struct search *s, uint64_t addr)
{
	unsigned had = NONE, step = group_at(s, addr);
	uint64_t seen = GONE;
	bool any = false;

	if (view_is_discarded(s->v, addr))
		return 0;
	for (; step != NONE && addr != GONE && !view_tired(s->v); step = s->next[step]) {
		uint64_t to = view_through(s->v, step, addr);
		s->v->work += 1 + s->v->late_count;
		if (to == addr)
			continue;
		if (is_possible(s, had, step) && differs(s->v, addr, &seen, &any))
			return -EBADMSG;
		had = step;
		addr = to;
	}
	if (is_possible(s, had, NONE) && differs(s->v, addr, &seen, &any))
		return -EBADMSG;
	return view_tired(s->v) ? -E2BIG : 0;
}

int search_happened(struct view *v)
{
	size_t count = v->steps->count;
	struct search s = {.v = v,
		.parent = view_zeroed(count * sizeof(unsigned)),
		.next = view_zeroed(count * sizeof(unsigned)),
		.head = view_zeroed(count * sizeof(unsigned)),
		.first = view_zeroed(count * sizeof(unsigned)),
		.back = view_zeroed(count * sizeof(unsigned)),
		.queue = view_zeroed(count * sizeof(unsigned)),
		.reaches = view_zeroed(count * sizeof(bool *)),
		.known = view_zeroed(count * count / CHAR_BIT + 1),
		.asked = view_zeroed(count),
		.must = view_zeroed(count),
		.cannot = view_zeroed(count)};
	int r = make_groups(&s);

	if (r == 0)
		r = ask(&s);
	if (r == 0)
		r = make_edges(&s);
	if (r == 0)
		r = solve(&s);
	for (size_t i = 0; i < v->sample_count && r == 0; i++)
		r = follow_page(&s, v->sample[i]);
	for (size_t i = 0; i < count; i++)
		free(s.reaches[i]);
	free(s.parent);
	free(s.next);
	free(s.head);
	free(s.first);
	free(s.back);
	free(s.queue);
	free(s.reaches);
	free(s.asked);
	free(s.must);
	free(s.cannot);
	free(s.edge);
	free(s.known);
	return r;
}
