/* Which child an agent speaks for is asked of the kernel, on real userfaultfds of this process.
 * The worker is a stub. */
#include "birth.h"
#include "join.h"
#include "pagemap.h"
#include "sequence.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { CLIENTS = 4, USER = 1000, OTHER_USER = 1001, QUESTIONS = 32 };

struct world {
	struct worker worker;
	struct graveyard graveyard;
	struct client client[CLIENTS];
	struct client *table[CLIENTS];
	struct join_search search;
	bool goes_on; /* it does, from one call to the next */
	struct client *ended;
	const struct client *forks;  /* its FORK was read, and isn't applied */
	const struct client *unborn; /* a FORK of its own was read before its birth */
	void (*at_forks)(void);	     /* when it is asked whether it does */
	unsigned refs, unrefs;
	unsigned retries;
	int pagemap;
	uint8_t *bell;
	uint64_t at; /* of the bell */
};
static struct world *world;

/* ---- stubs ---- */

int worker_clients(struct worker *w, struct client ***ret, size_t *ret_count)
{
	assert_ptr_equal(w, &world->worker);
	*ret = calloc(CLIENTS + 1, sizeof(struct client *));
	for (*ret_count = 0; *ret_count < w->client_count; ++*ret_count)
		(*ret)[*ret_count] = w->client[*ret_count];
	world->refs += (unsigned)*ret_count;
	return 0;
}

int worker_clients_and_ended(struct worker *w, struct client ***ret, size_t *ret_count)
{
	worker_clients(w, ret, ret_count);
	for (size_t i = 0; i < w->ended_count; i++)
		(*ret)[(*ret_count)++] = w->ended[i];
	world->refs += (unsigned)w->ended_count;
	return 0;
}

bool sequence_has_fork(const struct client *c)
{
	if (world->at_forks)
		world->at_forks();
	return c == world->forks;
}

bool birth_has_fork(const struct client *c)
{
	return c == world->unborn;
}

void worker_retry_later(struct worker *w, struct client *c, uint64_t delay_ns)
{
	(void)w;
	(void)c;
	(void)delay_ns;
	world->retries++;
}

void client_unref(struct client *c)
{
	(void)c;
	world->unrefs++;
}

void store_ref(struct store *s, blob_t b)
{
	(void)s;
	(void)b;
}

/* ---- */

static int new_uffd(void)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

	close(device);
	assert_int_equal(uffd_api(fd), 0);
	return fd;
}

/* Clients [0] and [1] are children of another memory, [2] is a program that attached, and the
 * last is us. */
