#include "keeper.h"
#include "log.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
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
	sigaddset(set, SIGCHLD);
	sigprocmask(SIG_BLOCK, set, NULL);
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

/* Until this worker has ended: its status. */
static int wait_for_end(pid_t pid, const sigset_t *set)
{
	int status, signal;

	for (;;) {
		pid_t ended = waitpid(pid, &status, WNOHANG);
		if (ended == pid || (ended < 0 && errno == ECHILD))
			return ended == pid ? status : 0;
		if (sigwait(set, &signal) == 0 && signal != SIGCHLD)
			kill(pid, signal);
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

int keeper_run(struct state *state, int (*work)(void *arg, bool again), void *arg)
{
	sigset_t set;
	unsigned pause_ms = 0;

	take_signals(&set);
	for (bool again = false;; again = true) {
		atomic_store(&state->serves_since_ms, 0);
		pid_t pid = start_worker(work, arg, again);
		int status = pid < 0 ? 1 << 8 : wait_for_end(pid, &set);
		if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || !state_any(state)))
			return WEXITSTATUS(status);
		uint64_t since = atomic_load(&state->serves_since_ms);
		pause_ms = since != 0 && now_ms() - since >= SERVED_MS ? 0 : longer(pause_ms);
		say(status, pause_ms);
		rest(pause_ms);
	}
}
