/* A child that forks, and goes on, before it is known where it has what (birth.h): its child
 * has what it had at that moment, whether it is born itself or ends before. The kernel is
 * scripted; places are blocks. */
#include "birth.h"
#include "batch.h"
#include "pager.h"
#include "points.h"
#include "recover.h"
#include "settle.h"
#include "space_internal.h"
#include "worker.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PLACES = 8, PARENT = 100000, CHILD, GRANDCHILD, CLIENTS = 3, EVENTS = 16 };

/* One address space, as the kernel has it: its userfaultfd is PARENT + its place here. */
static struct memory {
	struct client *client;
	bool registered[PLACES];
	struct uffd_msg event[EVENTS]; /* raised and not read */
	unsigned events;
	bool busy; /* in a call whose event isn't raised yet */
} memory[CLIENTS];

static struct worker worker;

static struct memory *of(int uffd)
{
	return &memory[uffd - PARENT];
}

static uint64_t addr(unsigned place)
{
	return 0x7f0000000000 + place * BLOCK_SIZE;
}

/* ---- the rest of the service ---- */

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

void batch_follow(struct batch *b, struct client *c)
{
	(void)b, (void)c;
}

void client_ref(struct client *c)
{
	(void)c;
}

void client_unref(struct client *c)
{
	(void)c;
}

void worker_retry_later(struct worker *w, struct client *c, uint64_t delay_ns)
{
	(void)w, (void)c, (void)delay_ns;
}

struct client *worker_new_client(struct worker *w, int uffd)
{
	struct client *c = calloc(1, sizeof(*c));

	c->worker = w;
	c->uffd = uffd;
	c->pidfd = c->procdir = c->pagemap = -1; /* as if it had more than one thread */
	pthread_mutex_init(&c->gate, NULL);
	space_init(&c->space, &w->graveyard, 1);
	of(uffd)->client = c;
	return c;
}

uint64_t worker_now_ns(void)
{
	return 1000000000;
}

void worker_record_client(struct worker *w, struct client *c)
{
	(void)w, (void)c;
}

/* Nothing is read again here. */
void recover_fork(struct client *parent, int ufd, struct birth_fork *ret)
{
	(void)parent, (void)ufd, (void)ret;
	fail();
}

void worker_publish_client(struct worker *w, struct client *c)
{
	(void)w, (void)c;
}

/* The parent's fence is down. */
void settle_calm(struct client *c)
{
	space_forget_aside(&c->space);
}

int pager_read(struct pager *p, struct client *c, struct uffd_msg *msg)
{
	struct memory *m = of(c->uffd);

	(void)p;
	if (m->events == 0)
		return 0;
	*msg = m->event[0];
	memmove(m->event, m->event + 1, --m->events * sizeof(*msg));
	return 1;
}

