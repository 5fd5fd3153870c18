#include "state.h"
#include "cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define MAGIC 0x657461747372646cULL /* "ldrstate" */

enum {
	/* So many records get their memory at once: in a full file system, a write to what has
	 * none would be a signal. */
	GROWTH = 64,
	/* A record is filled in a microsecond, by who may lose the processor meanwhile. */
	CHANGE_MS = 200,
};

/* How a struct state begins. */
struct head {
	uint64_t magic;
	uint32_t version, zero;
};

/* ---- checks: what is to be noticed is somebody else's file, or bad memory ---- */

static uint64_t birth_sum(uint64_t id, const struct state_record *r)
{
	const uint64_t words[] = {id, r->parent, r->family};

	return XXH3_64bits(words, sizeof(words));
}

static uint64_t join_sum(uint64_t id, const struct state_record *r)
{
	const size_t from = offsetof(struct state_record, pid);

	return XXH3_64bits_withSeed(
		(const char *)r + from, offsetof(struct state_record, join_check) - from, id);
}

static bool is_whole(const struct state_record *r)
{
	uint64_t id = atomic_load(&r->id);

	return r->birth_check == birth_sum(id, r) &&
	       (!atomic_load(&r->joined) ||
		       (r->join_check == join_sum(id, r) && memchr(r->exe, 0, sizeof(r->exe)) &&
			       memchr(r->policy, 0, sizeof(r->policy))));
}

/* ---- the file ---- */

static struct state *map_file(int fd)
{
	void *map = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_NORESERVE, fd, 0);

	return map == MAP_FAILED ? NULL : map;
}

static int path_in(char *path, size_t size, const char *dir, const char *name)
{
	int n = snprintf(path, size, "%s/%s", dir, name);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* Whole before it has its name. As much of it has memory as was ever used. */
static int make_file(const char *new, const char *path, struct state **ret)
{
	const struct head head = {MAGIC, STATE_VERSION, 0};

	unlink(new);
	_cleanup_fd_ int fd =
		open(new, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, sizeof(struct state)) < 0)
		return -errno;
	/* Written, not mapped: in a full tmpfs that is an error and no signal. */
	ssize_t n = pwrite(fd, &head, sizeof(head), 0);
	if (n != sizeof(head))
		return n < 0 ? -errno : -ENOSPC;
	struct state *s = map_file(fd);
	if (!s)
		return -errno;
	if (rename(new, path) < 0) {
		int e = errno;
		state_unmap(s);
		return -e;
	}
	*ret = s;
	return 0;
}

int state_new(struct state **ret, const char *dir)
{
	char path[600], new[600];

	if (path_in(path, sizeof(path), dir, STATE_FILE) < 0 ||
		path_in(new, sizeof(new), dir, STATE_FILE ".new") < 0)
		return -ENAMETOOLONG;
	int r = make_file(new, path, ret);
	if (r < 0)
		unlink(new);
	return r;
}

static int bad(char why[STATE_WHY], int error, const char *what)
{
	snprintf(why, STATE_WHY, "%s", what);
	return error;
}

/* Nothing is looked at before it is known to have all of it: a hole is zeros. */
static int look_at_file(int fd, char why[STATE_WHY])
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_mode & (S_IRWXG | S_IRWXO))
		return bad(
			why, -EBADMSG, "it is no file that only larderd's user may write to");
	struct head head;
	ssize_t n = pread(fd, &head, sizeof(head), 0);
	if (n != sizeof(head) || head.magic != MAGIC)
		return bad(why, -EBADMSG, "it is no file of Larder's");
	if (head.version != STATE_VERSION)
		return bad(why, -EPROTONOSUPPORT, "it is of another version of Larder");
	if (st.st_size != sizeof(struct state))
		return bad(why, -EBADMSG, "it is cut off");
	return 0;
}

/* One that is being changed is as it should be a moment later. */
static bool becomes_whole(const struct state_record *r)
{
	for (unsigned i = 0; i < CHANGE_MS; i++) {
		if (atomic_load(&r->id) == 0 || is_whole(r))
			return true;
		usleep(1000);
	}
	return false;
}

