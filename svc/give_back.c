#include "give_back.h"
#include "journal.h"
#include "pager.h"
#include "points.h"
#include "pulse.h"
#include "settle.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

/* What one call may take. */
struct slice {
	uint64_t until_ms;   /* by worker_now_ms */
	uint64_t bytes_left; /* of the machine's memory */
};

static void rest(long ns)
{
	struct timespec pause = {.tv_nsec = ns};
	nanosleep(&pause, NULL);
}

/* The first page from addr on that is out, below end; end when there is none. */
static uint64_t next_out(const struct space *s, uint64_t addr, uint64_t end)
{
	while (addr < end) {
		size_t at = space_block_index(s, addr >> BLOCK_SHIFT);
		if (at == s->block_count)
			return end;
		uint64_t base = s->block[at].number << BLOCK_SHIFT;
		if (base > addr)
			addr = base;
		for (; addr < end && addr < base + BLOCK_SIZE; addr += PAGE_SIZE) {
			enum page_state state = entry_state(space_entry(s, addr));
			if (s->block[at].leaf->out == 0) {
				addr = base + BLOCK_SIZE;
				break;
			}
			if (state == PAGE_HELD || state == PAGE_STORED)
				return addr;
		}
	}
	return end;
}

/* One run of pages, gate held. Returns 1 when nothing is out any more. */
static int give_run(
	struct pager *p, struct client *c, uint64_t *addr, uint64_t end, struct slice *slice)
{
	unsigned pages;
	int r = pager_drain(p, c);

	if (r < 0)
		return r;
	if (space_in_doubt(&c->space))
		return -EAGAIN;
	*addr = next_out(&c->space, *addr, end);
	if (*addr >= end)
		return 1;
	uint64_t left = (end - *addr) / PAGE_SIZE;
	if (left > slice->bytes_left / PAGE_SIZE)
		left = slice->bytes_left / PAGE_SIZE;
	if (left == 0)
		return -EDQUOT;
	r = pager_restore(p, c, *addr,
		left < PAGER_WINDOW_MAX ? (unsigned)left : PAGER_WINDOW_MAX, &pages);
	if (r == -ENOENT) {
		/* Its mapping is gone; if the event that says so isn't here yet, it will be. */
		if (!uffd_fence_up(c->uffd))
			settle_gone(c, *addr);
		return -EAGAIN;
	}
	*addr += pages * PAGE_SIZE;
	slice->bytes_left -= pages * PAGE_SIZE;
	return r;
}

/* Gate held: nothing is out in the region. */
static int unregister_region(struct pager *p, struct client *c, struct region g)
{
	int r;

	/* Unread, an event could change what the range means: not while the fence is up. */
	if (uffd_fence_up(c->uffd) || space_in_doubt(&c->space))
		return pager_drain(p, c) == -ESRCH ? -ESRCH : -EAGAIN;
	/* A fork that begins from here on has what is unregistered now, and no step of before
	 * would explain it. */
	r = settle_forget(c);
	if (r < 0)
		return r;
	journal_add(c->journal, JOURNAL_ASK, g.start, g.end, 0, 0);
	point(POINT_ask);
	r = uffd_unregister(c->uffd, g.start, g.end - g.start);
	point(POINT_unregistered);
	/* Else some of it may be unregistered, or nothing: asked for, and tried again. */
	if (r == -ENOMEM) {
		settle_later(c, g.start, g.end);
		return client_memory_gone(c) ? -ESRCH : -ENOMEM;
	}
	settle_answer(c, g.start, g.end, false);
	return 0;
}

/* The next piece of a region, gate held. 1: it is given back, or was unmapped meanwhile. */
static int give_piece(struct pager *p, struct client *c, struct region *g, uint64_t *addr,
	struct slice *slice)
{
	const struct region *now = space_region_at(&c->space, g->start);

	if (client_state(c) == CLIENT_GONE)
		return -ESRCH;
	if (!now)
		return 1;
	if (c->failed)
		return -EIO;
	g->end = now->end;
	int r = give_run(p, c, addr, g->end, slice);
	if (r != 1)
		return r;
	/* From the start, for what was evicted behind our back. */
	*addr = next_out(&c->space, g->start, g->end);
	if (*addr < g->end)
		return -EAGAIN;
	r = unregister_region(p, c, *g);
	return r == 0 ? 1 : r;
}

