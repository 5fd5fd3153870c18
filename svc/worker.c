#include "uffd.h"
#include "worker.h"
#include "attach.h"
#include "cleanup.h"
#include "closer.h"
#include "comeback.h"
#include "evictor.h"
#include "fdstore.h"
#include "gone.h"
#include "handshakes.h"
#include "http.h"
#include "keep.h"
#include "log.h"
#include "notify.h"
#include "pace.h"
#include "policy.h"
#include "points.h"
#include "pulse.h"
#include "readers.h"
#include "recover.h"
#include "release.h"
#include "restorer.h"
#include "runtime.h"
#include "settings.h"
#include "state.h"
#include "upgrade.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

enum {
	EVENTS = 64,
	/* Forked children have no pidfd: whether they live is asked. Also the retry for clients
	 * whose agent takes a moment to follow its program. */
	SWEEP_S = 1,
	/* A worker that leaves lets those get through who are at it, while others wait in the
	 * queue: less than a shim waits for its answer. */
	LEAVE_MAX_MS = 200,
};

struct loop {
	struct worker *w;
	struct handshakes handshakes;
	enum worker_end ending; /* told to, and at it */
	bool stop;
	bool leaving;		 /* for another binary (upgrade.h) */
	uint64_t leave_until_ms; /* nobody is accepted any more; 0: not yet */
};

uint64_t worker_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t worker_now_ms(void)
{
	return worker_now_ns() / 1000000;
}

/* ---- clients come and go ---- */

void worker_kick(struct worker *w)
{
	uint64_t one = 1;
	ssize_t n = write(w->kick_fd, &one, sizeof(one));
	(void)n; /* full means that it is kicked already */
}

void worker_retry_later(struct worker *w, struct client *c, uint64_t delay_ns)
{
	atomic_store(&c->retry, true);
	readers_retry(w->readers, delay_ns);
}

uint64_t worker_source(enum worker_source kind, uint64_t id)
{
	return id << 8 | (uint64_t)kind;
}

int worker_watch(struct worker *w, int fd, enum worker_source kind, uint64_t id)
{
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = worker_source(kind, id)};
	return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

void worker_publish_client(struct worker *w, struct client *c)
{
	fdstore_begin(w, c);
	client_ref(c); /* once in the table, it can be dropped at any moment */
	worker_table_add(w, c);
	if (!w->readers) { /* they come when all is taken over (recover.h) */
		client_unref(c);
		return;
	}

	int r = readers_add(w->readers, c);
	if (r < 0)
		log_error("client %d: can't be served: %s (fs.epoll.max_user_watches?)",
			(int)c->pid, strerror(-r));
	worker_watch_client(w, c);
	if (c->pidfd < 0)
		worker_kick(w); /* the sweep's timer may be needed now */
	client_unref(c);
}

void worker_watch_client(struct worker *w, struct client *c)
{
	int r = 0;

	if (client_agent_end(c) >= 0)
		r = worker_watch(w, client_agent_end(c), SOURCE_AGENT, c->id);
	if (r == 0 && c->pidfd >= 0)
		r = worker_watch(w, c->pidfd, SOURCE_PROGRAM, c->id);
	if (r < 0)
		log_error("client %d: can't be watched: %s (fs.epoll.max_user_watches?)",
			(int)c->pid, strerror(-r));
}

void worker_arm_timer(struct worker *w)
{
	struct itimerspec t = {.it_value.tv_sec = SWEEP_S};
	if (w->timer_armed)
		return;
	w->timer_armed = true;
	timerfd_settime(w->timer_fd, 0, &t, NULL);
}

static void sweep_and_arm(struct worker *w)
{
	if (gone_sweep(w))
		worker_arm_timer(w);
}

/* ---- the loop ---- */

static void say_it_goes_on(struct worker *w)
{
	struct release_left left;
	char bytes[PACE_TEXT];

	release_left(w, &left);
	log_info("ending already: %llu programs and %s left; it ends when all is given back",
		(unsigned long long)left.clients, pace_text(left.bytes, bytes));
}

/* ---- another binary takes over ---- */

static void begin_leave(struct loop *l)
{
	if (l->ending || l->leaving)
		return;
	l->leaving = true;
	point(POINT_leave);
	evictor_leave(l->w->evictor);
}

/* The next one finds what one finds whose worker was killed, but for nobody's handshake being
 * cut off. Who begins one meanwhile waits in the queue. */
