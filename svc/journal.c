#include "journal.h"
#include "cleanup.h"
#include "log.h"
#include "points.h"
#include "pulse.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum {
	HEAD = 4096,
	ENTRY = sizeof(struct uffd_msg),
	/* One page of entries: what an idle client costs. */
	ORDER_MIN = 7,
	/* 32 MiB: the index was not written for minutes of events. */
	ORDER_MAX = 20,
	/* So many are read at once, and so many the kernel may have written last. */
	READ_MAX = 16,
	POSITION_BITS = 48,
};
#define MAGIC	  0x326e726a7264726cULL /* "lrdrjrn2" */
#define LOST	  0x74736f6c74736f6cULL /* "lostlost" */
#define ELSEWHERE 0x6572656877657365ULL /* "esewhere" */

static_assert(ENTRY == 32 && ENTRY << ORDER_MIN == HEAD, "the first ring follows the head");

struct head {
	uint64_t magic;
	/* The ring has 2^order entries, and lies at 2^order * ENTRY. With its complement. */
	_Atomic uint64_t order;
	_Atomic uint64_t begin; /* with a sum above POSITION_BITS */
	_Atomic uint64_t lost;	/* 0 or LOST */
	uint64_t id;		/* the client's, with a sum as above */
	/* ELSEWHERE: it goes on in memory, and this file is old; else 0. */
	_Atomic uint64_t elsewhere;
};

struct journal {
	int fd;		   /* owned */
	struct head *head; /* owned mapping of all of it, which is locked in memory */
	size_t bytes;
	_Atomic uint64_t end; /* others may look how far it has come */
};

/* ---- sums ---- */

/* Of what an entry says, and where: 24 bits, never 0. It lies where the kernel has zeros. */
static uint32_t sum_of(const struct uffd_msg *m, uint64_t position)
{
	struct uffd_msg plain = *m;

	plain.reserved1 = 0;
	plain.reserved2 = 0;
	return (uint32_t)(XXH3_64bits_withSeed(&plain, ENTRY, position) >> 40) | 1;
}

static uint32_t get_sum(const struct uffd_msg *m)
{
	return m->reserved1 | (uint32_t)m->reserved2 << 8;
}

static void set_sum(struct uffd_msg *m, uint32_t sum)
{
	m->reserved1 = (__u8)sum;
	m->reserved2 = (__u16)(sum >> 8);
}

static bool is_right(const struct uffd_msg *m, uint64_t position)
{
	return m->event && get_sum(m) == sum_of(m, position);
}

static uint64_t with_sum(uint64_t position)
{
	return position | XXH3_64bits(&position, sizeof(position)) >> POSITION_BITS
									      << POSITION_BITS;
}

static uint64_t plain(uint64_t with_sum)
{
	return with_sum & ((1ULL << POSITION_BITS) - 1);
}

static uint64_t with_complement(uint64_t order)
{
	return order | ~order << 32;
}

static uint64_t order_of(const struct journal *j)
{
	return (uint32_t)atomic_load(&j->head->order);
}

static uint64_t begin_of(const struct journal *j)
{
	return plain(atomic_load(&j->head->begin));
}

/* ---- the ring ---- */

