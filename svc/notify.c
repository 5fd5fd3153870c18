#include "notify.h"
#include "cleanup.h"
#include "log.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static void notify(const char *text)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const char *path = getenv("NOTIFY_SOCKET");
	size_t length = path ? strlen(path) : 0;

	/* A path, or an abstract name, which is written with @ for its NUL. */
	if (length < 2 || length >= sizeof(addr.sun_path) || !strchr("/@", path[0]))
		return;
	memcpy(addr.sun_path, path, length);
	if (addr.sun_path[0] == '@')
		addr.sun_path[0] = '\0';
	_cleanup_fd_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT,
			      (struct sockaddr *)&addr,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) < 0)
		log_debug("NOTIFY_SOCKET: %s", strerror(errno));
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