static int look_at_records(const struct state *s, char why[STATE_WHY])
{
	uint32_t top = atomic_load(&s->top);

	if (top > STATE_RECORDS)
		return bad(why, -EBADMSG, "its head is damaged");
	for (uint32_t i = 0; i < top; i++) {
		uint64_t id = atomic_load(&s->record[i].id);
		if (id == 0 || becomes_whole(&s->record[i]))
			continue;
		snprintf(why, STATE_WHY, "record %u, of client %llu, is damaged", i,
			(unsigned long long)id);
		return -EBADMSG;
	}
	return 0;
}

int state_load(struct state **ret, const char *dir, char why[STATE_WHY])
{
	char path[600];

	why[0] = '\0';
	int r = path_in(path, sizeof(path), dir, STATE_FILE);
	if (r < 0)
		return r;
	_cleanup_fd_ int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ELOOP ? bad(why, -EBADMSG, "it is a symbolic link") : -errno;
	r = look_at_file(fd, why);
	if (r < 0)
		return r;
	struct state *s = map_file(fd);
	if (!s)
		return -errno;
	r = look_at_records(s, why);
	if (r < 0) {
		state_unmap(s);
		return r;
	}
	*ret = s;
	return 0;
}

int state_check(const char *dir, char why[STATE_WHY])
{
	struct state *s;
	int r = state_load(&s, dir, why);

	if (r == 0)
		state_unmap(s);
	return r;
}

void state_unmap(struct state *s)
{
	if (s)
		munmap(s, sizeof(*s));
}

/* ---- records ---- */

/* All with its checks at once: what an agent doesn't change reads as it did meanwhile, for a
 * record that is in use is believed at any time. */
static void fill(struct state_record *to, const struct state_record *r, uint64_t id)
{
	const size_t after = offsetof(struct state_record, journal);
	struct state_record whole = *r;

	whole.birth_check = birth_sum(id, &whole);
	whole.join_check = join_sum(id, &whole);
	memcpy((char *)to + after, (const char *)&whole + after, sizeof(*to) - after);
}

void state_join(struct state_record *to, const struct state_record *r)
{
	fill(to, r, atomic_load(&to->id));
	atomic_store(&to->joined, 1);
}

/* The next GROWTH records, when this is the first of them. */
static bool has_memory(struct state *s, uint32_t i)
{
	if (i % GROWTH != 0)
		return true;
	/* From the page in which the first begins, for the head takes a part of one. */
	uintptr_t from = (uintptr_t)&s->record[i] & ~(uintptr_t)4095;
	uint32_t end = i + GROWTH < STATE_RECORDS ? i + GROWTH : STATE_RECORDS;

	return madvise((void *)from, (uintptr_t)(s->record + end) - from,
		       MADV_POPULATE_WRITE) == 0;
}

struct state_record *state_add(struct state *s, const struct state_record *r)
{
	uint32_t i = 0, top = atomic_load(&s->top);
	uint64_t id = atomic_load(&r->id);

	while (i < top && atomic_load(&s->record[i].id) != 0)
		i++;
	if (i == STATE_RECORDS || (i == top && !has_memory(s, i)))
		return NULL;
	struct state_record *to = &s->record[i];
	fill(to, r, id);
	atomic_store(&to->released, 0);
	atomic_store(&to->told, 0);
	atomic_store(&to->joined, atomic_load(&r->joined));
	if (i == top)
		atomic_store(&s->top, top + 1);
	atomic_store(&to->id, id);
	return to;
}

void state_remove(struct state_record *r)
{
	if (r)
		atomic_store(&r->id, 0);
}

bool state_any(const struct state *s)
{
	for (uint32_t i = 0; i < atomic_load(&s->top); i++)
		if (atomic_load(&s->record[i].id) != 0)
			return true;
	return false;
}

static bool record_has_fd(const struct state_record *r, int fd)
{
	if (r->uffd == fd || r->journal == fd)
		return true;
	if (!atomic_load(&r->joined))
		return false;
	bool has = false;
#define X(name) has |= r->name == fd;
	STATE_FDS(X)
#undef X
	return has;
}

bool state_has_fd(const struct state *s, int fd)
{
	for (uint32_t i = 0; i < atomic_load(&s->top); i++)
		if (atomic_load(&s->record[i].id) != 0 && record_has_fd(&s->record[i], fd))
			return true;
	return false;
}
