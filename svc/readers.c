/* Invariants:
 *  1. A lane has exactly one reader that isn't replaced; only that one waits on its epoll.
 *  2. reader.turn is odd while it is at clients, and grows with each time. Whoever changes it
 *     from odd decides: to even, the reader keeps its lane; REPLACED, it has lost it.
 *  3. While every reader is at clients, `watching` is set: so either one of them gets on, or
 *     the watch finds that it doesn't.
 *  4. While a client has `retry` set, the timer is armed or is to be read. Who reads it arms
 *     it again, for another to go, until he has tried all of them. */
#include "readers.h"
#include "log.h"
#include "pager.h"
#include "worker.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
	LANES_MAX = 32,
	/* At a time: each one more needs a client whose memory limit blocks a COPY. */
	STUCK_MAX = 96,
	READERS_MAX = LANES_MAX + STUCK_MAX,
	EVENTS = 16,
	/* Twice this at one client is stuck. The slowest honest turn is 1000 reads. */
	LOOK_MS = 50,
	/* Whoever tries clients again has come through with them by then, mostly. */
	GUARD_NS = 20000000,
};

#define REPLACED (1u << 31) /* of reader.turn */

struct lane {
	int epoll_fd; /* owned */
};

struct reader {
	struct readers *all; /* borrowed */
	struct lane *lane;   /* borrowed; set before the thread starts */
	pthread_t thread;
	struct pager pager; /* kept for the next thread here: others sum its histogram */
	/* Odd while at clients. REPLACED is set in an odd one only. */
	_Atomic uint32_t turn;
	_Atomic bool ended; /* to be joined */
	uint32_t seen;	    /* the watch's: turn when it looked last */
	bool used;	    /* under readers.lock: a thread is here, or to be joined */
};

struct readers {
	struct worker *worker; /* borrowed */
	unsigned lanes;
	struct lane lane[LANES_MAX];
	int stop_fd;	       /* owned; readable for ever once we stop */
	int timer_fd;	       /* owned; in every lane's epoll: faults wait to be tried again */
	_Atomic unsigned busy; /* readers at clients that aren't replaced */
	_Atomic bool watching;
	pthread_t watch;
	bool watch_started;
	pthread_mutex_t lock;
	pthread_cond_t look;
	/* Under the lock: */
	struct reader *reader[READERS_MAX]; /* owned; only grows */
	unsigned count;
	/* CLOCK_MONOTONIC, ns; 0 = none. The timer is armed for the first of the two. */
	uint64_t retry_due;
	uint64_t guard_due; /* in case that whoever tries clients again is stuck at one */
	bool stop;
};

/* epoll's data: a client's token (never one of these), or one of these. */
enum { STOP_MARK = 0, TIMER_MARK = 1 };

/* ---- a turn ---- */

/* None is left that waits for faults. */
static void call_watch(struct readers *all)
{
	if (atomic_exchange(&all->watching, true))
		return;
	pthread_mutex_lock(&all->lock);
	pthread_cond_signal(&all->look);
	pthread_mutex_unlock(&all->lock);
}

static void turn_begin(struct reader *r)
{
	atomic_fetch_add(&r->turn, 1);
	if (atomic_fetch_add(&r->all->busy, 1) + 1 >= r->all->lanes)
		call_watch(r->all);
}

/* False: another has our place. */
static bool turn_end(struct reader *r)
{
	uint32_t turn = atomic_load(&r->turn);

	if (turn & REPLACED ||
		!atomic_compare_exchange_strong(&r->turn, &turn, (turn + 1) & ~REPLACED))
		return false;
	atomic_fetch_sub(&r->all->busy, 1);
	return true;
}

static void serve(struct reader *r, struct client *c)
{
	atomic_store(&c->retry, false);
	pager_service(&r->pager, c);
}

/* Every client, or those that wait to be tried again. */
static void serve_all(struct reader *r, bool retry_only)
{
	struct client *c;

	for (size_t at = 0; (c = worker_walk(r->all->worker, &at));) {
		if (!retry_only || atomic_load(&c->retry))
			serve(r, c);
		client_unref(c);
	}
}

