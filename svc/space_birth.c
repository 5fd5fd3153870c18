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
#include "birth_view.h"

#include <errno.h>

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

/* Calls with each leaf of which the steps may have moved something, and with how many steps are
 * behind it. */
static int each_leaf(struct view *v, struct space *s, struct plan *plan,
	int (*what)(struct view *v, struct plan *plan, struct leaf *leaf, uint64_t number,
		size_t at, bool aside))
{
	int r = 0;

	v->way.start = v->way.end = 0;
	for (size_t i = 0; i < s->aside_count && r == 0; i++)
		if (s->aside[i].step >= v->first)
			r = what(v, plan, s->aside[i].leaf, s->aside[i].number,
				s->aside[i].step - v->first, true);
	for (size_t i = 0; i < s->block_count && r == 0; i++) {
		uint64_t start = s->block[i].number << BLOCK_SHIFT, end = start + BLOCK_SIZE;
		if (s->block[i].leaf->out > 0 && view_is_touched(v, start, end))
			r = what(v, plan, s->block[i].leaf, s->block[i].number, v->before,
				false);
		v->work++;
	}
	return r;
}

enum { LEAF_WORK = 32 }; /* to look at all of one */

/* All of a piece comes one way. */
static bool is_same_way(const struct view *v, uint64_t addr, size_t at)
{
	return v->way.start <= addr && addr < v->way.end && v->way.at == at;
}

static void begin_way(struct view *v, uint64_t addr, size_t at)
{
	v->way.start = addr;
	v->way.end = view_piece_end(v, addr);
	v->way.at = at;
}

/* What is out was registered at first. */
static int take_samples(struct view *v, struct plan *plan, struct leaf *leaf, uint64_t number,
	size_t at, bool aside)
{
	(void)plan;
	(void)aside;
	v->work += LEAF_WORK;
	for (unsigned i = 0; i < BLOCK_PAGES && !view_tired(v); i++) {
		uint64_t addr = (number << BLOCK_SHIFT) + i * PAGE_SIZE;
		if (!entry_out(leaf->entry[i]) || is_same_way(v, addr, at))
			continue;
		begin_way(v, addr, at);
		addr = view_at_first(v, addr, at);
		struct piece_of_space *p = &v->piece[view_piece_at(v, addr)];
		if (p->matters)
			continue;
		int r = view_ask(v, addr);
		if (r < 0)
			return r;
		p->first = YES;
		space_make_room((void **)&v->sample, v->sample_count, &v->sample_room,
			sizeof(*v->sample));
		v->sample[v->sample_count++] = addr;
	}
	return view_tired(v) ? -E2BIG : 0;
}

static uint64_t end_of_way(struct view *v, uint64_t addr, size_t at)
{
	if (!is_same_way(v, addr, at)) {
		begin_way(v, addr, at);
		uint64_t to = view_at_last(v, view_at_first(v, addr, at));
		v->way.to = to != GONE && view_is_there(v, to) ? to : GONE;
	}
	return v->way.to == GONE ? GONE : v->way.to + (addr - v->way.start);
}

static int plan_leaf(struct view *v, struct plan *plan, struct leaf *leaf, uint64_t number,
	size_t at, bool aside)
{
	v->work += LEAF_WORK;
	for (unsigned i = 0; i < BLOCK_PAGES && !view_tired(v); i++) {
		uint64_t addr = (number << BLOCK_SHIFT) + i * PAGE_SIZE;
		if (!entry_out(leaf->entry[i]))
			continue;
		uint64_t to = end_of_way(v, addr, at);
		if (aside ? to != GONE : to != addr)
			plan_page(plan, leaf, number, i, to, aside);
	}
	return view_tired(v) ? -E2BIG : 0;
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
		uint64_t to = view_piece_end(v, start);
		int r = view_ask(v, start);

		v->work++;
		if (r < 0)
			return r;
		if (to > end)
			to = end;
		if (what)
			what(s, start, to, view_is_there(v, start));
		start = to;
	}
	return 0;
}

/* Of the regions on record in [start, end). `change` false: only asks. */
static int settle_record(
	struct view *v, struct space *s, uint64_t start, uint64_t end, bool change)
{
	int r = 0;

	while (r == 0 && start < end) {
		/* The last one that begins before the end. */
		size_t k = space_region_index(s, end - 1);
		if (k == s->region_count || s->region[k].start >= end)
			k--;
		if (k == SIZE_MAX || s->region[k].end <= start)
			break;
		const struct region g = s->region[k];
		r = each_part(v, s, g.start > start ? g.start : start,
			g.end < end ? g.end : end, change ? drop_unregistered : NULL);
		end = g.start;
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
		r = change || !view_tired(v) ? settle_step(v, s, &v->steps->step[i], change)
					     : -E2BIG;
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

static void end_birth(struct space *child)
{
	child->unborn = false;
	child->doubt.late_count = 0;
	child->doubt.late_met = false;
	space_drop_aside(child);
}

void space_bear_none(struct space *child)
{
	end_birth(child);
	child->doubt.open_count = 0;
	child->doubt.lost = child->doubt.open_all = false;
}

int space_bear(
	struct space *child, const struct steps *steps, size_t before, const struct midwife *m)
{
	size_t first = before > STEPS_OVERTAKE ? before - STEPS_OVERTAKE : 0;
	size_t end = before + STEPS_OVERTAKE;
	const struct steps some = {.step = steps->step + first,
		.count = (end < steps->count ? end : steps->count) - first};
	struct view v = {.steps = &some,
		.first = first,
		.before = before - first,
		.midwife = m,
		.work = *m->work};
	struct plan plan = {.count = 0};
	int r = 0;

	if (steps->lost && (child->out_pages > 0 || child->aside_count > 0))
		return -EBADMSG;
	if (some.count > 0 || m->line_count > 0) {
		v.late_count = space_late_of(child, steps, before, first + some.count, v.late);
		r = view_open(&v);
		if (r == 0)
			r = each_leaf(&v, child, NULL, take_samples);
		if (r == 0)
			r = search_happened(&v);
		if (r == 0)
			r = settle_regions(&v, child, false);
		if (r == 0)
			r = each_leaf(&v, child, &plan, plan_leaf);
		if (r == 0) {
			settle_regions(&v, child, true);
			carry_out(child, &plan);
		}
		plan_close(child->graveyard, &plan);
		view_close(&v);
		*m->work = v.work;
	}
	/* What its parent was in doubt of is among the steps; what isn't, it asks for itself.
	 */
	if (r == 0)
		(first > 0 || child->doubt.open_all ? end_birth : space_bear_none)(child);
	return r;
}
