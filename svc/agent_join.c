/* How the agent of a forked child becomes one (protocol.h). It runs beside the program from the
 * first moment, so everything that can wait is done here and not in fork(2). No libc call, no
 * TLS, as in agent.c. */
#include "agent.h"
#include "kernel.h"
#include "link.h"
#include "protocol.h"
#include "rawcall.h"
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum {
	/* Most forked children exec or end before. */
	WAIT_NS = 100000000,
	AGAIN_NS = 5000000,
	AGAIN_MAX = 1000,
	/* A service that says nothing for so long is stopped or gone. */
	ANSWER_TIMEOUT_S = 10,
};

static bool failed(long r)
{
	return r < 0 && r > -4096;
}

static void rest(long ns)
{
	struct timespec t = {.tv_nsec = ns};
	RAWCALL(SYS_nanosleep, &t, 0, 0, 0, 0, 0);
}

/* The program may have lowered its limits while it had no link (shim_limit.c). */
static bool near_limit(const struct agent *a)
{
	const int kinds[] = {RLIMIT_AS, RLIMIT_DATA};
	struct rlimit limit;

	for (unsigned i = 0; i < 2; i++)
		if (RAWCALL(SYS_prlimit64, a->program, kinds[i], 0, &limit, 0, 0) == 0 &&
			limit.rlim_cur < SHIM_LIMIT_MARGIN)
			return true;
	return false;
}

/* Is there still a program that has this memory? A hang-up of the pipe means exec, or just
 * closefrom(3). */
static bool worth_joining(const struct agent *a)
{
	struct pollfd fds[] = {{a->pidfd, POLLIN, 0}, {a->exec_pipe, 0, 0}};
	struct timespec t = {.tv_nsec = WAIT_NS};
	long self = RAWCALL(SYS_getpid, 0, 0, 0, 0, 0, 0);

	RAWCALL(SYS_ppoll, fds, 2, &t, 0, 0, 0);
	if (fds[0].revents || near_limit(a))
		return false;
	return !fds[1].revents || RAWCALL(SYS_kcmp, self, a->program, KCMP_VM, 0, 0, 0) == 0;
}

static int dial(const struct join *j)
{
	const struct timeval limit = {.tv_sec = ANSWER_TIMEOUT_S};
	int fd = (int)RAWCALL(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0, 0, 0);

	if (fd < 0)
		return fd;
	RAWCALL(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit), 0);
	long r = RAWCALL(SYS_connect, fd, &j->address, j->address_len, 0, 0, 0);
	return r < 0 ? (int)r : fd;
}

/* fd -1: none. */
static int say(const struct agent *a, const void *body, size_t size, int fd)
{
	struct iovec iov = {(void *)(uintptr_t)body, size};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(int));
		*(int *)(void *)CMSG_DATA(&control.head) = fd;
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
	}
	return (int)RAWCALL(SYS_sendmsg, a->socket, &msg, MSG_NOSIGNAL, 0, 0, 0);
}

/* Returns how many descriptors came with the message, or an error. */
static int hear(const struct agent *a, void *body, size_t size, int *fds, size_t room)
{
	struct iovec iov = {body, size};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(WELCOME_FDS * sizeof(int))];
	} control;
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(room * sizeof(int))};
	long n = RAWCALL(SYS_recvmsg, a->socket, &msg, MSG_CMSG_CLOEXEC, 0, 0, 0);
	const struct message_head *head = body;

	if (n != (long)size || head->magic != PROTOCOL_MAGIC ||
		head->version != PROTOCOL_VERSION)
		return -EBADMSG;
	if (msg.msg_controllen < CMSG_LEN(sizeof(int)))
		return 0;
	size_t count = (control.head.cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (size_t i = 0; i < count && i < room; i++)
		fds[i] = ((int *)(void *)CMSG_DATA(&control.head))[i];
	return (int)count;
}

