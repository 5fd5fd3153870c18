/* bench-recovery: how long a program waits when the service's worker dies.
 *
 *   bench-recovery MB    fills MB MiB, about 2:1 by lz4, and says "ready". Each line on its
 *                        input is an order:
 *
 *       touch N   reads N pages, each millisecond one that it hasn't read since "ready": prints
 *                 "longest US", the longest that one took, when it has read the last
 *       check     reads all of it: "right", or "wrong PAGES"
 *
 * Each page that is read is checked. Exit code 1: one was wrong. */
#include "bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static struct {
	size_t pages;
	char *memory;
	uint64_t *checksums; /* of each page */
	size_t next;	     /* page to read */
	bool wrong;
} it;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void *memory(size_t bytes)
{
	void *at =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		perror("bench-recovery: memory");
		exit(2);
	}
	return at;
}

static void fill(size_t megabytes)
{
	it.pages = (megabytes << 20) / BENCH_PAGE;
	it.memory = memory(it.pages * BENCH_PAGE);
	it.checksums = malloc(it.pages * sizeof(uint64_t));
	if (!it.checksums)
		exit(2);
	for (size_t i = 0; i < it.pages; i++) {
		data_fill(1, i, it.memory + i * BENCH_PAGE);
		it.checksums[i] = data_checksum(it.memory + i * BENCH_PAGE);
	}
}

static bool is_right(size_t page)
{
	return data_checksum(it.memory + page * BENCH_PAGE) == it.checksums[page];
}

/* Far from one another: nobody reads ahead. */
static size_t next_page(void)
{
	const size_t stride = 521;

	it.next = (it.next + stride) % it.pages;
	return it.next;
}

static void touch(unsigned long count)
{
	uint64_t longest = 0, began = now_ns();

	for (unsigned long i = 0; i < count; i++) {
		struct timespec until = {.tv_sec = (time_t)((began + i * 1000000) / 1000000000),
			.tv_nsec = (long)((began + i * 1000000) % 1000000000)};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		size_t page = next_page();
		uint64_t from = now_ns();
		bool right = is_right(page);
		uint64_t took = now_ns() - from;
		longest = took > longest ? took : longest;
		it.wrong |= !right;
	}
	printf("longest %" PRIu64 "\n", longest / 1000);
}

static void check(void)
{
	size_t wrong = 0;

	for (size_t i = 0; i < it.pages; i++)
		wrong += !is_right(i);
	it.wrong |= wrong > 0;
	if (wrong > 0)
		printf("wrong %zu\n", wrong);
	else
		puts("right");
}

int main(int argc, char **argv)
{
	size_t megabytes = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
	char line[64];

	if (megabytes == 0) {
		fprintf(stderr, "usage: bench-recovery MB\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	fill(megabytes);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		if (strncmp(line, "touch ", 6) == 0)
			touch(strtoul(line + 6, NULL, 10));
		else
			check();
	}
	return it.wrong;
}
