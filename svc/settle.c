#include "settle.h"
#include "log.h"
#include "pager.h"
#include "points.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

void settle_fork(struct pager *p, const struct space *parent, struct client *child)
{
	for (size_t i = 0; i < parent->aside_count; i++)
		for (unsigned page = 0; page < BLOCK_PAGES; page++) {
			uint64_t addr =
				(parent->aside[i].number << BLOCK_SHIFT) + page * PAGE_SIZE;
			unsigned done;

			/* As space_fork: what lies in a region is of a newer mapping. */
			if (!entry_out(parent->aside[i].leaf->entry[page]) ||
				space_region_at(parent, addr))
				continue;
			/* Put there at once: where there is no registered mapping, nothing may
			 * stay on record for what is mapped there later. The child runs
			 * already: with its fence up, "no mapping" may be its own doing, told
			 * of soon. */
			if (pager_restore(p, child, addr, 1, &done) == -ENOENT &&
				!uffd_fence_up(child->uffd))
				space_set_state(&child->space, addr, PAGE_ABSENT);
		}
}

/* End of the piece, from addr on, that surely has one answer: the mapping's where /proc can be
 * asked, else a page. */
static uint64_t piece_end(int maps, uint64_t addr, uint64_t end)
{
	struct procmap_query q = {.size = sizeof(q),
		.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
		.query_addr = addr};
	uint64_t to = addr + PAGE_SIZE;

	if (maps >= 0)
		to = ioctl(maps, PROCMAP_QUERY, &q) < 0 ? end
		     : q.vma_start > addr		? q.vma_start
							: q.vma_end;
	return to < end ? to : end;
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

static int settle_pieces(struct client *c, int maps, struct region g)
{
	while (g.start < g.end) {
		uint64_t to = piece_end(maps, g.start, g.end);
		int r = uffd_registered(c->uffd, g.start);

		if (r < 0)
			return r;
		if (r == 1)
			settle_present(&c->space, g.start, to);
		else
			space_drop_range(&c->space, g.start, to);
		g.start = to;
	}
	return 0;
}

static int open_maps(const struct client *c)
{
	return c->procdir < 0 ? -1 : openat(c->procdir, "maps", O_RDONLY | O_CLOEXEC);
}

/* A mapping is registered whole or not at all, so this one is when a part is on record. What
 * is on record may be older than what /proc says; then another thread maps and unmaps while
 * this one forks, and nobody can rely on what the child finds. */
static uint64_t growth_at(struct space *s, int maps, uint64_t addr)
{
	struct procmap_query q = {.size = sizeof(q),
		.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
		.query_addr = addr};

	if (ioctl(maps, PROCMAP_QUERY, &q) < 0)
		return UINT64_MAX; /* nothing is mapped from here on */
	if (q.vma_start > addr)
		return q.vma_start;
	if (s->grown_count < GROWN_MAX && space_region_overlaps(s, q.vma_start, q.vma_end))
		s->grown[s->grown_count++] = (struct region){q.vma_start, q.vma_end};
	return q.vma_end;
}

void settle_growth(struct client *parent)
{
	struct space *s = &parent->space;
	int maps = s->aside_count > 0 ? open_maps(parent) : -1;

	s->grown_count = 0;
	if (s->aside_count > 0 && maps < 0) {
		/* A child without an agent: not known where. Rather zeros for who forks while
		 * another thread unmaps than old bytes for who does one after the other. */
		s->grown[s->grown_count++] = (struct region){0, UINT64_MAX};
		return;
	}
	for (size_t i = 0; i < s->aside_count; i++) {
		uint64_t base = s->aside[i].number << BLOCK_SHIFT, known = base;
		for (unsigned page = 0; page < BLOCK_PAGES; page++) {
			uint64_t addr = base + page * PAGE_SIZE;
			if (addr >= known && entry_out(s->aside[i].leaf->entry[page]) &&
				!space_region_at(s, addr))
				known = growth_at(s, maps, addr);
		}
	}
	if (maps >= 0)
		close(maps);
}

int settle_range(struct client *c, uint64_t start, uint64_t end)
{
	int maps = open_maps(c);
	int r = settle_pieces(c, maps, (struct region){start, end});

	if (maps >= 0)
		close(maps);
	return r;
}

int settle_doubt(struct client *c)
{
	struct space *s = &c->space;
	int maps, r = 0;

	if (!space_in_doubt(s))
		return 0;
	if (uffd_fence_up(c->uffd))
		return -EAGAIN;
	point(POINT_settle);
	maps = open_maps(c);
	for (unsigned i = 0; i < s->doubt.open_count && r == 0; i++)
		r = settle_pieces(c, maps, s->doubt.open[i]);
	if (s->doubt.lost) {
		/* More than was noted: all that is on record. */
		for (size_t i = s->region_count; i-- > 0 && r == 0;)
			if (i < s->region_count)
				r = settle_pieces(c, maps, s->region[i]);
	}
	if (maps >= 0)
		close(maps);
	if (r == 0)
		space_forget_aside(s);
	return r;
}
