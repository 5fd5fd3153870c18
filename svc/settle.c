#include "settle.h"
#include "log.h"
#include "pager.h"
#include "points.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

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

int settle_range(struct client *c, uint64_t start, uint64_t end)
{
	int maps = open_maps(c);
	int r = settle_pieces(c, maps, (struct region){start, end});

	if (maps >= 0)
		close(maps);
	return r;
}

void settle_calm(struct client *c)
{
	if (c->space.steps && !space_in_doubt(&c->space) && !uffd_fence_up(c->uffd))
		space_forget_aside(&c->space);
}

int settle_doubt(struct client *c)
{
	struct space *s = &c->space;
	int maps, r = 0;

	if (!space_in_doubt(s))
		return 0;
	if (s->overtaken || uffd_fence_up(c->uffd))
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
