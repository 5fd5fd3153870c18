#include "keep.h"
#include "log.h"
#include "pace.h"
#include "state.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
	/* A reader that a client's memory limit holds up has its gate: it reads nothing
	 * meanwhile, and we are gone before it goes on. */
	GATE_MAX_MS = 2000,
};

static bool has_agent(const struct client *c)
{
	return c->link != NULL;
}

static void hold(struct client *c)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += GATE_MAX_MS / 1000;
	c->kept = pthread_mutex_clocklock(&c->gate, CLOCK_MONOTONIC, &until) == 0 ? KEPT_HELD
										  : KEPT_STUCK;
}

/* Those that were made meanwhile too. False: there was none that isn't held. */
static bool hold_more(struct worker *w)
{
	struct client **client;
	size_t count;
	bool any = false;

	while (worker_clients(w, &client, &count) < 0)
		usleep(1000);
	for (size_t i = 0; i < count; i++) {
		if (client[i]->kept == KEPT_NOT) {
			any = true;
			hold(client[i]);
		}
		client_unref(client[i]); /* the table has another reference */
	}
	free(client);
	return any;
}

static bool would_be_lost(const struct client *c)
{
	return !has_agent(c) && client_state(c) != CLIENT_GONE &&
	       (c->birth || c->space.region_count > 0 || c->space.out_pages > 0 ||
		       c->space.aside_count > 0);
}

static void let_go(struct worker *w)
{
	struct client *c;

	for (size_t at = 0; (c = worker_walk(w, &at));) {
		if (c->kept == KEPT_HELD)
			pthread_mutex_unlock(&c->gate);
		c->kept = KEPT_NOT;
		if (atomic_load(&c->pending))
			worker_retry_later(w, c, 1);
		client_unref(c);
	}
}

bool keep_hold(struct worker *w)
{
	struct client *c;
	bool lost = false;

	while (hold_more(w))
		;
	for (size_t at = 0; (c = worker_walk(w, &at));) {
		lost |= would_be_lost(c);
		client_unref(c);
	}
	if (lost)
		let_go(w);
	return !lost;
}

void keep_leave(struct worker *w)
{
	uint64_t out = 0;
	struct client *c;
	size_t count = 0;
	char bytes[PACE_TEXT];

	for (size_t at = 0; (c = worker_walk(w, &at));) {
		count += has_agent(c);
		out += c->space.out_pages * PAGE_SIZE;
		client_unref(c);
	}
	if (count == 0) {
		let_go(w);
		return;
	}
	log_info("larderd: %zu programs keep %s out, and wait for the next larderd on %s",
		count, pace_text(out, bytes), w->runtime_dir);
	atomic_store(&w->state->kept, 1);
	_exit(EXIT_SUCCESS);
}