static uint64_t ring_size(const struct journal *j)
{
	return 1ULL << order_of(j);
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
	j->head->id = with_sum(id);
	atomic_store(&j->head->order, with_complement(ORDER_MIN));
	atomic_store(&j->head->begin, with_sum(0));
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

/* 0, or what keeps it from being read. One that is gone by now is nobody's. */
static int look_at_version(const char *dir, uint64_t id)
{
	char path[600];
	uint64_t magic;

	path_of(path, sizeof(path), dir, id);
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	ssize_t n = pread(fd, &magic, sizeof(magic), 0);
	/* One that is being made is zeros, and will be what whoever makes it can. */
	return n == sizeof(magic) && magic != 0 && magic != MAGIC ? -EPROTONOSUPPORT : 0;
}

int journal_check_all(const char *dir, char *why, size_t size)
{
	DIR *d = opendir(dir);
	int r = d ? 0 : -errno;

	for (struct dirent *e; d && r == 0 && (e = readdir(d));) {
		char *end;
		if (strncmp(e->d_name, NAME, strlen(NAME)) != 0)
			continue;
		uint64_t id = strtoull(e->d_name + strlen(NAME), &end, 10);
		r = *end == '\0' ? look_at_version(dir, id) : 0;
		if (r < 0)
			snprintf(why, size, "%s: %s", e->d_name,
				r == -EPROTONOSUPPORT ? "it is of another version of Larder"
						      : strerror(-r));
	}
	if (d)
		closedir(d);
	return r;
}

/* ---- another worker's ---- */

/* What the kernel had written when the worker died has no sum yet. */
static bool is_fresh(const struct journal *j, uint64_t at)
{
	const struct uffd_msg *m = entry_at(j, at);

	return get_sum(m) == 0 && at + READ_MAX >= j->end &&
	       (m->event == UFFD_EVENT_PAGEFAULT || m->event == UFFD_EVENT_FORK ||
		       m->event == UFFD_EVENT_REMAP || m->event == UFFD_EVENT_REMOVE ||
		       m->event == UFFD_EVENT_UNMAP);
}

/* An entry of ours gets its event last. Where only that is missing it may have been damaged,
 * and if not, it is true all the same. */
static bool find_event(struct uffd_msg *m, uint64_t position)
{
	struct uffd_msg whole = *m;

	for (unsigned bit = 0; m->event == 0 && bit < 8; bit++) {
		whole.event = (__u8)(1u << bit);
		if (is_right(&whole, position))
			*m = whole;
	}
	return m->event != 0;
}

static bool find_end(struct journal *j)
{
	uint64_t begin = begin_of(j), at = begin;
	bool fresh = false;

	for (j->end = begin; j->end < begin + ring_size(j) - 1; j->end++)
		if (!find_event(entry_at(j, j->end), j->end))
			break;
	for (; at < j->end && !fresh; at++) {
		fresh = !is_right(entry_at(j, at), at);
		if (fresh && !is_fresh(j, at))
			return false;
	}
	for (; at < j->end; at++)
		if (!is_fresh(j, at))
			return false;
	for (at = begin; at < j->end; at++)
		set_sum(entry_at(j, at), sum_of(entry_at(j, at), at));
	return true;
}

static bool is_zeros(const struct uffd_msg *m)
{
	static const struct uffd_msg zeros;

	return memcmp(m, &zeros, ENTRY) == 0;
}

/* May the worker have left this in its room? An entry that it began, faults that it was about
 * to wipe; at the other end what it was about to trim, of which one is begun. */
static bool is_litter(const struct journal *j, uint64_t at, uint64_t edge)
{
	const struct uffd_msg *m = entry_at(j, at);
	uint64_t size = ring_size(j);

	if (at == j->end && m->event == 0)
		return true;
	if (at < j->end + READ_MAX && get_sum(m) == 0 &&
		(m->event == 0 || m->event == UFFD_EVENT_PAGEFAULT))
		return true;
	if (at >= size && is_right(m, at - size))
		return true;
	return at + 1 == edge ||
	       (at + 1 >= size && is_right(entry_at(j, at + 1), at + 1 - size));
}

/* All but the entries becomes zeros again. False: there is what nobody left there, so an entry
 * before it may be missing. */
static bool wipe_room(struct journal *j)
{
	uint64_t edge = begin_of(j) + ring_size(j);

	for (uint64_t at = j->end; at < edge; at++)
		if (!is_zeros(entry_at(j, at)) && !is_litter(j, at, edge))
			return false;
	for (uint64_t at = j->end; at < edge; at++)
		memset(entry_at(j, at), 0, ENTRY);
	return true;
}

static bool head_is_right(const struct journal *j)
{
	uint64_t order = order_of(j), lost = atomic_load(&j->head->lost);
	uint64_t elsewhere = atomic_load(&j->head->elsewhere);

	return j->head->magic == MAGIC && order >= ORDER_MIN && order <= ORDER_MAX &&
	       atomic_load(&j->head->order) == with_complement(order) &&
	       bytes_for(order) <= j->bytes &&
	       atomic_load(&j->head->begin) == with_sum(begin_of(j)) &&
	       j->head->id == with_sum(plain(j->head->id)) && (lost == 0 || lost == LOST) &&
	       (elsewhere == 0 || elsewhere == ELSEWHERE);
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
	return head_is_right(j) && find_end(j) && wipe_room(j) ? 0 : -EBADMSG;
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
	if (head.id != with_sum(id))
		return bad(why, -EBADMSG, "it is another client's");
	if (atomic_load(&head.elsewhere) == ELSEWHERE)
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
	uint64_t order = order_of(j), size = ring_size(j);
	int r = map_all(j, bytes_for(order + 1));

	if (r < 0)
		return r;
	struct uffd_msg *larger =
		(struct uffd_msg *)(void *)((char *)j->head + 2 * size * ENTRY);
	memset(larger, 0, 2 * size * ENTRY);
	for (uint64_t at = begin_of(j); at < j->end; at++)
		larger[at & (2 * size - 1)] = *entry_at(j, at);
	point(POINT_grow);
	atomic_store(&j->head->order, with_complement(order + 1));
	return 0;
}

/* The same in memory, under the same number, for all who know that. First the file says that it
 * is left behind: a service that finds it afterwards must not believe it. A worker that dies in
 * between leaves it to the next, for which it is as good as before. */
static int move_to_memory(struct journal *j)
{
	struct journal to = {.fd = memfd_create("larder-journal", MFD_CLOEXEC)};
	uint64_t order = order_of(j);

	if (to.fd < 0)
		return -errno;
	int r = map_all(&to, bytes_for(order));
	if (r < 0) {
		close(to.fd);
		return r;
	}
	memcpy(to.head, j->head, bytes_for(order));
	atomic_store(&j->head->elsewhere, ELSEWHERE);
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
		(unsigned long long)plain(j->head->id));
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

static uint64_t room(const struct journal *j)
{
	return ring_size(j) - 1 - (j->end - begin_of(j));
}

static void drop_before(struct journal *j, uint64_t position)
{
	uint64_t begin = begin_of(j);

	if (position <= begin)
		return;
	atomic_store(&j->head->begin, with_sum(position));
	point(POINT_trim);
	for (uint64_t at = begin; at < position; at++)
		memset(entry_at(j, at), 0, ENTRY);
}

/* What an event says can't be refused. */
static void make_room(struct journal *j, unsigned count)
{
	while (room(j) < count) {
		if (order_of(j) == ORDER_MAX) {
			atomic_store(&j->head->lost, LOST);
			drop_before(j, j->end);
		} else if (enlarge(j) < 0) {
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
	for (uint64_t to = j->end + count; j->end < to; j->end++)
		set_sum(entry_at(j, j->end), sum_of(entry_at(j, j->end), j->end));
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
	struct uffd_msg whole = *m;
	whole.event = (__u8)event;
	set_sum(m, sum_of(&whole, j->end));
	point(POINT_entry);
	/* Now it counts, and all of it is there. */
	atomic_signal_fence(memory_order_release);
	*(volatile __u8 *)&m->event = (__u8)event;
	j->end++;
}

/* ---- reading ---- */

uint64_t journal_begin(const struct journal *j)
{
	return begin_of(j);
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
	/* Both at once: one store of 16 bytes, which is done or isn't when we are killed. */
	typedef long long pair __attribute__((vector_size(16)));
	struct uffd_msg *m = entry_at(j, position), changed = *m;
	pair first;
	changed.arg.fork.ufd = (__u32)ufd;
	set_sum(&changed, sum_of(&changed, position));
	static_assert(
		offsetof(struct uffd_msg, arg.fork.ufd) < sizeof(first), "in the first half");
	memcpy(&first, &changed, sizeof(first));
	*(volatile pair *)(void *)m = first;
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