void pager_take(struct client *c, const struct uffd_msg *m)
{
	switch (m->event) {
	case UFFD_EVENT_FORK:
		birth_fork(c, (int)m->arg.fork.ufd);
		break;
	case UFFD_EVENT_REMAP:
		space_remap(&c->space, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		break;
	case UFFD_EVENT_UNMAP:
		space_unmap(&c->space, m->arg.remove.start, m->arg.remove.end);
		break;
	default:
		fail();
	}
}

/* An event that is unread keeps the fence up. */
int __wrap_uffd_registered(int fd, uint64_t at);
int __wrap_uffd_registered(int fd, uint64_t at)
{
	const struct memory *m = of(fd);
	return m->events > 0 || m->busy ? -EAGAIN : m->registered[(at - addr(0)) / BLOCK_SIZE];
}

/* ---- calls ---- */

static void raise_event(struct memory *m, struct uffd_msg event)
{
	m->event[m->events++] = event;
}

static void do_unmap(struct memory *m, unsigned place)
{
	struct uffd_msg event = {.event = UFFD_EVENT_UNMAP};

	event.arg.remove.start = addr(place);
	event.arg.remove.end = addr(place + 1);
	m->registered[place] = false;
	raise_event(m, event);
}

static void do_move(struct memory *m, unsigned from, unsigned to)
{
	struct uffd_msg event = {.event = UFFD_EVENT_REMAP};

	event.arg.remap.from = addr(from);
	event.arg.remap.to = addr(to);
	event.arg.remap.len = BLOCK_SIZE;
	m->registered[to] = true;
	raise_event(m, event);
	do_unmap(m, from);
}

static void do_fork(struct memory *m, int uffd)
{
	struct uffd_msg event = {.event = UFFD_EVENT_FORK};

	event.arg.fork.ufd = (uint32_t)uffd;
	memcpy(of(uffd)->registered, m->registered, sizeof(m->registered));
	raise_event(m, event);
}

/* ---- */

static struct client *client(int uffd)
{
	return of(uffd)->client;
}

/* The parent has 0 out. It forks, and moves 0 to 1, which is read before FORK. */
static int setup(void **state)
{
	struct memory *parent = of(PARENT);

	(void)state;
	memset(memory, 0, sizeof(memory));
	graveyard_init(&worker.graveyard, NULL);
	struct space *s = &worker_new_client(&worker, PARENT)->space;
	space_region_add(s, addr(0), addr(1));
	space_set(s, addr(0) >> BLOCK_SHIFT, space_leaf(s, addr(0) >> BLOCK_SHIFT), 5,
		entry_make(PAGE_STORED, 77));
	parent->registered[0] = true;
	do_fork(parent, CHILD);
	struct uffd_msg fork = parent->event[--parent->events], m;
	do_move(parent, 0, 1);
	while (pager_read(NULL, client(PARENT), &m) > 0)
		pager_take(client(PARENT), &m);
	pager_take(client(PARENT), &fork);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (unsigned i = 0; i < CLIENTS; i++) {
		if (!memory[i].client)
			continue;
		birth_free(memory[i].client);
		space_done(&memory[i].client->space);
		free(memory[i].client);
	}
	for (struct leaf *l = graveyard_take(&worker.graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&worker.graveyard, l);
	}
	return 0;
}

static void assert_out_at(int uffd, unsigned place)
{
	struct space *s = &client(uffd)->space;

	space_check(s);
	assert_int_equal(s->out_pages, 1);
	assert_int_equal(
		space_entry(s, addr(place) + 5 * PAGE_SIZE), entry_make(PAGE_STORED, 77));
	assert_non_null(space_region_at(s, addr(place)));
}

static void bear(int uffd)
{
	assert_int_equal(birth_settle(NULL, client(uffd)), 0);
	assert_null(client(uffd)->birth);
	assert_false(client(uffd)->failed);
}

/* The child moves what it has, forks, and moves it on. */
static void act(struct memory *child)
{
	do_move(child, 0, 2);
	do_fork(child, GRANDCHILD);
	do_move(child, 2, 3);
}

static void a_born_childs_child_has_what_it_had_then(void **state)
{
	(void)state;
	act(of(CHILD));
	bear(CHILD);
	assert_out_at(CHILD, 3);
	bear(GRANDCHILD);
	assert_out_at(GRANDCHILD, 2);
}

/* What is unmapped in between is gone for the child only. */
static void what_a_child_unmaps_after_its_fork_stays_its_childs(void **state)
{
	(void)state;
	do_fork(of(CHILD), GRANDCHILD);
	do_unmap(of(CHILD), 0);
	bear(CHILD);
	assert_int_equal(client(CHILD)->space.out_pages, 0);
	bear(GRANDCHILD);
	assert_out_at(GRANDCHILD, 0);
}

/* What it did is read while it is in one more call, in which it ends. */
static void a_child_of_one_that_was_never_born_has_what_it_had_then(void **state)
{
	struct memory *child = of(CHILD);

	(void)state;
	act(child);
	child->busy = true;
	assert_int_equal(birth_settle(NULL, client(CHILD)), -EAGAIN);
	assert_int_equal(child->events, 0);
	birth_pass_on(client(CHILD));
	bear(GRANDCHILD);
	assert_out_at(GRANDCHILD, 2);
}

/* Whoever holds it may be between reading a step and applying it. */
static void a_child_waits_for_its_parents_gate(void **state)
{
	(void)state;
	act(of(CHILD));
	pthread_mutex_lock(&client(PARENT)->gate);
	assert_int_equal(birth_settle(NULL, client(CHILD)), -EAGAIN);
	assert_true(of(CHILD)->events > 0);
	pthread_mutex_unlock(&client(PARENT)->gate);
	bear(CHILD);
	assert_out_at(CHILD, 3);
}

/* No step of its parent's tells of that: the child asks for itself. */
static void what_its_parent_has_to_ask_for_it_asks_for_too(void **state)
{
	struct memory *parent = of(PARENT);

	(void)state;
	/* A second fork. Something is about to be registered, and isn't. */
	space_open_all(&client(PARENT)->space, addr(4), addr(5));
	parent->registered[0] = false;
	do_fork(parent, GRANDCHILD);
	struct uffd_msg fork = parent->event[--parent->events];
	pager_take(client(PARENT), &fork);
	bear(GRANDCHILD);
	assert_true(space_in_doubt(&client(GRANDCHILD)->space));
	assert_non_null(space_region_at(&client(GRANDCHILD)->space, addr(4)));
	/* The other one was forked before. */
	bear(CHILD);
	assert_false(space_in_doubt(&client(CHILD)->space));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_born_childs_child_has_what_it_had_then),
		T(what_a_child_unmaps_after_its_fork_stays_its_childs),
		T(a_child_of_one_that_was_never_born_has_what_it_had_then),
		T(a_child_waits_for_its_parents_gate),
		T(what_its_parent_has_to_ask_for_it_asks_for_too),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
