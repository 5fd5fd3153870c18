/* Which blocks become huge pages again, and when. The agent and the settings are stubs. */
#include "huge.h"
#include "order.h"
#include "pagemap.h"
#include "pager.h"
#include "quota.h"
#include "uffd.h"
#include "worker.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCKS = 40, ROUND_MS = 1000 };
static const uint64_t FIRST = 1 << 10; /* block */

static struct world {
	struct worker worker;
	struct pager pager;
	struct huge huge;
	struct client client, *table;
	bool keep_huge, fence_up, gate, owes;
	uint64_t now_ms, slow_ms;
	uint64_t shared; /* a block with a page that isn't the program's alone */
	int error;	 /* of the order */
	void (*at_drain)(void);
	unsigned orders;
	uint64_t ordered[BLOCKS];
} * w;

/* ---- the rest of the service ---- */

void gate_lock(struct client *c)
{
	(void)c;
	w->gate = true;
}

void gate_unlock(struct pager *p, struct client *c)
{
	(void)p, (void)c;
	w->gate = false;
}

int pager_drain(struct pager *p, struct client *c)
{
	(void)p, (void)c;
	if (w->at_drain)
		w->at_drain();
	return 0;
}

bool uffd_fence_up(int fd)
{
	(void)fd;
	return w->fence_up;
}

bool process_alive(int pidfd)
{
	(void)pidfd;
	return true;
}

void quota_terms(struct worker *worker, const struct client *c, struct terms *ret)
{
	(void)worker, (void)c;
	*ret = (struct terms){.keep_huge = w->keep_huge};
}

int order_collapse(struct client *c, uint64_t block)
{
	assert_ptr_equal(c, &w->client);
	assert_false(w->gate);
	assert_true(w->orders < BLOCKS);
	w->ordered[w->orders++] = block;
	w->now_ms += w->slow_ms;
	return w->error;
}

int worker_clients(struct worker *worker, struct client ***ret, size_t *ret_count)
{
	(void)worker;
	*ret = calloc(1, sizeof(struct client *));
	**ret = &w->client;
	*ret_count = 1;
	return 0;
}

void client_unref(struct client *c)
{
	(void)c;
}

uint64_t worker_now_ms(void)
{
	return w->now_ms;
}

bool order_answered(const struct client *c)
{
	(void)c;
	return !w->owes;
}

int pagemap_words(int fd, uint64_t start, size_t count, uint64_t *ret)
{
	(void)fd;
	for (size_t i = 0; i < count; i++)
		ret[i] = PM_PRESENT |
			 (start >> BLOCK_SHIFT == w->shared && i == 511 ? 0 : PM_EXCLUSIVE);
	return 0;
}

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

/* ---- */

/* Block i is FIRST + 2 * i; all of them left as huge pages, and are back. */
static int setup(void **state)
{
	(void)state;
	w = calloc(1, sizeof(*w));
	graveyard_init(&w->worker.graveyard, NULL);
	w->pager.worker = &w->worker;
	w->keep_huge = true;
	w->client.id = 5;
	w->client.agent_pid = 1;
	w->client.agent_pidfd = 1;
	atomic_store(&w->client.state, CLIENT_MANAGED);
	space_init(&w->client.space, &w->worker.graveyard, 1);
	for (uint64_t i = 0; i < BLOCKS; i++) {
		uint64_t base = (FIRST + 2 * i) << BLOCK_SHIFT;
		space_region_add(&w->client.space, base, base + BLOCK_SIZE);
		for (unsigned page = 0; page < BLOCK_PAGES; page++)
			space_set_state(
				&w->client.space, base + page * PAGE_SIZE, PAGE_RESIDENT);
		space_note_huge(&w->client.space, FIRST + 2 * i);
	}
	space_check(&w->client.space);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	space_check(&w->client.space);
	space_done(&w->client.space);
	for (struct leaf *l = graveyard_take(&w->worker.graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&w->worker.graveyard, l);
	}
	free(w);
	return 0;
}

/* All that is to be done until there is a longer rest. */
static void go(unsigned orders)
{
	w->orders = 0;
	do {
		w->now_ms = w->huge.due_ms;
		huge_step(&w->huge, &w->pager);
	} while (w->huge.due_ms < w->now_ms + ROUND_MS);
	assert_int_equal(w->orders, orders);
}

