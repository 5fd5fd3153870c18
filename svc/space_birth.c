/* Where a forked child has what its parent moved or dropped while the fork was under way
 * (DESIGN rules 5 and 6).
 *
 * The child's page tables were copied somewhere among the parent's UNMAPs and REMAPs, its
 * record was copied somewhere else among them, and their events tell nothing of it. But the
 * child's own registrations do, for they were copied with its page tables. So we look for the
 * steps that had happened by then: those with which, and without the others, just that would be
 * registered which is. Steps that touch the same place come in the order in which they are
 * listed. Then each page that is out goes from where it was before all steps through those that
 * had happened.
 *
 * Mostly there is one answer. Where blocks were moved around in a circle there can be more, and
 * where they put pages to different places nobody can tell (rule 8).
 *
 * The child runs already, and what it did shows in the answers: these calls of its own come as
 * `early`. A REMAP from a place says that it was registered; an UNMAP over it leaves that open,
 * but what was there is gone anyhow. */
#include "space_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
	NO = 0,
	YES = 1,
	OPEN = 2, /* not known, and doesn't matter: nothing is there any more, if it was */
	/* How many ways are tried for steps that have to do with each other. */
	TRIES_MAX = 4000000,
	PASSES_MAX = 64,
	/* More is somebody's who means it. */
	PIECES_MAX = 65536,
	VISITS_MAX = 50000000,
};
#define GONE UINT64_MAX

/* What lies between two neighbouring ends of steps, or what moves to there: of what was
 * registered at first all goes the same way. */
struct piece_of_space {
	uint64_t start;
	bool matters; /* it has been asked for */
	int is;	      /* registered in the child: NO, YES, OPEN */
	int was;      /* the same in the first of its line, when the page tables were copied */
	int first;    /* the same before all steps */
	/* While it is tried which steps had happened: */
	int now;
	unsigned missing; /* steps that touch it and had not */
	bool chosen;	  /* of the group that is looked at */
	int last;	  /* the last step that touches it, or -1 */
};

struct undo {
	struct piece_of_space *piece;
	int now;
};

/* Steps that touch the same places, directly or by others, in their order. */
struct group {
	unsigned *step;
	size_t count;
};

struct view {
	const struct steps *steps; /* those that can have happened or not */
	size_t first;		   /* what was dropped by ones before is gone */
	size_t before;
	const struct midwife *midwife;
	struct piece_of_space *piece;
	size_t pieces, room;
	bool *part;	/* by step: an UNMAP that is part of the REMAP before it */
	bool *stays;	/* a REMAP without one: its source stays registered (DONTUNMAP) */
	bool *happened; /* before the copying */
	/* Pages that are out, one for each piece in which some were at first. */
	uint64_t *sample;
	size_t sample_count, sample_room;
	bool *found; /* a first solution */
	bool any;    /* there is one */
	unsigned tries;
	uint64_t visits;
	struct undo *undo;
	size_t undos, undo_room;
	int result;
};

/* Pages in a row that go the same way. */
struct move {
	struct leaf *leaf; /* owned: one reference */
	struct piece piece;
	uint64_t to;
	bool aside;
};

struct plan {
	struct move *move;
	size_t count, room;
};

static bool covers(uint64_t start, uint64_t len, uint64_t addr)
{
	return addr >= start && addr - start < len;
}

static bool is_remap(const struct step *s)
{
	return s->to != STEP_UNMAP && s->to != STEP_REMOVE;
}

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

static int by_number(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
	return x < y ? -1 : x > y;
}

static size_t piece_at(const struct view *v, uint64_t addr)
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

static uint64_t piece_end(const struct view *v, uint64_t addr)
{
	size_t i = piece_at(v, addr);
	return i + 1 < v->pieces ? v->piece[i + 1].start : UINT64_MAX;
}

