/* Pages go back only as the machine has room for them. The machine is a number and a file that
 * looks like /proc/meminfo; clients, evictor and store are stubs that take from it and give. */
#include "control.h"
#include "evictor.h"
#include "give_back.h"
#include "order.h"
#include "pace.h"
#include "pager.h"
#include "release.h"
#include "worker.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)

enum { CLIENTS = 3, MOST_STEPS = 10000 };

static struct machine {
	uint64_t total, available, least, swap_free;
	uint64_t held;	     /* what the store could give back now */
	unsigned freed_of_4; /* of four pages restored, the store frees so many */
	bool evicting, in_trouble;
	uint64_t clock_ms;
	unsigned houses;
} m;
static struct worker worker;
static struct client client[CLIENTS];
static struct pager pager = {.worker = &worker};

static void write_meminfo(void)
{
	char text[200];
	int n = snprintf(text, sizeof(text),
		"MemTotal:       %llu kB\nMemFree:        1 kB\nMemAvailable:   %llu kB\n"
		"SwapFree:       %llu kB\n",
		(unsigned long long)m.total / 1024, (unsigned long long)m.available / 1024,
		(unsigned long long)m.swap_free / 1024);
	assert_int_equal(ftruncate(worker.meminfo_fd, 0), 0);
	assert_int_equal(pwrite(worker.meminfo_fd, text, (size_t)n, 0), n);
}

static void has_available(uint64_t bytes)
{
	m.available = bytes;
	if (bytes < m.least)
		m.least = bytes;
	write_meminfo();
}

/* ---- stubs ---- */

uint64_t worker_now_ms(void)
{
	return m.clock_ms += 100;
}

struct client *worker_walk(struct worker *w, size_t *at)
{
	(void)w;
	return *at < CLIENTS ? &client[(*at)++] : NULL;
}

void trouble_set(struct worker *w, enum trouble t, bool on)
{
	assert_ptr_equal(w, &worker);
	assert_int_equal(t, TROUBLE_ROOM);
	m.in_trouble = on;
}

void worker_retry_later(struct worker *w, struct client *c, uint64_t delay_ns)
{
	(void)w, (void)c, (void)delay_ns;
}

void client_unref(struct client *c)
{
	(void)c;
}

void client_mark_gone(struct client *c)
{
	atomic_store(&c->state, CLIENT_GONE);
}

void gate_lock(struct client *c)
{
	pthread_mutex_lock(&c->gate);
}

void gate_unlock(struct pager *p, struct client *c)
{
	(void)p;
	pthread_mutex_unlock(&c->gate);
}

int give_back_some(struct pager *p, struct client *c, uint64_t most_bytes, unsigned slice_ms)
{
	uint64_t pages = c->space.out_pages;

	(void)p, (void)slice_ms;
	if (pages > most_bytes / PAGE_SIZE)
		pages = most_bytes / PAGE_SIZE;
	c->space.out_pages -= pages;
	atomic_fetch_add(&client_counts(c)->pages_restored, pages);
	m.held += pages * PAGE_SIZE / 4 * m.freed_of_4;
	has_available(m.available - pages * PAGE_SIZE);
	if (c->space.out_pages > 0)
		return -EDQUOT;
	c->space.region_count = 0;
	return 0;
}

void evictor_keep_house(struct evictor *e)
{
	(void)e;
	m.houses++;
	has_available(m.available + m.held);
	m.held = 0;
}

bool evictor_is_evicting(struct evictor *e)
{
	(void)e;
	return m.evicting;
}

void store_stats(struct store *s, struct store_stats *ret)
{
	(void)s;
	memset(ret, 0, sizeof(*ret));
}

void order_exit(struct link *link, int doorbell)
{
	(void)link, (void)doorbell;
}

int pager_init(struct pager *p, struct worker *w)
{
	(void)p, (void)w;
	return -ENOMEM;
}

void pager_done(struct pager *p)
{
	(void)p;
}

void pager_service(struct pager *p, struct client *c)
{
	(void)p, (void)c;
}

/* ---- the machine ---- */

