#include "evictor.h"
#include "adopt.h"
#include "batch.h"
#include "codec_pool.h"
#include "evict_block.h"
#include "indexer.h"
#include "log.h"
#include "order.h"
#include "pager.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	/* How old the index may get while nothing is evicted. */
	INDEX_PERIOD_MS = 1000,
	/* Dead space at which segments are compacted, and how much is copied in one go. */
	COMPACT_PERCENT = 5,
	COMPACT_BUDGET = 16 << 20,
	/* How often an agent may be late within one order to evict, as on a machine that is
	   busy. */
	LATE_MAX = 100,
};

struct job {
	struct client *client; /* borrowed from the caller, who waits */
	struct evict_result result;
	int error;
	bool done;
	struct job *next;
};

struct evictor {
	struct worker *worker; /* borrowed */
	pthread_t thread;
	struct pager pager;
	struct codec_pool *pool;  /* owned */
	struct batch *unfinished; /* owned; its pages are HELD until they can be given back */
	pthread_mutex_t lock;
	pthread_cond_t work, finished;
	/* Under the lock: */
	struct job *first;
	uint64_t *forget; /* ids of clients whose rows may go */
	size_t forget_count, forget_room;
	bool stop;
};

/* ---- one client ---- */

static int link_fill(struct client *c)
{
	/* Filled by us before it is used: a client that touches it can't be made to fail, and
	 * the memory is charged to the service. */
	return fallocate(c->link_fd, 0, LINK_DATA_AT, sizeof(c->link->data)) < 0 ? -errno : 0;
}

static void link_empty(struct client *c)
{
	/* While the agent owes an answer it may still copy; while staging is in use the slots
	 * are what a recovery would look at. */
	if (!c->staging_used)
		fallocate(c->link_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, LINK_DATA_AT,
			sizeof(c->link->data));
}

/* Suspicion can be dropped when no REMOVE came since before every thread was seen outside of
 * the calls that discard (rule 4). */
static bool quiet_since(struct pager *p, struct client *c, uint64_t *ret_seq)
{
	bool quiet = false;

	gate_lock(c);
	*ret_seq = c->space.remove_seq;
	gate_unlock(p, c);
	return maps_threads_quiet(c->procdir, &quiet) == 0 && quiet;
}

static bool stopping(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	bool stop = e->stop;
	pthread_mutex_unlock(&e->lock);
	return stop;
}

/* The next block, from `number` on, that a region touches; false when there is none. */
static bool next_block(struct client *c, uint64_t *number)
{
	bool found = false;

	for (size_t i = 0; i < c->space.region_count && !found; i++) {
		uint64_t first = c->space.region[i].start >> BLOCK_SHIFT;
		uint64_t last = (c->space.region[i].end - 1) >> BLOCK_SHIFT;
		if (last < *number)
			continue;
		if (first > *number)
			*number = first;
		found = true;
	}
	return found;
}

/* Pages that could not be stored and not be given back yet. They are served meanwhile. */
static void finish_batches(struct evictor *e)
{
	for (struct batch **at = &e->unfinished; *at;) {
		struct batch *b = *at;
		struct batch *next = b->next;
		if (evict_finish(&e->pager, b))
			*at = next;
		else
			at = &b->next;
	}
}

static int evict_blocks(struct evictor *e, struct client *c, struct evict_result *res)
{
	uint64_t number = 0, quiet_seq;
	bool quiet = quiet_since(&e->pager, c, &quiet_seq);
	unsigned late = 0;
	int r = 0;

	finish_batches(e);
	if (c->batch)
		return -EBUSY;
	while (r == 0 && !stopping(e)) {
		gate_lock(c);
		bool any = next_block(c, &number);
		gate_unlock(&e->pager, c);
		if (!any)
			break;
		r = evict_block(&e->pager, e->pool, c, number, quiet ? &quiet_seq : NULL, res);
		if (r == -EAGAIN && ++late < LATE_MAX)
			r = 0;
		else
			number++;
	}
	if (c->batch) {
		c->batch->next = e->unfinished;
		e->unfinished = c->batch;
	}
	return r == -EAGAIN ? -ETIME : r;
}

