#include "birth.h"
#include "batch.h"
#include "log.h"
#include "pager.h"
#include "points.h"
#include "settle.h"
#include "space_internal.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	/* A thread of the child whose event was read goes on within that time, mostly. */
	TRIES = 200,
	/* No program makes so many calls while a thread of its parent is waited for, unless it
	 * means to. */
	EARLY_MAX = 65536,
};

struct list {
	struct step *step; /* owned */
	size_t count, room;
};

struct birth {
	struct client *parent; /* owned: one reference */
	struct steps *steps;   /* owned: one reference */
	size_t before;	       /* so many had been read */
	struct list line; /* calls of ancestors that were never born, between steps and child */
	struct uffd_msg *early; /* owned; read from the child so far, not applied */
	size_t early_count, early_room;
};

static void list_add(struct list *l, uint64_t from, uint64_t to, uint64_t len)
{
	space_make_room((void **)&l->step, l->count, &l->room, sizeof(*l->step));
	l->step[l->count++] = (struct step){from, to, len};
}

static void list_add_list(struct list *l, const struct list *more)
{
	for (size_t i = 0; i < more->count; i++)
		list_add(l, more->step[i].from, more->step[i].to, more->step[i].len);
}

static void list_add_event(struct list *l, const struct uffd_msg *m)
{
	if (m->event == UFFD_EVENT_REMAP)
		list_add(l, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
	else if (m->event == UFFD_EVENT_UNMAP || m->event == UFFD_EVENT_REMOVE)
		list_add(l, m->arg.remove.start,
			m->event == UFFD_EVENT_UNMAP ? STEP_UNMAP : STEP_REMOVE,
			m->arg.remove.end - m->arg.remove.start);
}

/* ---- begin and end ---- */

static struct client *new_child(struct client *parent, int ufd)
{
	struct client *child = worker_new_client(parent->worker, ufd);

	/* Inherited from how the client made the first one. */
	fcntl(ufd, F_SETFL, O_NONBLOCK);
	point(POINT_fork);
	child->parent = parent->id;
	child->uid = parent->uid;
	snprintf(child->exe, sizeof(child->exe), "%s", parent->exe);
	snprintf(child->policy, sizeof(child->policy), "%s", parent->policy);
	child->failed = parent->failed;
	atomic_store(&child->state, CLIENT_FORKED);
	child->birth = space_alloc(sizeof(*child->birth));
	memset(child->birth, 0, sizeof(*child->birth));
	return child;
}

static void publish(struct client *parent, struct client *child)
{
	for (int i = 0; i < HELD_TAGS; i++)
		if (child->space.held[i])
			batch_follow(child->space.held[i], child);
	atomic_fetch_add(&parent->events_fork, 1);
	worker_publish_client(parent->worker, child);
}

void birth_fork(struct client *parent, int ufd)
{
	struct client *child = new_child(parent, ufd);
	struct birth *b = child->birth;

	b->steps = space_fork(&parent->space, &child->space);
	b->before = b->steps->count;
	client_ref(parent);
	b->parent = parent;
	publish(parent, child);
}

void birth_free(struct client *child)
{
	struct birth *b = child->birth;

	if (!b)
		return;
	child->birth = NULL;
	steps_unref(b->steps);
	client_unref(b->parent);
	free(b->line.step);
	free(b->early);
	free(b);
}

/* A child of one that was never born: as if it had been copied from the same page tables, and
 * `since` had been its own. */
static void fork_unborn(struct client *child, int ufd, const struct list *since)
{
	struct client *grandchild = new_child(child, ufd);
	struct birth *b = grandchild->birth;

	space_fork_unborn(&child->space, &grandchild->space);
	b->steps = child->birth->steps;
	atomic_fetch_add(&b->steps->refs, 1);
	b->before = child->birth->before;
	b->parent = child->birth->parent;
	client_ref(b->parent);
	list_add_list(&b->line, &child->birth->line);
	list_add_list(&b->line, since);
	publish(child, grandchild);
}

void birth_pass_on(struct client *child)
{
	struct birth *b = child->birth;
	struct list since = {.count = 0};

	for (size_t i = 0; b && i < b->early_count; i++) {
		if (b->early[i].event == UFFD_EVENT_FORK)
			fork_unborn(child, (int)b->early[i].arg.fork.ufd, &since);
		else
			list_add_event(&since, &b->early[i]);
	}
	free(since.step);
	birth_free(child);
}

/* ---- settling ---- */

/* Have all steps been read? Whoever holds the parent's gate may be between reading one and
 * applying it; so it takes the gate to know. */
static bool all_steps_known(const struct birth *b)
{
	struct client *parent = b->parent;

	if (atomic_load(&b->steps->closed))
		return true;
	if (pthread_mutex_trylock(&parent->gate) != 0)
		return false;
	settle_calm(parent);
	pthread_mutex_unlock(&parent->gate);
	if (atomic_load(&parent->pending))
		worker_retry_later(parent->worker, parent, 1);
	return atomic_load(&b->steps->closed);
}

static int is_registered(void *arg, uint64_t addr)
{
	const struct client *child = arg;
	return uffd_registered(child->uffd, addr);
}

static int try_to_bear(struct client *child)
{
	struct birth *b = child->birth;
	struct list early = {.count = 0};

	for (size_t i = 0; i < b->early_count; i++)
		if (b->early[i].event != UFFD_EVENT_REMOVE)
			list_add_event(&early, &b->early[i]);
	const struct midwife m = {.registered = is_registered,
		.arg = child,
		.line = b->line.step,
		.line_count = b->line.count,
		.early = early.step,
		.early_count = early.count};
	int r = space_bear(&child->space, b->steps, b->before, &m);
	free(early.step);
	return r;
}

static void keep_early(struct birth *b, const struct uffd_msg *msg, int count)
{
	for (int i = 0; i < count; i++) {
		space_make_room(
			(void **)&b->early, b->early_count, &b->early_room, sizeof(*b->early));
		b->early[b->early_count++] = msg[i];
	}
}

/* Faults and events that were read before it was known what they are about. */
static void apply_early(struct client *child)
{
	struct birth *b = child->birth;
	struct uffd_msg *early = b->early;
	size_t count = b->early_count;

	b->early = NULL;
	birth_free(child);
	for (size_t i = 0; i < count; i++)
		pager_take(child, &early[i]);
	free(early);
}

static void fail(struct client *child)
{
	child->failed = true;
	log_error("client %llu (%s): was forked while its parent moved evicted memory, and it "
		  "can't "
		  "be told where it has which pages; none of its faults is answered",
		(unsigned long long)child->id, child->exe);
	space_bear_none(&child->space);
	apply_early(child);
}

int birth_settle(struct pager *p, struct client *child)
{
	struct uffd_msg msg[PAGER_MESSAGES];
	int r = -EAGAIN;

	if (!all_steps_known(child->birth))
		return -EAGAIN;
	point(POINT_birth);
	for (int i = 0; i < TRIES && r == -EAGAIN; i++) {
		r = try_to_bear(child);
		if (r != -EAGAIN)
			break;
		/* A call of the child's own is in flight: it has to be read to go on. */
		int n = pager_read(p, child, msg);
		if (n < 0)
			return n;
		keep_early(child->birth, msg, n);
		if (child->birth->early_count > EARLY_MAX)
			r = -EBADMSG;
	}
	if (r == 0)
		apply_early(child);
	else if (r == -EBADMSG)
		fail(child);
	return r == -EBADMSG ? 0 : r;
}