/* A machine of 4 GiB, which keeps 82 MiB free, with so much room above that. */
static void set_up(uint64_t room, uint64_t bytes_each)
{
	if (worker.meminfo_fd <= 0)
		worker.meminfo_fd = memfd_create("meminfo", MFD_CLOEXEC);
	m = (struct machine){.total = 4096 * MIB, .least = UINT64_MAX};
	has_available(pace_reserve(&(struct pace_memory){.total = m.total}) + room);
	for (size_t i = 0; i < CLIENTS; i++) {
		memset(&client[i], 0, sizeof(client[i]));
		client[i].id = i * 3 + 1;
		client[i].worker = &worker;
		client[i].pidfd = -1;
		pthread_mutex_init(&client[i].gate, NULL);
		atomic_store(&client[i].state, CLIENT_MANAGED);
		client[i].space.region_count = 1;
		client[i].space.out_pages = bytes_each / PAGE_SIZE;
	}
}

static uint64_t out_bytes(void)
{
	struct release_left left;

	release_left(&worker, &left);
	return left.bytes;
}

/* Never less than what is kept for everybody else, but for what a file in KiB rounds. */
static void assert_reserve_is_kept(void)
{
	assert_true(m.least + 1024 >= pace_reserve(&(struct pace_memory){.total = m.total}));
}

/* Steps until it is done or waits for room. */
static bool run(struct release *r)
{
	unsigned wait;

	for (unsigned i = 0; i < MOST_STEPS; i++) {
		if (release_step(r, &pager, &wait))
			return true;
		if (r->waits && wait > 0)
			return false;
	}
	fail_msg("neither done nor waiting after %u steps", (unsigned)MOST_STEPS);
	return false;
}

/* ---- tests ---- */

static void everything_goes_back_where_it_fits(void **state)
{
	struct release r;

	(void)state;
	set_up(301 * MIB, 100 * MIB);
	release_begin(&r, &worker, false);
	assert_true(run(&r));
	assert_int_equal(out_bytes(), 0);
	for (size_t i = 0; i < CLIENTS; i++)
		assert_int_equal(client_state(&client[i]), CLIENT_RELEASED);
	assert_reserve_is_kept();
}

static void what_does_not_fit_waits_until_it_does(void **state)
{
	struct release r;

	(void)state;
	set_up(120 * MIB, 100 * MIB);
	release_begin(&r, &worker, false);
	assert_false(run(&r));
	assert_in_range(out_bytes(), 179 * MIB, 181 * MIB);
	assert_reserve_is_kept();
	assert_true(m.in_trouble);
	assert_false(run(&r)); /* and goes on waiting */
	assert_reserve_is_kept();
	has_available(m.available + 200 * MIB);
	assert_true(run(&r));
	assert_false(m.in_trouble);
	assert_int_equal(out_bytes(), 0);
	assert_reserve_is_kept();
}

/* 300 MiB in 120: only with what the store gives back on the way. */
static void the_store_shrinks_on_the_way(void **state)
{
	struct release r;

	(void)state;
	set_up(120 * MIB, 100 * MIB);
	m.freed_of_4 = 3;
	release_begin(&r, &worker, false);
	assert_true(run(&r));
	assert_true(m.houses > 1);
	assert_reserve_is_kept();

	set_up(20 * MIB, 20 * MIB); /* so little that it asks for lack of room alone */
	m.freed_of_4 = 3;
	release_begin(&r, &worker, false);
	assert_true(run(&r));
	assert_reserve_is_kept();
}

/* It shrinks while there is room, too: else a later need for it meets a full machine. */
static void the_store_shrinks_though_there_is_room(void **state)
{
	struct release r;

	(void)state;
	set_up(1000 * MIB, 100 * MIB);
	m.freed_of_4 = 3;
	release_begin(&r, &worker, false);
	assert_true(run(&r));
	assert_in_range(m.houses, 3, 10);
	assert_true(m.held < 100 * MIB);
}

