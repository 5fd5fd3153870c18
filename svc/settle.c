#include "settle.h"
#include "journal.h"
#include "log.h"
#include "points.h"
#include "pulse.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum {
	/* In one go, with the gate held: some 30 us where each is of a page, and a drain of the
	 * pager may come back 20 times. The rest is asked when it comes the next time. */
	ASKS_MAX = 64,
};

/* What a program can have lies below. */
#define ADDRESS_END (1ULL << 47)

/* End of the piece, from addr on, that surely has one answer: the mapping's where /proc can be
 * asked, else a page. */
static uint64_t piece_end(int maps, uint64_t addr, uint64_t end)
{
	struct procmap_query q = {.size = sizeof(q),
		.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
		.query_addr = addr};
	uint64_t to = addr + PAGE_SIZE;

	if (maps >= 0) {
		pulse_call_begin();
		bool found = ioctl(maps, PROCMAP_QUERY, &q) == 0;
		bool none = !found && errno == ENOENT; /* from here on */
		pulse_call_end();
		to = none ? end : !found ? to : q.vma_start > addr ? q.vma_start : q.vma_end;
	}
	return to < end ? to : end;
}

static int open_maps(const struct client *c)
{
	return c->procdir < 0 ? -1 : openat(c->procdir, "maps", O_RDONLY | O_CLOEXEC);
}

/* Registered. What wasn't on record may have been discarded unnoticed, and the zap may be still
 * to come (rule 4). */
static void settle_present(struct space *s, uint64_t start, uint64_t end)
{
	const struct region *known = space_region_at(s, start);

	if (s->strays && (!known || known->end < end))
		space_suspect(s, start, end);
	space_region_add(s, start, end);
}

void settle_apply(struct client *c, uint64_t start, uint64_t end, bool registered)
{
	if (registered)
		settle_present(&c->space, start, end);
	else
		space_drop_range(&c->space, start, end);
}

void settle_answer(struct client *c, uint64_t start, uint64_t end, bool registered)
{
	const struct region *known = space_region_at(&c->space, start);

	/* Most answers are what was known. */
	if (!registered || !known || known->end < end) {
		journal_add(c->journal, JOURNAL_ANSWER, start, end, 0, registered);
		point(POINT_settle_told);
	}
	settle_apply(c, start, end, registered);
}

void settle_open_all(struct client *c, uint64_t start, uint64_t end)
{
	space_open_all(&c->space, start, end);
}

void settle_later(struct client *c, uint64_t start, uint64_t end)
{
	journal_add(c->journal, JOURNAL_DOUBT, start, end, 0, 0);
	settle_open_all(c, start, end);
}

/* Linux reports an UNMAP that did not take place: when mmap with MAP_FIXED fails late, for want
 * of address space, after it has taken hold of what it would replace (measured with RLIMIT_AS
 * and RLIMIT_DATA). The mapping is split by then where the UNMAP begins, and stays so. What
 * else can be registered there by now has grown into that place, and begins before it; or was
 * brought by a REMAP, perhaps grown as well. */
static bool was_not_unmapped(
	const struct space *s, const struct unmapped *u, const struct procmap_query *q)
{
	return q->vma_start >= u->start &&
	       !space_brought_since(s, u->step, q->vma_start, q->vma_end);
}

/* The mapping at the page, or all up to the next one; u->from: its end. */
static int settle_one_unmapped(struct client *c, int maps, struct unmapped *u)
{
	struct procmap_query q = {.size = sizeof(q),
		.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
		.query_addr = u->page};

	pulse_call_begin();
	bool found = ioctl(maps, PROCMAP_QUERY, &q) == 0;
	bool none = !found && errno == ENOENT; /* from here on */
	pulse_call_end();
	if (!found)
		return u->from = none ? UINT64_MAX : u->page + PAGE_SIZE, 0;
	bool covers = q.vma_start <= u->page;
	u->from = covers ? q.vma_end : q.vma_start;
	if (!covers || !was_not_unmapped(&c->space, u, &q))
		return 0;
	int r = uffd_registered(c->uffd, u->page);
	if (r <= 0)
		return r;
	uint64_t start = q.vma_start > u->range.start ? q.vma_start : u->range.start;
	uint64_t end = q.vma_end < u->range.end ? q.vma_end : u->range.end;
	/* Of this leaf; what it has in others comes next. */
	u->from = end;
	journal_add(c->journal, JOURNAL_ANSWER, start, end, 0, JOURNAL_TAKEN_BACK);
	point(POINT_settle_told);
	space_take_back(&c->space, start, end);
	settle_apply(c, start, end, true);
	return 0;
}

/* (Of a forked child without an agent it can't be told.) */
static int settle_unmapped(struct client *c)
{
	struct unmapped u = {.at = 0};
	int maps = -1, r = 0;

	while (r == 0 && space_next_unmapped(&c->space, &u)) {
		if (maps < 0 && (maps = open_maps(c)) < 0)
			break;
		r = settle_one_unmapped(c, maps, &u);
	}
	if (maps >= 0)
		close(maps);
	return r;
}

