/* A signal handler that forks inside a call that the shim follows, at each instruction of it:
 *
 *   interrupted linked|unlinked|stuck fork|_Fork
 *
 * Run by `larder run`, the latter with --no-inherit. A child of ours calls mlock(2) round after
 * round; in the n-th it is stopped after n instructions, and its handler forks. The grandchild
 * goes on with the call, whose link, if it had one, isn't there any more. It must come to its
 * end, be counted while it does without the service, and not longer: else an agent waits for
 * ever, or comes too early. Prints how many rounds there were; 1 and a reason where it fails.
 *
 * Stuck: a child's call never ends, as when its process was killed in it. Its agent gives up.
 */
#include "kernel.h"
#include "shim.h"
#include "shim_page.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum {
	ROUNDS_MAX = 100000,
	/* A grandchild's exit codes; 1: it made the system call, 0: that had been made. */
	LOCK_FAILED = 10,
	STILL_COUNTED,
	NOT_COUNTED,
	LOCKS_NO_MORE,
};

static struct shim_page *page;
static void *locked;
static pid_t (*fork_somehow)(void);
static volatile sig_atomic_t is_grandchild;
static volatile sig_atomic_t has_locked; /* a grandchild's */
/* The child's, at the same places as ours. */
static volatile long in_call, locked_in_grandchild;

static void die(const char *what)
{
	fprintf(stderr, "interrupted: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint32_t counted(void)
{
	return (uint32_t)atomic_load(&page->calls);
}

/* ---- the child ---- */

/* Instead of the system call: it is counted now, or an agent could come in between. */
static void on_lock(int number, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	(void)number;
	(void)info;
	if (counted() != 1)
		_exit(NOT_COUNTED);
	has_locked = 1;
#if defined(__x86_64__)
	u->uc_mcontext.gregs[REG_RAX] = 0;
#else
	u->uc_mcontext.regs[0] = 0;
#endif
}

static void watch_locks(void)
{
	struct sigaction act = {.sa_sigaction = on_lock, .sa_flags = SA_SIGINFO};
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mlock, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	sigaction(SIGSYS, &act, NULL);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		die("seccomp");
}

static void on_signal(int number)
{
	int status, saved = errno;
	pid_t pid = fork_somehow();

	(void)number;
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		watch_locks();
		is_grandchild = 1;
		errno = saved;
		return;
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) > 1) {
		fprintf(stderr, "interrupted: a grandchild ended with 0x%x: %s\n", status,
			WIFSIGNALED(status)		       ? "killed"
			: WEXITSTATUS(status) == LOCK_FAILED   ? "mlock failed"
			: WEXITSTATUS(status) == STILL_COUNTED ? "its call is counted for ever"
			: WEXITSTATUS(status) == NOT_COUNTED   ? "its call isn't counted"
			: WEXITSTATUS(status) == LOCKS_NO_MORE ? "its next mlock failed"
							       : "?");
		exit(1);
	}
	locked_in_grandchild += WEXITSTATUS(status);
	errno = saved;
}

static void check_grandchild(int result)
{
	if (result != 0)
		_exit(LOCK_FAILED);
	if (counted() != 0)
		_exit(STILL_COUNTED);
	int locks = has_locked;
	_exit(mlock(locked, LINK_PAGE) == 0 && counted() == 0 ? locks : LOCKS_NO_MORE);
}

static void lock_for_ever(bool linked)
{
	struct sigaction act = {.sa_handler = on_signal};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGUSR1, &act, NULL);
	while (linked && !atomic_load(&page->link))
		sched_yield();
	if (!linked && atomic_load(&page->link))
		die("there is a link");
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
		die("ptrace");
	for (;;) {
		raise(SIGSTOP);
		in_call = 1;
		int r = mlock(locked, LINK_PAGE);
		in_call = 0;
		if (is_grandchild)
			check_grandchild(r);
		if (r < 0)
			die("mlock");
	}
}

static void be_stuck(void)
{
	struct link *link;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	atomic_fetch_add(&page->calls, 1);
	while (!(link = atomic_load(&page->link)))
		sched_yield();
	if (!has_agent())
		die("there is no agent");
	while (!atomic_load(&link->head.closed) || has_agent())
		usleep(1000);
	/* Nobody waits for an answer that doesn't come. */
	_exit(mlock(locked, LINK_PAGE) == 0 ? 0 : LOCK_FAILED);
}

/* ---- we ---- */

static int wait_stop(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
		exit(1); /* it has said why */
	return WSTOPSIG(status);
}

static void step(pid_t child)
{
	if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) < 0)
		die("ptrace");
	wait_stop(child);
}

static bool is_in_call(pid_t child)
{
	return ptrace(PTRACE_PEEKDATA, child, (void *)&in_call, NULL) == 1;
}

/* One round: false when the call took fewer steps. */
static bool interrupt(pid_t child, unsigned steps)
{
	while (!is_in_call(child))
		step(child);
	for (unsigned i = 0; i < steps; i++)
		step(child);
	if (!is_in_call(child))
		return false;
	if (ptrace(PTRACE_CONT, child, NULL, (void *)(long)SIGUSR1) < 0)
		die("ptrace");
	while (wait_stop(child) != SIGSTOP) /* of the grandchild's end */
		if (ptrace(PTRACE_CONT, child, NULL, (void *)(long)SIGCHLD) < 0)
			die("ptrace");
	return true;
}

int main(int argc, char **argv)
{
	unsigned rounds = 0;
	int status;

	if (argc != 3)
		return 2;
	page = find_page();
	if (!page)
		die("the shim has no page: not taken over");
	locked = mmap(
		NULL, LINK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fork_somehow = strcmp(argv[2], "_Fork") == 0 ? _Fork : fork;
	pid_t child = fork();
	if (child == 0 && strcmp(argv[1], "stuck") == 0)
		be_stuck();
	if (child == 0)
		lock_for_ever(strcmp(argv[1], "linked") == 0);
	if (strcmp(argv[1], "stuck") == 0)
		return waitpid(child, &status, 0) != child || status != 0;
	wait_stop(child);
	while (rounds < ROUNDS_MAX && interrupt(child, rounds))
		rounds++;
	long met = ptrace(PTRACE_PEEKDATA, child, (void *)&locked_in_grandchild, NULL);
	kill(child, SIGKILL);
	if (met <= 0 || met >= rounds)
		die("no round came before the system call, or none after it");
	printf("%u rounds, %ld before the system call\n", rounds, met);
	return 0;
}