static const char *error_text(int r)
{
	switch (r) {
	case 0:
		return "";
	case -ESRCH:
		return "the process ended";
	case -ETIME:
		return "its agent doesn't answer (stopped, frozen or out of CPU time)";
	case -EBUSY:
		return "pages wait to be given back to it: its memory limit leaves no room, or "
		       "its "
		       "events don't end";
	case -ENOSPC:
		return "the store is full";
	case -EIO:
		return "the client failed; see the log";
	default:
		return strerror(-r);
	}
}

/* Why nothing is taken from this client at all, or NULL. */
static const char *left_alone(const struct evictor *e, const struct client *c)
{
	if (e->worker->no_eviction)
		return e->worker->no_eviction;
	if (c->agent_pid == 0)
		return "its agent is gone: what is out is still served, but no more is taken";
	if (worker_now_ms() - c->born_ms < c->min_age_ms)
		return "younger than its policy's min-age";
	return NULL;
}

static int evict_client(struct evictor *e, struct client *c, struct evict_result *res)
{
	const char *why = left_alone(e, c);
	struct adopt_result adopted;
	int r;

	if (why) {
		snprintf(res->why, sizeof(res->why), "%s", why);
		return 0;
	}
	int expected = CLIENT_RELEASED;
	atomic_compare_exchange_strong(&c->state, &expected, CLIENT_MANAGED);
	r = adopt_mappings(&e->pager, c, &adopted);
	memcpy(res->refused_bytes, adopted.refused_bytes, sizeof(res->refused_bytes));
	if (r == 0 && adopted.why) {
		snprintf(res->why, sizeof(res->why), "%s", adopted.why);
		return 0;
	}
	if (r == 0)
		r = link_fill(c);
	if (r == 0) {
		order_busy(c, true);
		r = evict_blocks(e, c, res);
		order_busy(c, false);
		link_empty(c);
	}
	/* What kept us from the rest is in `why`; what was taken was taken. */
	if (client_state(c) == CLIENT_RELEASED) {
		snprintf(res->why, sizeof(res->why), "released meanwhile");
		return 0;
	}
	snprintf(res->why, sizeof(res->why), "%s", error_text(r));
	if (r == -ESRCH)
		client_mark_gone(c);
	return client_state(c) == CLIENT_GONE ? -EAGAIN : 0;
}

/* ---- the thread ---- */

static void forget_gone(struct evictor *e)
{
	for (;;) {
		pthread_mutex_lock(&e->lock);
		bool any = e->forget_count > 0;
		uint64_t id = any ? e->forget[e->forget_count - 1] : 0;
		pthread_mutex_unlock(&e->lock);
		if (!any)
			return;
		int r = indexer_flush_all(&e->pager, id);
		if (r < 0) {
			log_warn("index: rows of a gone client stay for now: %s", strerror(-r));
			return;
		}
		pthread_mutex_lock(&e->lock);
		/* Others may have been added behind it. */
		for (size_t i = 0; i < e->forget_count; i++)
			if (e->forget[i] == id) {
				e->forget[i] = e->forget[--e->forget_count];
				break;
			}
		pthread_mutex_unlock(&e->lock);
	}
}

static void housekeeping(struct evictor *e)
{
	int r;

	finish_batches(e);
	forget_gone(e);
	r = indexer_flush_all(&e->pager, 0);
	if (r < 0)
		log_warn("index: %s; tried again", strerror(-r));
	r = store_compact(e->worker->store, COMPACT_PERCENT, COMPACT_BUDGET);
	if (r < 0 && r != -ENOSPC)
		log_warn("store: compaction: %s", strerror(-r));
}

