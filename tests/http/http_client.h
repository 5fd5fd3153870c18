/* Raw HTTP over a unix socket: what curl would not send must be sent, too. */
#ifndef LARDER_HTTP_CLIENT_H
#define LARDER_HTTP_CLIENT_H

#include <stddef.h>

struct reply {
	int status; /* 0: none came */
	char *text; /* owned: all of it */
	char *body; /* in text, "" if there is none */
};

/* A listening unix socket at an address that the kernel chose. */
int listen_somewhere(void);
int listen_at(const char *path);
int connect_to(int listen_fd);

/* Sends size bytes, says that no more come, and reads until the other end closes. */
void exchange(int fd, const void *bytes, size_t size, struct reply *ret);

/* "METHOD /path", with Connection: close. */
void request(int listen_fd, const char *method_and_path, struct reply *ret);
void reply_done(struct reply *r);

#endif
