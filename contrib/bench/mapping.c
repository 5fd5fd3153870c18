/* What calls cost that change a program's address space, in a program that has memory evicted:
 *
 *   bench-mapping RESIDENT_MB EVICTED_MB [discard]
 *
 * Fills both, prints "ready" and its pid, and waits for a line on its input: in between,
 * everything is evicted, or nothing. With "discard" it gives the second part back to the kernel
 * itself, which leaves the page tables that an eviction leaves. Then it brings the first part
 * back, and prints one figure a line, in nanoseconds: the median of fork(2) as its caller waits
 * for it, and the means of a munmap and an madvise(MADV_DONTNEED) of one resident page and of
 * one of the pages that are out. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	FORKS = 21,
	CALLS = 2000,
	STEP = 4 * PAGE,
	/* Between forks: until the child's memory is torn down, which is after its end was
	 * waited for when another process shared it. */
	PAUSE_US = 50000,
	/* Less than a page table maps, whatever its alignment: the kernel keeps the table. */
	PIECE = 1 << 20,
};

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint8_t *fill(size_t bytes)
{
	uint8_t *p = mmap(
		NULL, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		perror("bench-mapping: mmap");
		exit(1);
	}
	madvise(p, bytes, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < bytes; i += PAGE)
		for (size_t k = 0; k < PAGE; k += 64)
			*(uint64_t *)(void *)(p + i + k) = i * 31 + k;
	return p;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static uint64_t fork_ns(void)
{
	uint64_t took[FORKS];

	for (int i = 0; i < FORKS; i++) {
		uint64_t begun = now_ns();
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		took[i] = now_ns() - begun;
		waitpid(pid, NULL, 0);
		usleep(PAUSE_US);
	}
	qsort(took, FORKS, sizeof(took[0]), by_value);
	return took[FORKS / 2];
}

static uint64_t discard_ns(uint8_t *p)
{
	uint64_t begun = now_ns();

	for (int i = 0; i < CALLS; i++)
		madvise(p + (size_t)i * STEP, PAGE, MADV_DONTNEED);
	return (now_ns() - begun) / CALLS;
}

static uint64_t unmap_ns(uint8_t *p)
{
	uint64_t begun = now_ns();

	for (int i = 0; i < CALLS; i++)
		munmap(p + (size_t)i * STEP, PAGE);
	return (now_ns() - begun) / CALLS;
}

static void show(const char *what, uint64_t ns)
{
	printf("%s %llu\n", what, (unsigned long long)ns);
}

int main(int argc, char **argv)
{
	const size_t part = (size_t)CALLS * STEP;
	size_t resident = (argc >= 3 ? strtoul(argv[1], NULL, 10) : 0) << 20;
	size_t out = (argc >= 3 ? strtoul(argv[2], NULL, 10) : 0) << 20;
	volatile uint8_t sink;

	bool discard = argc == 4 && strcmp(argv[3], "discard") == 0;

	if (resident < 2 * part || (out > 0 && out < 2 * part)) {
		fprintf(stderr, "usage: bench-mapping RESIDENT_MB EVICTED_MB [discard] (64 at "
				"least)\n");
		return 2;
	}
	uint8_t *r = fill(resident), *o = out ? fill(out) : NULL;
	for (size_t i = 0; o && discard && i < out; i += PIECE)
		madvise(o + i, PIECE, MADV_DONTNEED);
	printf("ready %d\n", (int)getpid());
	fflush(stdout);
	if (getchar() == EOF)
		return 1;
	for (size_t i = 0; i < resident; i += PAGE)
		sink = r[i];
	(void)sink;
	show("fork", fork_ns());
	/* Of their own again, after the forks. */
	for (size_t i = 0; i < resident; i += PAGE)
		r[i]++;
	show("madvise-resident", discard_ns(r));
	show("munmap-resident", unmap_ns(r + part));
	if (o && !discard) {
		show("madvise-out", discard_ns(o));
		show("munmap-out", unmap_ns(o + part));
	}
	return 0;
}