/* Under the lock. */
static void arm_timer(struct readers *all)
{
	uint64_t due = all->retry_due;

	if (due == 0 || (all->guard_due > 0 && all->guard_due < due))
		due = all->guard_due;
	const struct itimerspec at = {.it_value = {.tv_sec = (time_t)(due / 1000000000),
					      .tv_nsec = (long)(due % 1000000000)}};
	timerfd_settime(all->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* One of the lanes gets it, and may be stuck at any of the clients: then another goes on with
 * those behind. Who is last to begin tries all that are left by then. */
static void on_timer(struct reader *r)
{
	struct readers *all = r->all;
	uint64_t expirations;

	if (read(all->timer_fd, &expirations, sizeof(expirations)) < 0)
		return;
	pthread_mutex_lock(&all->lock);
	uint64_t guard = worker_now_ns() + GUARD_NS;
	all->retry_due = 0;
	all->guard_due = guard;
	arm_timer(all);
	pthread_mutex_unlock(&all->lock);
	serve_all(r, true);
	pthread_mutex_lock(&all->lock);
	if (all->guard_due == guard) {
		all->guard_due = 0;
		arm_timer(all);
	}
	pthread_mutex_unlock(&all->lock);
}

/* What comes before clients, at any of which we may be stuck: every lane is told of those, of
 * the timer perhaps only this one. False: we are to stop. */
static bool serve_marks(struct reader *r, const struct epoll_event *event, int n)
{
	bool timer = false;

	for (int i = 0; i < n; i++) {
		if (event[i].data.u64 == STOP_MARK)
			return false;
		timer |= event[i].data.u64 == TIMER_MARK;
	}
	if (timer)
		on_timer(r);
	return true;
}

/* Everything that one wake-up brought. False: we are to stop. */
static bool serve_events(struct reader *r, const struct epoll_event *event, int n)
{
	if (!serve_marks(r, event, n))
		return false;
	for (int i = 0; i < n; i++) {
		if (event[i].data.u64 == TIMER_MARK)
			continue;
		/* An event can be older than the end of its client. */
		struct client *c = worker_by_token(r->all->worker, event[i].data.u64);
		if (c)
			serve(r, c);
		client_unref(c);
	}
	return true;
}

/* Of one that is stuck: what that one had been told of, and won't come to, is for us. */
static bool take_place(struct reader *r)
{
	/* replace() holds it until it is sure. */
	pthread_mutex_lock(&r->all->lock);
	pthread_mutex_unlock(&r->all->lock);
	if (atomic_load(&r->turn) & REPLACED)
		return false;
	serve_all(r, false);
	return turn_end(r);
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;
	struct epoll_event event[EVENTS];
	bool go_on = true;

	if (atomic_load(&r->turn) % 2)
		go_on = take_place(r);
	while (go_on) {
		int n = epoll_wait(r->lane->epoll_fd, event, EVENTS, -1);
		turn_begin(r);
		bool stop = !serve_events(r, event, n);
		go_on = turn_end(r) && !stop;
	}
	pager_leave_thread(&r->pager);
	atomic_store(&r->ended, true);
	return NULL;
}

/* ---- threads ---- */

/* Pins to the index-th CPU that we may run on. */
static void pin(pthread_t thread, unsigned index)
{
	cpu_set_t allowed, one;

	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		return;
	index %= (unsigned)CPU_COUNT(&allowed);
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && index-- == 0) {
			CPU_ZERO(&one);
			CPU_SET(cpu, &one);
			pthread_setaffinity_np(thread, sizeof(one), &one);
			return;
		}
}

/* Under the lock: a reader without a thread. */
static int free_reader(struct readers *all, struct reader **ret)
{
	for (unsigned i = 0; i < all->count; i++)
		if (!all->reader[i]->used)
			return *ret = all->reader[i], 0;
	if (all->count == READERS_MAX)
		return -EAGAIN;
	struct reader *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	int e = pager_init(&r->pager, all->worker);
	if (e < 0) {
		free(r);
		return e;
	}
	r->all = all;
	all->reader[all->count++] = r;
	*ret = r;
	return 0;
}

/* Under the lock. stand_in: it begins at clients, in the place of another. */
static int reader_start(
	struct readers *all, struct lane *lane, bool stand_in, struct reader **ret)
{
	struct reader *r;
	int e = free_reader(all, &r);

	if (e < 0)
		return e;
	r->lane = lane;
	atomic_store(&r->ended, false);
	atomic_store(&r->turn, stand_in);
	r->seen = stand_in;
	e = -pthread_create(&r->thread, NULL, reader_main, r);
	if (e < 0)
		return e;
	r->used = true;
	pin(r->thread, (unsigned)(lane - all->lane));
	pthread_setname_np(r->thread, "larder-reader");
	*ret = r;
	return 0;
}

/* ---- the watch ---- */

/* Under the lock: it is where it was when we looked last. */
static void replace(struct readers *all, struct reader *stuck)
{
	uint32_t turn = stuck->seen;
	struct reader *next;
	int r = reader_start(all, stuck->lane, true, &next);

	if (r < 0) {
		log_warn("readers: one is stuck at a client, and can't be replaced: %s",
			strerror(-r));
		return;
	}
	if (atomic_compare_exchange_strong(&stuck->turn, &turn, turn | REPLACED)) {
		atomic_fetch_add(&worker_counts(all->worker)->readers_replaced, 1);
		log_debug("readers: one is stuck at a client, and is replaced");
	} else {
		atomic_fetch_or(&next->turn, REPLACED); /* it got on in this moment */
	}
}

/* Under the lock. True: some reader waits for faults, so nothing needs to be watched. */
static bool look(struct readers *all)
{
	unsigned count = all->count; /* those that start now needn't be looked at */

	for (unsigned i = 0; i < count; i++) {
		struct reader *r = all->reader[i];
		uint32_t turn = atomic_load(&r->turn);

		if (r->used && atomic_load(&r->ended)) {
			pthread_join(r->thread, NULL);
			r->used = false;
		}
		if (r->used && turn % 2 && !(turn & REPLACED) && turn == r->seen)
			replace(all, r);
		r->seen = turn;
	}
	return atomic_load(&all->busy) < all->lanes;
}

/* Under the lock. */
static void pause_look(struct readers *all)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LOOK_MS * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!all->stop &&
		pthread_cond_timedwait(&all->look, &all->lock, &until) != ETIMEDOUT)
		;
}

