#include "restorer.h"
#include "give_back.h"
#include "pager.h"
#include "points.h"
#include "release.h"
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
	/* How long one client may keep us from the next: what isn't done then waits its turn.
	 */
	SLICE_MS = 20,
};

struct restorer {
	struct worker *worker; /* borrowed */
	pthread_t thread;
	struct pager pager;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct release release; /* the thread's */
	uint64_t due_ms;	/* the thread's: its next step, by worker_now_ms */
	_Atomic bool released;
	/* Under the lock: */
	struct client *first, **last; /* owned references; first come, first served */
	bool releasing, children, stop;
};

static void rest(long ns)
{
	struct timespec pause = {.tv_nsec = ns};
	nanosleep(&pause, NULL);
}

/* ---- the shim's bell ---- */

/* Whoever has read of these mappings before can't know what the program does to them now. */
static void note_given(struct restorer *r, struct client *c, uint64_t start, uint64_t end)
{
	gate_lock(c);
	c->given[c->given_count++ % GIVEN_MAX] = (struct region){start, end};
	gate_unlock(&r->pager, c);
}

/* One request of a program; what it says is not trusted beyond its own address space. False:
 * not done in this slice, it stays posted. */
static bool answer_request(struct restorer *r, struct client *c, struct link_request *q)
{
	uint64_t addr = q->addr, len = q->len;
	uint32_t op = q->op;
	int result = -EINVAL;

	point(POINT_rung);
	if (op == LINK_GIVE_BACK && len > 0 && addr + len > addr)
		result = give_back(&r->pager, c, addr, addr + len, SLICE_MS);
	if (result == -EAGAIN)
		return false;
	note_given(r, c, addr, addr + len);
	q->result = result;
	atomic_store(&q->state, LINK_DONE);
	point(POINT_replied);
	return true;
}

static bool any_in_state(const struct client *c, enum link_request_state state)
{
	for (unsigned i = 0; i < LINK_REQUESTS; i++)
		if (atomic_load(&c->link->request[i].state) == state)
			return true;
	return false;
}

/* Opening wakes those who wait at it. False: an event is in flight, or there is no memory for
 * it, and that stays so. */
static bool set_bell(struct restorer *r, struct client *c, bool closed)
{
	for (int i = 0; i < BELL_OPEN_TRIES; i++) {
		int e = uffd_protect(c->uffd, c->bell, PAGE_SIZE, closed);
		if (e != -EAGAIN && e != -ENOMEM)
			return true;
		/* It must be read for the fence to fall. */
		pager_service(&r->pager, c);
		rest(BELL_OPEN_NS);
	}
	return false;
}

/* more: it has some still; any: one was answered. */
static void note_asked(struct restorer *r, struct client *c, bool more, bool any)
{
	pthread_mutex_lock(&r->lock);
	more |= c->rang;
	if (!more || any)
		atomic_store(&c->asked_since_ns, more ? worker_now_ns() : 0);
	pthread_mutex_unlock(&r->lock);
}

/* Answers, opens the bell for those who wait at it, and closes it again when they have passed;
 * one that hasn't is let through by its next ring. A request that came while the bell was open
 * made no fault: hence the look after closing. What could not be done, and what came meanwhile,
 * waits its turn behind other clients': each step can be done again from the start. */
static void serve_bell(struct restorer *r, struct client *c)
{
	bool done = true, any = false;

	for (unsigned i = 0; i < LINK_REQUESTS; i++) {
		if (atomic_load(&c->link->request[i].state) != LINK_POSTED)
			continue;
		if (answer_request(r, c, &c->link->request[i]))
			any = true;
		else
			done = false;
	}
	done &= set_bell(r, c, false);
	for (int i = 0; i < BELL_OPEN_TRIES && any_in_state(c, LINK_DONE); i++)
		rest(BELL_OPEN_NS);
	point(POINT_reopened);
	done &= set_bell(r, c, true);
	bool more = !done || any_in_state(c, LINK_POSTED);
	note_asked(r, c, more, any);
	if (more)
		restorer_ring(r, c);
}

/* ---- the thread ---- */

/* Under the lock: until a ring comes, or the release's next step is due. */
static void wait_for_work(struct restorer *r)
{
	struct timespec until = {.tv_sec = (time_t)(r->due_ms / 1000),
		.tv_nsec = (long)(r->due_ms % 1000) * 1000000};

	while (!r->first && !r->stop) {
		if (!r->releasing || atomic_load(&r->released))
			pthread_cond_wait(&r->work, &r->lock);
		else if (worker_now_ms() >= r->due_ms ||
			 pthread_cond_timedwait(&r->work, &r->lock, &until) == ETIMEDOUT)
			break;
	}
}

/* A program that waits goes before. False: we are to stop. NULL: nobody rang, and the release's
 * next step is due. */
static bool next_ring(struct restorer *r, struct client **ret)
{
	*ret = NULL;
	pthread_mutex_lock(&r->lock);
	wait_for_work(r);
	bool go_on = !r->stop;
	if (go_on && r->first) {
		*ret = r->first;
		r->first = (*ret)->next_ring;
		if (!r->first)
			r->last = &r->first;
		(*ret)->rang = false; /* what comes from now on rings again */
	}
	pthread_mutex_unlock(&r->lock);
	return go_on;
}

static void release_next(struct restorer *r)
{
	unsigned wait_ms;

	if (!r->release.worker)
		release_begin(&r->release, r->worker, r->children);
	if (release_step(&r->release, &r->pager, &wait_ms)) {
		atomic_store(&r->released, true);
		point(POINT_all_back);
		worker_kick(r->worker);
	}
	r->due_ms = worker_now_ms() + wait_ms;
}

static void *restorer_main(void *arg)
{
	struct restorer *r = arg;
	struct client *c;

	while (next_ring(r, &c)) {
		if (!c)
			release_next(r);
		else if (client_state(c) != CLIENT_GONE && c->link)
			serve_bell(r, c);
		else
			note_asked(r, c, false, false); /* nobody asks */
		client_unref(c);
	}
	return NULL;
}

void restorer_release_all(struct restorer *r, bool children)
{
	pthread_mutex_lock(&r->lock);
	r->releasing = true;
	r->children = children;
	atomic_store(&r->released, false);
	pthread_cond_signal(&r->work);
	pthread_mutex_unlock(&r->lock);
}

bool restorer_releases(struct restorer *r)
{
	pthread_mutex_lock(&r->lock);
	bool is = r->releasing;
	pthread_mutex_unlock(&r->lock);
	return is;
}

bool restorer_released(const struct restorer *r)
{
	return atomic_load(&r->released);
}

void restorer_ring(struct restorer *r, struct client *c)
{
	pthread_mutex_lock(&r->lock);
	if (!c->rang) {
		client_ref(c);
		c->rang = true;
		if (atomic_load(&c->asked_since_ns) == 0)
			atomic_store(&c->asked_since_ns, worker_now_ns());
		c->next_ring = NULL;
		*r->last = c;
		r->last = &c->next_ring;
		pthread_cond_signal(&r->work);
	}
	pthread_mutex_unlock(&r->lock);
}

int restorer_start(struct restorer **ret, struct worker *w)
{
	struct restorer *r = calloc(1, sizeof(*r));
	pthread_condattr_t monotonic;
	int e;

	if (!r)
		return -ENOMEM;
	r->worker = w;
	r->last = &r->first;
	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&r->work, &monotonic);
	pthread_condattr_destroy(&monotonic);
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
		struct client *c = r->first;
		r->first = c->next_ring;
		client_unref(c);
	}
	pager_done(&r->pager);
	free(r);
}
