/* Cases about processes: threads that end, children of all kinds, other images. */
#include "tidy.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int tidy_closefrom(struct tidy *t)
{
	closefrom(3);
	return child_check(t);
}

/* The state of the first thread: R, S, Z ... */
static char leader_state(void)
{
	char text[256] = "";
	FILE *f = fopen("/proc/self/stat", "re");
	const char *end;

	if (!f || !fgets(text, sizeof(text), f) || !(end = strrchr(text, ')')))
		return '?';
	fclose(f);
	return end[2];
}

static void *survive(void *arg)
{
	struct tidy *t = arg;

	while (leader_state() != 'Z')
		sched_yield();
	int code = memory_check("thread", t->memory);

	/* Anew, so that it has to be found. */
	munmap(t->memory, TIDY_BYTES);
	t->memory = memory_new();
	point(POINT_TAKE);
	code |= child_check(t);
	exit(code | tidy_finish(t));
}

/* The thread's copy outlives this stack. */
int tidy_pthread_exit(struct tidy *t)
{
	static struct tidy copy;
	pthread_t thread;

	copy = *t;
	if (pthread_create(&thread, NULL, survive, &copy) != 0)
		return 1;
	pthread_exit(NULL);
}

/* A child that goes on by itself, with children of its own. */
int tidy_fork(struct tidy *t)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		int bad = child_check(t);
		memset(t->memory, 7, TIDY_BYTES / 2);
		point(POINT_TAKE); /* the parent's, which we share the other half of */
		for (size_t i = 0; i < TIDY_BYTES / 2; i++)
			bad |= t->memory[i] != 7;
		_exit(bad);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 1;
	say("status %d", status);
	return status != 0;
}

int tidy_double_fork(struct tidy *t)
{
	if (fork() != 0)
		_exit(3);
	if (setsid() < 0 || fork() != 0)
		_exit(0);
	t->next = POINT_LEAVE; /* a forked child's memory isn't evicted */
	return child_check(t);
}

int tidy_vfork(struct tidy *t)
{
	for (volatile int i = 0; i < 20; i++) {
		int status;
		pid_t child = vfork();
		if (child == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(1);
		}
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
			return call_result("vfork", -1) < 0;
	}
	return child_check(t);
}

static void make_children(int count)
{
	for (int i = 0; i < count; i++)
		if (fork() == 0)
			_exit(i);
}

static int reap_all(int options)
{
	int status, sum = 0, count = 0;

	while (waitpid(-1, &status, options) > 0) {
		count++;
		sum += WEXITSTATUS(status);
	}
	say("reaped %d, sum %d: %s", count, sum, strerror(errno));
	return 0;
}

int tidy_wait_any(struct tidy *t)
{
	make_children(5);
	return reap_all(0) || memory_check("parent", t->memory);
}

/* As a debugger waits. With WNOHANG first: to wait for a child that isn't ours would never end.
 */
int tidy_wait_all_kinds(struct tidy *t)
{
	pid_t r = waitpid(-1, NULL, (int)__WALL | WNOHANG);

	say("__WALL without children: %s", r < 0 ? strerror(errno) : "there is one");
	r = waitpid(-1, NULL, (int)__WCLONE | WNOHANG);
	say("__WCLONE without children: %s", r < 0 ? strerror(errno) : "there is one");
	make_children(5);
	return (r < 0 && reap_all((int)__WALL)) || memory_check("parent", t->memory);
}

/* Goes with the child until it ends; counts the processes and threads that it makes. */
static int trace(pid_t child, int *made)
{
	int status;
	pid_t pid = waitpid(child, &status, 0);

	if (pid != child || !WIFSTOPPED(status) ||
		ptrace(PTRACE_SETOPTIONS, child, 0,
			PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK) < 0)
		return -1;
	do {
		int event = status >> 16, signal = event ? 0 : WSTOPSIG(status);
		*made += event != 0;
		/* What exec and attaching stop with isn't for the program. */
		if (signal == SIGTRAP || signal == SIGSTOP)
			signal = 0;
		ptrace(PTRACE_CONT, pid, 0, signal);
		pid = waitpid(-1, &status, (int)__WALL);
	} while (pid > 0 && (pid != child || WIFSTOPPED(status)));
	return pid == child ? status : -1;
}

/* A debugger of a program whose memory is out, and which starts a process itself. */
int tidy_traced(struct tidy *t)
{
	int made = 0;

	if (*t->stage) {
		point(POINT_TAKE);
		_exit(child_check(t));
	}
	pid_t child = fork();
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(exec_image(t, NULL, "second"));
	}
	int status = child < 0 ? -1 : trace(child, &made);
	say("traced: status %d, made %d", status, made);
	return status != 0;
}

int tidy_exec_same(struct tidy *t)
{
	if (!*t->stage)
		return exec_image(t, NULL, "second");
	return child_check(t);
}

int tidy_exec_other(struct tidy *t)
{
	if (!*t->stage)
		return exec_image(t, "tidy-other", "second");
	return child_check(t);
}

/* Into an image without the shim. The old memory has to go all the same. */
static int exec_unmanaged(struct tidy *t, const char *file)
{
	if (!*t->stage)
		return exec_image(t, file, "second");
	say("uid %d %d", (int)getuid(), (int)geteuid());
	t->next = POINT_GONE;
	return 0;
}

int tidy_exec_static(struct tidy *t)
{
	return exec_unmanaged(t, "tidy-static");
}

int tidy_exec_setuid(struct tidy *t)
{
	return exec_unmanaged(t, "tidy-setuid");
}

/* tidy.sh starts these images, in which there can be no shim. */
int tidy_static(struct tidy *t)
{
	return child_check(t);
}

int tidy_setuid_binary(struct tidy *t)
{
	say("uid %d %d", (int)getuid(), (int)geteuid());
	return child_check(t);
}

/* Nothing tells the agent of the exec, nor has anybody else a reason to look. */
int tidy_exec_after_closefrom(struct tidy *t)
{
	if (!*t->stage) {
		closefrom(3);
		point(POINT_QUIET);
	}
	return exec_unmanaged(t, "tidy-static");
}

/* A child has the agent's pipe open, and lives on. */
int tidy_exec_after_fork(struct tidy *t)
{
	if (!*t->stage) {
		pid_t child = fork();
		if (child == 0)
			for (;;)
				pause();
		if (child < 0)
			return 1;
		char number[20];
		snprintf(number, sizeof(number), "%d", (int)child);
		return exec_image(t, "tidy-static", number);
	}
	int bad = exec_unmanaged(t, NULL);
	int code = bad ? bad : tidy_finish(t);
	kill((pid_t)atol(t->stage), SIGKILL);
	exit(code);
}