static void *watch_main(void *arg)
{
	struct readers *all = arg;

	pthread_mutex_lock(&all->lock);
	while (!all->stop) {
		if (!atomic_load(&all->watching)) {
			pthread_cond_wait(&all->look, &all->lock);
			continue;
		}
		pause_look(all);
		if (!look(all))
			continue;
		atomic_store(&all->watching, false);
		/* The last one may have gone to a client before this could be seen. */
		if (atomic_load(&all->busy) >= all->lanes)
			atomic_store(&all->watching, true);
	}
	pthread_mutex_unlock(&all->lock);
	return NULL;
}

/* ---- start and stop ---- */

static int add_to(const struct lane *lane, int fd, uint32_t events, uint64_t token)
{
	struct epoll_event e = {.events = events, .data.u64 = token};
	return epoll_ctl(lane->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

/* Under the lock. */
static int lane_open(struct readers *all)
{
	struct lane *lane = &all->lane[all->lanes];
	struct reader *first;

	lane->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (lane->epoll_fd < 0)
		return -errno;
	all->lanes++;
	int r = add_to(lane, all->stop_fd, EPOLLIN, STOP_MARK);
	if (r == 0)
		r = add_to(lane, all->timer_fd, EPOLLIN | EPOLLEXCLUSIVE, TIMER_MARK);
	return r == 0 ? reader_start(all, lane, false, &first) : r;
}

static int watch_start(struct readers *all)
{
	int r = -pthread_create(&all->watch, NULL, watch_main, all);

	if (r == 0)
		pthread_setname_np(all->watch, "larder-watch");
	all->watch_started = r == 0;
	return r;
}

static void readers_init(struct readers *all, struct worker *w)
{
	pthread_condattr_t monotonic;

	all->worker = w;
	pthread_mutex_init(&all->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&all->look, &monotonic);
	pthread_condattr_destroy(&monotonic);
	all->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	all->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
}

int readers_start(struct readers **ret, struct worker *w, unsigned count)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct readers *all = calloc(1, sizeof(*all));
	int r = 0;

	if (!all)
		return -ENOMEM;
	readers_init(all, w);
	if (count == 0)
		count = cpus > 0 ? (unsigned)cpus : 1;
	if (count > LANES_MAX)
		count = LANES_MAX;
	if (all->stop_fd < 0 || all->timer_fd < 0)
		r = -errno;
	pthread_mutex_lock(&all->lock);
	while (r == 0 && all->lanes < count)
		r = lane_open(all);
	pthread_mutex_unlock(&all->lock);
	if (r == 0)
		r = watch_start(all);
	if (r < 0) {
		readers_stop(all);
		return r;
	}
	*ret = all;
	return 0;
}

static void tell_to_stop(struct readers *all)
{
	uint64_t one = 1;

	if (write(all->stop_fd, &one, sizeof(one)) < 0)
		log_error("readers: can't be told to stop");
	pthread_mutex_lock(&all->lock);
	all->stop = true;
	pthread_cond_signal(&all->look);
	pthread_mutex_unlock(&all->lock);
}

void readers_stop(struct readers *all)
{
	if (!all)
		return;
	tell_to_stop(all);
	if (all->watch_started)
		pthread_join(all->watch, NULL);
	for (unsigned i = 0; i < all->count; i++) {
		if (all->reader[i]->used)
			pthread_join(all->reader[i]->thread, NULL);
		pager_done(&all->reader[i]->pager);
		free(all->reader[i]);
	}
	for (unsigned i = 0; i < all->lanes; i++)
		close(all->lane[i].epoll_fd);
	close(all->stop_fd);
	close(all->timer_fd);
	pthread_cond_destroy(&all->look);
	pthread_mutex_destroy(&all->lock);
	free(all);
}

/* ---- clients ---- */

int readers_add(struct readers *all, struct client *c)
{
	for (unsigned i = 0; i < all->lanes; i++) {
		int r = add_to(&all->lane[i], c->uffd, EPOLLIN | EPOLLET, c->token);
		if (r < 0)
			return r;
	}
	return 0;
}

void readers_remove(struct readers *all, struct client *c)
{
	for (unsigned i = 0; i < all->lanes; i++)
		epoll_ctl(all->lane[i].epoll_fd, EPOLL_CTL_DEL, c->uffd, NULL);
}

void readers_retry(struct readers *all, uint64_t delay_ns)
{
	uint64_t due = worker_now_ns() + delay_ns;

	pthread_mutex_lock(&all->lock);
	if (all->retry_due == 0 || due < all->retry_due) {
		all->retry_due = due;
		arm_timer(all);
	}
	pthread_mutex_unlock(&all->lock);
}

void readers_latency(struct readers *all, struct histogram_sum *sum)
{
	pthread_mutex_lock(&all->lock);
	for (unsigned i = 0; i < all->count; i++)
		histogram_sum(&all->reader[i]->pager.latency, sum);
	pthread_mutex_unlock(&all->lock);
}

unsigned readers_stuck(struct readers *all)
{
	unsigned stuck = 0;

	pthread_mutex_lock(&all->lock);
	for (unsigned i = 0; i < all->count; i++) {
		const struct reader *r = all->reader[i];
		stuck += r->used && !atomic_load(&r->ended) && atomic_load(&r->turn) & REPLACED;
	}
	pthread_mutex_unlock(&all->lock);
	return stuck;
}

uint64_t readers_replaced(const struct readers *all)
{
	return atomic_load(&worker_counts(all->worker)->readers_replaced);
}
