/* The preloaded library's constructor: libeatmydata's rule holds, the program must not be able
 * to tell. Everything opened here is closed again, but for the write end of one pipe. */
#include "agent.h"
#include "hint.h"
#include "kernel.h"
#include "link.h"
#include "protocol.h"
#include "rawcall.h"
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	/* A service that doesn't answer (stopped, swapped out) may not hold a program up for
	   longer. */
	ANSWER_TIMEOUT_MS = 500,
	/* The pipe's descriptor number: out of the way of programs that count on the lowest
	 * free one, low enough that the kernel's table needn't grow much. */
	PIPE_FD_FROM = 1000,
	STAGING_BYTES = LINK_SLOTS * LINK_PAGE,
	/* One reservation, with a PROT_NONE page between any two parts. */
	AREA_BYTES = STAGING_BYTES + AGENT_STACK_BYTES + 6 * LINK_PAGE,
	HUGE_BYTES = 2 << 20,
};

struct shim_page *shim_page;

struct area {
	uint8_t *base; /* page aligned; AREA_BYTES */
	uint8_t *staging, *bell, *stack;
};

static int service_address(struct sockaddr_un *ret)
{
	const char *dir = secure_getenv("LARDER_RUNTIME_DIR");

	ret->sun_family = AF_UNIX;
	int n = snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/attach.sock",
		dir && *dir ? dir : "/run/larder");
	return n < 0 || (size_t)n >= sizeof(ret->sun_path) ? -1 : 0;
}

/* Would the service leave this program alone (hint.h)? *ret_sampled: yes, but it is one of
 * those that ask all the same. */
static bool left_alone(bool *ret_sampled)
{
	const char *dir = secure_getenv("LARDER_RUNTIME_DIR");
	const char *policy = secure_getenv("LARDER_POLICY");
	char path[256], exe[256];
	struct {
		uint64_t key, until_ms;
	} hint;
	struct timespec t;

	*ret_sampled = false;
	int n = snprintf(
		path, sizeof(path), "%s/" HINT_FILE, dir && *dir ? dir : "/run/larder");
	if (n < 0 || (size_t)n >= sizeof(path))
		return false;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe));
	uint64_t key = 0;
	if (len > 0 && (size_t)len < sizeof(exe)) {
		exe[len] = '\0';
		key = hint_key(exe, policy ? policy : "", geteuid());
	}
	bool known = key && pread(fd, &hint, sizeof(hint),
				    (off_t)(key % HINT_SLOTS * sizeof(hint))) == sizeof(hint);
	close(fd);
	clock_gettime(CLOCK_MONOTONIC, &t);
	uint64_t now_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
	if (!known || hint.key != key || now_ms >= hint.until_ms)
		return false;
	/* As good as any: nobody gains from being taken over. */
	*ret_sampled = (uint64_t)t.tv_nsec / 64 % HINT_SAMPLE == 0;
	return true;
}

