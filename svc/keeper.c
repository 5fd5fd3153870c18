#include "keeper.h"
#include "cleanup.h"
#include "log.h"
#include "notify.h"
#include "upgrade.h"
#include "watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	/* One that had come to serve is followed at once, for clients wait; one that didn't, or
	 * not for that long, mostly dies of what it finds, and so will the next. */
	SERVED_MS = 20,
	PAUSE_FIRST_MS = 50,
	PAUSE_MAX_MS = 5000,
};

static uint64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void take_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGUSR2);
	sigaddset(set, SIGCHLD);
	sigprocmask(SIG_BLOCK, set, NULL);
}

void keeper_block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static pid_t start_worker(int (*work)(void *arg, bool again), void *arg, bool again)
{
	pid_t keeper = getpid();
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, 0);

	if (pid == 0) {
		/* Nobody would follow it: better to give everything back while it can. */
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		exit(getppid() == keeper ? work(arg, again) : EXIT_FAILURE);
	}
	if (pid < 0)
		log_error("a worker can't be started: %s", strerror(errno));
	return pid;
}

/* What the keeper has between two signals. */
struct watch {
	struct pulses *pulses;	 /* borrowed */
	struct upgrade *upgrade; /* borrowed */
	struct watchdog watchdog;
	int notify_fd; /* borrowed */
	unsigned alive_ms;
	uint64_t told_ms; /* when the service manager was told last */
};

static void say_alive(struct watch *w)
{
	uint64_t now = now_ms();

	if (w->alive_ms == 0 || now - w->told_ms < w->alive_ms)
		return;
	notify_alive(w->notify_fd);
	w->told_ms = now;
}

/* Of a thread, from /proc, on one line; "?" when it can't be told. */
static const char *detail(pid_t worker, pid_t thread, const char *what, char ret[64])
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", (int)worker, (int)thread, what);
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, ret, 63);
	ret[n > 0 ? n : 0] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
	return n > 0 ? ret : "?";
}

static void end_if_hangs(struct watch *w, pid_t worker)
{
	uint64_t ms = 0;
	pid_t thread = watchdog_look(&w->watchdog, w->pulses, worker, now_ms(), &ms);

	if (thread == 0)
		return;
	char name[64], where[64], call[64];
	log_error(
		"the worker hangs: its thread %d (%s) is at the same piece of work for %llu ms "
		"(watchdog in [service]), in %s, system call %s; it is ended",
		(int)thread, detail(worker, thread, "comm", name), (unsigned long long)ms,
		detail(worker, thread, "wchan", where),
		detail(worker, thread, "syscall", call));
	kill(worker, SIGKILL);
	w->watchdog = (struct watchdog){0}; /* not again at once */
}

static unsigned pause_of(const struct watch *w)
{
	unsigned ms = watchdog_period_ms(w->pulses);
	return w->alive_ms > 0 && w->alive_ms < ms ? w->alive_ms : ms;
}

static void pass_on(struct watch *w, pid_t worker, struct state *state, int signal)
{
	/* For the next one, should this one die before it has heard of it. */
	uint32_t none = 0;

	if (signal != SIGHUP) {
		upgrade_cancel(w->upgrade);
		atomic_compare_exchange_strong(&state->ending, &none, state->end_by_signal);
	}
	kill(worker, signal);
}

/* Until this worker has ended: its status. */
static int wait_for_end(pid_t pid, struct state *state, const sigset_t *set, struct watch *w)
{
	int status;

	for (;;) {
		pid_t ended = waitpid(pid, &status, WNOHANG);
		if (ended == pid || (ended < 0 && errno == ECHILD))
			return ended == pid ? status : 0;
		unsigned ms = pause_of(w);
		const struct timespec pause = {
			.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
		int signal = sigtimedwait(set, NULL, &pause);
		if (signal == SIGUSR2)
			upgrade_ask(w->upgrade, now_ms());
		else if (signal > 0 && signal != SIGCHLD)
			pass_on(w, pid, state, signal);
		upgrade_look(w->upgrade, pid, now_ms());
		say_alive(w);
		end_if_hangs(w, pid);
	}
}

static void say(int status, unsigned pause_ms)
{
	if (WIFSIGNALED(status))
		log_error("the worker was ended by signal %d (%s); another takes over in %u ms",
			WTERMSIG(status), strsignal(WTERMSIG(status)), pause_ms);
	else
		log_error("the worker failed; another takes over in %u ms", pause_ms);
}

static void rest(unsigned ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
	nanosleep(&pause, NULL);
}

static unsigned longer(unsigned pause_ms)
{
	unsigned ms = pause_ms == 0 ? PAUSE_FIRST_MS : pause_ms * 2;
	return ms < PAUSE_MAX_MS ? ms : PAUSE_MAX_MS;
}

static bool has_left(int status)
{
	return WIFEXITED(status) && WEXITSTATUS(status) == WORKER_LEAVES;
}

/* One worker's life: its status. */
static int run_worker(struct watch *w, struct state *state, const sigset_t *set,
	int (*work)(void *arg, bool again), void *arg, bool again)
{
	atomic_store(&state->serves_since_ms, 0);
	pulse_clear(w->pulses);
	w->watchdog = (struct watchdog){0};
	pid_t pid = start_worker(work, arg, again);
	int status = pid < 0 ? 1 << 8 : wait_for_end(pid, state, set, w);
	uint64_t since = atomic_load(&state->serves_since_ms);
	/* One that didn't serve changes nothing, and one that left has said when. */
	if (since != 0 && !has_left(status))
		atomic_store(&state->idle_since_ms, now_ms());
	upgrade_worker_ended(w->upgrade, since != 0, now_ms());
	return status;
}

int keeper_run(struct state *state, struct pulses *pulses, struct upgrade *upgrade,
	int notify_fd, bool again, int (*work)(void *arg, bool again), void *arg)
{
	struct watch watch = {.pulses = pulses,
		.upgrade = upgrade,
		.notify_fd = notify_fd,
		.alive_ms = notify_alive_ms()};
	sigset_t set;
	unsigned pause_ms = 0;

	take_signals(&set);
	for (;; again = true) {
		int status = run_worker(&watch, state, &set, work, arg, again);
		if (WIFEXITED(status) && !has_left(status) &&
			(WEXITSTATUS(status) == 0 || !state_any(state)))
			return WEXITSTATUS(status);
		upgrade_exec(upgrade);
		/* It left, and the upgrade was called off, or can't be. */
		if (has_left(status))
			continue;
		uint64_t since = atomic_load(&state->serves_since_ms);
		pause_ms = since != 0 && now_ms() - since >= SERVED_MS ? 0 : longer(pause_ms);
		say(status, pause_ms);
		rest(pause_ms);
	}
}
