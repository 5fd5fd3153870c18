/* What FORK, REMAP, REMOVE and UNMAP do to a space (DESIGN rules 4 to 6).
 *
 * Rule 5's memory. UNMAP and REMAP can be read before a FORK whose page tables were copied
 * earlier, or after one whose page tables were copied later. So until the fence is seen down
 * they are noted as steps, what they drop is kept aside, and a child that was forked meanwhile
 * finds out where it has what when all of them are known (space_birth.c).
 *
 * What REMOVE drops is not kept. Nothing tells a fork that overlapped the discard from one that
 * followed it: the fence also stays up until the discarding thread has been scheduled again,
 * and a thread that discards and then forks does both in that time. The child of a fork that
 * follows must read zeros (calloc over purged memory relies on it); one that overlapped may. */
#include "space_internal.h"

#include <assert.h>
#include <string.h>

static struct piece piece_of(uint64_t number, uint64_t start, uint64_t end)
{
	uint64_t base = number << BLOCK_SHIFT;
	struct piece p = {.number = number, .from = 0, .to = BLOCK_PAGES};

	if (start > base)
		p.from = (unsigned)((start - base) / PAGE_SIZE);
	if (end < base + BLOCK_SIZE)
		p.to = (unsigned)((end - base) / PAGE_SIZE);
	return p;
}

static uint64_t last_block(uint64_t end)
{
	return (end - 1) >> BLOCK_SHIFT;
}

/* ---- remove ---- */

static uint32_t removed(uint32_t e)
{
	uint32_t gone = entry_make(PAGE_ABSENT, entry_blob(e));

	switch (entry_state(e)) {
	case PAGE_ABSENT:
	case PAGE_RESIDENT:
		return gone | ENTRY_SUSPECT;
	case PAGE_HELD:
	case PAGE_STORED:
		return gone; /* out already: the zap will find nothing */
	}
	return gone;
}

static void remove_piece(struct space *s, struct piece p)
{
	struct leaf *leaf = space_leaf(s, p.number);

	for (unsigned i = p.from; i < p.to; i++)
		space_set(s, p.number, leaf, i, removed(leaf->entry[i]));
}

void space_suspect(struct space *s, uint64_t start, uint64_t end)
{
	for (uint64_t n = start >> BLOCK_SHIFT; n <= last_block(end); n++) {
		struct piece p = piece_of(n, start, end);
		struct leaf *leaf = space_leaf(s, n);
		for (unsigned i = p.from; i < p.to; i++)
			if (!entry_out(leaf->entry[i]))
				space_set(s, n, leaf, i, removed(leaf->entry[i]));
	}
}

/* For children that wait for all that can have happened. */
static void count_event(struct space *s)
{
	if (s->steps)
		s->steps->events++;
	if (s->older)
		s->older->events++;
}

/* What of it is on record. Returns how much that is. */
static uint64_t discard(struct space *s, uint64_t start, uint64_t end)
{
	uint64_t on_record = 0;

	for (size_t r = 0; r < s->region_count; r++) {
		uint64_t from = s->region[r].start > start ? s->region[r].start : start;
		uint64_t to = s->region[r].end < end ? s->region[r].end : end;
		if (from >= to)
			continue;
		for (uint64_t n = from >> BLOCK_SHIFT; n <= last_block(to); n++)
			remove_piece(s, piece_of(n, from, to));
		on_record += to - from;
	}
	return on_record;
}

/* ---- late ---- */

/* A discard of what isn't on record. Perhaps another thread had moved it there, and has not
 * raised its event yet: then the discard is of what REMAP will bring. Or there was something
 * else (it had grown there in place, or was unmapped just then), and what comes must stay: then
 * an event tells that it left, before or after. So it is decided when the fence is down. Where
 * both are possible the bytes stay: only a program that asks the kernel how far another
 * thread's call has come could tell that they ought to be gone. */
static void add_late(struct doubt *d, uint64_t start, uint64_t end, size_t met)
{
	if (start >= end)
		return;
	/* The oldest goes: its bytes stay. */
	if (d->late_count == DOUBT_MAX)
		memmove(d->late, d->late + 1, --d->late_count * sizeof(d->late[0]));
	d->late[d->late_count++] = (struct late){.at = {start, end}, .met = met};
	d->late_met |= met > 0;
}

