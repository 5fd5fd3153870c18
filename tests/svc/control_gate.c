/* The statistics look at every client under its gate. What a reader was told of meanwhile, and
 * left for the holder, isn't forgotten. Everything else of the service is a stub. */
#include "control.h"
#include "evictor.h"
#include "pager.h"
#include "quota.h"
#include "readers.h"
#include "release.h"
#include "restorer.h"
#include "settings.h"
#include "state.h"
#include "worker.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CLIENTS = 3 };

static struct client client[CLIENTS];
static unsigned retries[CLIENTS];

/* ---- stubs ---- */

int worker_clients(struct worker *w, struct client ***ret, size_t *ret_count)
{
	(void)w;
	*ret = calloc(CLIENTS, sizeof(struct client *));
	for (*ret_count = 0; *ret_count < CLIENTS; ++*ret_count)
		(*ret)[*ret_count] = &client[*ret_count];
	return 0;
}

void trouble_ages(struct worker *w, uint64_t ret_ms[TROUBLE_COUNT])
{
	(void)w;
	memset(ret_ms, 0, TROUBLE_COUNT * sizeof(*ret_ms));
}

uint64_t worker_now_ns(void)
{
	return 7000000000;
}

void worker_retry_later(struct worker *w, struct client *c, uint64_t delay_ns)
{
	(void)w, (void)delay_ns;
	/* The reader that does it takes the gate. */
	assert_int_equal(pthread_mutex_trylock(&c->gate), 0);
	pthread_mutex_unlock(&c->gate);
	retries[c - client]++;
}

struct client *worker_by_id(struct worker *w, uint64_t id)
{
	(void)w, (void)id;
	return NULL;
}

struct client *worker_find(struct worker *w, pid_t pid)
{
	(void)w, (void)pid;
	return NULL;
}

uint64_t worker_now_ms(void)
{
	return 0;
}

void client_unref(struct client *c)
{
	(void)c;
}

int evictor_evict(struct evictor *e, struct client *c, struct evict_result *ret)
{
	(void)e, (void)c, (void)ret;
	return -ENOSYS;
}

bool restorer_releases(struct restorer *r)
{
	(void)r;
	return false;
}

int release_client(struct pager *p, struct client *c)
{
	(void)p, (void)c;
	return -ENOSYS;
}

void release_all(struct pager *p, struct release_all_result *ret)
{
	(void)p, (void)ret;
}

int pager_init(struct pager *p, struct worker *w)
{
	(void)p, (void)w;
	return -ENOSYS;
}

void pager_done(struct pager *p)
{
	(void)p;
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

uint64_t quota_charge(struct pager *p, struct client *c)
{
	(void)p, (void)c;
	return 0;
}

void quota_terms(struct worker *w, const struct client *c, struct terms *ret)
{
	(void)w, (void)c, (void)ret;
}

uint64_t settings_owner_limit(const struct config *c)
{
	(void)c;
	return 0;
}

void readers_latency(struct readers *r, struct histogram_sum *sum)
{
	(void)r, (void)sum;
}

uint64_t readers_replaced(const struct readers *r)
{
	(void)r;
	return 0;
}

void store_stats(struct store *s, struct store_stats *ret)
{
	(void)s;
	memset(ret, 0, sizeof(*ret));
}

uint32_t store_blob_length(const struct store *s, blob_t b)
{
	(void)s, (void)b;
	return 0;
}

void store_ref(struct store *s, blob_t b)
{
	(void)s, (void)b;
}

/* ---- */

static void what_waits_at_a_gate_is_done_later(void **state)
{
	static struct state table; /* of counters, here */
	struct worker w = {.config = NULL, .state = &table};
	struct service_stats stats;
	struct graveyard graveyard;

	(void)state;
	graveyard_init(&graveyard, NULL);
	pthread_mutex_init(&w.config_lock, NULL);
	for (size_t i = 0; i < CLIENTS; i++) {
		pthread_mutex_init(&client[i].gate, NULL);
		space_init(&client[i].space, &graveyard, 1);
		client[i].link_fd = -1;
		space_region_add(&client[i].space, BLOCK_SIZE, 2 * BLOCK_SIZE);
	}
	atomic_store(&client[1].pending, true);
	control_service_stats(&w, &stats);
	assert_int_equal(stats.managed_bytes, CLIENTS * BLOCK_SIZE);
	assert_int_equal(retries[0], 0);
	assert_int_equal(retries[1], 1);
	assert_int_equal(retries[2], 0);
	for (size_t i = 0; i < CLIENTS; i++)
		space_done(&client[i].space);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_waits_at_a_gate_is_done_later)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
