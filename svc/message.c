#include "message.h"
#include "closer.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

enum { FDS_MAX = 253 /* SCM_MAX_FD */, SENT_MAX = 8 };

static void take_control(struct msghdr *msg, struct message *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred cred;
			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
			m->sender = cred.pid;
		} else if (c->cmsg_type == SCM_RIGHTS) {
			int fds[FDS_MAX];
			size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			memcpy(fds, CMSG_DATA(c), n * sizeof(int));
			/* The kernel makes it one message's worth at most, in one piece. */
			m->fds = (unsigned)n;
			m->fd = n > 0 ? fds[0] : -1;
			closer_close_all(fds + 1, n > 1 ? (unsigned)n - 1 : 0);
		}
	}
}

int message_receive(int socket_fd, struct message *m)
{
	union {
		struct cmsghdr head;
		/* As many as one message can carry: what is cut off is closed by the kernel,
		 * here. */
		char space[CMSG_SPACE(FDS_MAX * sizeof(int)) +
			   CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec iov = {&m->body, sizeof(m->body)};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};

	memset(m, 0, sizeof(*m));
	m->fd = -1;
	m->size = recvmsg(socket_fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (m->size < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	take_control(&msg, m);
	if (m->size == 0)
		return -EPIPE;
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
		m->size < (ssize_t)sizeof(m->body.head) || m->body.head.magic != PROTOCOL_MAGIC)
		return -EBADMSG;
	return m->body.head.version >= PROTOCOL_OLDEST &&
			       m->body.head.version <= PROTOCOL_VERSION
		       ? 1
		       : -EPROTONOSUPPORT;
}

int message_send(int socket_fd, const void *body, size_t size, const int *fds, unsigned count)
{
	struct iovec iov = {(void *)(uintptr_t)body, size};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(SENT_MAX * sizeof(int))];
	} control = {.head = {.cmsg_len = CMSG_LEN(count * sizeof(int)),
			     .cmsg_level = SOL_SOCKET,
			     .cmsg_type = SCM_RIGHTS}};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	assert(count <= SENT_MAX);
	if (count > 0) {
		memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
	}
	return sendmsg(socket_fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}
