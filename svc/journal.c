#include "journal.h"
#include "cleanup.h"
#include "pulse.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	HEAD = 4096,
	ENTRY = sizeof(struct uffd_msg),
	/* One page of entries: what an idle client costs. */
	ORDER_MIN = 7,
	/* 32 MiB: the index was not written for minutes of events. */
	ORDER_MAX = 20,
};
#define MAGIC 0x6c6e726a7264726cULL /* "lrdrjrnl" */

static_assert(ENTRY == 32 && ENTRY << ORDER_MIN == HEAD, "the first ring follows the head");

struct head {
	uint64_t magic;
	_Atomic uint64_t order; /* the ring has 2^order entries, and lies at 2^order * ENTRY */
	_Atomic uint64_t begin;
	_Atomic uint64_t lost;
};

struct journal {
	int fd;		   /* owned */
	struct head *head; /* owned mapping of all of it, which is locked in memory */
	size_t bytes;
	_Atomic uint64_t end; /* others may look how far it has come */
};

static uint64_t ring_size(const struct journal *j)
{
	return 1ULL << atomic_load(&j->head->order);
}

static struct uffd_msg *entry_at(const struct journal *j, uint64_t position)
{
	uint64_t size = ring_size(j);

	return (struct uffd_msg *)(void *)((char *)j->head + size * ENTRY) +
	       (position & (size - 1));
}

static size_t bytes_for(uint64_t order)
{
	return (size_t)ENTRY << (order + 1);
}

/* A page that isn't there when the kernel writes an event to it would cost the event. */
static int map_all(struct journal *j, size_t bytes)
{
	if (fallocate(j->fd, 0, 0, (off_t)bytes) < 0)
		return -errno;
	void *map =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, j->fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	(void)mlock(map, bytes); /* all of the service is, where it may */
	if (j->head)
		munmap(j->head, j->bytes);
	j->head = map;
	j->bytes = bytes;
	return 0;
}

/* ---- begin and end ---- */

int journal_new(struct journal **ret)
{
	struct journal *j = calloc(1, sizeof(*j));
	int r;

	if (!j)
		return -ENOMEM;
	j->fd = memfd_create("larder-journal", MFD_CLOEXEC);
	r = j->fd < 0 ? -errno : map_all(j, bytes_for(ORDER_MIN));
	if (r < 0) {
		journal_free(j);
		return r;
	}
	j->head->magic = MAGIC;
	atomic_store(&j->head->order, ORDER_MIN);
	*ret = j;
	return 0;
}

/* All but the entries becomes zeros again: a trim may have been cut short. */
static void wipe_room(struct journal *j)
{
	for (uint64_t at = j->end; at < atomic_load(&j->head->begin) + ring_size(j); at++)
		memset(entry_at(j, at), 0, ENTRY);
}

static int adopt(struct journal *j)
{
	struct stat st;

	if (fstat(j->fd, &st) < 0)
		return -errno;
	if (st.st_size < (off_t)bytes_for(ORDER_MIN))
		return -EBADMSG;
	int r = map_all(j, (size_t)st.st_size);
	if (r < 0)
		return r;
	uint64_t order = atomic_load(&j->head->order);
	if (j->head->magic != MAGIC || order < ORDER_MIN || order > ORDER_MAX ||
		bytes_for(order) > j->bytes)
		return -EBADMSG;
	uint64_t begin = atomic_load(&j->head->begin);
	for (j->end = begin; j->end < begin + ring_size(j) - 1 && entry_at(j, j->end)->event;)
		j->end++;
	wipe_room(j);
	return 0;
}

int journal_adopt(struct journal **ret, int fd)
{
	struct journal *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->fd = fd;
	int r = adopt(j);
	if (r < 0) {
		j->fd = -1; /* the caller's */
		journal_free(j);
		return r;
	}
	*ret = j;
	return 0;
}

void journal_free(struct journal *j)
{
	if (!j)
		return;
	if (j->head)
		munmap(j->head, j->bytes);
	if (j->fd >= 0)
		close(j->fd);
	free(j);
}

int journal_fd(const struct journal *j)
{
	return j->fd;
}

/* ---- room ---- */

/* A ring of twice the size behind this one. Until its order is stored, it isn't the ring. */
static int grow(struct journal *j)
{
	uint64_t order = atomic_load(&j->head->order), size = ring_size(j);
	int r = map_all(j, bytes_for(order + 1));

	if (r < 0)
		return r;
	struct uffd_msg *larger =
		(struct uffd_msg *)(void *)((char *)j->head + 2 * size * ENTRY);
	memset(larger, 0, 2 * size * ENTRY);
	for (uint64_t at = atomic_load(&j->head->begin); at < j->end; at++)
		larger[at & (2 * size - 1)] = *entry_at(j, at);
	atomic_store(&j->head->order, order + 1);
	return 0;
}

static uint64_t room(const struct journal *j)
{
	return ring_size(j) - 1 - (j->end - atomic_load(&j->head->begin));
}

static void drop_before(struct journal *j, uint64_t position)
{
	uint64_t begin = atomic_load(&j->head->begin);

	if (position <= begin)
		return;
	atomic_store(&j->head->begin, position);
	for (uint64_t at = begin; at < position; at++)
		memset(entry_at(j, at), 0, ENTRY);
}

/* What an event says can't be refused. */
static void make_room(struct journal *j, unsigned count)
{
	while (room(j) < count) {
		if (atomic_load(&j->head->order) == ORDER_MAX) {
			atomic_store(&j->head->lost, 1);
			drop_before(j, j->end);
		} else if (grow(j) < 0) {
			pulse_wait_for_memory();
		}
	}
}

struct uffd_msg *journal_room(struct journal *j, unsigned *count)
{
	make_room(j, *count);
	uint64_t size = ring_size(j), to_edge = size - (j->end & (size - 1));
	if (to_edge < *count)
		*count = (unsigned)to_edge;
	return entry_at(j, j->end);
}

void journal_keep(struct journal *j, unsigned count)
{
	j->end += count;
}

void journal_discard(struct journal *j, unsigned count)
{
	memset(entry_at(j, j->end), 0, count * ENTRY);
}

void journal_add(struct journal *j, enum journal_event event, uint64_t a, uint64_t b,
	uint64_t c, uint32_t n)
{
	if (!j)
		return;
	make_room(j, 1);
	struct uffd_msg *m = entry_at(j, j->end);
	m->arg.reserved.reserved1 = a;
	m->arg.reserved.reserved2 = b;
	m->arg.reserved.reserved3 = c;
	m->reserved3 = n;
	/* Now it counts, and all of it is there. */
	atomic_signal_fence(memory_order_release);
	*(volatile __u8 *)&m->event = (__u8)event;
	j->end++;
}

/* ---- reading ---- */

uint64_t journal_begin(const struct journal *j)
{
	return atomic_load(&j->head->begin);
}

uint64_t journal_end(const struct journal *j)
{
	return j->end;
}

const struct uffd_msg *journal_at(const struct journal *j, uint64_t position)
{
	assert(position >= journal_begin(j) && position < j->end);
	return entry_at(j, position);
}

void journal_trim(struct journal *j, uint64_t position)
{
	assert(position <= j->end);
	/* Rows as of before the loss don't make up for it. */
	if (position >= journal_begin(j))
		atomic_store(&j->head->lost, 0);
	drop_before(j, position);
}

bool journal_lost(const struct journal *j)
{
	return atomic_load(&j->head->lost) != 0;
}
