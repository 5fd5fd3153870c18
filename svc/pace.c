#include "pace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

/* The bytes of "\nNAME:  123 kB"; false when there is no such line. */
static bool find(const char *text, const char *name, uint64_t *ret)
{
	size_t length = strlen(name);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, length) != 0)
			continue;
		char *end;
		unsigned long long kib = strtoull(line + length, &end, 10);
		if (end == line + length || strncmp(end, " kB", 3) != 0)
			return false;
		*ret = kib * 1024;
		return true;
	}
	return false;
}

int pace_parse(const char *text, struct pace_memory *ret)
{
	struct pace_memory m = {0};

	if (!find(text, "MemTotal:", &m.total) || !find(text, "MemAvailable:", &m.available))
		return -EBADMSG;
	(void)find(text, "SwapFree:", &m.swap_free); /* a kernel without swap */
	*ret = m;
	return 0;
}

int pace_open(void)
{
	int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int pace_read(int fd, struct pace_memory *ret)
{
	char text[4096]; /* what is asked for stands in the first lines */
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	return pace_parse(text, ret);
}

uint64_t pace_reserve(const struct pace_memory *m)
{
	uint64_t share = m->total / 50;

	return share < 64 * MIB ? 64 * MIB : share > 512 * MIB ? 512 * MIB : share;
}

uint64_t pace_room(const struct pace_memory *m)
{
	uint64_t have = m->available + m->swap_free / 2, keep = pace_reserve(m);

	return have > keep ? have - keep : 0;
}

char *pace_text(uint64_t bytes, char *text)
{
	if (bytes >= 1024 * MIB)
		snprintf(text, PACE_TEXT, "%.1f GiB", (double)bytes / (double)(1024 * MIB));
	else
		snprintf(text, PACE_TEXT, "%.0f MiB", (double)bytes / (double)MIB);
	return text;
}