static int connect_service(void)
{
	struct sockaddr_un addr;
	struct timeval limit = {.tv_usec = ANSWER_TIMEOUT_MS * 1000};

	if (service_address(&addr) < 0)
		return -1;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
		connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* `larder run` became this very process; else an ancestor's environment brought us here. */
static bool run_directly(void)
{
	const char *first = secure_getenv("LARDER_RUN_PID");
	return first && atol(first) == (long)getpid();
}

/* larder run --no-inherit. */
static bool kept_out(void)
{
	const char *inherit = secure_getenv("LARDER_INHERIT");
	return inherit && strcmp(inherit, "0") == 0 && !run_directly();
}

/* Takes the shim out of a list as LD_PRELOAD has it, in place. */
static void leave_list(char *list)
{
	Dl_info self;
	size_t n;

	if (!dladdr(&shim_page, &self) || !self.dli_fname)
		return;
	for (char *at = list; *at; at += n + (at[n] != '\0')) {
		n = strcspn(at, ": ");
		if (n != strlen(self.dli_fname) || strncmp(at, self.dli_fname, n) != 0)
			continue;
		const char *rest = at + n + (at[n] != '\0');
		memmove(at, rest, strlen(rest) + 1);
		if (!*at && at > list)
			at[-1] = '\0'; /* the separator */
		return;
	}
}

/* With --no-inherit, what the program executes is to find nothing of ours: where the shim's
 * file can't be found, as in another root, ld.so would say so in each. */
static void leave_environment(void)
{
	const char *inherit = secure_getenv("LARDER_INHERIT");
	char *preload = secure_getenv("LD_PRELOAD");

	if (!inherit || strcmp(inherit, "0") != 0 || !run_directly())
		return;
	if (preload) {
		leave_list(preload);
		if (!*preload)
			unsetenv("LD_PRELOAD");
	}
	unsetenv("LARDER_RUN_PID");
	unsetenv("LARDER_POLICY");
	unsetenv("LARDER_INHERIT");
}

static void fill_hello(struct message_hello *hello, uint32_t flags)
{
	const char *policy = secure_getenv("LARDER_POLICY");

	*hello = (struct message_hello){
		.head = {PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_HELLO}, .flags = flags};
	if (policy)
		snprintf(hello->policy, sizeof(hello->policy), "%s", policy);
}

static int send_hello(int socket_fd, bool sampled)
{
	struct message_hello hello;

	fill_hello(&hello, run_directly() ? 0
			   : sampled	  ? HELLO_INHERITED | HELLO_SAMPLED
					  : HELLO_INHERITED);
	return send(socket_fd, &hello, sizeof(hello), MSG_NOSIGNAL) == sizeof(hello) ? 0 : -1;
}

/* Fills fds[WELCOME_FDS]; on failure none is left open. */
static int receive_welcome(int socket_fd, int *fds)
{
	struct message_welcome welcome;
	struct iovec iov = {&welcome, sizeof(welcome)};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(WELCOME_FDS * sizeof(int))];
	} control;
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(socket_fd, &msg, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&msg);
	size_t count = 0;

	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	if (count > 0)
		memcpy(fds, CMSG_DATA(c), count * sizeof(int));
	if (n == sizeof(welcome) && welcome.head.magic == PROTOCOL_MAGIC &&
		welcome.head.version == PROTOCOL_VERSION &&
		welcome.head.type == MESSAGE_WELCOME && count == WELCOME_FDS)
		return 0;
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
	return -1;
}

/*   base                                  2 MiB aligned
 *   | guard | stack 16K | guard | bell | guard | staging 2M | guard |  */
