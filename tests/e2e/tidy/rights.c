/* Cases that give up rights: users, roots, namespaces, capabilities, system calls. */
#include "tidy.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOBODY = 65534 };

/* A thread that just lives: what changes credentials or filters must reach all threads. */
static void *live(void *arg)
{
	int *ends = arg;
	char byte = 0;

	if (write(ends[1], &byte, 1) == 1)
		while (read(ends[2], &byte, 1) >= 0)
			;
	return NULL;
}

/* It has begun, and makes no other call than read(2) any more. */
static int another_thread(void)
{
	static int ends[4];
	pthread_t thread;
	char byte;

	if (pipe(ends) < 0 || pipe(ends + 2) < 0 ||
		pthread_create(&thread, NULL, live, ends) != 0 ||
		read(ends[0], &byte, 1) != 1) {
		say("no thread: %s", strerror(errno));
		return 1;
	}
	return 0;
}

/* Calls that the shim watches, where its own calls may be forbidden or find nothing. */
static int watched_calls(struct tidy *t)
{
	if (call_result("mlock", mlock(t->memory, TIDY_PAGE)) < 0 ||
		call_result("munlock", munlock(t->memory, TIDY_PAGE)) < 0)
		return 1;
	void *p = mremap(t->memory, TIDY_BYTES, 3 * TIDY_BYTES, MREMAP_MAYMOVE);
	if (call_result("mremap to more", p == MAP_FAILED ? -1 : 0) < 0)
		return 1;
	t->memory = p;
	/* Not the part that is checked. */
	return call_result("wipe on fork",
		       madvise(t->memory + 2 * TIDY_BYTES, TIDY_PAGE, MADV_WIPEONFORK)) < 0;
}

static int move(struct tidy *t)
{
	void *to = mmap(NULL, TIDY_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *p = mremap(t->memory, TIDY_BYTES, TIDY_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to);

	if (call_result("mremap to a place", p == MAP_FAILED ? -1 : 0) < 0)
		return 1;
	t->memory = p;
	return 0;
}

int tidy_setuid(struct tidy *t)
{
	int bad = another_thread();

	say("dumpable: %d", prctl(PR_GET_DUMPABLE));
	bad |= call_result("setgroups", setgroups(0, NULL)) < 0;
	bad |= call_result("setgid", setgid(NOBODY)) < 0;
	bad |= call_result("setuid", setuid(NOBODY)) < 0;
	say("uid %d %d, gid %d %d, dumpable: %d", (int)getuid(), (int)geteuid(), (int)getgid(),
		(int)getegid(), prctl(PR_GET_DUMPABLE));
	bad |= call_result("root again", setuid(0)) >= 0;
	return bad || memory_check("other user", t->memory) || child_check(t);
}

int tidy_chroot(struct tidy *t)
{
	if (call_result("chroot", chroot(".")) < 0 || call_result("chdir", chdir("/")) < 0)
		return 1;
	say("/proc: %s", access("/proc/self", F_OK) < 0 ? strerror(errno) : "there");
	return move(t) || watched_calls(t) || child_check(t);
}

int tidy_unshare_user(struct tidy *t)
{
	if (call_result("unshare", unshare(CLONE_NEWUSER)) < 0)
		return 1;
	say("uid %d", (int)getuid());
	return child_check(t);
}

int tidy_unshare_pid(struct tidy *t)
{
	int status;

	if (call_result("unshare", unshare(CLONE_NEWPID)) < 0)
		return 1;
	pid_t child = fork();
	if (child == 0) {
		say("pid in the namespace: %d", (int)getpid());
		_exit(child_check(t) || memory_check("pid 1", t->memory));
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 1;
	say("status %d", status);
	return 0;
}

int tidy_unshare_mount(struct tidy *t)
{
	if (call_result("unshare", unshare(CLONE_NEWNS)) < 0 ||
		call_result("private", mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) <
			0 ||
		call_result("no /proc", mount("none", "/proc", "tmpfs", 0, NULL)) < 0)
		return 1;
	return move(t) || watched_calls(t) || child_check(t);
}

/* One of the few calls that ask whether the memory has another user, and not whether the
 * process has other threads. */
int tidy_time_namespace(struct tidy *t)
{
	int own = open("/proc/self/ns/time", O_RDONLY | O_CLOEXEC);

	if (own < 0)
		return skip("no time namespaces (CONFIG_TIME_NS)");
	known("setns", setns(own, CLONE_NEWTIME) < 0 ? errno : 0);
	close(own);
	return child_check(t);
}

/* tidy.sh makes us pid 1 of a namespace: there orphans become our children. */
int tidy_pid_namespace(struct tidy *t)
{
	int bad = child_check(t);

	say("pid %d", (int)getpid());
	/* Pid 1 gets orphans: its child's agent is one. */
	long orphans = 0;
	pid_t ended;
	while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
		orphans++;
	known("orphans", orphans + (ended == 0));
	return bad;
}

/* tidy.sh makes us root of one. */
int tidy_user_namespace(struct tidy *t)
{
	say("uid %d", (int)getuid());
	return move(t) || watched_calls(t) || child_check(t);
}

int tidy_dumpable(struct tidy *t)
{
	say("dumpable: %d", prctl(PR_GET_DUMPABLE));
	if (call_result("not any more", prctl(PR_SET_DUMPABLE, 0)) < 0)
		return 1;
	say("dumpable: %d", prctl(PR_GET_DUMPABLE));
	return move(t) || watched_calls(t) || child_check(t);
}

int tidy_capabilities(struct tidy *t)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	if (call_result("capget", syscall(SYS_capget, &head, data)) < 0)
		return 1;
	say("capabilities: %x %x", data[0].effective, data[1].effective);
	memset(data, 0, sizeof(data));
	if (call_result("capset", syscall(SYS_capset, &head, data)) < 0 ||
		call_result("no new", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) < 0)
		return 1;
	say("dumpable: %d", prctl(PR_GET_DUMPABLE));
	return move(t) || watched_calls(t) || child_check(t);
}

int tidy_seccomp_strict(struct tidy *t)
{
	if (call_result("strict", prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)) < 0)
		return 1;
	/* exit_group(2) is forbidden now. */
	syscall(SYS_exit, tidy_finish(t));
	return 1;
}

