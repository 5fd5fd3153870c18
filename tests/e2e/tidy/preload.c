/* Cases with other preloaded libraries: tidy.sh sets LD_PRELOAD, these use what the libraries
 * replace. And those whose shim is missing, or gets lost. */
#include "tidy.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCKS = 20000, BLOCK_MOST = 900 };

/* Its sizes and bytes come from its number. */
static size_t block_size(unsigned i)
{
	return 16 + i * 7919U % BLOCK_MOST;
}

static unsigned wrong_blocks(uint8_t *const *block)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < BLOCKS; i++)
		for (size_t k = 0; k < block_size(i); k++)
			if (block[i][k] != (uint8_t)(i + k)) {
				wrong++;
				break;
			}
	return wrong;
}

static int use_heap(struct tidy *t)
{
	static uint8_t *block[BLOCKS];

	for (unsigned i = 0; i < BLOCKS; i++) {
		block[i] = malloc(block_size(i));
		for (size_t k = 0; k < block_size(i); k++)
			block[i][k] = (uint8_t)(i + k);
	}
	point(POINT_TAKE); /* more than what `memory` is */
	say("wrong blocks: %u", wrong_blocks(block));
	for (unsigned i = 0; i < BLOCKS; i += 2) {
		block[i] = realloc(block[i], block_size(i) * 3);
		if (!block[i])
			return 1;
	}
	point(POINT_LEAVE);
	say("wrong blocks: %u", wrong_blocks(block));
	for (unsigned i = 0; i < BLOCKS; i++)
		free(block[i]);
	return child_check(t);
}

static int use_files(struct tidy *t)
{
	int fd = open("file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (call_result("write", write(fd, t->memory, TIDY_PAGE)) < 0 ||
		call_result("fsync", fsync(fd)) < 0)
		return 1;
	close(fd);
	return child_check(t);
}

static int use_clock(struct tidy *t)
{
	struct timespec now;
	time_t seconds = time(NULL);
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	say("year %d", gmtime_r(&seconds, &tm) ? tm.tm_year + 1900 : 0);
	say("the clocks agree: %d", labs((long)(now.tv_sec - seconds)) < 2);
	return child_check(t);
}

int tidy_jemalloc_first(struct tidy *t)
{
	return use_heap(t);
}

int tidy_jemalloc_last(struct tidy *t)
{
	return use_heap(t);
}

int tidy_eatmydata_first(struct tidy *t)
{
	return use_files(t);
}

int tidy_eatmydata_last(struct tidy *t)
{
	return use_files(t);
}

int tidy_faketime_first(struct tidy *t)
{
	return use_clock(t);
}

int tidy_faketime_last(struct tidy *t)
{
	return use_clock(t);
}

/* There never was a shim: tidy.sh sets LARDER_SHIM to nothing. */
int tidy_preload_missing(struct tidy *t)
{
	return child_check(t);
}

/* The shim is there at the start and can't be found by the next image, as in another root. */
int tidy_preload_lost(struct tidy *t)
{
	const char *preload = getenv("LD_PRELOAD");
	char lost[512];

	if (!*t->stage) {
		if (preload) {
			snprintf(lost, sizeof(lost), "/nonexistent%s", preload);
			setenv("LD_PRELOAD", lost, 1);
		}
		return exec_image(t, NULL, "second");
	}
	t->next = POINT_GONE;
	return child_check(t);
}