static void note_late(struct doubt *d, uint64_t start, uint64_t end)
{
	for (unsigned i = 0; i < d->unmapped_count; i++)
		if (d->unmapped[i].start < end && start < d->unmapped[i].end)
			return;
	for (unsigned i = 0; i < d->late_count; i++)
		if (d->late[i].at.start <= start && end <= d->late[i].at.end)
			return;
	if (!d->lost)
		add_late(d, start, end, 0);
}

static void note_gaps(struct space *s, uint64_t start, uint64_t end)
{
	for (size_t r = 0; r < s->region_count && start < end; r++) {
		struct region g = s->region[r];
		if (g.end <= start)
			continue;
		if (start < g.start)
			note_late(&s->doubt, start, g.start < end ? g.start : end);
		start = g.end;
	}
	if (start < end)
		note_late(&s->doubt, start, end);
}

/* Something left the place (met 0), or came to it, by the step of that number. */
static void late_changes(struct doubt *d, uint64_t start, uint64_t end, size_t met)
{
	struct late old[DOUBT_MAX];
	unsigned count = d->late_count;

	memcpy(old, d->late, count * sizeof(old[0]));
	d->late_count = 0;
	d->late_met = false;
	for (unsigned i = 0; i < count; i++) {
		struct region g = old[i].at;
		if (g.end <= start || end <= g.start || (met > 0 && old[i].met > 0)) {
			add_late(d, g.start, g.end, old[i].met);
			continue;
		}
		add_late(d, g.start, start, old[i].met);
		if (met > 0)
			add_late(d, g.start > start ? g.start : start,
				g.end < end ? g.end : end, met);
		add_late(d, end, g.end, old[i].met);
	}
}

static void late_of_step(struct doubt *d, const struct step *step, size_t number)
{
	late_changes(d, step->from, step->from + step->len, 0);
	if (step->to < STEP_REMOVE)
		late_changes(d, step->to, step->to + step->len, number);
}

/* All that can have left before the step of that number was told; it becomes number 0. */
static void settle_met(struct space *s, size_t number)
{
	struct doubt old = s->doubt, *d = &s->doubt;

	d->late_count = 0;
	d->late_met = false;
	for (unsigned i = 0; i < old.late_count; i++) {
		struct late l = old.late[i];
		if (l.met > 0 && l.met <= number)
			discard(s, l.at.start, l.at.end);
		else
			add_late(d, l.at.start, l.at.end, l.met > 0 ? l.met - number : 0);
	}
}

/* All that can have left or come was told. */
static void settle_late(struct space *s)
{
	settle_met(s, SIZE_MAX);
	s->doubt.late_count = 0;
}

unsigned space_late_of(const struct space *child, const struct steps *steps, size_t before,
	size_t end, struct late ret[DOUBT_MAX])
{
	struct doubt d = {.late_count = child->doubt.late_count};
	unsigned count = 0;

	memcpy(d.late, child->doubt.late, sizeof(d.late));
	for (size_t i = before; i < end && d.late_count > 0; i++)
		late_of_step(&d, &steps->step[i], i + 1);
	for (unsigned i = 0; i < d.late_count; i++)
		if (d.late[i].met > 0)
			ret[count++] = d.late[i];
	return count;
}

/* What was reported as unmapped is discarded: then it wasn't unmapped, and reads zeros. */
static void discard_aside(struct space *s, uint64_t start, uint64_t end)
{
	for (size_t n = 0; n < s->aside_count; n++) {
		struct aside *a = &s->aside[n];
		if (a->number < start >> BLOCK_SHIFT || a->number > last_block(end))
			continue;
		struct piece p = piece_of(a->number, start, end);
		for (unsigned i = p.from; i < p.to; i++)
			a->discarded[i / 64] |= 1ULL << i % 64;
	}
}

void space_remove(struct space *s, uint64_t start, uint64_t end)
{
	s->remove_seq++;
	count_event(s);
	discard_aside(s, start, end);
	if (discard(s, start, end) == end - start)
		return;
	/* Registered, and not on record yet. */
	s->strays = true;
	note_gaps(s, start, end);
}

/* ---- aside ---- */

void steps_unref(struct steps *s)
{
	if (!s || atomic_fetch_sub(&s->refs, 1) > 1)
		return;
	free(s->step);
	free(s);
}

static void close_steps(struct steps **steps)
{
	if (!*steps)
		return;
	atomic_store(&(*steps)->closed, true);
	steps_unref(*steps);
	*steps = NULL;
}

