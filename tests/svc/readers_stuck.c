/* Readers that are stuck at a client: others take their places, nobody's fault is forgotten,
 * and the stuck ones end when they are free. The pager is a stub that blocks where it is told
 * to. */
#include "pager.h"
#include "readers.h"
#include "worker.h"

#include <poll.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { CLIENTS = 6 };

static struct place {
	struct client client;
	_Atomic bool blocks;
	sem_t served, go;
} place[CLIENTS];
static struct worker worker;

/* ---- stubs ---- */

int pager_init(struct pager *p, struct worker *w)
{
	p->worker = w;
	return 0;
}

void pager_leave_thread(struct pager *p)
{
	p->has_alarm = false;
}

/* No thread that used it is left: each has taken its alarm along. */
void pager_done(struct pager *p)
{
	assert_false(p->has_alarm);
	p->worker = NULL;
}

/* As the real one: what is pending is read to the end, and only who finds something does
 * anything. */
void pager_service(struct pager *p, struct client *c)
{
	struct place *at = (struct place *)(void *)c;
	uint64_t count;

	assert_non_null(p->worker);
	p->has_alarm = true;
	if (read(c->uffd, &count, sizeof(count)) < 0)
		return;
	if (at->blocks)
		sem_wait(&at->go);
	sem_post(&at->served);
}

struct client *worker_walk(struct worker *w, size_t *at)
{
	assert_ptr_equal(w, &worker);
	return *at < CLIENTS ? &place[(*at)++].client : NULL;
}

struct client *worker_by_token(struct worker *w, uint64_t token)
{
	assert_ptr_equal(w, &worker);
	return &place[token - 2].client;
}

uint64_t worker_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void client_unref(struct client *c)
{
	(void)c;
}

/* ---- */

static struct readers *begin(unsigned lanes)
{
	struct readers *r;

	for (size_t i = 0; i < CLIENTS; i++) {
		place[i].client.uffd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		place[i].client.token = i + 2;
		place[i].blocks = false;
		sem_init(&place[i].served, 0, 0);
		sem_init(&place[i].go, 0, 0);
	}
	assert_int_equal(readers_start(&r, &worker, lanes), 0);
	for (size_t i = 0; i < CLIENTS; i++)
		assert_int_equal(readers_add(r, &place[i].client), 0);
	return r;
}

static void end(struct readers *r)
{
	readers_stop(r);
	for (size_t i = 0; i < CLIENTS; i++)
		close(place[i].client.uffd);
}

static void fault(size_t i)
{
	uint64_t one = 1;
	assert_int_equal(write(place[i].client.uffd, &one, sizeof(one)), sizeof(one));
}

static void everybody_is_served(void)
{
	for (size_t i = 0; i < CLIENTS; i++) {
		fault(i);
		sem_wait(&place[i].served);
	}
}

static void every_reader_stuck(unsigned lanes, size_t stuck)
{
	struct readers *r = begin(lanes);

	for (size_t i = 0; i < stuck; i++) {
		place[i].blocks = true;
		fault(i);
	}
	for (size_t i = stuck; i < CLIENTS; i++) {
		fault(i);
		sem_wait(&place[i].served);
	}
	assert_true(readers_replaced(r) + lanes > stuck);
	assert_true(readers_stuck(r) + lanes > stuck && readers_stuck(r) <= stuck);
	for (size_t i = 0; i < stuck; i++) {
		place[i].blocks = false;
		sem_post(&place[i].go);
		sem_wait(&place[i].served);
	}
	everybody_is_served();
	while (readers_stuck(r) > 0) /* or the test hangs */
		usleep(1000);
	end(r);
}

static void test_one_lane(void **state)
{
	(void)state;
	every_reader_stuck(1, 1);
}

static void test_a_replacement_is_replaced(void **state)
{
	(void)state;
	every_reader_stuck(1, 4);
}

static void test_more_stuck_than_lanes(void **state)
{
	(void)state;
	every_reader_stuck(2, 4);
}

/* One wake-up brings all of them to the only reader, which is stuck at the first. */
static void test_what_it_was_told_is_not_lost(void **state)
{
	(void)state;
	struct readers *r;

	for (size_t i = 0; i < CLIENTS; i++) {
		place[i].client.uffd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
		place[i].client.token = i + 2;
		place[i].blocks = i == 0;
		sem_init(&place[i].served, 0, 0);
		sem_init(&place[i].go, 0, 0);
	}
	assert_int_equal(readers_start(&r, &worker, 1), 0);
	for (size_t i = 0; i < CLIENTS; i++)
		assert_int_equal(readers_add(r, &place[i].client), 0);
	for (size_t i = 1; i < CLIENTS; i++)
		sem_wait(&place[i].served);
	sem_post(&place[0].go);
	sem_wait(&place[0].served);
	end(r);
}

/* A retry reaches the clients that wait for one, though a reader is stuck. */
static void test_retry_while_stuck(void **state)
{
	(void)state;
	struct readers *r = begin(1);
	uint64_t one = 1;

	place[0].blocks = true;
	fault(0);
	readers_remove(r, &place[1].client);
	assert_int_equal(write(place[1].client.uffd, &one, sizeof(one)), sizeof(one));
	atomic_store(&place[1].client.retry, true);
	readers_retry(r, 1000000);
	sem_wait(&place[1].served);
	sem_post(&place[0].go);
	sem_wait(&place[0].served);
	end(r);
}

/* Only one of the lanes is told of the timer, and it is stuck at the first of those that wait
 * for it. Nobody watches, for the other lane waits for faults. */
static void test_stuck_while_retrying(void **state)
{
	(void)state;
	struct readers *r = begin(2);
	uint64_t replaced = readers_replaced(r);

	place[0].blocks = true;
	for (size_t i = 0; i < 3; i++) {
		readers_remove(r, &place[i].client);
		fault(i);
		atomic_store(&place[i].client.retry, true);
	}
	readers_retry(r, 1000000);
	for (size_t i = 1; i < 3; i++)
		sem_wait(&place[i].served);
	sem_post(&place[0].go);
	sem_wait(&place[0].served);
	assert_int_equal(readers_replaced(r), replaced);
	end(r);
}

/* Stuck for about as long as the watch takes to notice: it may be replaced, or get on just
 * then. */
static void test_at_the_edge(void **state)
{
	(void)state;
	struct readers *r = begin(2);

	for (unsigned round = 0; round < 30; round++) {
		for (size_t i = 0; i < 2; i++) {
			place[i].blocks = true;
			fault(i);
		}
		for (size_t i = 0; i < 2; i++) {
			poll(NULL, 0,
				(int)(45 + round)); /* not for a result: to vary what meets */
			sem_post(&place[i].go);
			sem_wait(&place[i].served);
			place[i].blocks = false;
		}
		everybody_is_served();
	}
	end(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_lane),
		cmocka_unit_test(test_a_replacement_is_replaced),
		cmocka_unit_test(test_more_stuck_than_lanes),
		cmocka_unit_test(test_what_it_was_told_is_not_lost),
		cmocka_unit_test(test_retry_while_stuck),
		cmocka_unit_test(test_stuck_while_retrying),
		cmocka_unit_test(test_at_the_edge)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
