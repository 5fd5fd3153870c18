#include "restorer.h"
#include "log.h"
#include "pager.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	/* How long the bell stays open for a shim to pass after it was answered. */
	BELL_OPEN_TRIES = 50,
	BELL_OPEN_NS = 20000,
};

struct ring {
	struct client *client; /* owned reference */
	struct ring *next;
};

struct restorer {
	struct worker *worker; /* borrowed */
	pthread_t thread;
	struct pager pager;
	pthread_mutex_t lock;
	pthread_cond_t work;
	/* Under the lock: */
	struct ring *first, **last; /* first come, first served */
	bool stop;
};

static void rest(long ns)
{
	struct timespec pause = {.tv_nsec = ns};
	nanosleep(&pause, NULL);
}

/* ---- giving back ---- */

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
static int give_run(struct pager *p, struct client *c, uint64_t *addr, uint64_t end)
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
	r = pager_restore(p, c, *addr,
		left < PAGER_WINDOW_MAX ? (unsigned)left : PAGER_WINDOW_MAX, &pages);
	if (r == -ENOENT) {
		/* Its mapping is gone; if the event that says so isn't here yet, it will be. */
		if (!uffd_fence_up(c->uffd))
			space_set_state(&c->space, *addr, PAGE_ABSENT);
		return -EAGAIN;
	}
	*addr += pages * PAGE_SIZE;
	return r;
}

/* Gate held: nothing is out in the region. */
static int unregister_region(struct pager *p, struct client *c, struct region g)
{
	int r;

	/* Unread, an event could change what the range means: not while the fence is up. */
	if (uffd_fence_up(c->uffd) || space_in_doubt(&c->space))
		return pager_drain(p, c) == -ESRCH ? -ESRCH : -EAGAIN;
	r = uffd_unregister(c->uffd, g.start, g.end - g.start);
	if (r == -ENOMEM)
		return -ESRCH;
	space_drop_range(&c->space, g.start, g.end);
	return 0;
}

/* Restores a region and takes it out of management, letting go of the gate between runs. */
static int give_region(struct pager *p, struct client *c, struct region g)
{
	uint64_t addr = g.start;
	int r;

	for (;;) {
		gate_lock(c);
		const struct region *now = space_region_at(&c->space, g.start);
		if (!now) {
			gate_unlock(p, c);
			return 0; /* unmapped meanwhile */
		}
		g.end = now->end;
		r = c->failed ? -EIO : give_run(p, c, &addr, g.end);
		if (r == 1) {
			/* From the start, for what was evicted behind our back. */
			addr = next_out(&c->space, g.start, g.end);
			r = addr >= g.end ? unregister_region(p, c, g) : -EAGAIN;
			if (r == 0) {
				gate_unlock(p, c);
				return 0;
			}
		}
		gate_unlock(p, c);
		if (r == -ENOMEM || r == -EAGAIN)
			rest(r == -ENOMEM ? 1000000 : 50000);
		else if (r < 0)
			return r; /* -EBADMSG, -EIO: what is out stays out, and is never zeros
				   */
	}
}

int restorer_give_back(struct pager *p, struct client *c, uint64_t start, uint64_t end)
{
	for (;;) {
		struct region g = {0, 0};

		gate_lock(c);
		bool gone = client_state(c) == CLIENT_GONE;
		for (size_t i = 0; i < c->space.region_count && g.end == 0; i++)
			if (c->space.region[i].start < end && start < c->space.region[i].end)
				g = c->space.region[i];
		gate_unlock(p, c);
		if (gone)
			return -ESRCH;
		if (g.end == 0)
			return 0;
		int r = give_region(p, c, g);
		if (r < 0) {
			if (r == -ESRCH)
				client_mark_gone(c);
			return r;
		}
	}
}

/* ---- the shim's bell ---- */

