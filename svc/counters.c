#include "counters.h"
#include "cleanup.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x746e756f6372646cULL /* "ldrcount" */
_Static_assert(sizeof(struct counter_slot) == 256, "a page has sixteen");

static struct counters *map_file(int fd)
{
	void *map = mmap(NULL, sizeof(struct counters), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_NORESERVE, fd, 0);

	return map == MAP_FAILED ? NULL : map;
}

/* A write to what has no memory would be a signal in a full file system. */
static bool has_memory(void *at, size_t bytes)
{
	uintptr_t from = (uintptr_t)at & ~(uintptr_t)4095;

	return madvise((void *)from, (uintptr_t)at + bytes - from, MADV_POPULATE_WRITE) == 0;
}

/* How a struct counters begins. */
struct head {
	uint64_t magic;
	uint32_t version, top;
};

static struct counters *open_kept(const char *path)
{
	struct head head;
	_cleanup_fd_ int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
		st.st_size != sizeof(struct counters))
		return NULL;
	/* Read, not mapped: a hole in a full file system is a signal. */
	if (pread(fd, &head, sizeof(head), 0) != sizeof(head) || head.magic != MAGIC ||
		head.version != COUNTERS_VERSION)
		return NULL;
	struct counters *c = map_file(fd);
	if (c && atomic_load(&c->top) <= COUNTERS_SLOTS)
		return c;
	if (c)
		munmap(c, sizeof(*c));
	return NULL;
}

static struct counters *open_new(const char *path)
{
	struct timespec t;

	unlink(path);
	_cleanup_fd_ int fd =
		open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return NULL;
	struct counters *c = ftruncate(fd, sizeof(struct counters)) < 0 ? NULL : map_file(fd);
	if (!c || !has_memory(c, sizeof(*c) - sizeof(c->slot))) {
		int e = errno;
		if (c)
			munmap(c, sizeof(*c));
		unlink(path);
		errno = e;
		return NULL;
	}
	clock_gettime(CLOCK_MONOTONIC, &t);
	c->started_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
	c->version = COUNTERS_VERSION;
	c->magic = MAGIC;
	return c;
}

struct counters *counters_open(const char *dir, bool keep)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/" COUNTERS_FILE, dir);
	struct counters *c = keep ? open_kept(path) : NULL;
	if (!c)
		c = open_new(path);
	if (!c)
		log_warn("%s: %s: counters go back to 0 should the worker die", path,
			strerror(errno));
	return c;
}

void counters_close(struct counters *c, const char *dir)
{
	char path[600];

	if (!c)
		return;
	munmap(c, sizeof(*c));
	snprintf(path, sizeof(path), "%s/" COUNTERS_FILE, dir);
	unlink(path);
}

struct counter_slot *counters_claim(struct counters *c, uint32_t number, uint64_t id)
{
	struct counter_slot *s = c ? &c->slot[number] : NULL;
	/* With all below it, which are read from then on (counters_add_up). */
	uint32_t top = c ? atomic_load(&c->top) : 0;
	uint32_t first = number < top ? number : top;

	if (!s || !has_memory(&c->slot[first], (number - first + 1) * sizeof(*s)))
		return NULL;
	if (atomic_load(&s->id) == id)
		return s;
	atomic_store(&s->id, 0);
#define X(name) atomic_store(&s->base.name, atomic_load(&s->sum.name));
	CLIENT_COUNTERS(X)
#undef X
	if (number >= top)
		atomic_store(&c->top, number + 1);
	atomic_store(&s->id, id);
	return s;
}

void counters_add(struct client_counts *to, const struct client_counts *from)
{
#define X(name) atomic_fetch_add(&to->name, atomic_load(&from->name));
	CLIENT_COUNTERS(X)
#undef X
}

void counters_add_up(const struct counters *c, struct client_counts *ret)
{
	if (!c)
		return;
	counters_add(ret, &c->slotless);
	for (uint32_t i = 0; i < atomic_load(&c->top); i++)
		counters_add(ret, &c->slot[i].sum);
}