static int area_new(struct area *ret)
{
	size_t reserve = AREA_BYTES + HUGE_BYTES;
	size_t before = AREA_BYTES - STAGING_BYTES - LINK_PAGE;
	uint8_t *p = mmap(
		NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -1;

	uintptr_t staging =
		((uintptr_t)p + before + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1);
	struct area a = {.base = (uint8_t *)staging - before, .staging = (uint8_t *)staging};
	a.stack = a.base + LINK_PAGE;
	a.bell = a.stack + AGENT_STACK_BYTES + LINK_PAGE;
	if (a.base > p)
		munmap(p, (size_t)(a.base - p));
	if (a.base + AREA_BYTES < p + reserve)
		munmap(a.base + AREA_BYTES, (size_t)(p + reserve - (a.base + AREA_BYTES)));

	if (mprotect(a.stack, AGENT_STACK_BYTES, PROT_READ | PROT_WRITE) < 0 ||
		mprotect(a.bell, LINK_PAGE, PROT_READ | PROT_WRITE) < 0 ||
		mprotect(a.staging, STAGING_BYTES, PROT_READ | PROT_WRITE) < 0 ||
		/* A child's copies would make the pages shared, and MOVE refuses those. */
		madvise(a.base, AREA_BYTES, MADV_DONTFORK) < 0) {
		munmap(a.base, AREA_BYTES);
		return -1;
	}
	*(volatile uint8_t *)a.bell = 1; /* present, so that it can be write-protected */
	*ret = a;
	return 0;
}

static struct shim_page *page_new(void)
{
	void *p = mmap(
		NULL, LINK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	if (RAWCALL(SYS_madvise, p, LINK_PAGE, MADV_WIPEONFORK, 0, 0, 0) == 0)
		return p;
	munmap(p, LINK_PAGE);
	return NULL;
}

static struct link *link_map(int fd)
{
	struct link *l = mmap(NULL, sizeof(*l), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (l == MAP_FAILED)
		return NULL;
	if (l->head.magic != LINK_MAGIC || l->head.version != LINK_VERSION ||
		madvise(l, sizeof(*l), MADV_DONTFORK) < 0) {
		munmap(l, sizeof(*l));
		return NULL;
	}
	return l;
}

/* The program keeps the write end, close-on-exec: its closing tells the agent of an exec. */
static int exec_pipe(int *ret_read, int *ret_write)
{
	int fds[2];
	struct rlimit limit = {.rlim_cur = 1024};

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -1;
	getrlimit(RLIMIT_NOFILE, &limit);
	int from = limit.rlim_cur > PIPE_FD_FROM ? PIPE_FD_FROM
		   : limit.rlim_cur > 8		 ? (int)limit.rlim_cur - 8
						 : 0;
	int high = fcntl(fds[1], F_DUPFD_CLOEXEC, from);
	if (high >= 0) {
		close(fds[1]);
		fds[1] = high;
	}
	*ret_read = fds[0];
	*ret_write = fds[1];
	return 0;
}

enum {
	/* Of the agent's stack, which it shares with its midwife for a moment. */
	MIDWIFE_STACK_BYTES = AGENT_STACK_BYTES / 2,
	/* A debugger that follows children has nothing to follow here. */
	AGENT_FLAGS = CLONE_VM | CLONE_UNTRACED,
};

static int midwife_main(void *arg)
{
	struct agent *a = arg;

	a->pid = clone(agent_main, (uint8_t *)a + AGENT_STACK_BYTES, AGENT_FLAGS, a);
	return 0;
}

/* Is it the one that orphans are given to? Then they would be seen as children for certain. */
static bool adopts_orphans(void)
{
	int subreaper = 0;

	return getpid() == 1 || (prctl(PR_GET_CHILD_SUBREAPER, &subreaper) == 0 && subreaper);
}

/* The agent is an orphan from birth: a child, though of a kind that no plain wait(2) sees,
 * would be counted in /proc and by ps, and waited for with __WALL (rule 12). */
static pid_t agent_birth(struct agent *a)
{
	uint8_t *foot = (uint8_t *)a;

	if (adopts_orphans())
		return clone(agent_main, foot + AGENT_STACK_BYTES, AGENT_FLAGS, a);
	/* We go on only when the midwife has exited, so it may use this thread's TLS. */
	pid_t midwife =
		clone(midwife_main, foot + MIDWIFE_STACK_BYTES, AGENT_FLAGS | CLONE_VFORK, a);
	if (midwife < 0)
		return -1;
	waitpid(midwife, NULL, (int)__WCLONE);
	return a->pid;
}

/* with: what differs between an attached program's agent and a forked child's. */
static pid_t agent_start(const struct area *area, struct agent with)
{
	struct agent *a = (struct agent *)(void *)area->stack;
	uint64_t all = ~0ULL, before;

	*a = with;
	a->staging = (uintptr_t)area->staging;
	a->bell = (uintptr_t)area->bell;
	a->program = getpid();
	/* Blocked before it is born, real-time signals 32 and 33 included: it inherits the mask
	 * and must never run one of the program's handlers. */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof(all));
	pid_t pid = agent_birth(a);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof(before));
	return pid;
}

static void fill_page(struct shim_page *page, const struct area *area)
{
	page->staging = area->staging;
	page->area = area->base;
	page->area_bytes = AREA_BYTES;
	page->program = getpid();
}

/* ---- forked children ---- */

/* Written by the constructor only, and in a child before it goes on. */
static struct {
	struct join join;
	int pipe; /* of the agent of this process, if it is that still: a program may close it
		   */
	dev_t device;
	ino_t inode;
	bool kept_out;	     /* children have no agent (larder run --no-inherit) */
	uint32_t generation; /* of this process (shim_call.c) */
} lineage = {.pipe = -1};

static void remember_pipe(int pipe_write)
{
	struct stat st;

	lineage.pipe = fstat(pipe_write, &st) == 0 ? pipe_write : -1;
	lineage.device = st.st_dev;
	lineage.inode = st.st_ino;
}

/* Held here, it would keep the exec of our parent from its agent. */
static void close_parents_pipe(void)
{
	struct stat st;

	if (lineage.pipe >= 0 && fstat(lineage.pipe, &st) == 0 && st.st_dev == lineage.device &&
		st.st_ino == lineage.inode)
		close(lineage.pipe);
	lineage.pipe = -1;
}

/* In a child of fork(2). A userfaultfd of its memory is with the service already; an agent of
 * its own makes that memory evictable. The agent does all but what needs us, as many children
 * live for a moment only. */
static void after_fork(void)
{
	int saved = errno, pipe_read, pipe_write;
	struct area area;

	shim_calls_start(++lineage.generation);
	close_parents_pipe();
	if (shim_near_limit() || lineage.kept_out || area_new(&area) < 0)
		goto out;
	if (exec_pipe(&pipe_read, &pipe_write) < 0)
		goto no_agent;
	fill_page(shim_page, &area);
	pid_t agent = agent_start(&area, (struct agent){.uffd = -1,
						 .socket = -1,
						 .doorbell = -1,
						 .link_fd = -1,
						 .exec_pipe = pipe_read,
						 .join = &lineage.join,
						 .page = shim_page});
	close(pipe_read);
	if (agent > 0) {
		remember_pipe(pipe_write);
		goto out;
	}
	close(pipe_write);
	*shim_page = (struct shim_page){.link = NULL};
no_agent:
	munmap(area.base, AREA_BYTES);
out:
	errno = saved;
}

/* What a child needs is kept from now: the program may change its environment. */
static void prepare_forks(int pipe_write)
{
	const char *inherit = secure_getenv("LARDER_INHERIT");

	lineage.kept_out = service_address(&lineage.join.address) < 0 ||
			   (inherit && strcmp(inherit, "0") == 0);
	lineage.join.address_len = sizeof(lineage.join.address);
	fill_hello(&lineage.join.hello, HELLO_INHERITED | HELLO_FORKED);
	remember_pipe(pipe_write);
	pthread_atfork(NULL, NULL, after_fork);
}

/* ---- */

static void take_over(int socket_fd, const int *fds)
{
	struct area area;
	int pipe_read = -1, pipe_write = -1;
	int uffd = ioctl(fds[WELCOME_FD_DEVICE], USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	struct link *l = uffd < 0 ? NULL : link_map(fds[WELCOME_FD_LINK]);
	struct shim_page *page = l ? page_new() : NULL;

	if (!page || area_new(&area) < 0)
		goto no_area;
	if (exec_pipe(&pipe_read, &pipe_write) < 0)
		goto no_agent;
	if (agent_start(&area, (struct agent){.link = l,
				       .uffd = uffd,
				       .socket = socket_fd,
				       .doorbell = fds[WELCOME_FD_DOORBELL],
				       .link_fd = fds[WELCOME_FD_LINK],
				       .exec_pipe = pipe_read}) > 0) {
		fill_page(page, &area);
		page->bell = area.bell;
		page->link = l;
		lineage.generation = 1;
		shim_page = page;
		shim_calls_start(lineage.generation);
		prepare_forks(pipe_write);
		goto out;
	}
	close(pipe_write);
no_agent:
	munmap(area.base, AREA_BYTES);
no_area:
	if (page)
		munmap(page, LINK_PAGE);
	if (l)
		munmap(l, sizeof(*l));
out:
	if (pipe_read >= 0)
		close(pipe_read);
	if (uffd >= 0)
		close(uffd); /* the agent has its own; a forked child must not have one */
}

/* Agents of images that this process ran before its last exec, where they are its children:
 * with exit signal 0, so that no wait of the program's sees them and none would ever be reaped.
 */
static void reap_agents(void)
{
	while (waitpid(-1, NULL, (int)__WCLONE | WNOHANG) > 0)
		;
}

/* Here the program waits a few times for others, and on a busy machine each time for a CPU too:
 * a short slice has it run when it wakes (see larderd.c). The agent keeps it. False: nothing to
 * undo.
 */
static bool hurry(struct sched_attributes *ret_before)
{
	struct sched_attributes a;

	if (syscall(SYS_sched_getattr, 0, ret_before, sizeof(*ret_before), 0) < 0 ||
		ret_before->policy != SCHED_OTHER)
		return false;
	a = *ret_before;
	a.runtime = SHORTEST_SLICE_NS;
	return syscall(SYS_sched_setattr, 0, &a, 0) == 0;
}

void shim_attach(void)
{
	int saved = errno, fds[WELCOME_FDS];
	struct sched_attributes before;
	bool hurried = false, sampled = false;
	bool out = shim_near_limit() || kept_out() ||
		   (!run_directly() && left_alone(&sampled) && !sampled);
	int socket_fd = out ? -1 : connect_service();

	if (socket_fd >= 0) {
		hurried = hurry(&before);
		if (send_hello(socket_fd, sampled) == 0 &&
			receive_welcome(socket_fd, fds) == 0) {
			take_over(socket_fd, fds);
			for (int i = 0; i < WELCOME_FDS; i++)
				close(fds[i]);
		}
		close(socket_fd);
	}
	reap_agents();
	if (hurried)
		syscall(SYS_sched_setattr, 0, &before, 0);
	leave_environment();
	errno = saved;
}