static void all_and_once(void **state)
{
	(void)state;
	go(BLOCKS);
	for (uint64_t i = 0; i < BLOCKS; i++)
		assert_int_equal(w->ordered[i], FIRST + 2 * i);
	go(0);
	space_note_huge(&w->client.space, FIRST);
	go(1);
}

/* Each time another job can come between. */
static void one_at_a_time(void **state)
{
	(void)state;
	huge_step(&w->huge, &w->pager);
	huge_step(&w->huge, &w->pager);
	assert_int_equal(w->orders, 2);
	assert_true(w->huge.due_ms > w->now_ms);
}

static void not_where_nobody_wants_it(void **state)
{
	(void)state;
	w->keep_huge = false;
	go(0);
	w->keep_huge = true;
	w->client.agent_pid = 0;
	go(0);
	w->client.agent_pid = 1;
	atomic_store(&w->client.state, CLIENT_RELEASED);
	go(0);
	atomic_store(&w->client.state, CLIENT_MANAGED);
	w->owes = true;
	go(0);
	w->owes = false;
	go(BLOCKS);
}

/* What is out may be HELD, and what isn't there may be discarded: MADV_COLLAPSE would fill it.
 */
static void only_what_is_all_back(void **state)
{
	struct space *s = &w->client.space;
	uint64_t out = FIRST << BLOCK_SHIFT, hole = (FIRST + 2) << BLOCK_SHIFT;

	(void)state;
	space_set(s, FIRST, space_leaf(s, FIRST), 7, entry_make(PAGE_STORED, 1));
	space_remove(s, hole, hole + PAGE_SIZE);
	go(BLOCKS - 2);
	assert_int_equal(w->ordered[0], FIRST + 4);
	/* It waits, and what has a hole doesn't. */
	space_set_state(s, out + 7 * PAGE_SIZE, PAGE_RESIDENT);
	space_set_state(s, hole, PAGE_RESIDENT);
	go(1);
	assert_int_equal(w->ordered[0], FIRST);
}

static void discard_first(void)
{
	uint64_t base = FIRST << BLOCK_SHIFT;

	space_remove(&w->client.space, base, base + PAGE_SIZE);
}

/* Rule 4: what a discard that isn't read yet takes away must not come back. */
static void what_is_read_just_before_counts(void **state)
{
	(void)state;
	w->at_drain = discard_first;
	go(BLOCKS - 1);
	assert_int_equal(w->ordered[0], FIRST + 2);
}

/* A copy would undo what a fork shares. */
static void what_is_shared_waits(void **state)
{
	(void)state;
	w->shared = FIRST + 4;
	go(BLOCKS - 1);
	assert_int_equal(w->ordered[2], FIRST + 6);
	w->shared = 0;
	go(1);
	assert_int_equal(w->ordered[0], FIRST + 4);
}

static void not_while_something_is_unread_or_in_doubt(void **state)
{
	(void)state;
	w->fence_up = true;
	go(0);
	w->fence_up = false;
	w->client.space.doubt.lost = true;
	go(0);
	w->client.space.doubt.lost = false;
	w->client.space.unborn = true;
	go(0);
	w->client.space.unborn = false;
	go(BLOCKS);
}

static void what_the_kernel_refuses_stays_small(void **state)
{
	(void)state;
	w->error = -EBUSY;
	go(BLOCKS);
	w->error = 0;
	go(0);
	/* But where it says that another try is worth it. */
	space_note_huge(&w->client.space, FIRST);
	w->error = -EAGAIN;
	go(1);
	w->error = 0;
	go(1);
	go(0);
}

/* The thread has other things to do. */
static void a_slow_agent_is_left_alone_for_a_while(void **state)
{
	(void)state;
	w->slow_ms = 100;
	go(1);
	assert_true(w->huge.due_ms >= w->now_ms + 5 * ROUND_MS);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(all_and_once),
		T(one_at_a_time),
		T(not_where_nobody_wants_it),
		T(only_what_is_all_back),
		T(what_is_read_just_before_counts),
		T(what_is_shared_waits),
		T(not_while_something_is_unread_or_in_doubt),
		T(what_the_kernel_refuses_stays_small),
		T(a_slow_agent_is_left_alone_for_a_while),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
