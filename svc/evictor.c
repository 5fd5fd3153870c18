#include "evictor.h"
#include "adopt.h"
#include "batch.h"
#include "codec_pool.h"
#include "evict_block.h"
#include "huge.h"
#include "indexer.h"
#include "points.h"
#include "quota.h"
#include "recompress.h"
#include "scrub.h"
#include "log.h"
#include "order.h"
#include "pager.h"
#include "state.h"
#include "space_internal.h"
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
	/* Dead space at which segments are compacted, and how much is copied in one go. With
	 * pages freed at random by the percent each period, this stays under 7 % (measured:
	 * tests/store/test_store_churn.c), and at rest under 4 %. */
	COMPACT_PERCENT = 3,
	COMPACT_BUDGET = 64 << 20,
	/* From here on it is done at one go, as far as a tenth of a second goes. */
	COMPACT_URGENT_PERCENT = 9,
	COMPACT_URGENT_BUDGET = 256 << 20,
	FORGET_SOON = 64, /* so many dead clients keep their descriptors */
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
	bool index_failing;	  /* the thread's own: its rows could not be written lately */
	uint64_t kept_house_ms;
	struct recompress recompress;
	struct scrub scrub;
	struct huge huge;
	pthread_mutex_t lock;
	pthread_cond_t work, finished;
	/* Under the lock: */
	struct job *first;
	size_t ended_count; /* programs that ended since their rows were looked at last */
	bool forget_now, house_now;
	bool evicting;	   /* a job is at hand */
	bool ended;	   /* nothing is evicted any more */
	bool leaves, left; /* for another worker; all is written */
	bool stop;
};

/* ---- housekeeping ---- */

/* With those of all programs that ended. */
static int flush_and_forget(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	e->ended_count = 0;
	e->forget_now = false;
	pthread_mutex_unlock(&e->lock);
	return indexer_flush_all(&e->pager);
}

/* Said once: a tmpfs that others filled, or somebody who writes to the index, lasts. */
static void note_index(struct evictor *e, int r)
{
	const char *dir = e->worker->runtime_dir;

	if (r < 0 && !e->index_failing)
		log_warn("%s/store/index.db: %s%s; tried again every second", dir, strerror(-r),
			r == -ENOSPC  ? ": remove what isn't Larder's from that tmpfs"
			: r == -EBUSY ? ": somebody writes to it"
				      : "");
	else if (r == 0 && e->index_failing)
		log_info("%s/store/index.db: written again", dir);
	e->index_failing = r < 0;
	trouble_set(e->worker, TROUBLE_INDEX, r < 0);
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

static void housekeeping(struct evictor *e)
{
	struct store *store = e->worker->store;
	int r;

	finish_batches(e);
	trouble_set(e->worker, TROUBLE_MEMORY, !graveyard_fill(&e->worker->graveyard));
	r = flush_and_forget(e);
	/* What that let go of is free after one more. */
	if (r == 0)
		r = indexer_recycle(e->worker);
	note_index(e, r);
	r = store_compact(store, COMPACT_URGENT_PERCENT, COMPACT_URGENT_BUDGET);
	if (r == 0)
		r = store_compact(store, COMPACT_PERCENT, COMPACT_BUDGET);
	if (r < 0 && r != -ENOSPC)
		log_warn("store: compaction: %s", strerror(-r));
	trouble_look(e->worker);
	e->kept_house_ms = worker_now_ms();
}

/* Programs take pages back while others are evicted. */
static void housekeeping_if_due(struct evictor *e)
{
	if (worker_now_ms() - e->kept_house_ms >= INDEX_PERIOD_MS)
		housekeeping(e);
}

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
	 * are what a recovery would look at. Nobody will ever empty the staging of an agent
	 * that is gone; its pages are stored. */
	if (!c->batch && (!c->staging_used || !client_agent_alive(c)))
		fallocate(c->link_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, LINK_DATA_AT,
			sizeof(c->link->data));
}

/* Suspicion can be dropped when no REMOVE came since before every thread was seen outside of
 * the calls that discard, if not all of them at once (rule 4). */
static bool quiet_since(struct pager *p, struct client *c, uint64_t *ret_seq)
{
	bool quiet = false, since_takeover = false;

	gate_lock(c);
	*ret_seq = c->space.remove_seq;
	bool wary = c->space.wary;
	gate_unlock(p, c);
	if (*ret_seq != c->quiet_seq)
		maps_quiet_again(&c->quiet);
	c->quiet_seq = *ret_seq;
	if (wary &&
		maps_quiet_look(c->procdir, &c->quiet_since_takeover, &since_takeover) == 0 &&
		since_takeover) {
		gate_lock(c);
		c->space.wary = false;
		gate_unlock(p, c);
	}
	return maps_quiet_look(c->procdir, &c->quiet, &quiet) == 0 && quiet;
}

static bool stopping(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	bool stop = e->stop;
	pthread_mutex_unlock(&e->lock);
	return stop;
}

