/* Processes that begin otherwise than by fork(3), or end otherwise than before their parent. */
#include "guest.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	FLOCK_MAX = 8, /* children of one prefork */
	STACK = 64 << 10,
};

/* ---- fork without libc ---- */

static pid_t fork_raw(struct worker *w)
{
	/* struct clone_args, of which only the exit signal is set. */
	uint64_t args[8] = {[4] = SIGCHLD};

	switch (random_below(w, 3)) {
	case 0:
		return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	case 1:
		return (pid_t)syscall(SYS_clone3, args, sizeof(args));
	default:
		return _Fork();
	}
}

/* In a child of a program with threads, where libc's locks may be held by those for ever. */
static _Noreturn void be_careful_child(struct worker *w)
{
	for (size_t i = 0; i < w->area_count; i++) {
		struct area *a = w->areas[i];
		size_t at = random_below(w, a->pages);
		area_check_some(w, a, 2);
		if (!may_write(a, at))
			continue;
		page_write(w, a, at);
		page_check(w, a, at);
	}
	end_child(w);
}

bool op_rawfork(struct worker *w)
{
	pid_t parent = getpid();
	bool alone = w->depth > 0 || w->options->threads == 1;

	if (w->depth >= DEPTH_MAX)
		return false;
	reap_children(w, CHILDREN_MAX - 1);
	w->forks++;
	pid_t child = fork_raw(w);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		become_child(w);
		if (alone)
			be_child(w);
		if (w->area_count > 0)
			sabotage_copy(w, OP_rawfork, w->areas[0]);
		be_careful_child(w);
	}
	if (child < 0)
		return false;
	w->children[w->child_count++] = child;
	return true;
}

/* ---- many, and orphans ---- */

bool op_prefork(struct worker *w)
{
	pid_t flock[FLOCK_MAX];
	size_t count = 3 + random_below(w, FLOCK_MAX - 2), made = 0;

	if (w->depth + 1 >= DEPTH_MAX)
		return false;
	while (made < count) {
		pid_t child = fork_worker(w);
		if (child == 0)
			be_child(w);
		if (child < 0)
			break;
		flock[made++] = child;
	}
	for (size_t i = 0; i < made; i++)
		wait_for(w, flock[i]);
	return made > 0;
}

static bool orphans_need(struct worker *w)
{
	if (w->orphans)
		return true;
	void *at = mmap(NULL, ORPHANS_MAX * sizeof(*w->orphans), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return false;
	w->orphans = at;
	return true;
}

/* Its parent is init, which tells nobody how it ended. */
static void reap_orphan(struct worker *w, struct orphan *o)
{
	pid_t pid = o->pid;
	int it = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

	if (it >= 0) {
		struct pollfd end = {.fd = it, .events = POLLIN};
		while (poll(&end, 1, -1) < 0 && errno == EINTR)
			;
		close(it);
	}
	if (pid > 0 && !o->done)
		fail_step(w, "an orphan ended before its time: process", pid);
}

void reap_orphans(struct worker *w)
{
	for (size_t i = 0; i < w->orphan_count; i++)
		reap_orphan(w, &w->orphans[i]);
	w->orphan_count = 0;
}

static _Noreturn void be_between(struct worker *w, struct orphan *o)
{
	w->forks++;
	pid_t child = fork();
	if (child == 0) {
		become_child(w);
		live_as_child(w);
		worker_count(w);
		o->done = true;
		_exit(0);
	}
	o->pid = child;
	end_child(w);
}

/* The parent in between doesn't wait for its child, which lives on when it has gone. */
bool op_daemon(struct worker *w)
{
	if (w->depth + 2 > DEPTH_MAX || !orphans_need(w))
		return false;
	if (w->orphan_count == ORPHANS_MAX)
		reap_orphans(w);
	struct orphan *o = &w->orphans[w->orphan_count];
	o->pid = 0;
	o->done = false;
	pid_t child = fork_worker(w);
	if (child == 0)
		be_between(w, o);
	if (child < 0)
		return false;
	w->orphan_count++;
	wait_for(w, child);
	return true;
}

/* ---- processes that share the memory ---- */

/* Model and memory are the same for both, and the other one waits. */
static int use_shared(void *arg)
{
	struct worker *w = arg;
	struct area *a = w->last_area;

	sabotage_copy(w, w->op, a);
	for (unsigned n = 0; n < 4; n++) {
		size_t i = random_below(w, a->pages);
		if (may_write(a, i))
			page_poke(w, a, i);
	}
	if (w->options->sabotage == (int)w->op)
		area_check(w, a);
	return 0;
}

bool op_vfork(struct worker *w)
{
	struct area *a = area_pick(w, WANT_ANY);

	if (!a)
		return false;
	note(w, a, OP_vfork, 0, a->pages);
	pid_t child = vfork();
	if (child == 0)
		_exit(use_shared(w));
	if (child < 0)
		return false;
	wait_for(w, child);
	area_check_some(w, a, 2);
	return true;
}

bool op_clonevm(struct worker *w)
{
	struct area *a = area_pick(w, WANT_ANY);

	if (!a)
		return false;
	char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return false;
	note(w, a, OP_clonevm, 0, a->pages);
	pid_t child = clone(use_shared, stack + STACK, CLONE_VM | SIGCHLD, w);
	if (child > 0)
		wait_for(w, child);
	munmap(stack, STACK);
	area_check_some(w, a, 2);
	return child > 0;
}

/* ---- exec ---- */

/* This program again, which does nothing. */
static pid_t start_itself(struct worker *w)
{
	static char name[] = "larder-guest", option[] = "--nothing";
	static char *const arguments[] = {name, option, NULL};
	static const char path[] = "/proc/self/exe";
	pid_t child;

	switch (random_below(w, 3)) {
	case 0:
		return posix_spawn(&child, path, NULL, NULL, arguments, environ) == 0 ? child
										      : -1;
	case 1:
		child = fork_worker(w);
		break;
	default:
		child = vfork();
	}
	if (child == 0) {
		execve(path, arguments, environ);
		_exit(3);
	}
	return child;
}

bool op_exec(struct worker *w)
{
	struct area *a = area_pick(w, WANT_ANY);

	if (!a || w->depth >= DEPTH_MAX)
		return false;
	note(w, a, OP_exec, 0, a->pages);
	pid_t child = start_itself(w);
	if (child < 0)
		return false;
	area_check_some(w, a, 4); /* while it begins */
	wait_for(w, child);
	return true;
}