static int map_link(struct agent *a, int fd)
{
	long p = RAWCALL(
		SYS_mmap, 0, sizeof(*a->link), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (failed(p))
		return (int)p;
	struct link *l = (struct link *)p;
	if (l->head.magic != LINK_MAGIC || l->head.version != LINK_VERSION)
		return -EPROTONOSUPPORT;
	long r = RAWCALL(SYS_madvise, l, sizeof(*l), MADV_DONTFORK, 0, 0, 0);
	a->link = l;
	return (int)r;
}

/* The bell where the service wants it; 0: where the area has one. */
static int place_bell(struct agent *a, uint32_t page)
{
	if (page == 0)
		return 0;
	long p =
		RAWCALL(SYS_mmap, (uint64_t)page * LINK_PAGE, LINK_PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (failed(p))
		return (int)p;
	a->bell = (uint64_t)p;
	*(volatile uint8_t *)p = 1; /* present, so that it can be write-protected */
	return (int)RAWCALL(SYS_madvise, p, LINK_PAGE, MADV_DONTFORK, 0, 0, 0);
}

static int introduce(struct agent *a, int *ret_device, bool *ret_adopt)
{
	struct message_welcome welcome;
	int fds[WELCOME_FDS];
	int r = say(a, &a->join->hello, sizeof(a->join->hello), a->pidfd);

	if (r < 0)
		return r;
	r = hear(a, &welcome, sizeof(welcome), fds, WELCOME_FDS);
	if (r != WELCOME_FDS)
		return -EPROTO;
	a->doorbell = fds[WELCOME_FD_DOORBELL];
	*ret_device = fds[WELCOME_FD_DEVICE];
	*ret_adopt = welcome.bell_page != 0;
	a->link_fd = fds[WELCOME_FD_LINK];
	r = map_link(a, a->link_fd);
	return r < 0 ? r : place_bell(a, welcome.bell_page);
}

/* From here on the program's calls ask the service. Those that are under way do without, and
 * end before anything is taken (rule 7). */
static int publish(struct agent *a)
{
	a->page->bell = (volatile uint8_t *)a->bell;
	atomic_store(&a->page->link, a->link);
	for (int i = 0; (uint32_t)atomic_load(&a->page->calls) > 0; i++) {
		/* One that never ends, as when its process was killed in it. */
		if (i == AGAIN_MAX)
			return -ETIME;
		rest(AGAIN_NS);
	}
	return 0;
}

static void withdraw(struct agent *a)
{
	if (a->link)
		atomic_store(&a->link->head.closed, LINK_LEFT);
}

static int say_ready(const struct agent *a, int fd)
{
	const struct message_ready ready = {
		.head = {PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_READY},
		.staging = a->staging,
		.bell = a->bell};
	return say(a, &ready, sizeof(ready), fd);
}

/* The service finds out which of its userfaultfds is about our memory. 1: none is. */
static int be_adopted(struct agent *a)
{
	for (int i = 0; i < AGAIN_MAX; i++) {
		struct message_head answer;
		int r = say_ready(a, -1);
		if (r >= 0)
			r = hear(a, &answer, sizeof(answer), &a->uffd, 1);
		if (r < 0)
			return r;
		if (answer.type == MESSAGE_ADOPTED && r == 1)
			return 0;
		if (answer.type == MESSAGE_NONE)
			return 1;
		if (answer.type != MESSAGE_AGAIN)
			return -EPROTO;
		rest(AGAIN_NS);
	}
	return -ETIME;
}

static int bring_uffd(struct agent *a, int device)
{
	a->uffd = (int)RAWCALL(
		SYS_ioctl, device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK, 0, 0, 0);
	return a->uffd < 0 ? a->uffd : say_ready(a, a->uffd);
}

int agent_join(struct agent *a)
{
	int device = -1;
	bool adopt = false;

	if (!worth_joining(a))
		return -ESRCH;
	a->socket = dial(a->join);
	if (a->socket < 0)
		return a->socket;
	int r = introduce(a, &device, &adopt);
	if (r >= 0)
		r = publish(a);
	if (r >= 0) {
		r = adopt ? be_adopted(a) : 1;
	}
	if (r == 1)
		r = bring_uffd(a, device);
	RAWCALL(SYS_close, device, 0, 0, 0, 0, 0);
	if (r < 0)
		withdraw(a);
	return r;
}