void space_drop_aside(struct space *s)
{
	for (size_t i = 0; i < s->aside_count; i++)
		leaf_unref(s->graveyard, s->aside[i].leaf);
	s->aside_count = 0;
	close_steps(&s->steps);
	close_steps(&s->older);
}

void space_forget_aside(struct space *s)
{
	space_drop_aside(s);
	settle_late(s);
	s->doubt.unmapped_count = s->doubt.target_count = s->doubt.open_count = 0;
	s->doubt.kept_count = 0;
	s->doubt.lost = s->doubt.open_all = false;
}

/* Takes the caller's reference. By the last step. */
static void keep_aside(struct space *s, uint64_t number, struct leaf *leaf)
{
	if (leaf->out == 0 || s->aside_count >= ASIDE_MAX) {
		s->steps->lost |= leaf->out > 0;
		leaf_unref(s->graveyard, leaf);
		return;
	}
	space_make_room((void **)&s->aside, s->aside_count, &s->aside_room, sizeof(*s->aside));
	s->aside[s->aside_count++] =
		(struct aside){.number = number, .leaf = leaf, .step = s->steps->count - 1};
}

/* A copy of the out pages of [from, to) of a leaf, with references of its own. */
static struct leaf *leaf_part(struct space *s, const struct leaf *leaf, struct piece p)
{
	struct leaf *part = leaf_new(s->graveyard, s->family);

	for (unsigned i = p.from; i < p.to; i++) {
		uint32_t e = leaf->entry[i];
		if (entry_state(e) == PAGE_STORED)
			store_ref(s->graveyard->store, entry_value(e));
		else if (entry_state(e) != PAGE_HELD)
			continue;
		part->entry[i] = e;
		part->out++;
		part->held = (uint16_t)(part->held + (entry_state(e) == PAGE_HELD));
	}
	return part;
}

/* ---- steps ---- */

static struct steps *open_steps(struct space *s)
{
	if (!s->steps) {
		s->steps = space_alloc(sizeof(*s->steps));
		memset(s->steps, 0, sizeof(*s->steps));
		atomic_init(&s->steps->refs, 1);
		atomic_init(&s->steps->closed, false);
	}
	return s->steps;
}

static void append(struct steps *l, struct step step)
{
	space_make_room((void **)&l->step, l->count, &l->room, sizeof(*l->step));
	l->step[l->count++] = step;
}

struct steps *steps_copy(const struct steps *s)
{
	struct steps *copy = space_alloc(sizeof(*copy));

	memset(copy, 0, sizeof(*copy));
	atomic_init(&copy->refs, 1);
	atomic_init(&copy->closed, true);
	copy->lost = s->lost;
	for (size_t i = 0; i < s->count; i++)
		append(copy, s->step[i]);
	return copy;
}

/* A list that is full: children that have it are told of what can concern them, later ones get
 * one that begins with what can concern those. */
static void renew_steps(struct space *s)
{
	const struct steps *full = s->steps;
	size_t gone = full->count - STEPS_OVERTAKE, kept = 0;

	close_steps(&s->older);
	s->older = s->steps;
	s->steps = NULL;
	open_steps(s)->lost = full->lost;
	s->steps->events = STEPS_OVERTAKE;
	for (size_t i = gone; i < full->count; i++)
		append(s->steps, full->step[i]);
	for (size_t i = 0; i < s->aside_count; i++) {
		struct aside a = s->aside[i];
		if (a.step < gone) {
			leaf_unref(s->graveyard, a.leaf);
			continue;
		}
		a.step -= gone;
		s->aside[kept++] = a;
	}
	s->aside_count = kept;
	settle_met(s, gone);
}

static void add_step(struct space *s, uint64_t from, uint64_t to, uint64_t len)
{
	const struct step step = {from, to, len};

	count_event(s);
	if (open_steps(s)->count == STEPS_MAX)
		renew_steps(s);
	append(s->steps, step);
	late_of_step(&s->doubt, &step, s->steps->count);
	if (!s->older)
		return;
	append(s->older, step);
	if (s->older->count == STEPS_MAX + STEPS_OVERTAKE)
		close_steps(&s->older);
}

/* ---- unmap ---- */