static bool ended(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	bool is = e->ended || e->stop;
	pthread_mutex_unlock(&e->lock);
	return is;
}

static bool leaves(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	bool is = e->leaves;
	pthread_mutex_unlock(&e->lock);
	return is;
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

/* One client's eviction. */
struct eviction {
	struct client *client; /* borrowed */
	struct terms terms;
	struct allowance allowance;
	char no_room[160]; /* what to say when the allowance ends */
	int64_t counted;   /* the allowance's room when it was last counted; -1 = not yet */
	bool was_full;	   /* the store was, and nothing was stored since */
	struct maps_threads threads;
	struct evict_result *res;
};

/* Room for a block's pages however badly they pack, or what there is. The charges are counted
 * anew only when it may be too little, since programs take pages back meanwhile, and not again
 * before something was stored. */
static int find_room(struct evictor *e, struct eviction *v)
{
	const int64_t block = BLOCK_PAGES * (int64_t)STORE_BLOB_MAX;
	struct allowance *a = &v->allowance;
	int64_t had = atomic_load(&a->room);
	uint64_t room;

	atomic_store(&a->exhausted, false);
	if (had >= block || had == v->counted)
		return 0;
	int r = quota_room(
		&e->pager, v->client, &v->terms, &room, v->no_room, sizeof(v->no_room));
	if (r < 0)
		return r;
	v->counted = (int64_t)room;
	atomic_store(&a->room, v->counted);
	return 0;
}

/* At the store's limit: what is dead is freed, and the block tried once more. */
static bool worth_again(struct evictor *e, struct eviction *v)
{
	bool again = !v->was_full;

	v->was_full = true;
	if (again)
		housekeeping(e);
	return again;
}

static int evict_blocks(struct evictor *e, struct eviction *v)
{
	struct client *c = v->client;
	uint64_t number = 0, quiet_seq;
	bool quiet = quiet_since(&e->pager, c, &quiet_seq);
	unsigned late = 0;
	int r = 0;

	finish_batches(e);
	if (c->batch)
		return -EBUSY;
	while (r == 0 && !ended(e)) {
		gate_lock(c);
		bool any = next_block(c, &number);
		gate_unlock(&e->pager, c);
		if (!any)
			break;
		r = find_room(e, v);
		if (r < 0)
			break;
		v->allowance.stamp = (uint32_t)(worker_now_ms() / 1000);
		r = evict_block(&e->pager, e->pool, c, number, quiet ? &quiet_seq : NULL,
			&v->allowance, v->res);
		if (r == 0)
			v->was_full = false;
		if ((r == -EAGAIN && ++late < LATE_MAX) || (r == -ENOSPC && worth_again(e, v)))
			r = 0;
		else
			number++;
		housekeeping_if_due(e);
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
	case -ETXTBSY:
		return "somebody writes to the index";
	case -EIO:
		return "the client failed; see the log";
	default:
		return strerror(-r);
	}
}

/* Why nothing is taken from this client at all, or NULL. */
static const char *left_alone(struct evictor *e, const struct client *c)
{
	if (leaves(e))
		return "another version of the service takes over; give the order again";
	if (ended(e))
		return "the service is ending, and gives everything back";
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
		link_empty(c);
		snprintf(res->why, sizeof(res->why), "%s", why);
		return 0;
	}
	int expected = CLIENT_RELEASED;
	if (atomic_compare_exchange_strong(&c->state, &expected, CLIENT_MANAGED) && c->record) {
		point(POINT_evict_again);
		atomic_store(&c->record->released, 0);
	}
	r = adopt_mappings(&e->pager, c, &adopted);
	memcpy(res->refused_bytes, adopted.refused_bytes, sizeof(res->refused_bytes));
	if (r == 0 && adopted.why) {
		snprintf(res->why, sizeof(res->why), "%s", adopted.why);
		return 0;
	}
	if (r == 0)
		r = link_fill(c);
	struct eviction v = {.client = c, .res = res, .counted = -1};
	quota_terms(e->worker, c, &v.terms);
	v.allowance.how = v.terms.how;
	v.allowance.unshare = v.terms.unshare;
	v.allowance.threads = &v.threads;
	if (r == 0) {
		(void)maps_threads_look(c->procdir, &v.threads);
		order_busy(c, true);
		r = evict_blocks(e, &v);
		order_busy(c, false);
		link_empty(c);
	}
	maps_threads_done(&v.threads);
	/* What kept us from the rest is in `why`; what was taken was taken. */
	if (client_state(c) == CLIENT_RELEASED) {
		snprintf(res->why, sizeof(res->why), "released meanwhile");
		return 0;
	}
	if (r == -ENOSPC)
		trouble_set(e->worker, TROUBLE_STORE, true);
	if (r == -ENOSPC)
		quota_store_full(e->worker, res->why, sizeof(res->why));
	else if (r == 0 && ended(e))
		snprintf(res->why, sizeof(res->why), "%s", left_alone(e, c));
	else
		snprintf(res->why, sizeof(res->why), "%s",
			r == -EDQUOT ? v.no_room : error_text(r));
	if (r == -ESRCH)
		client_mark_gone(c);
	return client_state(c) == CLIENT_GONE ? -EAGAIN : 0;
}

