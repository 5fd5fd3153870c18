#include "hostile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void die(const char *what)
{
	fprintf(stderr, "hostile: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- chance ---- */

static uint64_t chance = 1;

void chance_seed(uint64_t seed)
{
	chance = seed * 2 + 1;
}

uint64_t roll(void)
{
	chance ^= chance << 13;
	chance ^= chance >> 7;
	chance ^= chance << 17;
	return chance;
}

void roll_bytes(void *to, size_t n)
{
	for (uint8_t *p = to; n > 0; n--)
		*p++ = (uint8_t)(roll() >> 32);
}

/* ---- the protocol ---- */

int dial(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	const char *dir = getenv("LARDER_RUNTIME_DIR");
	int n = snprintf(
		addr.sun_path, sizeof(addr.sun_path), "%s/attach.sock", dir ? dir : "");

	if (fd < 0 || n < 0 || (size_t)n >= sizeof(addr.sun_path) ||
		connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		die("connect");
	return fd;
}

void say(int fd, const void *body, size_t size, const int *fds, size_t count)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control = {.head = {.cmsg_len = CMSG_LEN(count * sizeof(int)),
			     .cmsg_level = SOL_SOCKET,
			     .cmsg_type = SCM_RIGHTS}};
	struct iovec iov = {(void *)(uintptr_t)body, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (count > 0) {
		memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
	}
	if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
		die("sendmsg");
}

void say_hello(int fd)
{
	const struct message_hello hello = {
		.head = {PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_HELLO}};
	say(fd, &hello, sizeof(hello), NULL, 0);
}

bool hear(int fd, void *body, size_t size, int *fds, size_t room)
{
	struct iovec iov = {body, size};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(room * sizeof(int))};

	if (recvmsg(fd, &msg, MSG_CMSG_CLOEXEC) != (ssize_t)size)
		return false;
	const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	if (c)
		memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	return true;
}

static bool take_welcome(int fd, int *fds)
{
	struct message_welcome welcome;
	return hear(fd, &welcome, sizeof(welcome), fds, WELCOME_FDS);
}

int new_uffd(const struct hostile *h)
{
	int fd = ioctl(h->fds[WELCOME_FD_DEVICE], USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		die("userfaultfd");
	return fd;
}

void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

uint8_t *map_aligned(size_t size)
{
	uintptr_t p = (uintptr_t)map(size + BLOCK);
	return (uint8_t *)((p + BLOCK - 1) & ~(uintptr_t)(BLOCK - 1));
}

struct hostile introduce(void)
{
	struct hostile h = {.socket = dial()};

	say_hello(h.socket);
	if (!take_welcome(h.socket, h.fds))
		die("no WELCOME");
	h.uffd = new_uffd(&h);
	h.link = mmap(NULL, sizeof(*h.link), PROT_READ | PROT_WRITE, MAP_SHARED,
		h.fds[WELCOME_FD_LINK], 0);
	if (h.link == MAP_FAILED)
		die("mmap");
	h.staging = map_aligned(STAGING);
	h.bell = map(LINK_PAGE);
	*h.bell = 1;
	return h;
}

void say_ready(
	const struct hostile *h, uint64_t staging, uint64_t bell, const int *fds, size_t count)
{
	const struct message_ready m = {
		.head = {PROTOCOL_MAGIC, PROTOCOL_VERSION, MESSAGE_READY},
		.staging = staging,
		.bell = bell};
	say(h->socket, &m, sizeof(m), fds, count);
}

void expect_end(int fd, const char *what)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char byte;

	while (poll(&p, 1, PATIENCE_MS) > 0) {
		ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno == ECONNRESET)) {
			close(fd);
			return;
		}
		/* A WELCOME that was under way: its descriptors go with it. */
		if (n < 0 && errno != EAGAIN)
			break;
	}
	errno = ETIME;
	die(what);
}

void forget(struct hostile *h)
{
	munmap(h->link, sizeof(*h->link));
	close(h->uffd);
	for (int i = 0; i < WELCOME_FDS; i++)
		close(h->fds[i]);
}

/* ---- the agent: a process of its own, which shares the memory but no descriptors ---- */

struct agent {
	struct hostile h;
	void (*serve)(struct hostile *h);
	_Atomic bool said;
};

static int agent_main(void *arg)
{
	struct agent *a = arg;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	say_ready(&a->h, (uintptr_t)a->h.staging, (uintptr_t)a->h.bell, &a->h.uffd, 1);
	atomic_store(&a->said, true);
	a->serve(&a->h);
	return 0;
}

struct hostile *attach(void (*serve)(struct hostile *h))
{
	static struct agent a;
	uint8_t *stack = map(BLOCK);

	a = (struct agent){.h = introduce(), .serve = serve};
	a.h.prey = map_aligned(PREY);
	for (size_t i = 0; i < PREY; i += 8)
		*(uint64_t *)(void *)(a.h.prey + i) = i;
	if (clone(agent_main, stack + BLOCK, CLONE_VM | SIGCHLD, &a) < 0)
		die("clone");
	while (!atomic_load(&a.said))
		sched_yield();
	/* A program with a userfaultfd is left alone. */
	close(a.h.uffd);
	close(a.h.socket);
	return &a.h;
}
