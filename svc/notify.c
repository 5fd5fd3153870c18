#include "notify.h"
#include "cleanup.h"
#include "log.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* The service manager's socket. False: there is none. */
static bool find_socket(struct sockaddr_un *ret, socklen_t *ret_length)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t length = path ? strlen(path) : 0;

	/* A path, or an abstract name, which is written with @ for its NUL. */
	if (length < 2 || length >= sizeof(ret->sun_path) || !strchr("/@", path[0]))
		return false;
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(ret->sun_path, path, length);
	if (ret->sun_path[0] == '@')
		ret->sun_path[0] = '\0';
	*ret_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	return true;
}

static void say(int fd, const char *text)
{
	struct sockaddr_un addr;
	socklen_t length;

	if (find_socket(&addr, &length) &&
		(fd < 0 || sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT,
				   (struct sockaddr *)&addr, length) < 0))
		log_debug("NOTIFY_SOCKET: %s", strerror(errno));
}

int notify_open(void)
{
	struct sockaddr_un addr;
	socklen_t length;

	return find_socket(&addr, &length) ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
}

static void notify(const char *text)
{
	_cleanup_fd_ int fd = notify_open();

	say(fd, text);
}

void notify_ready(void)
{
	notify("READY=1\n");
}

void notify_stopping(const char *status)
{
	char text[600];

	snprintf(text, sizeof(text), "STOPPING=1\nSTATUS=%s\n", status);
	notify(text);
}

void notify_status(const char *status)
{
	char text[600];

	snprintf(text, sizeof(text), "STATUS=%s\n", status);
	notify(text);
}

unsigned notify_alive_ms(void)
{
	const char *microseconds = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	uint64_t ms = microseconds ? strtoull(microseconds, NULL, 10) / 1000 : 0;

	if (pid && strtol(pid, NULL, 10) != getpid())
		return 0;
	/* As its documentation advises: twice within the time. */
	ms /= 2;
	return ms < UINT_MAX ? (unsigned)ms : UINT_MAX;
}

void notify_alive(int fd)
{
	say(fd, "WATCHDOG=1\n");
}

void notify_reloading(int fd)
{
	struct timespec t;
	char text[100];

	clock_gettime(CLOCK_MONOTONIC, &t);
	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu\n",
		(unsigned long long)t.tv_sec * 1000000 + (unsigned long long)t.tv_nsec / 1000);
	say(fd, text);
}

void notify_ready_again(int fd)
{
	say(fd, "READY=1\n");
}

bool notify_can(void)
{
	struct sockaddr_un addr;
	socklen_t length;

	return find_socket(&addr, &length);
}

bool notify_store(const char *name, int fd)
{
	struct sockaddr_un addr;
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)),
			     .cmsg_level = SOL_SOCKET,
			     .cmsg_type = SCM_RIGHTS}};
	char text[200];
	int n = snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0\n", name);
	struct iovec iov = {text, (size_t)n};
	struct msghdr msg = {.msg_name = &addr,
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};

	_cleanup_fd_ int socket_fd = notify_open();
	if (socket_fd < 0 || !find_socket(&addr, &msg.msg_namelen))
		return false;
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	if (sendmsg(socket_fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == n)
		return true;
	log_debug("NOTIFY_SOCKET: %s: %s", name, strerror(errno));
	return false;
}

void notify_store_remove(const char *name)
{
	char text[200];

	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s\n", name);
	notify(text);
}