int settle_forget(struct client *c)
{
	int r = settle_unmapped(c);

	if (r < 0)
		return r;
	if (space_unsettled(&c->space) || space_in_doubt(&c->space)) {
		journal_add(c->journal, JOURNAL_CALM, 0, 0, 0, 0);
		point(POINT_calm_told);
	}
	space_forget_aside(&c->space);
	return 0;
}

void settle_gone(struct client *c, uint64_t addr)
{
	journal_add(c->journal, JOURNAL_GONE, addr, addr + PAGE_SIZE, 0, 0);
	point(POINT_gone_told);
	space_set_state(&c->space, addr, PAGE_ABSENT);
}

/* One piece, from addr on. *ret_to: its end. */
static int settle_piece(
	struct client *c, int maps, uint64_t addr, uint64_t end, uint64_t *ret_to)
{
	uint64_t to = piece_end(maps, addr, end);
	int r = uffd_registered(c->uffd, addr);

	if (r < 0)
		return r;
	settle_answer(c, addr, to, r == 1);
	*ret_to = to;
	return 0;
}

int settle_range(struct client *c, uint64_t start, uint64_t end)
{
	int maps = open_maps(c), r = 0;

	while (r == 0 && start < end)
		r = settle_piece(c, maps, start, end, &start);
	if (maps >= 0)
		close(maps);
	return r;
}

void settle_calm(struct client *c)
{
	if (space_unsettled(&c->space) && !space_in_doubt(&c->space) && !uffd_fence_up(c->uffd))
		(void)settle_forget(c); /* else in a moment */
}

/* ---- doubt ---- */

/* The first page from addr on that is out, region or not; end when there is none. */
static uint64_t next_out(const struct space *s, uint64_t addr, uint64_t end)
{
	for (size_t at = space_block_index(s, addr >> BLOCK_SHIFT); at < s->block_count; at++) {
		uint64_t base = s->block[at].number << BLOCK_SHIFT;
		const struct leaf *leaf = s->block[at].leaf;

		if (base >= end)
			break;
		for (unsigned i = base < addr ? (unsigned)((addr - base) / PAGE_SIZE) : 0;
			leaf->out > 0 && i < BLOCK_PAGES; i++)
			if (entry_out(leaf->entry[i]))
				return base + i * PAGE_SIZE < end ? base + i * PAGE_SIZE : end;
	}
	return end;
}

/* The first address from addr on where an answer changes anything: in a region, or where a page
 * is out. A child that gives terabytes back while it is in doubt has next to nothing there. */
static uint64_t next_on_record(const struct space *s, uint64_t addr, uint64_t end)
{
	size_t low = 0, high = s->region_count;

	while (low < high) {
		size_t mid = (low + high) / 2;
		if (s->region[mid].end <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	if (low < s->region_count && s->region[low].start < end)
		end = s->region[low].start > addr ? s->region[low].start : addr;
	return next_out(s, addr, end);
}

/* Asks for what is on record of a range, which becomes what is left of it. *asks: how many
 * questions there may be. -EAGAIN: not all of it now. */
static int settle_open(struct client *c, int maps, struct region *g, unsigned *asks)
{
	int r = 0;

	while (r == 0 && g->start < g->end) {
		g->start = next_on_record(&c->space, g->start, g->end);
		if (g->start == g->end)
			break;
		if (*asks == 0)
			return -EAGAIN;
		--*asks;
		r = settle_piece(c, maps, g->start, g->end, &g->start);
	}
	return r;
}

/* More than was noted: all that is on record, and from the start after each event, for none of
 * them was applied. */
static int settle_all(struct client *c, int maps, unsigned *asks)
{
	struct region all = {c->settled_clock == c->clock ? c->settled_to : 0, ADDRESS_END};
	int r = settle_open(c, maps, &all, asks);

	c->settled_clock = c->clock;
	c->settled_to = all.start;
	return r;
}

int settle_doubt(struct client *c)
{
	struct space *s = &c->space;
	unsigned asks = ASKS_MAX;
	int maps, r = 0;

	if (!space_in_doubt(s))
		return 0;
	if (s->overtaken || uffd_fence_up(c->uffd))
		return -EAGAIN;
	point(POINT_settle);
	maps = open_maps(c);
	for (unsigned i = 0; i < s->doubt.open_count && r == 0; i++)
		r = settle_open(c, maps, &s->doubt.open[i], &asks);
	if (s->doubt.lost && r == 0)
		r = settle_all(c, maps, &asks);
	if (maps >= 0)
		close(maps);
	if (r == 0) {
		c->settled_to = 0;
		r = settle_forget(c);
	}
	return r;
}