/* Drops the entries of a piece. Returns true when the block itself went. */
static bool drop_piece(struct space *s, size_t at, struct piece p, bool keep)
{
	if (p.from == 0 && p.to == BLOCK_PAGES) {
		struct leaf *whole = space_block_detach(s, at);
		if (keep)
			keep_aside(s, p.number, whole);
		else
			leaf_unref(s->graveyard, whole);
		return true;
	}
	if (keep)
		keep_aside(s, p.number, leaf_part(s, s->block[at].leaf, p));
	struct leaf *leaf = space_leaf(s, p.number);
	for (unsigned i = p.from; i < p.to; i++)
		space_set(s, p.number, leaf, i,
			entry_make(PAGE_ABSENT, entry_blob(leaf->entry[i])));
	return false;
}

static void drop_pages(struct space *s, uint64_t start, uint64_t end, bool keep)
{
	size_t at = space_block_index(s, start >> BLOCK_SHIFT);

	while (at < s->block_count && s->block[at].number <= last_block(end))
		if (!drop_piece(s, at, piece_of(s->block[at].number, start, end), keep))
			at++;
}

/* ---- doubt ---- */

/* Notes a range, and in what it overlaps of `others` a question. Returns whether there is one.
 */
static bool note(struct doubt *d, struct region r, struct region *own, unsigned *count,
	const struct region *others, unsigned other_count)
{
	bool doubtful = d->lost;

	for (unsigned i = 0; i < other_count; i++) {
		if (others[i].start >= r.end || r.start >= others[i].end)
			continue;
		doubtful = true;
		if (d->open_count == DOUBT_MAX)
			d->lost = true;
		else
			d->open[d->open_count++] = r;
		break;
	}
	if (*count == DOUBT_MAX)
		d->lost = true;
	else
		own[(*count)++] = r;
	return doubtful;
}

/* Something else has come to lie there: what was kept is not what is on record any more. */
static void keep_no_more(struct doubt *d, uint64_t start, uint64_t end)
{
	unsigned n = 0;

	for (unsigned i = 0; i < d->kept_count; i++)
		if (d->kept[i].start < start || d->kept[i].end > end)
			d->kept[n++] = d->kept[i];
	d->kept_count = n;
}

bool space_in_doubt(const struct space *s)
{
	return s->unborn || s->overtaken || s->doubt.open_count > 0 || s->doubt.lost ||
	       s->doubt.late_met;
}

void space_open_all(struct space *s, uint64_t start, uint64_t end)
{
	space_region_add(s, start, end);
	s->doubt.lost = s->doubt.open_all = true;
}

/* Of what a REMAP was read for, fence up since: which came last, only the kernel knows, and
 * until it is asked the record stays as it is, and later events change it. */
void space_unmap(struct space *s, uint64_t start, uint64_t end)
{
	struct doubt *d = &s->doubt;

	add_step(s, start, STEP_UNMAP, end - start);
	if (note(d, (struct region){start, end}, d->unmapped, &d->unmapped_count, d->target,
		    d->target_count)) {
		if (d->kept_count == DOUBT_MAX)
			d->lost = true;
		else
			d->kept[d->kept_count++] = (struct region){start, end};
		return;
	}
	drop_pages(s, start, end, true);
	space_region_drop(s, start, end);
}

static bool any_suspect(const struct space *s, uint64_t start, uint64_t end)
{
	size_t at = space_block_index(s, start >> BLOCK_SHIFT);

	for (; at < s->block_count && s->block[at].number <= last_block(end); at++) {
		struct piece p = piece_of(s->block[at].number, start, end);
		for (unsigned i = p.from; i < p.to; i++)
			if (s->block[at].leaf->entry[i] & ENTRY_SUSPECT)
				return true;
	}
	return false;
}

/* Not by an event: what lies there may lie there still, and be registered again. */
void space_drop_range(struct space *s, uint64_t start, uint64_t end)
{
	s->strays |= any_suspect(s, start, end);
	drop_pages(s, start, end, false);
	space_region_drop(s, start, end);
}

/* ---- an unmap that did not take place ---- */

/* By a step of its own: what an unborn child has aside is by its parent's. */
static bool aside_is_unmapped(const struct space *s, const struct aside *a)
{
	return s->steps && !s->unborn && a->step < s->steps->count &&
	       s->steps->step[a->step].to == STEP_UNMAP;
}

static bool may_be_lost(const struct space *s, const struct aside *a, uint64_t addr)
{
	unsigned i = (unsigned)(addr / PAGE_SIZE % BLOCK_PAGES);

	return entry_out(a->leaf->entry[i]) && !(a->discarded[i / 64] >> i % 64 & 1) &&
	       !space_region_at(s, addr) && !entry_out(space_entry(s, addr));
}