/* A cut in what moved is a cut where it came from, and the other way round. */
static void cut_images(struct view *v, uint64_t from, uint64_t len, uint64_t to, size_t sorted)
{
	size_t i = piece_at(v, from), all = v->pieces;

	for (; i < sorted && v->piece[i].start < from + len; i++) {
		uint64_t image = to + (v->piece[i].start - from);
		v->pieces = sorted;
		bool known =
			v->piece[i].start < from || v->piece[piece_at(v, image)].start == image;
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

static void *zeroed(size_t size)
{
	void *p = space_alloc(size + 1);
	memset(p, 0, size + 1);
	return p;
}

static int view_open(struct view *v)
{
	const struct steps *l = v->steps;
	const struct midwife *m = v->midwife;
	bool more = true;

	v->part = zeroed(l->count);
	v->stays = zeroed(l->count);
	v->happened = zeroed(l->count);
	v->found = zeroed(l->count);
	match_unmaps(v);
	cut(v, 0);
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

static void view_close(struct view *v)
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

/* Once for each piece. 0, or an error. */
static int ask(struct view *v, uint64_t addr)
{
	struct piece_of_space *p = &v->piece[piece_at(v, addr)];
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

/* What is open is there until the child's own UNMAP is applied, and in children of its own that
 * it forked before. */
static bool is_there(const struct view *v, uint64_t addr)
{
	const struct piece_of_space *p = &v->piece[piece_at(v, addr)];

	assert(p->matters);
	return p->is != NO;
}

/* Does anybody see what is there? */
static bool is_seen(const struct view *v, uint64_t addr)
{
	const struct piece_of_space *p = &v->piece[piece_at(v, addr)];

	assert(p->matters);
	return p->is == YES || (p->is == OPEN && v->midwife->forked);
}

/* ---- where a page goes ---- */

/* Where it was before all steps, if it is at addr after `at` of them. */
static uint64_t at_first(const struct view *v, uint64_t addr, size_t at)
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

/* Where it is in the child, when those steps of a group had happened; GONE. NULL: of all. */
static uint64_t at_last(
	const struct view *v, const struct group *g, const bool *happened, uint64_t addr)
{
	const struct midwife *m = v->midwife;
	size_t count = g ? g->count : v->steps->count;

	for (size_t i = 0; i < count && addr != GONE; i++) {
		size_t step = g ? g->step[i] : i;
		if (happened[step] && !v->part[step])
			addr = through(&v->steps->step[step], addr);
	}
	/* The unmapping that is part of a move finds nothing: it moved on. */
	for (size_t i = 0; i < m->line_count && addr != GONE; i++)
		addr = through(&m->line[i], addr);
	return addr;
}

/* ---- which steps had happened ---- */

/* Calls with each piece of a step's ranges. */
static void each_piece_of(struct view *v, unsigned step,
	void (*what)(struct view *v, struct piece_of_space *p, unsigned step, bool target))
{
	const struct step *s = &v->steps->step[step];

	v->visits++;
	for (size_t i = piece_at(v, s->from);
		i < v->pieces && v->piece[i].start < s->from + s->len; i++)
		what(v, &v->piece[i], step, false), v->visits++;
	if (!is_remap(s))
		return;
	for (size_t i = piece_at(v, s->to); i < v->pieces && v->piece[i].start < s->to + s->len;
		i++)
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
		if (!v->piece[piece_at(v, v->sample[i])].chosen)
			continue;
		uint64_t a = at_last(v, g, v->found, v->sample[i]);
		uint64_t b = at_last(v, g, v->happened, v->sample[i]);
		bool a_gone = a == GONE || !is_seen(v, a);
		bool b_gone = b == GONE || !is_seen(v, b);
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
	v->piece[piece_at(v, sample)].chosen = true;
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
	for (uint64_t a = s->from; a < s->from + s->len && r == 0; a = piece_end(v, a))
		r = ask(v, a);
	for (uint64_t a = s->to; a < s->to + s->len && r == 0; a = piece_end(v, a))
		r = ask(v, a);
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
static int find_happened(struct view *v)
{
	const struct midwife *m = v->midwife;
	bool *taken = zeroed(v->steps->count);
	struct group g = {.step = zeroed(v->steps->count * sizeof(*g.step))};
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

/* ---- the plan ---- */

static void plan_close(struct graveyard *g, struct plan *plan)
{
	for (size_t i = 0; i < plan->count; i++)
		leaf_unref(g, plan->move[i].leaf);
	free(plan->move);
}

static void plan_page(struct plan *plan, struct leaf *leaf, uint64_t number, unsigned page,
	uint64_t to, bool aside)
{
	struct move *last = plan->count > 0 ? &plan->move[plan->count - 1] : NULL;

	if (last && last->leaf == leaf && last->aside == aside &&
		last->piece.number == number && last->piece.to == page &&
		(to == GONE ? last->to == GONE
			    : last->to != GONE && to - last->to == (page - last->piece.from) *
									   PAGE_SIZE)) {
		last->piece.to++;
		return;
	}
	space_make_room((void **)&plan->move, plan->count, &plan->room, sizeof(*plan->move));
	atomic_fetch_add(&leaf->refs, 1);
	plan->move[plan->count++] = (struct move){
		.leaf = leaf, .piece = {number, page, page + 1}, .to = to, .aside = aside};
}

static bool touched(const struct step *step, size_t count, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < count; i++) {
		const struct step *s = &step[i];
		if ((s->from < end && start < s->from + s->len) ||
			(is_remap(s) && s->to < end && start < s->to + s->len))
			return true;
	}
	return false;
}

/* Calls with each leaf of which the steps may have moved something, and with how many steps are
 * behind it. */
static int each_leaf(struct view *v, struct space *s, struct plan *plan,
	int (*what)(struct view *v, struct plan *plan, struct leaf *leaf, uint64_t number,
		size_t at, bool aside))
{
	const struct midwife *m = v->midwife;
	int r = 0;

	for (size_t i = 0; i < s->aside_count && r == 0; i++)
		if (s->aside[i].step >= v->first)
			r = what(v, plan, s->aside[i].leaf, s->aside[i].number,
				s->aside[i].step - v->first, true);
	for (size_t i = 0; i < s->block_count && r == 0; i++) {
		uint64_t start = s->block[i].number << BLOCK_SHIFT, end = start + BLOCK_SIZE;
		if (s->block[i].leaf->out > 0 &&
			(touched(v->steps->step, v->steps->count, start, end) ||
				touched(m->line, m->line_count, start, end)))
			r = what(v, plan, s->block[i].leaf, s->block[i].number, v->before,
				false);
	}
	return r;
}

/* What is out was registered at first. */
static int take_samples(struct view *v, struct plan *plan, struct leaf *leaf, uint64_t number,
	size_t at, bool aside)
{
	size_t last = SIZE_MAX;

	(void)plan;
	(void)aside;
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint64_t addr = (number << BLOCK_SHIFT) + i * PAGE_SIZE;
		size_t piece = piece_at(v, addr);
		/* All of a piece came from one. */
		if (!entry_out(leaf->entry[i]) || piece == last)
			continue;
		last = piece;
		addr = at_first(v, addr, at);
		struct piece_of_space *p = &v->piece[piece_at(v, addr)];
		if (p->matters)
			continue;
		int r = ask(v, addr);
		if (r < 0)
			return r;
		p->first = YES;
		space_make_room((void **)&v->sample, v->sample_count, &v->sample_room,
			sizeof(*v->sample));
		v->sample[v->sample_count++] = addr;
	}
	return 0;
}

static int plan_leaf(struct view *v, struct plan *plan, struct leaf *leaf, uint64_t number,
	size_t at, bool aside)
{
	size_t last = SIZE_MAX;
	uint64_t to = GONE, before = 0;

	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint64_t addr = (number << BLOCK_SHIFT) + i * PAGE_SIZE;
		size_t piece = piece_at(v, addr);

		if (!entry_out(leaf->entry[i]))
			continue;
		if (piece != last)
			to = at_last(v, NULL, v->found, at_first(v, addr, at));
		else if (to != GONE)
			to += addr - before;
		if (to != GONE && !is_there(v, to))
			to = GONE;
		last = piece;
		before = addr;
		if (aside ? to != GONE : to != addr)
			plan_page(plan, leaf, number, i, to, aside);
	}
	return 0;
}

/* ---- regions ---- */

static void drop_unregistered(struct space *s, uint64_t start, uint64_t end, bool there)
{
	if (!there)
		space_region_drop(s, start, end);
}

static void add_registered(struct space *s, uint64_t start, uint64_t end, bool there)
{
	if (there)
		space_region_add(s, start, end);
}

/* Calls with each part of [start, end) that has one answer. what NULL: only asks. */
static int each_part(struct view *v, struct space *s, uint64_t start, uint64_t end,
	void (*what)(struct space *s, uint64_t start, uint64_t end, bool there))
{
	while (start < end) {
		uint64_t to = piece_end(v, start);
		int r = ask(v, start);

		if (r < 0)
			return r;
		if (to > end)
			to = end;
		if (what)
			what(s, start, to, is_there(v, start));
		start = to;
	}
	return 0;
}

/* Of the regions on record in [start, end). `change` false: only asks. */
static int settle_record(
	struct view *v, struct space *s, uint64_t start, uint64_t end, bool change)
{
	int r = 0;

	for (size_t k = s->region_count; k-- > 0 && r == 0;) {
		struct region g;
		if (k >= s->region_count)
			continue;
		g = s->region[k];
		if (g.start < end && start < g.end)
			r = each_part(v, s, g.start > start ? g.start : start,
				g.end < end ? g.end : end, change ? drop_unregistered : NULL);
	}
	return r;
}

/* Where a mapping was moved from and to, all of it is registered or nothing. Of what was
 * unmapped that is known of the regions on record. */
static int settle_step(struct view *v, struct space *s, const struct step *t, bool change)
{
	uint64_t end = t->from + t->len;
	int r = settle_record(v, s, t->from, end, change);

	if (r == 0 && is_remap(t))
		r = settle_record(v, s, t->to, t->to + t->len, change);
	if (r == 0 && is_remap(t))
		r = each_part(v, s, t->from, end, change ? add_registered : NULL);
	if (r == 0 && is_remap(t))
		r = each_part(v, s, t->to, t->to + t->len, change ? add_registered : NULL);
	return r;
}

static int settle_regions(struct view *v, struct space *s, bool change)
{
	const struct midwife *m = v->midwife;
	int r = 0;

	for (size_t i = 0; i < v->steps->count && r == 0; i++)
		r = settle_step(v, s, &v->steps->step[i], change);
	for (size_t i = 0; i < m->line_count && r == 0; i++)
		if (m->line[i].to != STEP_REMOVE)
			r = settle_step(v, s, &m->line[i], change);
	return r;
}

/* ---- birth ---- */

static void take_out(struct space *s, const struct move *m)
{
	struct leaf *leaf = space_leaf(s, m->piece.number);

	for (unsigned i = m->piece.from; i < m->piece.to; i++)
		space_set(s, m->piece.number, leaf, i,
			entry_make(PAGE_ABSENT, entry_blob(leaf->entry[i])));
}

static void carry_out(struct space *s, const struct plan *plan)
{
	for (size_t i = 0; i < plan->count; i++)
		if (!plan->move[i].aside)
			take_out(s, &plan->move[i]);
	for (size_t i = 0; i < plan->count; i++) {
		const struct move *m = &plan->move[i];
		if (m->to == GONE)
			continue;
		space_place_piece(s, m->leaf, m->piece, m->to);
		space_region_add(s, m->to, m->to + (m->piece.to - m->piece.from) * PAGE_SIZE);
	}
}

void space_bear_none(struct space *child)
{
	child->unborn = false;
	child->doubt.late_count = 0;
	child->doubt.late_met = false;
	space_drop_aside(child);
}

int space_bear(
	struct space *child, const struct steps *steps, size_t before, const struct midwife *m)
{
	size_t first = before > STEPS_OVERTAKE ? before - STEPS_OVERTAKE : 0;
	size_t end = before + STEPS_OVERTAKE;
	const struct steps some = {.step = steps->step + first,
		.count = (end < steps->count ? end : steps->count) - first};
	struct view v = {
		.steps = &some, .first = first, .before = before - first, .midwife = m};
	struct plan plan = {.count = 0};
	int r = 0;

	if (steps->lost && (child->out_pages > 0 || child->aside_count > 0))
		return -EBADMSG;
	if (some.count > 0 || m->line_count > 0) {
		r = view_open(&v);
		if (r == 0)
			r = each_leaf(&v, child, NULL, take_samples);
		if (r == 0)
			r = find_happened(&v);
		if (r == 0)
			r = settle_regions(&v, child, false);
		if (r == 0) {
			each_leaf(&v, child, &plan, plan_leaf);
			settle_regions(&v, child, true);
			carry_out(child, &plan);
		}
		plan_close(child->graveyard, &plan);
		view_close(&v);
	}
	if (r == 0) {
		space_bear_late(child, &some.step[v.before], some.count - v.before);
		space_bear_none(child);
	}
	return r;
}