/* Waits for a job for at most a period; NULL when there was none, or we are to stop. */
static struct job *next_job(struct evictor *e)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += INDEX_PERIOD_MS / 1000;
	pthread_mutex_lock(&e->lock);
	while (!e->first && !e->stop && e->forget_count == 0)
		if (pthread_cond_timedwait(&e->work, &e->lock, &until) == ETIMEDOUT)
			break;
	struct job *j = e->stop ? NULL : e->first;
	if (j)
		e->first = j->next;
	pthread_mutex_unlock(&e->lock);
	return j;
}

static void *evictor_main(void *arg)
{
	struct evictor *e = arg;

	while (!stopping(e)) {
		struct job *j = next_job(e);
		if (j)
			j->error = evict_client(e, j->client, &j->result);
		housekeeping(e);
		if (j) {
			pthread_mutex_lock(&e->lock);
			j->done = true;
			pthread_cond_broadcast(&e->finished);
			pthread_mutex_unlock(&e->lock);
		}
	}
	return NULL;
}

int evictor_evict(struct evictor *e, struct client *c, struct evict_result *ret)
{
	struct job job = {.client = c};

	if (client_state(c) == CLIENT_FORKED)
		return -EOPNOTSUPP;
	pthread_mutex_lock(&e->lock);
	struct job **last = &e->first;
	while (*last)
		last = &(*last)->next;
	*last = &job;
	pthread_cond_signal(&e->work);
	while (!job.done && !e->stop)
		pthread_cond_wait(&e->finished, &e->lock);
	if (!job.done) {
		/* Not begun: it is ours to take off. Begun: it ends soon. */
		for (struct job **j = &e->first; *j; j = &(*j)->next)
			if (*j == &job) {
				*j = job.next;
				job.done = true;
				job.error = -EAGAIN;
				break;
			}
		while (!job.done)
			pthread_cond_wait(&e->finished, &e->lock);
	}
	pthread_mutex_unlock(&e->lock);
	if (job.error == 0)
		*ret = job.result;
	return job.error;
}

void evictor_forget(struct evictor *e, uint64_t id)
{
	pthread_mutex_lock(&e->lock);
	if (e->forget_count == e->forget_room) {
		size_t room = e->forget_room ? e->forget_room * 2 : 64;
		uint64_t *more = realloc(e->forget, room * sizeof(*more));
		if (more) {
			e->forget = more;
			e->forget_room = room;
		}
	}
	/* Without memory its rows stay: an administrator sees a client too many. */
	if (e->forget_count < e->forget_room)
		e->forget[e->forget_count++] = id;
	pthread_cond_signal(&e->work);
	pthread_mutex_unlock(&e->lock);
}

int evictor_start(struct evictor **ret, struct worker *w)
{
	struct evictor *e = calloc(1, sizeof(*e));
	pthread_condattr_t monotonic;
	int r;

	if (!e)
		return -ENOMEM;
	e->worker = w;
	pthread_mutex_init(&e->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&e->work, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&e->finished, NULL);
	r = pager_init(&e->pager, w);
	if (r == 0)
		r = codec_pool_new(&e->pool, 0);
	if (r == 0)
		r = -pthread_create(&e->thread, NULL, evictor_main, e);
	if (r < 0) {
		codec_pool_free(e->pool);
		pager_done(&e->pager);
		free(e);
		return r;
	}
	pthread_setname_np(e->thread, "larder-evictor");
	*ret = e;
	return 0;
}

void evictor_stop(struct evictor *e)
{
	if (!e)
		return;
	pthread_mutex_lock(&e->lock);
	e->stop = true;
	pthread_cond_broadcast(&e->work);
	pthread_cond_broadcast(&e->finished);
	pthread_mutex_unlock(&e->lock);
	pthread_join(e->thread, NULL);
}

void evictor_free(struct evictor *e)
{
	if (!e)
		return;
	finish_batches(e);
	codec_pool_free(e->pool);
	pager_done(&e->pager);
	free(e->forget);
	free(e);
}
