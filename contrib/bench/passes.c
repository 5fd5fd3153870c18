/* Evictions and touches, timed. */
#include "bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGEMAP_PRESENT (1ULL << 63)

enum {
	ROUNDS_MAX = 4, /* pages that were just used may stay at first */
};

/* ---- clocks ---- */

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	return clock_gettime(clock, &t) == 0
		       ? (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec
		       : 0;
}

static uint64_t process_cpu_ns(pid_t pid)
{
	clockid_t clock;

	return clock_getcpuclockid(pid, &clock) == 0 ? clock_ns(clock) : 0;
}

/* Processor time of the children of a process that live now, and of theirs. */
static uint64_t children_cpu_ns(pid_t pid, unsigned depth)
{
	char path[64];
	struct dirent *entry;
	uint64_t sum = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/children", (int)pid,
			entry->d_name);
		FILE *f = fopen(path, "re");
		int child;
		while (f && fscanf(f, "%d", &child) == 1)
			sum += process_cpu_ns(child) +
			       (depth > 0 ? children_cpu_ns(child, depth - 1) : 0);
		if (f)
			fclose(f);
	}
	if (tasks)
		closedir(tasks);
	return sum;
}

/* All that works for the eviction: this process, its children (the command, Larder's agent),
 * and the service with its worker. */
static uint64_t all_cpu_ns(const struct bench *b)
{
	struct rusage ended;
	uint64_t sum = clock_ns(CLOCK_PROCESS_CPUTIME_ID) + children_cpu_ns(getpid(), 0);

	getrusage(RUSAGE_CHILDREN, &ended);
	sum += (uint64_t)(ended.ru_utime.tv_sec + ended.ru_stime.tv_sec) * 1000000000 +
	       (uint64_t)(ended.ru_utime.tv_usec + ended.ru_stime.tv_usec) * 1000;
	if (b->service > 0)
		sum += process_cpu_ns(b->service) + children_cpu_ns(b->service, 1);
	return sum;
}

/* ---- eviction ---- */

/* Fills absent[]. */
static int look(struct bench *b, size_t *ret_absent)
{
	uint64_t words[512];
	size_t absent = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	for (size_t at = 0; at < b->pages; at += 512) {
		size_t n = b->pages - at < 512 ? b->pages - at : 512;
		off_t offset = (off_t)(((uintptr_t)b->memory / BENCH_PAGE + at) * 8);
		if (pread(fd, words, n * 8, offset) != (ssize_t)(n * 8)) {
			close(fd);
			return -EIO;
		}
		for (size_t i = 0; i < n; i++) {
			b->absent[at + i] = !(words[i] & PAGEMAP_PRESENT);
			absent += b->absent[at + i];
		}
	}
	close(fd);
	*ret_absent = absent;
	return 0;
}

int bench_evict(struct bench *b, const struct peer *peer, struct eviction *ret)
{
	size_t before, absent, last;
	struct eviction e = {0};
	int r = look(b, &before);

	if (r < 0)
		return r;
	absent = before;
	for (unsigned round = 0; round < ROUNDS_MAX; round++) {
		last = absent;
		uint64_t wall = clock_ns(CLOCK_MONOTONIC), cpu = all_cpu_ns(b);
		if ((r = peer->evict(b)) < 0)
			return r;
		e.wall_ns += clock_ns(CLOCK_MONOTONIC) - wall;
		e.cpu_ns += all_cpu_ns(b) - cpu;
		if ((r = look(b, &absent)) < 0)
			return r;
		if (absent == b->pages || absent <= last + b->pages / 1000)
			break;
	}
	e.pages = absent > before ? absent - before : 0;
	e.left = b->pages - absent;
	*ret = e;
	return 0;
}

/* ---- touching ---- */

struct toucher {
	const struct bench *b; /* borrowed */
	bool sequential;
	size_t first, count; /* of the order */
	size_t touches;	     /* latency[first .. first + touches) is filled */
};

/* A read of one word: what is measured is the way of the page back. */
static void *touch(void *arg)
{
	struct toucher *t = arg;
	const struct bench *b = t->b;
	size_t at = t->first;

	for (size_t i = t->first; i < t->first + t->count; i++) {
		size_t page = t->sequential ? i : b->order[i];
		uint64_t start = clock_ns(CLOCK_MONOTONIC);
		(void)*(volatile uint64_t *)(void *)(b->memory + page * BENCH_PAGE);
		uint64_t took = clock_ns(CLOCK_MONOTONIC) - start;
		if (b->absent[page])
			b->latency[at++] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
	}
	t->touches = at - t->first;
	return NULL;
}

static int compare(const void *x, const void *y)
{
	uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;

	return (a > b) - (a < b);
}

static void sum_up(struct bench *b, size_t touches, struct pass *p)
{
	p->touches = touches;
	if (touches == 0)
		return;
	qsort(b->latency, touches, sizeof(*b->latency), compare);
	p->p50 = b->latency[touches / 2];
	p->p90 = b->latency[touches * 90 / 100];
	p->p99 = b->latency[touches * 99 / 100];
	p->max = b->latency[touches - 1];
}

int bench_touch(struct bench *b, enum pass_kind kind, struct pass *ret)
{
	struct toucher t[THREADS_MAX];
	pthread_t threads[THREADS_MAX];
	struct pass p = {0};
	size_t count = kind == PASS_THREADS ? b->threads : 1, share = b->pages / count;
	size_t touches = 0, absent;
	int r = look(b, &absent);

	if (r < 0)
		return r;
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	for (size_t i = 0; i < count; i++) {
		t[i] = (struct toucher){.b = b,
			.sequential = kind == PASS_SEQUENTIAL,
			.first = i * share,
			.count = i + 1 < count ? share : b->pages - i * share};
		if (i > 0 && (r = pthread_create(&threads[i], NULL, touch, &t[i])) != 0) {
			fprintf(stderr, "bench-pager: pthread_create: %s\n", strerror(r));
			exit(2); /* the threads before use what is on this stack */
		}
	}
	touch(&t[0]);
	for (size_t i = 1; i < count; i++)
		pthread_join(threads[i], NULL);
	p.wall_ns = clock_ns(CLOCK_MONOTONIC) - start;
	for (size_t i = 0; i < count; i++) {
		memmove(b->latency + touches, b->latency + t[i].first,
			t[i].touches * sizeof(*b->latency));
		touches += t[i].touches;
	}
	sum_up(b, touches, &p);
	*ret = p;
	return 0;
}

size_t bench_verify(const struct bench *b)
{
	size_t wrong = 0;

	for (size_t i = 0; i < b->pages; i++)
		wrong += data_checksum(b->memory + i * BENCH_PAGE) != b->checksums[i];
	return wrong;
}
