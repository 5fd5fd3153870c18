/* What an order moved, and what came of it: the agent's answers are the test's, the pages are
 * on record only. */
#include "adopt.h"
#include "codec_pool.h"
#include "evict_block.h"
#include "indexer.h"
#include "order.h"
#include "pagemap.h"
#include "pager.h"
#include "worker.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NUMBER = 77, PAGES = 64, BACK = 5, SHARED = 7, OLD = 1, NEW = 2 };

struct world {
	struct worker worker;
	struct graveyard graveyard;
	struct client client;
	struct link link;
	unsigned orders;
	bool comes_back; /* BACK does, while SHARED is made the program's own */
	bool revoked;	 /* the second order */
	bool rows_stay;	 /* those that say that pages lie in staging */
	unsigned zaps;
	uint8_t stored[512]; /* by blob: what the page was */
	blob_t blobs;
};
static struct world *world;

static uint64_t page_at(unsigned page)
{
	return ((uint64_t)NUMBER << BLOCK_SHIFT) + page * PAGE_SIZE;
}

static uint32_t entry(unsigned page)
{
	return space_entry(&world->client.space, page_at(page));
}

/* ---- the agent ---- */

int order_open(struct client *c)
{
	(void)c;
	return 0;
}

void order_close(struct client *c)
{
	(void)c;
}

/* Whoever takes over while the agent is at it has to know that nothing there counts. */
int order_zap(struct client *c)
{
	assert_int_equal(c->zapped_clock, client_clock(c));
	world->zaps++;
	c->staging_used = false;
	return 0;
}

static void move(struct order_result *res, unsigned page, uint8_t what)
{
	memset(world->link.data[page], what, LINK_PAGE);
	res->moved[page / 64] |= 1ULL << page % 64;
}

int order_move(struct client *c, uint64_t block, unsigned first, unsigned count,
	struct order_result *ret)
{
	struct order_result res = {.error = 0};

	assert_int_equal(block, NUMBER);
	c->staging_used = true;
	c->clock++;
	world->orders++;
	for (unsigned i = first; i < first + count; i++) {
		if (world->orders == 1 && i == SHARED)
			res.busy_pages++;
		else if (world->orders == 1 || !world->revoked)
			move(&res, i, world->orders == 1 ? OLD : NEW);
	}
	/* The agent didn't come to it, and what staging has is found out: the page as it was
	 * when it was moved before. */
	if (world->orders > 1 && world->revoked) {
		move(&res, BACK, OLD);
		res.error = -ETIME;
	}
	*ret = res;
	return 0;
}

/* Meanwhile the program touches a page, gets it back, and changes it. */
int order_unshare(struct client *c, uint64_t addr, unsigned pages)
{
	assert_int_equal(addr, page_at(SHARED));
	assert_int_equal(pages, 1);
	if (world->comes_back)
		space_set_state(&c->space, page_at(BACK), PAGE_RESIDENT);
	return 0;
}

/* ---- other stubs ---- */

int adopt_block(struct client *c, uint64_t number)
{
	(void)c, (void)number;
	return 0;
}

int pagemap_words(int fd, uint64_t addr, size_t pages, uint64_t *ret)
{
	(void)fd, (void)addr;
	for (unsigned i = 0; i < pages; i++)
		ret[i] = PM_PRESENT | PM_EXCLUSIVE;
	return 0;
}

bool pagemap_alive(int fd)
{
	(void)fd;
	return true;
}

bool pagemap_is_huge(int fd, uint64_t addr)
{
	(void)fd, (void)addr;
	return false;
}

void codec_pool_run(struct codec_pool *p, unsigned count, codec_fn *fn, void *arg)
{
	(void)p;
	for (unsigned i = 0; i < count; i++)
		fn(arg, i, NULL);
}

int store_pack(struct store_scratch *x, const struct store_method *how, const void *page,
	struct store_packed *ret)
{
	(void)x, (void)how;
	memset(ret, 0, sizeof(*ret));
	world->stored[world->blobs + 1] = *(const uint8_t *)page;
	return 0;
}

uint32_t store_packed_size(const struct store_packed *p)
{
	(void)p;
	return 1;
}

int store_put(struct store *s, const struct store_packed *p, uint32_t stamp, blob_t *ret)
{
	(void)s, (void)p, (void)stamp;
	*ret = ++world->blobs;
	return 0;
}

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

void store_unref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