static void leave_when_done(struct loop *l)
{
	uint64_t now = worker_now_ms();

	if (!l->leaving || !evictor_has_left(l->w->evictor))
		return;
	if (l->leave_until_ms == 0) {
		point(POINT_leave_flushed);
		handshakes_pause(&l->handshakes);
		l->leave_until_ms = now + LEAVE_MAX_MS;
	}
	if (l->handshakes.count > 0 && now < l->leave_until_ms)
		return;
	point(POINT_leave_now);
	atomic_store(&l->w->state->idle_since_ms, worker_now_ms());
	_exit(WORKER_LEAVES);
}

/* For epoll_wait. */
static int pause_of(const struct loop *l)
{
	uint64_t now = worker_now_ms();

	if (l->leave_until_ms == 0)
		return -1;
	return now < l->leave_until_ms ? (int)(l->leave_until_ms - now) : 0;
}

/* Faults are answered and programs looked after until the restorer is done. */
static void begin_end(struct loop *l, enum worker_end how)
{
	l->leaving = false;
	l->leave_until_ms = 0;
	if (l->ending) {
		say_it_goes_on(l->w);
		return;
	}
	l->ending = how;
	point(POINT_end);
	atomic_store(&l->w->state->ending, how);
	point(POINT_end_told);
	handshakes_close(&l->handshakes);
	evictor_end_evictions(l->w->evictor);
	restorer_release_all(l->w->restorer, how == WORKER_KEEPS);
}

static void end_when_done(struct loop *l)
{
	if (!l->ending || !restorer_released(l->w->restorer))
		return;
	if (l->ending == WORKER_KEEPS && !keep_hold(l->w)) {
		/* A program has forked meanwhile. */
		restorer_release_all(l->w->restorer, true);
		return;
	}
	l->stop = true;
}

void control_stop(struct worker *w, bool keep)
{
	int before = WORKER_GOES_ON;

	atomic_compare_exchange_strong(&w->end, &before, keep ? WORKER_KEEPS : WORKER_RESTORES);
	worker_kick(w);
}

static void on_signal(struct loop *l)
{
	struct signalfd_siginfo info;
	char message[512];

	while (read(l->w->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGUSR2) {
			/* From somebody who meant the keeper: systemctl kill, to all. */
			if ((pid_t)info.ssi_pid == getppid())
				begin_leave(l);
			continue;
		}
		if (info.ssi_signo != SIGHUP) {
			begin_end(l, l->w->keep ? WORKER_KEEPS : WORKER_RESTORES);
			continue;
		}
		/* The file system may be slow, and is the administrator's. */
		pulse_call_begin();
		(void)control_reload(l->w, message, sizeof(message)); /* it logs */
		pulse_call_end();
	}
}

static void drain_counter(int fd)
{
	uint64_t count;
	ssize_t n = read(fd, &count, sizeof(count));
	(void)n;
}

static void dispatch(struct loop *l, uint64_t data)
{
	uint64_t id = data >> 8;

	point(POINT_loop);
	switch ((enum worker_source)(data & 0xff)) {
	case SOURCE_ATTACH:
		handshakes_accept(&l->handshakes);
		break;
	case SOURCE_SIGNAL:
		on_signal(l);
		break;
	case SOURCE_KICK:
		drain_counter(l->w->kick_fd);
		sweep_and_arm(l->w);
		if (atomic_load(&l->w->end) && !l->ending)
			begin_end(l, (enum worker_end)atomic_load(&l->w->end));
		end_when_done(l);
		break;
	case SOURCE_TIMER:
		drain_counter(l->w->timer_fd);
		l->w->timer_armed = false;
		closer_flush();
		sweep_and_arm(l->w);
		handshakes_tick(&l->handshakes);
		break;
	case SOURCE_HANDSHAKE:
		handshakes_advance(&l->handshakes, id);
		break;
	case SOURCE_AGENT:
		gone_agent(l->w, id);
		break;
	case SOURCE_PROGRAM:
		gone_program(l->w, id);
		break;
	}
}

static void loop_run(struct worker *w)
{
	struct loop l = {.w = w, .handshakes = {.w = w}};
	struct epoll_event event[EVENTS];

	/* The worker that was told to has died meanwhile. */
	if (atomic_load(&w->state->ending))
		begin_end(&l, (enum worker_end)atomic_load(&w->state->ending));
	while (!l.stop) {
		leave_when_done(&l);
		int n = epoll_wait(w->epoll_fd, event, EVENTS, pause_of(&l));
		for (int i = 0; i < n; i++) {
			pulse_begin();
			dispatch(&l, event[i].data.u64);
			pulse_end();
		}
	}
	if (l.ending == WORKER_KEEPS)
		keep_leave(w);
}