static void nothing_is_done_while_an_eviction_ends(void **state)
{
	struct release r;
	unsigned wait;

	(void)state;
	set_up(1000 * MIB, MIB);
	m.evicting = true;
	release_begin(&r, &worker, false);
	for (unsigned i = 0; i < 50; i++)
		assert_false(release_step(&r, &pager, &wait));
	/* What it has registered last is found by the round after. */
	client[1].space.region_count = 1;
	m.evicting = false;
	assert_true(run(&r));
	assert_int_equal(client[1].space.region_count, 0);
}

static void an_order_ends_without_room(void **state)
{
	struct release_all_result result;

	(void)state;
	set_up(120 * MIB, 100 * MIB);
	release_all(&pager, &result);
	assert_int_equal(result.clients, 0); /* they take turns */
	assert_in_range(result.restored_pages, 119 * MIB / PAGE_SIZE, 120 * MIB / PAGE_SIZE);
	assert_int_equal(result.left_clients, CLIENTS);
	assert_int_equal(result.left_pages + result.restored_pages, 300 * MIB / PAGE_SIZE);
	assert_non_null(strstr(result.why, "no more room"));
	assert_reserve_is_kept();
	assert_int_equal(release_client(&pager, &client[2]), -ENOSPC);
	has_available(m.available + 500 * MIB);
	release_all(&pager, &result);
	assert_int_equal(result.clients, CLIENTS);
	assert_int_equal(result.left_clients, 0);
	assert_string_equal(result.why, "");
}

static void who_has_nothing_out_is_not_counted(void **state)
{
	struct release_all_result result;

	(void)state;
	set_up(1000 * MIB, 40 * MIB);
	client[0].space.out_pages = 0;
	client[0].space.region_count = 0;
	release_all(&pager, &result);
	assert_int_equal(result.clients, 2);
	assert_int_equal(result.restored_pages, 80 * MIB / PAGE_SIZE);
}

static const struct {
	uint64_t total, available, swap_free, room; /* MiB */
} rooms[] = {
	{512, 64, 0, 0},
	{512, 65, 0, 1},
	{512, 10, 100, 0},
	{512, 10, 200, 46},
	{10000, 300, 0, 100},
	{1000000, 600, 0, 88},
	{1000000, 0, 0, 0},
};

static void some_memory_is_kept(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rooms) / sizeof(rooms[0]); i++) {
		struct pace_memory p = {rooms[i].total * MIB, rooms[i].available * MIB,
			rooms[i].swap_free * MIB};
		assert_int_equal(pace_room(&p), rooms[i].room * MIB);
	}
}

static void the_file_is_read(void **state)
{
	struct pace_memory p;

	(void)state;
	assert_int_equal(pace_parse("MemTotal: 10 kB\nMemFree: 1 kB\nMemAvailable:   7 kB\n"
				    "SwapTotal: 9 kB\nSwapFree:     3 kB\n",
				 &p),
		0);
	assert_int_equal(p.total, 10240);
	assert_int_equal(p.available, 7168);
	assert_int_equal(p.swap_free, 3072);
	assert_int_equal(pace_parse("MemTotal: 10 kB\nMemAvailable: 7 kB", &p), 0);
	assert_int_equal(p.swap_free, 0);
	assert_int_equal(pace_parse("MemTotal: 10 kB\nMemFree: 7 kB\n", &p), -EBADMSG);
	assert_int_equal(pace_parse("MemTotal: 10 kB\nMemAvailable: x kB\n", &p), -EBADMSG);
	assert_int_equal(pace_parse("", &p), -EBADMSG);
	int fd = pace_open();
	assert_true(fd >= 0);
	assert_int_equal(pace_read(fd, &p), 0);
	assert_true(p.total > p.available && p.available > 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_file_is_read),
		cmocka_unit_test(some_memory_is_kept),
		cmocka_unit_test(everything_goes_back_where_it_fits),
		cmocka_unit_test(what_does_not_fit_waits_until_it_does),
		cmocka_unit_test(the_store_shrinks_on_the_way),
		cmocka_unit_test(the_store_shrinks_though_there_is_room),
		cmocka_unit_test(nothing_is_done_while_an_eviction_ends),
		cmocka_unit_test(an_order_ends_without_room),
		cmocka_unit_test(who_has_nothing_out_is_not_counted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
