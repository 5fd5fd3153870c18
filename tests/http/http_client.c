#include "http_client.h"

#include "test_cmocka.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int listen_on(const struct sockaddr_un *addr, socklen_t size)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (const struct sockaddr *)addr, size), 0);
	assert_int_equal(listen(fd, 100), 0);
	return fd;
}

int listen_somewhere(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	/* Only the family: the kernel gives an abstract address. */
	return listen_on(&addr, sizeof(sa_family_t));
}

int listen_at(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	assert_in_range(strlen(path), 1, sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	return listen_on(&addr, sizeof(addr));
}

int connect_to(int listen_fd)
{
	struct sockaddr_un addr;
	socklen_t size = sizeof(addr);
	assert_int_equal(getsockname(listen_fd, (struct sockaddr *)&addr, &size), 0);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, size), 0);
	return fd;
}

static char *read_all(int fd)
{
	size_t size = 0;
	char *text = NULL;
	for (;;) {
		text = realloc(text, size + 65536);
		assert_non_null(text);
		ssize_t n = recv(fd, text + size, 65535, 0);
		if (n <= 0)
			break; /* a reset ends an answer, too */
		size += (size_t)n;
	}
	text[size] = '\0';
	return text;
}

void exchange(int fd, const void *bytes, size_t size, struct reply *ret)
{
	const char *p = bytes;
	while (size > 0) {
		ssize_t n = send(fd, p, size, MSG_NOSIGNAL);
		if (n < 0)
			break; /* it had enough of us: the answer says why */
		p += n;
		size -= (size_t)n;
	}
	shutdown(fd, SHUT_WR);
	ret->text = read_all(fd);
	ret->status = 0;
	sscanf(ret->text, "HTTP/1.%*d %d", &ret->status);
	char *end = strstr(ret->text, "\r\n\r\n");
	ret->body = end ? end + 4 : ret->text + strlen(ret->text);
	close(fd);
}

void request(int listen_fd, const char *method_and_path, struct reply *ret)
{
	char text[1024];
	int n = snprintf(text, sizeof(text),
		"%s HTTP/1.1\r\nHost: larder\r\nConnection: close\r\n\r\n", method_and_path);
	assert_in_range(n, 1, sizeof(text) - 1);
	exchange(connect_to(listen_fd), text, (size_t)n, ret);
}

void reply_done(struct reply *r)
{
	free(r->text);
	r->text = r->body = NULL;
}
