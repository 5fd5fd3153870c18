#include "fdstore.h"
#include "notify.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME "larder-uffd-"

enum { FIRST_FD = 3 /* as sd_listen_fds(3) has it */ };

void fdstore_name(char name[FDSTORE_NAME], uint64_t id)
{
	snprintf(name, FDSTORE_NAME, NAME "%llu", (unsigned long long)id);
}

static uint64_t id_of(const char *name, size_t length)
{
	char digits[24], *end;

	if (length <= strlen(NAME) || length - strlen(NAME) >= sizeof(digits) ||
		strncmp(name, NAME, strlen(NAME)) != 0)
		return 0;
	snprintf(digits, sizeof(digits), "%.*s", (int)(length - strlen(NAME)),
		name + strlen(NAME));
	uint64_t id = strtoull(digits, &end, 10);
	return *end == '\0' ? id : 0;
}

void fdstore_take(struct fdstore *ret)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	const char *names = getenv("LISTEN_FDNAMES");
	int count = pid && fds && atol(pid) == (long)getpid() ? atoi(fds) : 0;
	struct fdstore s = {0};

	if (count > 0)
		s.item = calloc((size_t)count, sizeof(*s.item));
	for (int i = 0; i < count; i++) {
		size_t length = names ? strcspn(names, ":") : 0;
		uint64_t id = names ? id_of(names, length) : 0;
		if (id != 0 && s.item && fcntl(FIRST_FD + i, F_SETFD, FD_CLOEXEC) == 0)
			s.item[s.count++] = (struct fdstore_item){id, FIRST_FD + i};
		else
			close(FIRST_FD + i);
		if (names)
			names += length + (names[length] == ':');
	}
	/* They aren't those of what this process may execute (upgrade.h). */
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	*ret = s;
}

void fdstore_drop_others(
	struct fdstore *s, bool (*wanted)(void *arg, uint64_t id, int fd), void *arg)
{
	char name[FDSTORE_NAME];

	for (unsigned i = 0; i < s->count; i++) {
		const struct fdstore_item *item = &s->item[i];
		if (wanted && wanted(arg, item->id, item->fd))
			continue;
		/* All that have a name go with it. */
		bool shared = false;
		for (unsigned k = 0; wanted && k < s->count && !shared; k++)
			shared = s->item[k].id == item->id &&
				 wanted(arg, s->item[k].id, s->item[k].fd);
		fdstore_name(name, item->id);
		if (!shared)
			notify_store_remove(name);
		close(item->fd);
	}
	free(s->item);
	*s = (struct fdstore){0};
}