/* From here on any other call kills the process. */
static int only(const int *call, size_t count, unsigned flags)
{
	struct sock_filter code[64];
	size_t n = 0;

	code[n++] = (struct sock_filter)BPF_STMT(
		BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < count; i++) {
		code[n++] = (struct sock_filter)BPF_JUMP(
			BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call[i], 0, 1);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	struct sock_fprog program = {.len = (unsigned short)n, .filter = code};

	if (call_result("no new", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) < 0)
		return -1;
	return (int)call_result(
		"filter", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

int tidy_seccomp_tsync(struct tidy *t)
{
	static const int calls[] = {SYS_read, SYS_write, SYS_exit_group};

	if (another_thread() ||
		only(calls, sizeof(calls) / sizeof(calls[0]), SECCOMP_FILTER_FLAG_TSYNC) < 0)
		return 1;
	return memory_check("filtered", t->memory);
}

/* What the program itself calls in watched_calls() is allowed, and nothing that only we might.
 */
static const int watched[] = {SYS_read, SYS_write, SYS_exit_group, SYS_mmap, SYS_mlock,
	SYS_munlock, SYS_mremap, SYS_madvise};

int tidy_seccomp_calls(struct tidy *t)
{
	if (only(watched, sizeof(watched) / sizeof(watched[0]), 0) < 0)
		return 1;
	return watched_calls(t);
}

/* A forked child has no link to the service. */
int tidy_seccomp_child(struct tidy *t)
{
	static const int few[] = {SYS_read, SYS_write, SYS_exit_group, SYS_mlock};
	int status;
	pid_t child = fork();

	if (child == 0) {
		if (only(few, sizeof(few) / sizeof(few[0]), 0) < 0 ||
			call_result("mlock", mlock(t->memory, TIDY_PAGE)) < 0)
			_exit(1);
		_exit(memory_check("child", t->memory));
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 1;
	say("status %d", status);
	return 0;
}