static int setup(void **state)
{
	struct world *w = world = calloc(1, sizeof(*w));

	graveyard_init(&w->graveyard, NULL);
	pthread_mutex_init(&w->worker.lock, NULL);
	w->worker.client = w->table;
	w->worker.client_count = CLIENTS;
	for (size_t i = 0; i < CLIENTS; i++) {
		struct client *c = w->table[i] = &w->client[i];
		c->worker = &w->worker;
		c->id = i + 1;
		c->uid = USER;
		c->uffd = i < CLIENTS - 1 ? -1 : new_uffd();
		atomic_store(&c->state, i == 2 ? CLIENT_MANAGED : CLIENT_FORKED);
		pthread_mutex_init(&c->gate, NULL);
		space_init(&c->space, &w->graveyard, 1);
	}
	w->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	w->bell = mmap(
		NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*w->bell = 1;
	w->at = (uintptr_t)w->bell;
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	for (size_t i = 0; i < CLIENTS; i++) {
		if (w->client[i].uffd >= 0) {
			uffd_unregister(w->client[i].uffd, w->at, PAGE_SIZE);
			close(w->client[i].uffd);
		}
		space_done(&w->client[i].space);
	}
	munmap(w->bell, PAGE_SIZE);
	close(w->pagemap);
	free(w);
	return 0;
}

static int find(struct world *w, uid_t uid, struct client **ret)
{
	*ret = NULL;
	w->retries = w->refs = w->unrefs = 0;
	if (!w->goes_on)
		w->search = (struct join_search){0};
	return join_find(&w->worker, &w->search, uid, w->pagemap, w->at, ret);
}

/* Nobody is found, and nothing was done to the bell; all references are given back. */
static void finds_none(struct world *w, uid_t uid, int error)
{
	struct client *c;

	assert_int_equal(find(w, uid, &c), error);
	assert_null(c);
	assert_int_equal(w->unrefs, w->refs);
	*(volatile uint8_t *)w->bell = 2; /* not write-protected: it would wait for ever */
}

static bool is_protected(struct world *w)
{
	uint64_t word = 0;

	assert_int_equal(pagemap_words(w->pagemap, w->at, 1, &word), 0);
	return word & PM_UFFD_WP;
}

static void the_one_is_found(void **state)
{
	struct world *w = *state;
	struct client *c;

	assert_true(join_expected(&w->worker));
	assert_int_equal(find(w, USER, &c), 0);
	assert_ptr_equal(c, &w->client[CLIENTS - 1]);
	assert_int_equal(w->unrefs, w->refs - 1);
	assert_true(is_protected(w));
	assert_int_equal(pthread_mutex_trylock(&c->gate), 0);
	pthread_mutex_unlock(&c->gate);
}

/* Its parent attached as root, say, and became this user. */
static void the_one_is_found_whoever_it_is_now(void **state)
{
	struct world *w = *state;
	struct client *c;

	assert_int_equal(find(w, OTHER_USER, &c), 0);
	assert_ptr_equal(c, &w->client[CLIENTS - 1]);
}

/* ---- its FORK isn't applied yet ---- */

static void let_it_be_forked(void)
{
	world->at_forks = NULL;
	world->worker.client_count = CLIENTS;
}

static void one_that_is_not_in_the_table_yet(void **state)
{
	struct world *w = *state;
	struct client *c;

	w->goes_on = true;
	w->worker.client_count = CLIENTS - 1;
	w->forks = &w->client[2];
	finds_none(w, USER, -EAGAIN);
	assert_int_equal(w->retries, 1);
	/* Just before its parent is looked at. */
	w->forks = NULL;
	w->at_forks = let_it_be_forked;
	assert_int_equal(find(w, USER, &c), 0);
	assert_ptr_equal(c, &w->client[CLIENTS - 1]);
}

static void its_parent_is_unborn(void **state)
{
	struct world *w = *state;

	w->goes_on = true;
	w->worker.client_count = CLIENTS - 1;
	w->unborn = &w->client[1];
	finds_none(w, USER, -EAGAIN);
	w->unborn = NULL;
	finds_none(w, USER, -ENOENT);
}

static void its_parent_has_ended(void **state)
{
	struct world *w = *state;

	w->goes_on = true;
	w->worker.client_count = CLIENTS - 2;
	w->forks = w->ended = &w->client[2];
	w->worker.ended = &w->ended;
	w->worker.ended_count = 1;
	finds_none(w, USER, -EAGAIN);
	atomic_store(&w->client[2].dropped, true);
	finds_none(w, USER, -ENOENT);
}

static void whoever_was_clear_once_may_be_busy(void **state)
{
	struct world *w = *state;

	w->goes_on = true;
	w->worker.client_count = CLIENTS - 1;
	w->forks = &w->client[2];
	pthread_mutex_lock(&w->client[2].gate);
	finds_none(w, USER, -EAGAIN);
	assert_int_equal(w->search.cleared, 2);
	pthread_mutex_unlock(&w->client[2].gate);
	w->forks = &w->client[1];
	finds_none(w, USER, -ENOENT);
}

/* Who said no isn't asked again, and who can't be asked is, with those after it. */
static void each_is_asked_once(void **state)
{
	struct world *w = *state;
	struct client *c;

	w->goes_on = true;
	w->client[1].space.doubt.lost = true;
	w->worker.client_count = CLIENTS - 1;
	finds_none(w, USER, -EAGAIN);
	assert_int_equal(w->search.asked, 1);
	w->client[1].space.doubt.lost = false;
	finds_none(w, USER, -ENOENT);
	assert_int_equal(w->search.asked, CLIENTS - 1);
	w->client[0].space.doubt.lost = true; /* it would be AGAIN */
	w->worker.client_count = CLIENTS;
	assert_int_equal(find(w, USER, &c), 0);
	assert_ptr_equal(c, &w->client[CLIENTS - 1]);
}

/* Another user's program that never comes to an end with it, or that never can be asked. */
static void others_hold_it_up_for_a_while(void **state)
{
	struct world *w = *state;

	w->goes_on = true;
	w->client[2].uid = w->client[1].uid = OTHER_USER;
	w->worker.client_count = CLIENTS - 1;
	w->forks = &w->client[2];
	for (int i = 0; i < JOIN_TURNS_FOR_PARENTS; i++)
		finds_none(w, USER, -EAGAIN);
	finds_none(w, USER, -ENOENT);
	w->search = (struct join_search){0};
	w->forks = NULL;
	w->client[1].space.doubt.lost = true;
	for (int i = 0; i < JOIN_TURNS_FOR_CHILDREN; i++)
		finds_none(w, USER, -EAGAIN);
	finds_none(w, USER, -ENOENT);
	w->search = (struct join_search){.turns = JOIN_TURNS_FOR_CHILDREN};
	finds_none(w, OTHER_USER, -EAGAIN);
}

static void not_one_that_has_an_agent(void **state)
{
	struct world *w = *state;

	w->client[CLIENTS - 1].agent_pid = 1;
	finds_none(w, USER, -ENOENT);
	w->client[CLIENTS - 1].agent_pid = 0;
	atomic_store(&w->client[CLIENTS - 1].state, CLIENT_MANAGED);
	finds_none(w, USER, -ENOENT);
}

/* The program's own page is there: to register it, and take that back, would lose it. */
static void never_where_something_is_on_record(void **state)
{
	struct world *w = *state;

	space_region_add(&w->client[CLIENTS - 1].space, w->at, w->at + PAGE_SIZE);
	finds_none(w, USER, -ENOENT);
}

static void never_where_something_is_registered(void **state)
{
	struct world *w = *state;
	int uffd = w->client[CLIENTS - 1].uffd;

	assert_int_equal(
		uffd_register(uffd, w->at, PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING), 0);
	finds_none(w, USER, -ENOENT);
	assert_int_equal(uffd_registered(uffd, w->at), 1);
}

/* What is there may just be changing. */
static void later_while_in_doubt(void **state)
{
	struct world *w = *state;

	w->client[CLIENTS - 1].space.doubt.lost = true;
	finds_none(w, USER, -EAGAIN);
	assert_int_equal(w->retries, 1); /* somebody settles it */
}

static void later_while_others_are_at_it(void **state)
{
	struct world *w = *state;
	pthread_mutex_t *gate = &w->client[CLIENTS - 1].gate;

	pthread_mutex_lock(gate);
	finds_none(w, USER, -EAGAIN);
	pthread_mutex_unlock(gate);
}

static void *discard(void *memory)
{
	madvise(memory, PAGE_SIZE, MADV_DONTNEED);
	return NULL;
}

static void later_while_an_event_is_unread(void **state)
{
	struct world *w = *state;
	struct uffd_msg m;
	pthread_t thread;
	int uffd = w->client[CLIENTS - 1].uffd;
	void *other = mmap(
		NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t at = (uintptr_t)other;

	assert_int_equal(uffd_register(uffd, at, PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(pthread_create(&thread, NULL, discard, other), 0);
	while (!uffd_fence_up(uffd))
		sched_yield();
	finds_none(w, USER, -EAGAIN);
	assert_int_equal(read(uffd, &m, sizeof(m)), sizeof(m));
	pthread_join(thread, NULL);
	uffd_unregister(uffd, at, PAGE_SIZE);
	munmap(other, PAGE_SIZE);
}

/* A fault that came while the gate was held by the question: its reader left a note. */
static void what_came_meanwhile_is_looked_at(void **state)
{
	struct world *w = *state;
	struct client *c;

	atomic_store(&w->client[CLIENTS - 1].pending, true);
	assert_int_equal(find(w, USER, &c), 0);
	assert_int_equal(w->retries, 1);
}

/* A userfaultfd of a child, which has a page at the same place. */
static void a_foreign_uffd_proves_nothing(void **state)
{
	struct world *w = *state;
	_Atomic int *number = mmap(
		NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = fork();

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		*w->bell = 3;
		atomic_store(number, new_uffd());
		for (;;)
			pause();
	}
	while (!atomic_load(number))
		sched_yield();
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	int foreign = (int)syscall(SYS_pidfd_getfd, pidfd, atomic_load(number), 0);
	assert_true(foreign >= 0);
	assert_int_equal(join_prove(foreign, w->pagemap, w->at, QUESTIONS), -EPERM);
	/* Nothing is left of it, there either. */
	assert_int_equal(uffd_registered(foreign, w->at), 0);
	assert_false(is_protected(w));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(foreign);
	close(pidfd);
	munmap(number, PAGE_SIZE);
}

static void *ring(void *bell)
{
	*(volatile uint8_t *)bell = 4;
	return NULL;
}

/* A thread of the program's rings while questions are asked, and one of these fails. */
static struct {
	pthread_t thread;
	bool rings, fail;
} ringing;

int __real_pagemap_words(int fd, uint64_t start, size_t count, uint64_t *ret);
int __wrap_pagemap_words(int fd, uint64_t start, size_t count, uint64_t *ret);
int __wrap_pagemap_words(int fd, uint64_t start, size_t count, uint64_t *ret)
{
	int uffd = world->client[CLIENTS - 1].uffd;
	struct uffd_msg m;

	if (!ringing.fail)
		return __real_pagemap_words(fd, start, count, ret);
	ringing.fail = false;
	ringing.rings = true;
	assert_int_equal(uffd_protect(uffd, start, PAGE_SIZE, true), 0);
	assert_int_equal(pthread_create(&ringing.thread, NULL, ring, world->bell), 0);
	while (read(uffd, &m, sizeof(m)) != sizeof(m))
		sched_yield();
	assert_int_equal(m.event, UFFD_EVENT_PAGEFAULT);
	return -EAGAIN;
}

/* Else it would wait for ever, as would this test. */
static void who_rings_meanwhile_goes_on(void **state)
{
	struct world *w = *state;

	ringing.fail = true;
	finds_none(w, USER, -EAGAIN);
	assert_true(ringing.rings);
	pthread_join(ringing.thread, NULL);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_one_is_found),
		T(the_one_is_found_whoever_it_is_now),
		T(one_that_is_not_in_the_table_yet),
		T(its_parent_is_unborn),
		T(its_parent_has_ended),
		T(whoever_was_clear_once_may_be_busy),
		T(each_is_asked_once),
		T(others_hold_it_up_for_a_while),
		T(not_one_that_has_an_agent),
		T(never_where_something_is_on_record),
		T(never_where_something_is_registered),
		T(later_while_in_doubt),
		T(later_while_others_are_at_it),
		T(later_while_an_event_is_unread),
		T(what_came_meanwhile_is_looked_at),
		T(a_foreign_uffd_proves_nothing),
		T(who_rings_meanwhile_goes_on),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