/* ---- start and end ---- */

static void do_nothing(int signal)
{
	(void)signal;
}

static int open_loop(struct worker *w)
{
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR2);
	/* Before any thread starts, so that all inherit it. */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* Interrupts a read, and nothing else (pager.c). */
	struct sigaction alarm = {.sa_handler = do_nothing};
	sigaction(SIGUSR1, &alarm, NULL);
	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	w->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	w->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (w->epoll_fd < 0 || w->signal_fd < 0 || w->kick_fd < 0 || w->timer_fd < 0)
		return -errno;
	r = worker_watch(w, w->signal_fd, SOURCE_SIGNAL, 0);
	if (r == 0)
		r = worker_watch(w, w->kick_fd, SOURCE_KICK, 0);
	if (r == 0)
		r = worker_watch(w, w->timer_fd, SOURCE_TIMER, 0);
	return r;
}

static void synchronize(void *arg)
{
	struct worker *w = arg;
	qsbr_synchronize(&w->qsbr);
}

/* The store knows of no points. */
static void pass_step(void *arg, enum store_step step)
{
	static const enum point at[] = {
#define X(name, help) [STORE_STEP_##name] = POINT_##name,
		STORE_STEPS(X)
#undef X
	};

	(void)arg;
	point(at[step]);
}

static int open_store(struct worker *w, const struct runtime *rt, bool again)
{
	struct store_options o = {.dir = rt->store,
		.memory_limit = settings_store_limit(w->config),
		.synchronize = synchronize,
		.passes = pass_step,
		.arg = w,
		/* As if stored now: else all would be due for recompression at once. */
		.stamp = (uint32_t)(worker_now_ms() / 1000)};
	char why[STORE_WHY] = "";
	int r = again ? store_reopen(&w->store, &o, why) : store_open(&w->store, &o);

	if (r < 0)
		log_error("%s: %s", rt->store, why[0] ? why : runtime_store_problem(r));
	if (r < 0)
		return r;
	graveyard_init(&w->graveyard, w->store);
	graveyard_fill(&w->graveyard);
	return 0;
}

static int start_threads(struct worker *w)
{
	int r = restorer_start(&w->restorer, w);

	if (r == 0)
		r = readers_start(&w->readers, w, w->config->readers);
	if (r == 0)
		r = evictor_start(&w->evictor, w);
	if (r < 0)
		log_error("threads: %s", strerror(-r));
	return r;
}

/* The sockets themselves are the keeper's: who connects while there is no worker waits. */
static int open_sockets(struct worker *w, const struct worker_options *o)
{
	/* Where it can't be had, programs ask. */
	w->brief.hint = runtime_map(
		w->runtime_dir, HINT_FILE, HINT_SLOTS * sizeof(*w->brief.hint), 0644);
	int r = worker_watch(w, w->attach_fd, SOURCE_ATTACH, 0);
	if (r == 0)
		r = http_start(&w->http, w, o->stats_fd, geteuid());
	return r;
}

