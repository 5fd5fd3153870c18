/* How much memory the machine has to give, from /proc/meminfo. Pages that go back into programs
 * take it, and may not take so much that the kernel has to kill somebody. Any thread. */
#ifndef LARDER_PACE_H
#define LARDER_PACE_H

#include <stdint.h>

struct pace_memory {
	uint64_t total, available, swap_free; /* bytes */
};

/* The file's text. -EBADMSG: MemTotal or MemAvailable is missing. */
int pace_parse(const char *text, struct pace_memory *ret);

/* A descriptor to be kept: there may be none left when it matters. Negative errno. */
int pace_open(void);
int pace_read(int fd, struct pace_memory *ret);

/* What stays free for everybody else: a fiftieth of the machine, 64 to 512 MiB. */
uint64_t pace_reserve(const struct pace_memory *m);
/* What may be taken now. Swap counts by half: it has to be written to first, and one that lies
 * in memory (zram) takes some itself. */
uint64_t pace_room(const struct pace_memory *m);

enum { PACE_TEXT = 16 };
/* "4.1 GiB", into text[PACE_TEXT]; returns text. */
char *pace_text(uint64_t bytes, char *text);

#endif