/* Restores a region and takes it out of management, letting go of the gate between runs. */
static int give_region(struct pager *p, struct client *c, struct region g, struct slice *slice)
{
	uint64_t addr = g.start;

	for (;;) {
		gate_lock(c);
		int r = give_piece(p, c, &g, &addr, slice);
		gate_unlock(p, c);
		if (r == 1)
			return 0;
		/* -EBADMSG, -EIO: what is out stays out, and is never zeros. -EDQUOT. */
		if (r < 0 && r != -ENOMEM && r != -EAGAIN)
			return r;
		if (worker_now_ms() >= slice->until_ms)
			return -EAGAIN;
		if (r < 0)
			rest(r == -ENOMEM ? 1000000 : 50000);
	}
}

static bool first_region(struct client *c, uint64_t start, uint64_t end, struct region *ret)
{
	for (size_t i = 0; i < c->space.region_count; i++)
		if (c->space.region[i].start < end && start < c->space.region[i].end) {
			*ret = c->space.region[i];
			return true;
		}
	return false;
}

/* A mapping that has grown in place is registered beyond what is on record, and no event tells.
 * Left so, the program's mapping would be two. Of mappings of which something is on record: not
 * our own, which are registered as well. */
static int note_growth_at(struct client *c, int maps, uint64_t addr)
{
	struct procmap_query q = {.size = sizeof(q), .query_addr = addr};

	pulse_call_begin();
	int r = ioctl(maps, PROCMAP_QUERY, &q);
	pulse_call_end();
	if (r < 0 || !space_region_overlaps(&c->space, q.vma_start, q.vma_end))
		return 0;
	return settle_range(c, q.vma_start, q.vma_end);
}

static int note_all_growth(struct client *c, int maps, uint64_t start, uint64_t end)
{
	const struct space *s = &c->space;
	int r = note_growth_at(c, maps, start);

	/* Regions come and go by this. */
	for (size_t i = 0; i < s->region_count && r == 0;) {
		struct region g = s->region[i];
		if (g.start >= end)
			break;
		if (g.end > start)
			r = note_growth_at(c, maps, g.end - PAGE_SIZE);
		for (i = 0; i < s->region_count && s->region[i].end <= g.end; i++)
			;
	}
	return r;
}

static int note_growth(
	struct pager *p, struct client *c, uint64_t start, uint64_t end, uint64_t until_ms)
{
	int maps = c->procdir < 0 ? -1 : openat(c->procdir, "maps", O_RDONLY | O_CLOEXEC);
	int r = maps < 0 ? 0 : -EAGAIN;

	while (r == -EAGAIN) {
		gate_lock(c);
		r = client_state(c) == CLIENT_GONE ? -ESRCH : pager_drain(p, c);
		if (r == 0)
			r = uffd_fence_up(c->uffd) || space_in_doubt(&c->space)
				    ? -EAGAIN
				    : note_all_growth(c, maps, start, end);
		gate_unlock(p, c);
		if (r != -EAGAIN || worker_now_ms() >= until_ms)
			break;
		rest(50000);
	}
	if (maps >= 0)
		close(maps);
	return r;
}

static int give_slice(
	struct pager *p, struct client *c, uint64_t start, uint64_t end, struct slice *slice)
{
	int grown = note_growth(p, c, start, end, slice->until_ms);

	if (grown < 0) {
		if (grown == -ESRCH)
			client_mark_gone(c);
		return grown;
	}

	for (;;) {
		struct region g;
		gate_lock(c);
		bool gone = client_state(c) == CLIENT_GONE;
		bool any = first_region(c, start, end, &g);
		gate_unlock(p, c);
		if (gone)
			return -ESRCH;
		if (!any)
			return 0;
		int r = give_region(p, c, g, slice);
		if (r == -ESRCH)
			client_mark_gone(c);
		if (r < 0)
			return r;
	}
}

int give_back(
	struct pager *p, struct client *c, uint64_t start, uint64_t end, unsigned slice_ms)
{
	struct slice slice = {worker_now_ms() + slice_ms, UINT64_MAX};

	return give_slice(p, c, start, end, &slice);
}

int give_back_some(struct pager *p, struct client *c, uint64_t most_bytes, unsigned slice_ms)
{
	struct slice slice = {worker_now_ms() + slice_ms, most_bytes};

	return give_slice(p, c, 0, 1ULL << 47, &slice);
}