/* The first page from addr on that was out and isn't on record again; end when there is none.
 */
static uint64_t next_lost(
	const struct space *s, const struct aside *a, uint64_t addr, uint64_t end)
{
	for (; addr < end; addr += PAGE_SIZE)
		if (may_be_lost(s, a, addr))
			break;
	return addr;
}

static struct region aside_range(const struct space *s, const struct aside *a)
{
	const struct step *step = &s->steps->step[a->step];
	struct region r = {a->number << BLOCK_SHIFT, (a->number << BLOCK_SHIFT) + BLOCK_SIZE};

	if (r.start < step->from)
		r.start = step->from;
	if (r.end > step->from + step->len)
		r.end = step->from + step->len;
	return r;
}

/* What one UNMAP took lies together, in the order of its addresses. */
bool space_next_unmapped(const struct space *s, struct unmapped *u)
{
	for (; u->at < s->aside_count; u->at++) {
		const struct aside *a = &s->aside[u->at];
		if (!aside_is_unmapped(s, a))
			continue;
		if (a->step != u->step)
			u->from = 0;
		u->step = a->step;
		u->start = s->steps->step[a->step].from;
		u->range = aside_range(s, a);
		u->page = next_lost(s, a, u->from > u->range.start ? u->from : u->range.start,
			u->range.end);
		if (u->page < u->range.end)
			return true;
	}
	return false;
}

bool space_was_unmapped(const struct space *s, uint64_t addr)
{
	for (size_t i = 0; i < s->aside_count; i++) {
		const struct aside *a = &s->aside[i];
		if (a->number == addr >> BLOCK_SHIFT && aside_is_unmapped(s, a) &&
			next_lost(s, a, addr, addr + PAGE_SIZE) == addr)
			return true;
	}
	return false;
}

bool space_brought_since(const struct space *s, size_t step, uint64_t start, uint64_t end)
{
	for (size_t i = step + 1; i < s->steps->count; i++) {
		const struct step *later = &s->steps->step[i];
		if (later->to < STEP_REMOVE && later->to < end &&
			start < later->to + later->len)
			return true;
	}
	return false;
}

/* The latest first: what an earlier one took had gone by then. */
void space_take_back(struct space *s, uint64_t start, uint64_t end)
{
	s->strays = true;
	for (size_t i = s->aside_count; i-- > 0;) {
		const struct aside *a = &s->aside[i];
		if (!aside_is_unmapped(s, a))
			continue;
		struct region r = aside_range(s, a);
		if (r.start < start)
			r.start = start;
		if (r.end > end)
			r.end = end;
		for (uint64_t addr = r.start; (addr = next_lost(s, a, addr, r.end)) < r.end;
			addr += PAGE_SIZE) {
			unsigned page = (unsigned)(addr / PAGE_SIZE % BLOCK_PAGES);
			space_place_piece(
				s, a->leaf, (struct piece){a->number, page, page + 1}, addr);
		}
	}
}

/* ---- remap ---- */

/* Takes the reference to the blob. */
static void place_entry(struct space *s, uint64_t addr, uint32_t e)
{
	uint64_t number = addr >> BLOCK_SHIFT;
	unsigned page = (unsigned)(addr / PAGE_SIZE % BLOCK_PAGES);
	struct leaf *leaf = space_leaf(s, number);

	/* Two blobs want the one place of an entry. */
	graveyard_add_blob(s->graveyard, s->family, entry_blob(leaf->entry[page]));
	space_set(s, number, leaf, page, e);
}

void space_place_piece(struct space *s, const struct leaf *leaf, struct piece p, uint64_t to)
{
	for (unsigned i = p.from; i < p.to; i++, to += PAGE_SIZE) {
		uint32_t e = leaf->entry[i];
		if (!entry_out(e))
			continue;
		if (entry_state(e) == PAGE_STORED)
			store_ref(s->graveyard->store, entry_value(e));
		place_entry(s, to, e);
	}
}

/* What moves, taken out of its block; entries of others are 0. */
struct cargo {
	uint64_t base; /* address of the first entry */
	uint32_t entry[BLOCK_PAGES];
};

/* A reference to a blob moves along. The old row names it too, until it is rewritten, or its
 * leaf has died and is forgotten: what is let go of waits for both (indexer.c). What nobody
 * needs any more stays behind. */
