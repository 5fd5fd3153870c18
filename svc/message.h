/* Messages of attach.sock as the service sends and takes them: nothing waits, and of what a
 * client passes no descriptor is left open, or closed by who could have to wait for it. */
#ifndef LARDER_MESSAGE_H
#define LARDER_MESSAGE_H

#include "protocol.h"

#include <stddef.h>
#include <sys/types.h>

struct message {
	union {
		struct message_head head;
		struct message_hello hello;
		struct message_ready ready;
	} body;
	ssize_t size;
	int fd;	      /* the first that came with it, the caller's now; -1 = none */
	unsigned fds; /* how many came; all but the first are closed already */
	pid_t sender; /* in our namespace; 0: not told (SO_PASSCRED) */
};

/* 1: one of this protocol and version. 0: none is there. -EPIPE: the other end is gone.
 * -EBADMSG, -EPROTONOSUPPORT, or another errno. m->fd is the caller's in any case. */
int message_receive(int socket_fd, struct message *m);

/* 0 or negative errno; count <= 8. */
int message_send(int socket_fd, const void *body, size_t size, const int *fds, unsigned count);

#endif