uint64_t client_clock(const struct client *c)
{
	return c->clock;
}

int indexer_flush(struct pager *p, struct client *c, struct batch *batch)
{
	(void)p, (void)c, (void)batch;
	return 0;
}

int indexer_forget_staging(struct pager *p, struct client *owner)
{
	(void)p, (void)owner;
	return world->rows_stay ? -EAGAIN : 0;
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

int pager_drain(struct pager *p, struct client *c)
{
	(void)p, (void)c;
	return 0;
}

int pager_restore(
	struct pager *p, struct client *c, uint64_t addr, unsigned pages, unsigned *ret_pages)
{
	(void)p, (void)c, (void)addr, (void)pages;
	*ret_pages = 0;
	return 0;
}

void client_ref(struct client *c)
{
	(void)c;
}

void client_unref(struct client *c)
{
	(void)c;
}

uint64_t worker_now_ms(void)
{
	return 0;
}

/* ---- */

static int setup(void **state)
{
	struct world *w = world = calloc(1, sizeof(*w));

	graveyard_init(&w->graveyard, NULL);
	space_init(&w->client.space, &w->graveyard, 1);
	pthread_mutex_init(&w->client.gate, NULL);
	w->client.worker = &w->worker;
	w->client.link = &w->link;
	w->client.uffd = w->client.pagemap = -1;
	atomic_store(&w->client.state, CLIENT_MANAGED);
	space_region_add(&w->client.space, page_at(0), page_at(PAGES));
	for (unsigned i = 0; i < PAGES; i++)
		space_set_state(&w->client.space, page_at(i), PAGE_RESIDENT);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	space_check(&w->client.space);
	space_done(&w->client.space);
	for (struct leaf *l = graveyard_take(&w->graveyard), *next; l; l = next) {
		next = l->next;
		leaf_free(&w->graveyard, l);
	}
	free(w);
	return 0;
}

static int evict(struct world *w, struct evict_result *res)
{
	struct pager pager = {.worker = &w->worker};
	struct allowance a = {.unshare = UNSHARE_AUTO, .room = 1 << 30};

	memset(res, 0, sizeof(*res));
	return evict_block(&pager, NULL, &w->client, NUMBER, NULL, &a, res);
}

static void is_stored(unsigned page, uint8_t what)
{
	assert_int_equal(entry_state(entry(page)), PAGE_STORED);
	assert_int_equal(world->stored[entry_value(entry(page))], what);
}

static void what_was_shared_goes_in_a_second_pass(void **state)
{
	struct world *w = *state;
	struct evict_result res;

	assert_int_equal(evict(w, &res), 0);
	assert_int_equal(w->orders, 2);
	for (unsigned i = 0; i < PAGES; i++)
		is_stored(i, i == SHARED ? NEW : OLD);
	assert_int_equal(res.moved_pages, PAGES);
	assert_int_equal(res.shared_pages, 0);
}

/* Its slot in staging is still full of what it was. The program has what it is. */
static void a_full_slot_of_a_page_that_came_back_moved_nothing(void **state)
{
	struct world *w = *state;
	struct evict_result res;

	w->comes_back = w->revoked = true;
	assert_int_equal(evict(w, &res), -EAGAIN);
	assert_int_equal(w->orders, 2);
	assert_int_equal(entry_state(entry(BACK)), PAGE_RESIDENT);
	assert_int_equal(entry_state(entry(SHARED)), PAGE_RESIDENT);
	is_stored(0, OLD);
	is_stored(PAGES - 1, OLD);
	assert_int_equal(w->client.space.out_pages, PAGES - 2);
}

static void staging_is_emptied_only_when_no_row_names_it(void **state)
{
	struct world *w = *state;
	struct evict_result res;

	w->rows_stay = true;
	assert_int_equal(evict(w, &res), 0);
	is_stored(0, OLD);
	assert_int_equal(w->zaps, 0);
	assert_true(w->client.staging_used);
	/* And nothing goes there before. */
	unsigned orders = w->orders;
	assert_int_equal(evict(w, &res), -EAGAIN);
	assert_int_equal(w->orders, orders);
	w->rows_stay = false;
	evict(w, &res);
	assert_int_equal(w->zaps, 1);
	assert_false(w->client.staging_used);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_was_shared_goes_in_a_second_pass),
		T(a_full_slot_of_a_page_that_came_back_moved_nothing),
		T(staging_is_emptied_only_when_no_row_names_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
