/* A worker that isn't one: control.h with answers that the test sets. */
#ifndef LARDER_FAKE_CONTROL_H
#define LARDER_FAKE_CONTROL_H

#include "control.h"

#include <pthread.h>
#include <stdatomic.h>

enum { FAKE_CLIENTS = 4 };

/* A running server reads this from its threads: change it under the lock, or before the first
 * request of the test's own process. */
struct worker {
	struct service_stats service;
	struct client_info clients[FAKE_CLIENTS];
	size_t client_count;
	/* what the functions return; 0 = the results below */
	int clients_error, evict_error, release_error, reload_error;
	struct evict_result evict;
	struct release_result release;
	struct release_all_result release_all;
	const char *reload_message;
	atomic_uint evicts, releases, all_releases, reloads, stops,
		keeps;		  /* calls that got through */
	_Atomic uint64_t ordered; /* id of the client that the last order was for */
	/* While held, evict doesn't return. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool held;
	unsigned waiting;
};

/* Three clients: 101 of user 1000, 102 of user 1001, which is 7 in a pid namespace, and one
 * whose pid is unknown, of user 1000. Every statistic has a value of its own. */
void fake_init(struct worker *w);
void fake_hold_evicts(struct worker *w);
void fake_wait_for_evict(struct worker *w); /* returns when one waits */
void fake_let_evicts_go(struct worker *w);

#endif