static void worker_close(struct worker *w)
{
	http_stop(w->http);
	evictor_stop(w->evictor);
	if (w->readers)
		release_goodbye(w);
	evictor_free(w->evictor);
	restorer_stop(w->restorer);
	readers_stop(w->readers);
	for (size_t i = 0; i < w->client_count; i++) {
		fdstore_forget(w->client[i]);
		client_unref(w->client[i]);
	}
	for (size_t i = 0; i < w->ended_count; i++)
		client_unref(w->ended[i]);
	free(w->client);
	free(w->ended);
	free(w->place);
	for (struct leaf *l = w->store ? graveyard_take(&w->graveyard) : NULL, *next; l;
		l = next) {
		next = l->next;
		leaf_free(&w->graveyard, l);
	}
	if (w->store)
		graveyard_done(&w->graveyard);
	point(POINT_closing);
	store_close(w->store);
	point(POINT_closed);
	config_free(w->config);
	if (w->brief.hint)
		runtime_unmap(w->runtime_dir, HINT_FILE, w->brief.hint,
			HINT_SLOTS * sizeof(*w->brief.hint));
	const int fds[] = {w->epoll_fd, w->signal_fd, w->kick_fd, w->timer_fd, w->meminfo_fd};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void worker_init(struct worker *w, const struct worker_options *o)
{
	memset(w, 0, sizeof(*w));
	w->runtime_dir = o->runtime_dir;
	w->store_dir = o->runtime->store;
	w->config_path = o->config_path;
	w->no_eviction = o->no_eviction;
	w->keep = o->keep;
	w->device = o->device;
	w->attach_fd = o->attach_fd;
	w->state = o->state;
	w->counters = o->counters;
	w->epoll_fd = w->signal_fd = w->kick_fd = w->timer_fd = w->meminfo_fd = -1;
	w->started_ms = o->counters ? o->counters->started_ms : worker_now_ms();
	pthread_mutex_init(&w->lock, NULL);
	pthread_mutex_init(&w->reload_lock, NULL);
	pthread_mutex_init(&w->config_lock, NULL);
	qsbr_init(&w->qsbr);
}

/* By now a number may be another file's: a worker that was killed while it fetched clients had
 * closed what the list says. Before anything is opened, so what is a userfaultfd is one that
 * was kept. */
static void forget_closed(struct fdstore *s)
{
	unsigned count = 0;

	for (unsigned i = 0; i < s->count; i++)
		if (uffd_is_one(s->item[i].fd))
			s->item[count++] = s->item[i];
	s->count = count;
}

/* Descriptors of a worker that died, all but clients'. */
static void close_strangers(const struct worker_options *o)
{
	if (atomic_load(&o->state->numbers_gone)) {
		comeback_forget_numbers(o->state);
		forget_closed(o->kept);
	}
	const int fixed[] = {o->device, o->attach_fd, o->stats_fd, o->runtime->lock_fd,
		o->notify_fd, o->before_fd};
	const unsigned count = sizeof(fixed) / sizeof(fixed[0]);
	/* Later they are their clients', and numbers that may be others'. */
	unsigned kept = atomic_load(&o->state->numbers_gone) ? o->kept->count : 0;
	_cleanup_free_ int *keep = NULL;

	while (!(keep = malloc((count + kept) * sizeof(*keep))))
		pulse_wait_for_memory();
	memcpy(keep, fixed, sizeof(fixed));
	for (unsigned i = 0; i < kept; i++)
		keep[count + i] = o->kept->item[i].fd;

	recover_close_strangers(o->state, keep, count + kept);
}

static void open_meminfo(struct worker *w)
{
	int fd = pace_open();

	if (fd < 0)
		log_warn("/proc/meminfo: %s: pages go back without a look at how much memory "
			 "is left",
			strerror(-fd));
	else
		w->meminfo_fd = fd;
}

/* For how long programs had to wait. */
static void say_ready(const struct worker_options *o)
{
	uint64_t now = worker_now_ms(), since = atomic_load(&o->state->idle_since_ms);

	log_info("larderd " LARDER_VERSION ": ready at %s", o->runtime_dir);
	if (!o->again || since == 0)
		return;
	atomic_store(&o->state->idle_ms, now - since);
	log_info("nobody was served for %llu ms", (unsigned long long)(now - since));
}

int worker_run(const struct worker_options *o)
{
	struct worker w;
	char message[512];
	int r;

	worker_init(&w, o);
	if (o->again)
		close_strangers(o);
	if (o->again)
		point(POINT_recover);
	open_meminfo(&w);
	r = settings_load(o->config_path, &w.config, message, sizeof(message));
	if (r < 0)
		log_error("%s", message);
	else
		pulse_limit(w.config->watchdog_ms);
	if (r == 0)
		r = open_store(&w, o->runtime, o->again);
	if (r == 0)
		r = open_loop(&w);
	if (r == 0 && atomic_load(&o->state->numbers_gone))
		r = comeback_fetch(o->state, w.store_dir, w.device, o->kept);
	if (r == 0 && o->again)
		point(POINT_recover_store);
	if (r == 0 && o->again)
		r = recover_clients(&w);
	if (r == 0)
		r = start_threads(&w);
	if (r == 0)
		w.baseline_bytes = settings_own_rss();
	if (r == 0)
		r = open_sockets(&w, o);
	if (r == 0) {
		if (o->again)
			recover_resume(&w);
		if (o->again)
			point(POINT_recover_serves);
		atomic_store(&o->state->serves_since_ms, worker_now_ms());
		say_ready(o);
		notify_ready();
		loop_run(&w);
		log_info("larderd: every page is given back");
		worker_close(&w);
	}
	return r;
}