/* One request of a program; what it says is not trusted beyond its own address space. */
static void answer_request(struct restorer *r, struct client *c, struct link_request *q)
{
	uint64_t addr = q->addr, len = q->len;
	uint32_t op = q->op;

	if (op == LINK_GIVE_BACK && len > 0 && addr + len > addr)
		q->result = restorer_give_back(&r->pager, c, addr, addr + len);
	else
		q->result = -EINVAL;
	atomic_store(&q->state, LINK_DONE);
}

static bool any_in_state(const struct client *c, enum link_request_state state)
{
	for (unsigned i = 0; i < LINK_REQUESTS; i++)
		if (atomic_load(&c->link->request[i].state) == state)
			return true;
	return false;
}

static bool stopping(struct restorer *r)
{
	pthread_mutex_lock(&r->lock);
	bool stop = r->stop;
	pthread_mutex_unlock(&r->lock);
	return stop;
}

/* Opening wakes those who wait at it. */
static void set_bell(struct restorer *r, struct client *c, bool closed)
{
	while (uffd_protect(c->uffd, c->bell, PAGE_SIZE, closed) == -EAGAIN && !stopping(r)) {
		/* An event is in flight: it must be read for the fence to fall. */
		pager_service(&r->pager, c);
		rest(BELL_OPEN_NS);
	}
}

/* Answers, opens the bell for those who wait at it, and closes it again when they have passed;
 * one that hasn't is let through by its next ring. A request that came while the bell was open
 * made no fault: hence the look after closing. It waits its turn behind other clients'. */
static void serve_bell(struct restorer *r, struct client *c)
{
	for (unsigned i = 0; i < LINK_REQUESTS; i++)
		if (atomic_load(&c->link->request[i].state) == LINK_POSTED)
			answer_request(r, c, &c->link->request[i]);
	set_bell(r, c, false);
	for (int i = 0; i < BELL_OPEN_TRIES && any_in_state(c, LINK_DONE); i++)
		rest(BELL_OPEN_NS);
	set_bell(r, c, true);
	if (any_in_state(c, LINK_POSTED))
		restorer_ring(r, c);
}

static struct client *next_ring(struct restorer *r)
{
	struct client *c = NULL;

	pthread_mutex_lock(&r->lock);
	while (!r->first && !r->stop)
		pthread_cond_wait(&r->work, &r->lock);
	if (!r->stop) {
		struct ring *ring = r->first;
		c = ring->client;
		r->first = ring->next;
		if (!r->first)
			r->last = &r->first;
		free(ring);
	}
	pthread_mutex_unlock(&r->lock);
	return c;
}

static void *restorer_main(void *arg)
{
	struct restorer *r = arg;
	struct client *c;

	while ((c = next_ring(r))) {
		if (client_state(c) != CLIENT_GONE && c->link)
			serve_bell(r, c);
		client_unref(c);
	}
	return NULL;
}

void restorer_ring(struct restorer *r, struct client *c)
{
	struct ring *ring;

	while (!(ring = malloc(sizeof(*ring))))
		rest(1000000);
	client_ref(c);
	*ring = (struct ring){.client = c};
	pthread_mutex_lock(&r->lock);
	*r->last = ring;
	r->last = &ring->next;
	pthread_cond_signal(&r->work);
	pthread_mutex_unlock(&r->lock);
}

int restorer_start(struct restorer **ret, struct worker *w)
{
	struct restorer *r = calloc(1, sizeof(*r));
	int e;

	if (!r)
		return -ENOMEM;
	r->worker = w;
	r->last = &r->first;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->work, NULL);
	e = pager_init(&r->pager, w);
	if (e == 0)
		e = -pthread_create(&r->thread, NULL, restorer_main, r);
	if (e < 0) {
		pager_done(&r->pager);
		free(r);
		return e;
	}
	pthread_setname_np(r->thread, "larder-restore");
	*ret = r;
	return 0;
}

void restorer_stop(struct restorer *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_signal(&r->work);
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->thread, NULL);
	while (r->first) {
		struct ring *next = r->first->next;
		client_unref(r->first->client);
		free(r->first);
		r->first = next;
	}
	pager_done(&r->pager);
	free(r);
}
