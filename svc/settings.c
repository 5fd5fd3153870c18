#include "settings.h"
#include "cleanup.h"
#include "policy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int settings_load(const char *path, struct config **ret, char *message, size_t size)
{
	struct config_error e = {.line = 0};
	int r;

	bool given = path != NULL;
	if (!given)
		path = SETTINGS_PATH;
	_cleanup_file_ FILE *f = fopen(path, "re");
	if (!f && !given && errno == ENOENT)
		return config_default(ret);
	if (!f) {
		r = -errno;
		snprintf(message, size, "%s: %s", path, strerror(-r));
		return r;
	}
	r = config_read(f, ret, &e);
	if (r < 0 && e.line > 0)
		snprintf(message, size, "%s:%u: %s", path, e.line, e.message);
	else if (r < 0)
		snprintf(
			message, size, "%s: %s", path, e.message[0] ? e.message : strerror(-r));
	return r;
}

uint64_t settings_store_limit(const struct config *c)
{
	if (c->store_limit)
		return c->store_limit;
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
	return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / 2 : 1ULL << 30;
}

uint64_t settings_owner_limit(const struct config *c)
{
	return (uint64_t)((double)settings_store_limit(c) * c->owner_limit);
}

uint64_t settings_own_rss(void)
{
	unsigned long long total, resident = 0;
	_cleanup_file_ FILE *f = fopen("/proc/self/statm", "re");

	if (!f || fscanf(f, "%llu %llu", &total, &resident) != 2)
		return 0;
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}
