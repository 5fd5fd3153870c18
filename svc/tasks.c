/* The threads of a process: where their stacks and control blocks lie, whether one may be
 * inside a call that changes the address space, and what else makes the whole process unfit.
 *
 * Invariants:
 * 1. A walk that may have missed a thread says so (-EAGAIN): the kernel's listing of task/ ends
 *    early when the thread that it stands on exits.
 * 2. What can't be read or understood counts as the dangerous answer, except where the thread
 * or the descriptor is gone. */
#include "maps.h"

#include "cleanup.h"
#include "kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif
#ifndef SCHED_RESET_ON_FORK
#define SCHED_RESET_ON_FORK 0x40000000
#endif

enum {
	/* A walk takes some 10 us a thread, so only a process that starts and ends thousands of
	 * threads a second disturbs several in a row; it is left for the next period. */
	WALK_TRIES = 8,
};

/* ---- walking task/ ---- */

static int open_dir(int procdir, const char *name, DIR **ret)
{
	int fd = openat(procdir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	DIR *dir = fdopendir(fd);
	if (!dir) {
		int r = -errno;
		close(fd);
		return r;
	}
	*ret = dir;
	return 0;
}

/* 1: the next entry of `dir` that is a number, in *ret. 0: no more. */
static int next_number(DIR *dir, int *ret)
{
	struct dirent *entry;

	while ((errno = 0, entry = readdir(dir))) {
		char *end;
		long number = strtol(entry->d_name, &end, 10);
		if (end == entry->d_name || *end != '\0' || number < 0 || number > INT32_MAX)
			continue;
		*ret = (int)number;
		return 1;
	}
	return -errno;
}

/* How many threads the kernel counts: task/ has a link for each, and two of its own. 0: the
 * file system doesn't count that way. */
static size_t count_threads(int tasks)
{
	struct stat st;

	return fstat(tasks, &st) == 0 && st.st_nlink >= 2 ? (size_t)st.st_nlink - 2 : 0;
}

/* Called for each thread; `tasks` is the directory task/. -ESRCH: the thread is gone. */
typedef int task_fn(void *arg, int tasks, pid_t tid);

static int walk_once(DIR *dir, task_fn *fn, void *arg)
{
	int tasks = dirfd(dir);
	size_t seen = 0, before = count_threads(tasks);
	pid_t tid;
	int r;

	while ((r = next_number(dir, &tid)) > 0) {
		r = fn(arg, tasks, tid);
		if (r == -ESRCH)
			return -EAGAIN;
		if (r != 0)
			return r;
		seen++;
	}
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	if (seen == 0)
		return -ESRCH;
	return seen < before || seen < count_threads(tasks) ? -EAGAIN : 0;
}

/* Calls fn for each thread; its result other than 0 and -ESRCH ends the walk and is returned.
 * -EAGAIN: threads ended meanwhile, one may have been missed. -ESRCH: there is no thread left.
 */
static int walk_tasks(int procdir, task_fn *fn, void *arg)
{
	DIR *dir;
	int r = open_dir(procdir, "task", &dir);

	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	r = walk_once(dir, fn, arg);
	closedir(dir);
	return r;
}

static int walk_for(int procdir, task_fn *fn, void *arg)
{
	int r = -EAGAIN;

	for (unsigned i = 0; i < WALK_TRIES && r == -EAGAIN; i++)
		r = walk_tasks(procdir, fn, arg);
	return r;
}

/* ---- files of one thread ---- */

/* Reads all of task/TID/NAME, which must be shorter than `size`, as a string. -ESRCH: gone. */
static int read_task_file(int tasks, pid_t tid, const char *name, char *buf, size_t size)
{
	char path[64];
	size_t have = 0;

	snprintf(path, sizeof(path), "%d/%s", (int)tid, name);
	_cleanup_fd_ int fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	for (;;) {
		ssize_t n = read(fd, buf + have, size - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
		if (have == size)
			return -E2BIG;
	}
	buf[have] = '\0';
	return 0;
}

/* What task/TID/syscall says:
 *   "running", "NUMBER a b c d e f sp pc", or "-1 sp pc": stopped outside of a call. */
struct task_call {
	bool running;
	long number;
	uint64_t first; /* argument */
	uint64_t sp;	/* 0: has no user stack (it is exiting, or a kernel worker) */
};

static int parse_call(const char *s, struct task_call *ret)
{
	enum { MOST = 8 };
	uint64_t values[MOST];
	size_t count = 0;
	char *end;

	if (strcmp(s, "running\n") == 0) {
		*ret = (struct task_call){.running = true};
		return 0;
	}
	long number = strtol(s, &end, 10);
	if (end == s)
		return -EBADMSG;
	for (s = end; *s == ' ' && count < MOST; s = end) {
		values[count++] = strtoull(s + 1, &end, 16);
		if (end == s + 1)
			return -EBADMSG;
	}
	if (strcmp(s, "\n") != 0 || count != (number < 0 ? 2 : MOST))
		return -EBADMSG;
	*ret = (struct task_call){
		.number = number, .first = values[0], .sp = values[count - 2]};
	return 0;
}

static int read_call(int tasks, pid_t tid, struct task_call *ret)
{
	char text[256]; /* nine numbers of at most 19 bytes */
	int r = read_task_file(tasks, tid, "syscall", text, sizeof(text));

	return r < 0 ? r : parse_call(text, ret);
}

/* ---- addresses ---- */

struct addresses {
	uint64_t *at;
	size_t count, max;
};

static int add_address(struct addresses *a, uint64_t address)
{
	if (address == 0)
		return 0;
	if (a->count == a->max)
		return -E2BIG;
	a->at[a->count++] = address;
	return 0;
}

static int add_thread(void *arg, int tasks, pid_t tid)
{
	struct addresses *a = arg;
	struct task_call call;
	void *head = NULL;
	size_t length;

	/* The C library has its robust list in the control block, the same mapping as the
	 * stack; so a thread that is running has its place known as well. */
	if (syscall(SYS_get_robust_list, tid, &head, &length) < 0 && errno != ESRCH)
		return -errno;
	int r = read_call(tasks, tid, &call);
	if (r < 0)
		return r;
	r = add_address(a, (uintptr_t)head);
	return r < 0 ? r : add_address(a, call.sp);
}

/* On failure the contents of ret[] are undefined. -EAGAIN: threads come and go too fast. */
int maps_thread_addresses(int procdir, uint64_t *ret, size_t max, size_t *ret_count)
{
	struct addresses a = {.at = ret, .max = max};
	int r = -EAGAIN;

	for (unsigned i = 0; i < WALK_TRIES && r == -EAGAIN; i++) {
		a.count = 0;
		r = walk_tasks(procdir, add_thread, &a);
	}
	if (r == 0)
		*ret_count = a.count;
	return r;
}

bool maps_holds_thread(const struct map *m, const uint64_t *addresses, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (addresses[i] >= m->start && addresses[i] < m->end)
			return true;
	return false;
}

/* ---- control blocks, again and again ---- */

/* One walk: those that were known are found in the order in which they were met before. */
struct look {
	const struct maps_threads *before;
	struct maps_threads *now;
	size_t next;
};

static const struct maps_thread *known(struct look *l, pid_t tid)
{
	const struct maps_threads *before = l->before;

	for (size_t i = 0; i < before->count; i++) {
		size_t at = (l->next + i) % before->count;
		if (before->thread[at].tid != tid)
			continue;
		l->next = at + 1;
		return &before->thread[at];
	}
	return NULL;
}

static int look_at_thread(void *arg, int tasks, pid_t tid)
{
	struct look *l = arg;
	struct maps_threads *now = l->now;
	const struct maps_thread *old = known(l, tid);
	struct maps_thread new = {.tid = tid};
	void *head = NULL;
	size_t length;

	(void)tasks;
	if (old && old->block != 0) {
		new = *old;
	} else if (syscall(SYS_get_robust_list, tid, &head, &length) == 0) {
		new.block = (uintptr_t)head;
		now->unclear |= !old && !head;
	} else if (errno != ESRCH) {
		return -errno;
	}
	if (now->count == now->room) {
		size_t room = now->room ? now->room * 2 : 16;
		struct maps_thread *more = realloc(now->thread, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		now->thread = more;
		now->room = room;
	}
	now->thread[now->count++] = new;
	return 0;
}

int maps_threads_look(int procdir, struct maps_threads *t)
{
	struct maps_threads now = {.count = 0};
	int r = -EAGAIN;

	for (unsigned i = 0; i < WALK_TRIES && r == -EAGAIN; i++) {
		now.count = 0;
		now.unclear = false;
		r = walk_tasks(procdir, look_at_thread, &(struct look){t, &now, 0});
	}
	if (r < 0) {
		free(now.thread);
		return r;
	}
	free(t->thread);
	*t = now;
	return 0;
}

void maps_threads_done(struct maps_threads *t)
{
	free(t->thread);
	*t = (struct maps_threads){.count = 0};
}

/* ---- quiet ---- */

static bool changes_memory(long number)
{
	static const long calls[] = {SYS_madvise, SYS_munmap, SYS_mmap, SYS_mremap, SYS_brk,
		440 /* process_madvise */};

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (number == calls[i])
			return true;
	return false;
}

/* 1: it may be inside. 0: it is outside, and was seen there. -ESRCH: it has ended. */
static int may_change_memory(int tasks, pid_t tid)
{
	struct task_call call;
	int r = read_call(tasks, tid, &call);

	if (r < 0)
		return r == -ESRCH ? r : 1;
	/* A worker of io_uring is a thread inside a call, but without a stack. It may be
	 * carrying out IORING_OP_MADVISE. */
	bool worker = call.number >= 0 && call.sp == 0;
	return call.running || worker || changes_memory(call.number);
}

static int meet_thread(void *arg, int tasks, pid_t tid)
{
	struct maps_quiet *q = arg;
	int r = may_change_memory(tasks, tid);

	if (r <= 0)
		return r;
	if (q->count == q->room) {
		size_t room = q->room ? q->room * 2 : 16;
		pid_t *more = realloc(q->tid, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		q->tid = more;
		q->room = room;
	}
	q->tid[q->count++] = tid;
	return 0;
}

static int look_at_the_rest(int procdir, struct maps_quiet *q)
{
	_cleanup_fd_ int tasks = openat(procdir, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	size_t left = 0;

	if (tasks < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	for (size_t i = 0; i < q->count; i++)
		if (may_change_memory(tasks, q->tid[i]) > 0)
			q->tid[left++] = q->tid[i];
	q->count = left;
	return 0;
}

int maps_quiet_look(int procdir, struct maps_quiet *q, bool *ret)
{
	int r;

	if (q->begun) {
		r = look_at_the_rest(procdir, q);
	} else {
		q->count = 0;
		r = walk_tasks(procdir, meet_thread, q);
		q->begun = r == 0;
	}
	if (r < 0 && r != -EAGAIN)
		return r;
	*ret = q->begun && q->count == 0;
	return 0;
}

void maps_quiet_again(struct maps_quiet *q)
{
	q->begun = false;
}

void maps_quiet_done(struct maps_quiet *q)
{
	free(q->tid);
	*q = (struct maps_quiet){.count = 0};
}

/* ---- a thread that has the memory ---- */

struct sought {
	pid_t agent_pid, found;
};

static int has_agents_memory(void *arg, int tasks, pid_t tid)
{
	struct sought *s = arg;
	(void)tasks;
	long r = syscall(SYS_kcmp, tid, s->agent_pid, KCMP_VM, 0, 0);

	if (r < 0)
		return -errno;
	s->found = tid;
	return r == 0;
}

int maps_memory_task(int procdir, pid_t agent_pid, pid_t *ret)
{
	struct sought s = {.agent_pid = agent_pid};
	int r = walk_for(procdir, has_agents_memory, &s);

	if (r > 0)
		*ret = s.found;
	return r > 0 ? 0 : r == 0 ? -ENOENT : r;
}

/* ---- the process as a whole ---- */

struct process {
	pid_t pid, agent_pid;
};

/* 1: yes. 0: no. */
static int is_real_time(void *arg, int tasks, pid_t tid)
{
	(void)arg, (void)tasks;
	int policy = sched_getscheduler(tid);

	if (policy < 0)
		return -errno;
	policy &= ~SCHED_RESET_ON_FORK;
	return policy == SCHED_FIFO || policy == SCHED_RR || policy == SCHED_DEADLINE;
}

/* Waits this thread for a vfork child to exec or exit? clone3 has its flags in memory, but no
 * call of it blocks for another reason. */
static bool waits_for_vfork(const struct task_call *call)
{
	if (call->running)
		return false;
#ifdef SYS_vfork
	if (call->number == SYS_vfork)
		return true;
#endif
	return call->number == SYS_clone3 ||
	       (call->number == SYS_clone && (call->first & CLONE_VFORK));
}

static int shares_memory(const struct process *p, pid_t child)
{
	if (child == p->agent_pid)
		return 0;
	long r = syscall(SYS_kcmp, p->pid, child, KCMP_VM, 0, 0);
	if (r < 0)
		return errno == ESRCH ? 0 : -errno;
	return r == 0;
}

/* The children of one thread that share the memory of the process. */
struct sharers {
	unsigned count;
	pid_t newest; /* the thread's newest child, when it is one of them; else 0 */
};

/* Goes through the numbers of a task/TID/children file, oldest first. */
static int count_sharers(int fd, const struct process *p, struct sharers *ret)
{
	struct sharers s = {0};
	char piece[512];
	long number = 0;
	ssize_t n;

	while ((n = read(fd, piece, sizeof(piece))) > 0)
		for (ssize_t i = 0; i < n; i++) {
			if (piece[i] >= '0' && piece[i] <= '9' && number <= INT32_MAX / 16) {
				number = number * 10 + (piece[i] - '0');
				continue;
			}
			if (piece[i] != ' ' || number == 0)
				return -EBADMSG;
			int r = shares_memory(p, (pid_t)number);
			if (r < 0)
				return r;
			s.newest = r > 0 ? (pid_t)number : 0;
			s.count += r > 0;
			number = 0;
		}
	if (n < 0)
		return -errno;
	*ret = s;
	return 0;
}

static int list_sharers(int tasks, pid_t tid, const struct process *p, struct sharers *ret)
{
	char path[64];

	snprintf(path, sizeof(path), "%d/children", (int)tid);
	_cleanup_fd_ int fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		return count_sharers(fd, p, ret);
	if (errno != ENOENT)
		return -errno;
	*ret = (struct sharers){0}; /* CONFIG_PROC_CHILDREN is off, or the thread is gone */
	return 0;
}

/* 1: a child of this thread shares the memory, and not only until it execs. 0: none does. */
static int has_sharer(void *arg, int tasks, pid_t tid)
{
	const struct process *p = arg;
	struct sharers before, after;
	struct task_call call;

	for (unsigned i = 0; i < WALK_TRIES; i++) {
		int r = list_sharers(tasks, tid, p, &before);
		if (r < 0 || before.count == 0)
			return r;
		if ((r = read_call(tasks, tid, &call)) < 0 ||
			(r = list_sharers(tasks, tid, p, &after)) < 0)
			return r;
		/* A thread in vfork makes no other child meanwhile, so its newest is that one;
		 * provided that no vfork began or ended between the two looks. */
		if (after.newest != before.newest)
			continue;
		return after.count > (after.newest != 0 && waits_for_vfork(&call) ? 1 : 0);
	}
	return -EAGAIN;
}

/* 1: there is a userfaultfd among this thread's descriptors. 0: none. */
static int has_userfaultfd(int procdir, pid_t tid)
{
	static const char wanted[] = "anon_inode:[userfaultfd]";
	char name[64], target[sizeof(wanted)];
	DIR *dir;
	int number, r;

	snprintf(name, sizeof(name), "task/%d/fd", (int)tid);
	r = open_dir(procdir, name, &dir);
	if (r < 0)
		return r;
	while ((r = next_number(dir, &number)) > 0) {
		snprintf(name, sizeof(name), "%d", number);
		ssize_t n = readlinkat(dirfd(dir), name, target, sizeof(target));
		if (n == sizeof(wanted) - 1 && memcmp(target, wanted, sizeof(wanted) - 1) == 0)
			break;
	}
	closedir(dir);
	return r;
}

/* -EAGAIN: threads come and go too fast. -EPERM, -ENOSYS: kcmp isn't allowed, or isn't there.
 */
int maps_process_refusal(int procdir, pid_t pid, pid_t agent_pid, const char **ret)
{
	struct process p = {.pid = pid, .agent_pid = agent_pid};
	const char *refusal = NULL;
	int r = walk_for(procdir, is_real_time, &p);

	if (r > 0)
		refusal = "has a real-time thread";
	if (r == 0 && (r = has_userfaultfd(procdir, pid)) > 0)
		refusal = "has a userfaultfd of its own";
	if (r == 0 && (r = walk_for(procdir, has_sharer, &p)) > 0)
		refusal = "shares its memory with another process";
	if (r < 0)
		return r;
	*ret = refusal;
	return 0;
}
