/* Which blocks become huge pages again, and when. The agent and the settings are stubs. */
#include "huge.h"
#include "order.h"
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

enum { BLOCKS = 40, STEP_BLOCKS = 16 };
static const uint64_t FIRST = 1 << 10; /* block */

static struct world {
	struct worker worker;
	struct pager pager;
	struct huge huge;
	struct client client, *table;
	bool keep_huge, fence_up, gate;
	int error; /* of the order */
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
	return 1000;
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
	w->client.agent_pid = 1;
	w->client.agent_pidfd = 1;
	atomic_store(&w->client.state, CLIENT_MANAGED);
	space_init(&w->client.space, &w->worker.graveyard);
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

static void step(unsigned orders)
{
	w->orders = 0;
	huge_step(&w->huge, &w->pager);
	assert_int_equal(w->orders, orders);
}

static void all_in_steps_and_once(void **state)
{
	(void)state;
	step(STEP_BLOCKS);
	assert_int_equal(w->ordered[1], FIRST + 2);
	assert_true(w->huge.due_ms < 1000 + 1000); /* there are more */
	step(STEP_BLOCKS);
	step(BLOCKS - 2 * STEP_BLOCKS);
	assert_int_equal(w->ordered[0], FIRST + 2 * 2 * STEP_BLOCKS);
	assert_int_equal(w->huge.due_ms, 1000 + 1000);
	step(0);
	space_note_huge(&w->client.space, FIRST);
	step(1);
}

static void not_where_nobody_wants_it(void **state)
{
	(void)state;
	w->keep_huge = false;
	step(0);
	w->keep_huge = true;
	w->client.agent_pid = 0;
	step(0);
	w->client.agent_pid = 1;
	atomic_store(&w->client.state, CLIENT_RELEASED);
	step(0);
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
	step(STEP_BLOCKS);
	assert_int_equal(w->ordered[0], FIRST + 4);
	step(STEP_BLOCKS);
	step(BLOCKS - 2 - 2 * STEP_BLOCKS);
	/* It waits, and what has a hole doesn't. */
	space_set_state(s, out + 7 * PAGE_SIZE, PAGE_RESIDENT);
	space_set_state(s, hole, PAGE_RESIDENT);
	step(1);
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
	step(STEP_BLOCKS);
	assert_int_equal(w->ordered[0], FIRST + 2);
}

static void not_while_something_is_unread_or_in_doubt(void **state)
{
	(void)state;
	w->fence_up = true;
	step(0);
	w->fence_up = false;
	w->client.space.doubt.lost = true;
	step(0);
	w->client.space.doubt.lost = false;
	w->client.space.unborn = true;
	step(0);
	w->client.space.unborn = false;
	step(STEP_BLOCKS);
}

static void a_refusal_concerns_one_and_silence_all(void **state)
{
	(void)state;
	w->error = -EINVAL;
	step(STEP_BLOCKS);
	w->error = -ETIME;
	step(1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(all_in_steps_and_once),
		T(not_where_nobody_wants_it),
		T(only_what_is_all_back),
		T(what_is_read_just_before_counts),
		T(not_while_something_is_unread_or_in_doubt),
		T(a_refusal_concerns_one_and_silence_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