/* ---- the thread ---- */

/* When there is something to do without a job. */
static struct timespec next_due(struct evictor *e)
{
	uint64_t house = e->kept_house_ms + INDEX_PERIOD_MS;
	uint64_t ms = e->recompress.due_ms < house ? e->recompress.due_ms : house;

	if (e->scrub.due_ms < ms)
		ms = e->scrub.due_ms;
	if (e->huge.due_ms < ms && !ended(e))
		ms = e->huge.due_ms;
	return (struct timespec){
		.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
}

/* Waits for a job, until something else is due; NULL when there was none, or we are to stop. */
static struct job *next_job(struct evictor *e)
{
	struct timespec until = next_due(e);

	pthread_mutex_lock(&e->lock);
	while (!e->first && !e->stop && !e->house_now && (!e->forget_now || e->index_failing))
		if (pthread_cond_timedwait(&e->work, &e->lock, &until) == ETIMEDOUT)
			break;
	struct job *j = e->stop ? NULL : e->first;
	if (j)
		e->first = j->next;
	e->evicting = j != NULL;
	pthread_mutex_unlock(&e->lock);
	return j;
}

/* For the status: why not everything was taken when it was last tried. */
static void note_why(struct evictor *e, const struct job *j)
{
	struct client *c = j->client;

	gate_lock(c);
	memcpy(c->why, j->result.why, sizeof(c->why));
	gate_unlock(&e->pager, c);
}

/* Something that doesn't wait until it is due. */
static bool is_asked(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	bool any = e->house_now || (e->forget_now && !e->index_failing);
	e->house_now = false;
	pthread_mutex_unlock(&e->lock);
	return any;
}

/* Orders that are left are answered with the reason why nothing is taken. */
static void leave_when_written(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	bool now = e->leaves && !e->left && !e->first && !e->house_now;
	e->left |= now;
	pthread_mutex_unlock(&e->lock);
	if (now)
		worker_kick(e->worker);
}

static void idle(struct evictor *e)
{
	housekeeping_if_due(e);
	if (worker_now_ms() >= e->recompress.due_ms)
		recompress_step(&e->recompress, &e->pager, e->pool);
	if (worker_now_ms() >= e->scrub.due_ms)
		scrub_step(&e->scrub, &e->pager);
	if (worker_now_ms() >= e->huge.due_ms && !ended(e))
		huge_step(&e->huge, &e->pager);
}

static void *evictor_main(void *arg)
{
	struct evictor *e = arg;

	while (!stopping(e)) {
		struct job *j = next_job(e);
		if (j) {
			housekeeping(e); /* what was released just now makes room */
			j->error = evict_client(e, j->client, &j->result);
			note_why(e, j);
		}
		if (j || is_asked(e))
			housekeeping(e);
		else
			idle(e);
		if (j) {
			pthread_mutex_lock(&e->lock);
			j->done = true;
			e->evicting = false;
			pthread_cond_broadcast(&e->finished);
			pthread_mutex_unlock(&e->lock);
		}
		leave_when_written(e);
	}
	pager_leave_thread(&e->pager);
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

void evictor_forget(struct evictor *e, bool indexed)
{
	pthread_mutex_lock(&e->lock);
	/* Its memory is free again when its rows are gone, its descriptors in any case. */
	if (indexed || ++e->ended_count >= FORGET_SOON) {
		e->forget_now = true;
		pthread_cond_signal(&e->work);
	}
	pthread_mutex_unlock(&e->lock);
}

void evictor_end_evictions(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	e->ended = true;
	pthread_mutex_unlock(&e->lock);
}

void evictor_leave(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	e->leaves = e->ended = e->house_now = true;
	pthread_cond_signal(&e->work);
	pthread_mutex_unlock(&e->lock);
}

bool evictor_has_left(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	bool left = e->left;
	pthread_mutex_unlock(&e->lock);
	return left;
}

bool evictor_is_evicting(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	bool is = e->evicting;
	pthread_mutex_unlock(&e->lock);
	return is;
}

void evictor_keep_house(struct evictor *e)
{
	pthread_mutex_lock(&e->lock);
	e->house_now = true;
	pthread_cond_signal(&e->work);
	pthread_mutex_unlock(&e->lock);
}

/* Of a worker that died: there are no other threads yet. */
static void take_over_batches(struct evictor *e)
{
	for (size_t i = 0; i < e->worker->client_count; i++) {
		struct batch *b = e->worker->client[i]->batch;
		if (!b)
			continue;
		b->next = e->unfinished;
		e->unfinished = b;
	}
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
	take_over_batches(e);
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
	free(e);
}
