#include "journal.h"
#include "cleanup.h"
#include "log.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
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
	OWN_MAX = 32, /* events of ours, some of them not yet */
};
#define MAGIC 0x6c6e726a7264726cULL /* "lrdrjrnl" */

static_assert(ENTRY == 32 && ENTRY << ORDER_MIN == HEAD, "the first ring follows the head");

struct head {
	uint64_t magic;
	_Atomic uint64_t order; /* the ring has 2^order entries, and lies at 2^order * ENTRY */
	_Atomic uint64_t begin;
	_Atomic uint64_t lost;
	uint64_t id;		    /* the client's */
	_Atomic uint64_t elsewhere; /* 1: it goes on in memory, and this file is old */
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

#define NAME "journal."

static void path_of(char *path, size_t size, const char *dir, uint64_t id)
{
	snprintf(path, size, "%s/" NAME "%llu", dir, (unsigned long long)id);
}

/* A head in a file of that many bytes, which is mapped. */
static int make(struct journal *j, int fd, uint64_t id)
{
	if (fd < 0)
		return -errno;
	j->fd = fd;
	int r = map_all(j, bytes_for(ORDER_MIN));
	if (r < 0) {
		j->fd = -1;
		close(fd);
		return r;
	}
	j->head->id = id;
	atomic_store(&j->head->order, ORDER_MIN);
	/* Last: before, it is nobody's. */
	atomic_signal_fence(memory_order_release);
	*(volatile uint64_t *)&j->head->magic = MAGIC;
	return 0;
}

static int make_named(struct journal *j, const char *dir, uint64_t id)
{
	char path[600];

	path_of(path, sizeof(path), dir, id);
	unlink(path); /* of one that a worker had no time to record */
	int r = make(
		j, open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), id);
	if (r < 0)
		unlink(path);
	return r;
}

int journal_new(struct journal **ret, const char *dir, uint64_t id)
{
	struct journal *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->fd = -1;
	int r = dir ? make_named(j, dir, id) : -ENOENT;
	if (r < 0)
		r = make(j, memfd_create("larder-journal", MFD_CLOEXEC), id);
	if (r < 0) {
		journal_free(j);
		return r;
	}
	*ret = j;
	return 0;
}

void journal_remove(const char *dir, uint64_t id)
{
	char path[600];

	if (!dir)
		return;
	path_of(path, sizeof(path), dir, id);
	unlink(path);
}

void journal_remove_others(const char *dir, bool (*wanted)(void *arg, uint64_t id), void *arg)
{
	DIR *d = opendir(dir);

	for (struct dirent *e; d && (e = readdir(d));) {
		char *end;
		if (strncmp(e->d_name, NAME, strlen(NAME)) != 0)
			continue;
		uint64_t id = strtoull(e->d_name + strlen(NAME), &end, 10);
		if (*end == '\0' && (!wanted || !wanted(arg, id)))
			journal_remove(dir, id);
	}
	if (d)
		closedir(d);
}

/* All but the entries becomes zeros again: a trim may have been cut short. */
static void wipe_room(struct journal *j)
{
	for (uint64_t at = j->end; at < atomic_load(&j->head->begin) + ring_size(j); at++)
		memset(entry_at(j, at), 0, ENTRY);
}

static bool is_event(uint8_t event)
{
	return (event >= UFFD_EVENT_PAGEFAULT && event <= UFFD_EVENT_UNMAP) ||
	       (event >= JOURNAL_ANSWER && event < JOURNAL_ANSWER + OWN_MAX);
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
		if (!is_event(entry_at(j, j->end++)->event))
			return -EBADMSG;
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

static int bad(char why[JOURNAL_WHY], int error, const char *what)
{
	snprintf(why, JOURNAL_WHY, "%s", what);
	return error;
}

static int look_at_file(int fd, uint64_t id, char why[JOURNAL_WHY])
{
	struct stat st;
	struct head head;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_mode & (S_IRWXG | S_IRWXO))
		return bad(
			why, -EBADMSG, "it is no file that only larderd's user may write to");
	if (pread(fd, &head, sizeof(head), 0) != sizeof(head) || head.magic != MAGIC)
		return bad(why, -EBADMSG, "it is no journal");
	if (head.id != id)
		return bad(why, -EBADMSG, "it is another client's");
	if (atomic_load(&head.elsewhere))
		return bad(why, -ESTALE,
			"the store had no room for it, so it went on in memory, and is lost");
	return 0;
}

int journal_open(const char *dir, uint64_t id, char why[JOURNAL_WHY])
{
	char path[600];
	struct journal *j;

	why[0] = '\0';
	path_of(path, sizeof(path), dir, id);
	int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ELOOP ? bad(why, -EBADMSG, "it is a symbolic link") : -errno;
	int r = look_at_file(fd, id, why);
	/* The rest is looked at as it is read. The descriptor is the caller's again. */
	int own = r < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (r == 0 && own < 0)
		r = -errno;
	if (r == 0) {
		r = journal_adopt(&j, own);
		if (r == 0)
			journal_free(j);
		else
			close(own);
		if (r == -EBADMSG)
			bad(why, r, "it is cut off or damaged");
	}
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
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

/* The same in memory, under the same number, for all who know that. First the file says that it
 * is left behind: a service that finds it afterwards must not believe it. A worker that dies in
 * between leaves it to the next, for which it is as good as before. */
static int move_to_memory(struct journal *j)
{
	struct journal to = {.fd = memfd_create("larder-journal", MFD_CLOEXEC)};
	uint64_t order = atomic_load(&j->head->order);

	if (to.fd < 0)
		return -errno;
	int r = map_all(&to, bytes_for(order));
	if (r < 0) {
		close(to.fd);
		return r;
	}
	memcpy(to.head, j->head, bytes_for(order));
	atomic_store(&j->head->elsewhere, 1);
	_cleanup_fd_ int old = fcntl(j->fd, F_DUPFD_CLOEXEC, 0);
	if (dup3(to.fd, j->fd, O_CLOEXEC) < 0)
		r = -errno;
	close(to.fd);
	if (r < 0) {
		munmap(to.head, to.bytes);
		return r;
	}
	munmap(j->head, j->bytes);
	j->head = to.head;
	j->bytes = to.bytes;
	if (old >= 0 && ftruncate(old, HEAD) < 0) /* it takes room that others need */
		log_debug("a journal: %s", strerror(errno));
	log_warn("the store has no room for client %llu's journal: it goes on in memory; "
		 "should both processes of the service die now, that client is lost",
		(unsigned long long)j->head->id);
	return 0;
}

static bool is_in_memory(const struct journal *j)
{
	struct stat st;
	return fstat(j->fd, &st) == 0 && st.st_nlink == 0;
}

static int enlarge(struct journal *j)
{
	int r = grow(j);

	if (r == -ENOSPC && !is_in_memory(j) && (r = move_to_memory(j)) == 0)
		r = grow(j);
	return r;
}

static void wait_for_memory(void)
{
	struct timespec pause = {.tv_nsec = 1000000};
	nanosleep(&pause, NULL);
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
		} else if (enlarge(j) < 0) {
			wait_for_memory();
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

void journal_set_fork(struct journal *j, uint64_t position, int ufd)
{
	assert(position >= journal_begin(j) && position < j->end);
	entry_at(j, position)->arg.fork.ufd = (__u32)ufd;
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