static void load(struct space *s, struct piece p, struct cargo *c)
{
	struct leaf *leaf = space_leaf(s, p.number);

	memset(c, 0, sizeof(*c));
	c->base = p.number << BLOCK_SHIFT;
	for (unsigned i = p.from; i < p.to; i++) {
		uint32_t e = leaf->entry[i];
		c->entry[i] = entry_out(e) ? e : e & ~ENTRY_VALUE;
		space_set(s, p.number, leaf, i,
			entry_make(PAGE_ABSENT, entry_out(e) ? BLOB_NONE : entry_value(e)));
	}
}

static size_t load_all(struct space *s, uint64_t from, uint64_t end, struct cargo **ret)
{
	size_t first = space_block_index(s, from >> BLOCK_SHIFT), count = 0;
	size_t blocks = space_block_index(s, last_block(end) + 1) - first;

	*ret = space_alloc((blocks + 1) * sizeof(**ret));
	for (size_t i = first; i < first + blocks; i++)
		load(s, piece_of(s->block[i].number, from, end), &(*ret)[count++]);
	return count;
}

void space_remap(struct space *s, uint64_t from, uint64_t to, uint64_t len)
{
	struct doubt *d = &s->doubt;
	struct cargo *cargo;

	add_step(s, from, to, len);
	/* All out before any goes in: the two ranges may share a block. */
	size_t count = load_all(s, from, from + len, &cargo);
	drop_pages(s, to, to + len, true); /* nothing, unless its UNMAP is still to be read */
	for (size_t i = 0; i < count; i++)
		for (unsigned page = 0; page < BLOCK_PAGES; page++)
			if (cargo[i].entry[page])
				place_entry(s, cargo[i].base + page * PAGE_SIZE - from + to,
					cargo[i].entry[page]);
	free(cargo);
	keep_no_more(d, to, to + len);
	note(d, (struct region){to, to + len}, d->target, &d->target_count, d->unmapped,
		d->unmapped_count);
	if (space_region_overlaps(s, from, from + len))
		space_region_add(s, to, to + len);
}

/* ---- fork ---- */

/* A leaf with HELD pages changes soon, for parent and child at different moments. One whose row
 * is an older state may be written with the child's rows and not with the parent's, which would
 * name what it was not when they were written (rule 10). */
static struct leaf *leaf_for_child(struct space *parent, struct leaf *leaf)
{
	int row = atomic_load(&leaf->row);

	if (leaf->held > 0 || (row != LEAF_NEW && row != LEAF_CLEAN))
		return leaf_clone(parent->graveyard, leaf);
	atomic_store(&leaf->shared, true);
	atomic_fetch_add(&leaf->refs, 1);
	return leaf;
}

static void fork_aside(struct space *parent, struct space *child)
{
	for (size_t i = 0; i < parent->aside_count; i++) {
		struct aside a = parent->aside[i];
		space_make_room((void **)&child->aside, child->aside_count, &child->aside_room,
			sizeof(*child->aside));
		a.leaf = leaf_for_child(parent, a.leaf);
		child->aside[child->aside_count++] = a;
	}
}

static void copy_doubt(const struct space *parent, struct space *child)
{
	child->doubt.open_count = parent->doubt.open_count;
	child->doubt.lost = parent->doubt.lost;
	child->doubt.open_all = parent->doubt.open_all;
	memcpy(child->doubt.open, parent->doubt.open, sizeof(child->doubt.open));
	child->doubt.late_count = parent->doubt.late_count;
	memcpy(child->doubt.late, parent->doubt.late, sizeof(child->doubt.late));
}

void space_fork_unborn(struct space *parent, struct space *child)
{
	assert(child->block_count == 0 && child->region_count == 0);
	for (size_t i = 0; i < parent->region_count; i++)
		space_region_add(child, parent->region[i].start, parent->region[i].end);
	memcpy(child->held, parent->held, sizeof(child->held));
	for (size_t i = 0; i < parent->block_count; i++)
		space_block_insert(child, parent->block[i].number,
			leaf_for_child(parent, parent->block[i].leaf));
	fork_aside(parent, child);
	copy_doubt(parent, child);
	child->unborn = true;
}

void space_inherit_doubt(const struct space *parent, struct space *child)
{
	copy_doubt(parent, child);
	/* Nobody else is there from whom something could still come or leave. */
	settle_late(child);
}

struct steps *space_fork(struct space *parent, struct space *child)
{
	struct steps *l = open_steps(parent);

	count_event(parent);
	space_fork_unborn(parent, child);
	atomic_fetch_add(&l->refs, 1);
	return l;
}
