/* Invariants, with the store's lock held (asserted by store_check):
 *
 * 1. in_use = number of segments that aren't free <= max_move; all but USE_MOVE leave one of
 * max unused, so that compaction always has a place to copy to. max_move = max, or, when an
 * earlier run has left more, one more than that was. top = in_use + length of the free list.
 * 2. live + dying <= used <= have <= SEGMENT_SIZE, per segment; all are 0 in a free one. have
 * is a multiple of SEGMENT_STEP; g->have is the sum.
 * 3. live (dying) of a segment = sum of blob_size over the live (dying) blobs whose place is in
 * it; g->live and g->dying are the sums of these.
 * 4. From a segment's start to used, header follows header; from used to have are zeros.
 *    No blob crosses a segment's end.
 * 5. The file has memory exactly in the first `have` bytes of segments in use. Nothing is read
 * elsewhere (a read of a hole would fill it), and nothing is written before fallocate has
 * succeeded (in a full tmpfs, a write into a hole is a SIGBUS). */
#include "segments.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "must.h"

_Static_assert(sizeof(struct blob_header) == BLOB_HEADER, "header as documented");

/* 1 TiB: what 36 bits of where_t reach. */
#define SEGMENTS_MAX (UINT32_C(1) << 20)

/* The index lies in the same tmpfs: were that full, no transaction could commit, and without
 * one nothing dead is ever freed. So new segments leave room for the WAL and its index (some
 * megabytes) and for the rows of blobs that were put but not committed yet (0.3 % of the blobs'
 * bytes). */
enum { RESERVE_BASE = 4 << 20, RESERVE_SHARE = 128 };

/* A segment with less waste than this isn't copied to win it: the tail that doesn't fit the
 * next blob is up to 4 KiB, and copying a segment for 3 % of it would never end. */
enum { WORTH_MOVING = 32 << 10 };

/* An interrupted fallocate has undone what it did. */
static int allocate(int fd, int mode, uint32_t i, uint32_t from, uint32_t to)
{
	int r;

	do {
		r = fallocate(fd, mode, (off_t)i * SEGMENT_SIZE + from, (off_t)to - from);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

/* As large as `count` segments. */
static int map_file(struct segments *g, uint32_t count)
{
	if (ftruncate(g->fd, (off_t)count * SEGMENT_SIZE) < 0)
		return -errno;
	return range_reserve(&g->file, (size_t)count * SEGMENT_SIZE, g->fd);
}

static int open_file(struct segments *g, int dirfd, const char *name)
{
	g->fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (g->fd < 0)
		return -errno;
	int r = map_file(g, g->max);
	return r < 0 ? r
		     : range_reserve(&g->table, (size_t)g->max * sizeof(struct segment), -1);
}

int segments_check_dir(int dirfd)
{
	struct statfs fs;

	if (fstatfs(dirfd, &fs) < 0)
		return -errno;
	return fs.f_type == TMPFS_MAGIC ? 0 : -ENOTSUP;
}

/* All but the file. */
static int init(struct segments *g, int dirfd, uint64_t limit)
{
	struct statfs fs;

	*g = (struct segments){
		.fd = -1, .free = SEGMENT_NONE, .open = {SEGMENT_NONE, SEGMENT_NONE}};
	if (fstatfs(dirfd, &fs) < 0)
		return -errno;
	if (limit != 0 && limit < 2 * SEGMENT_SIZE)
		return -EINVAL;

	uint64_t max = limit ? limit / SEGMENT_SIZE : SEGMENTS_MAX;
	if (fs.f_blocks != 0) { /* 0: mounted without a size */
		uint64_t size = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
		g->reserve = RESERVE_BASE + size / RESERVE_SHARE;
		if (size < g->reserve + 2 * SEGMENT_SIZE)
			return -ENOSPC;
		if (max > size / SEGMENT_SIZE)
			max = size / SEGMENT_SIZE;
	}
	g->max = max < SEGMENTS_MAX ? (uint32_t)max : SEGMENTS_MAX;
	g->max_move = g->max;
	return 0;
}

int segments_init(struct segments *g, int dirfd, const char *name, uint64_t limit)
{
	int r = init(g, dirfd, limit);

	if (r == 0)
		r = open_file(g, dirfd, name);
	if (r < 0)
		segments_done(g);
	return r;
}

void segments_done(struct segments *g)
{
	range_done(&g->file);
	range_done(&g->table);
	if (g->fd >= 0)
		close(g->fd);
	g->fd = -1;
}

static bool room_in_tmpfs(const struct segments *g, enum segment_use use, uint32_t bytes)
{
	struct statfs fs;

	if (g->reserve == 0 || use == USE_MOVE)
		return true;
	return fstatfs(g->fd, &fs) == 0 &&
	       (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize >= g->reserve + bytes;
}

bool segments_has_room(const struct segments *g)
{
	return g->in_use + 1 < g->max && room_in_tmpfs(g, USE_PUT, SEGMENT_SIZE);
}

/* Memory for the first `bytes` of a segment that has memory for `have`. */
static int give_memory(
	struct segments *g, enum segment_use use, uint32_t i, uint32_t have, uint32_t bytes)
{
	uint32_t want = (bytes + SEGMENT_STEP - 1) / SEGMENT_STEP * SEGMENT_STEP;

	if (want <= have)
		return 0;
	if (!room_in_tmpfs(g, use, want - have))
		return -ENOSPC;
	int r = allocate(g->fd, 0, i, have, want);
	if (r < 0)
		return r;
	segments_row(g, i)->have = want;
	g->have += want - have;
	return 0;
}

/* Takes a free segment, or one never used, with memory for its first blob. */
static int segment_new(struct segments *g, enum segment_use use, uint32_t size, uint32_t *ret)
{
	uint32_t i = g->free;

	if (use == USE_MOVE ? g->in_use >= g->max_move : g->in_use + 1 >= g->max)
		return -ENOSPC;
	if (i == SEGMENT_NONE) {
		i = g->top;
		int r = range_open(&g->table, ((size_t)i + 1) * sizeof(struct segment));
		if (r < 0)
			return r;
		r = range_open(&g->file, ((size_t)i + 1) * SEGMENT_SIZE);
		if (r < 0)
			return r;
	}
	int r = give_memory(g, use, i, 0, size);
	if (r < 0)
		return r;

	struct segment *seg = segments_row(g, i);
	if (i == g->free)
		g->free = seg->next;
	else
		g->top++;
	g->in_use++;
	seg->state = SEGMENT_OPEN;
	seg->next = SEGMENT_NONE;
	*ret = i;
	return 0;
}

/* The segment with room, and memory, for `size` bytes. */
static int segment_for(struct segments *g, enum segment_use use, uint32_t size, uint32_t *ret)
{
	enum segment_stream stream = use == USE_PUT ? STREAM_PUT : STREAM_MOVE;
	uint32_t open = g->open[stream], i;

	if (open != SEGMENT_NONE && SEGMENT_SIZE - segments_row(g, open)->used >= size) {
		const struct segment *seg = segments_row(g, open);
		*ret = open;
		return give_memory(g, use, open, seg->have, seg->used + size);
	}
	int r = segment_new(g, use, size, &i);
	if (r < 0)
		return r;
	if (open != SEGMENT_NONE)
		segments_row(g, open)->state = SEGMENT_FULL;
	g->open[stream] = i;
	*ret = i;
	return 0;
}

/* Bytes, then the header's second half, then its first, which makes the blob one: a process
 * killed in between leaves nothing that looks like a blob. The compiler may neither split the
 * last store nor move another one behind it; the CPU may not either, since a kill falls between
 * two instructions. */
static void write_blob(unsigned char *to, const struct blob_header *h, const void *bytes)
{
	uint64_t first;

	memcpy(to + BLOB_HEADER, bytes, h->length);
	memcpy(to + 8, &h->checksum, sizeof(h->checksum));
	memcpy(&first, h, sizeof(first));
	atomic_store_explicit((_Atomic uint64_t *)(void *)to, first, memory_order_release);
}

int segments_append(struct segments *g, enum segment_use use, const struct blob_header *h,
	const void *bytes, uint64_t *ret_offset)
{
	uint32_t size = blob_size(h->length), i;

	int r = segment_for(g, use, size, &i);
	if (r < 0)
		return r;

	struct segment *seg = segments_row(g, i);
	uint64_t offset = (uint64_t)i * SEGMENT_SIZE + seg->used;
	write_blob(g->file.base + offset, h, bytes);
	seg->used += size;
	seg->live += size;
	g->live += size;
	*ret_offset = offset;
	return 0;
}

static struct segment *segment_of(struct segments *g, uint64_t offset)
{
	uint64_t i = offset / SEGMENT_SIZE;

	must(i < g->top);
	return segments_row(g, (uint32_t)i);
}

void segments_kill(struct segments *g, uint64_t offset, uint32_t size)
{
	struct segment *seg = segment_of(g, offset);

	must(seg->live >= size);
	seg->live -= size;
	seg->dying += size;
	g->live -= size;
	g->dying += size;
}

void segments_leave(struct segments *g, uint64_t offset, uint32_t size, bool dying)
{
	struct segment *seg = segment_of(g, offset);
	uint32_t *part = dying ? &seg->dying : &seg->live;

	must(*part >= size);
	*part -= size;
	*(dying ? &g->dying : &g->live) -= size;
}

void segments_recycle(struct segments *g, uint64_t offset, uint32_t size)
{
	struct segment *seg = segment_of(g, offset);

	/* Before the handle gets another life, and before a later reader of the file can take
	 * this blob for that one. The length stays: header must follow header. */
	struct blob_header *h = (void *)(g->file.base + offset);
	h->codec = 0;

	segments_leave(g, offset, size, true);
	if (seg->live + seg->dying == 0)
		segments_release(g, (uint32_t)(offset / SEGMENT_SIZE));
}

void segments_release(struct segments *g, uint32_t i)
{
	struct segment *seg = segments_row(g, i);

	must(seg->state != SEGMENT_FREE && seg->live + seg->dying == 0);
	/* tmpfs refuses this only for sealed files. Were it to fail, the segment would stay as
	 * it is: in use, wholly waste, and the first that compaction takes up again. */
	if (allocate(g->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i, 0, SEGMENT_SIZE) < 0)
		return;
	g->have -= seg->have;
	for (unsigned s = 0; s < STREAM_COUNT; s++)
		if (g->open[s] == i)
			g->open[s] = SEGMENT_NONE;
	*seg = (struct segment){.state = SEGMENT_FREE, .next = g->free};
	g->free = i;
	g->in_use--;
}

/* What copying the segment would win. The end of an open one that isn't used yet will be. */
static uint32_t dead_in(const struct segment *seg)
{
	uint32_t bytes = seg->state == SEGMENT_OPEN ? seg->used : seg->have;

	return bytes - seg->live - seg->dying;
}

uint32_t segments_victim(const struct segments *g)
{
	uint32_t best = SEGMENT_NONE;
	uint64_t best_cost = UINT64_MAX;

	for (uint32_t i = 0; i < g->top; i++) {
		const struct segment *seg = segments_row(g, i);
		if ((seg->state != SEGMENT_FULL && seg->state != SEGMENT_OPEN) ||
			dead_in(seg) <= WORTH_MOVING)
			continue;
		/* Bytes copied for a MiB that is won. */
		uint64_t cost =
			((uint64_t)seg->live + seg->dying) * SEGMENT_SIZE / dead_in(seg);
		if (cost < best_cost) {
			best_cost = cost;
			best = i;
		}
	}
	return best;
}

void segments_close(struct segments *g, uint32_t i)
{
	for (unsigned s = 0; s < STREAM_COUNT; s++)
		if (g->open[s] == i) {
			g->open[s] = SEGMENT_NONE;
			segments_row(g, i)->state = SEGMENT_FULL;
		}
}

uint64_t segments_waste(const struct segments *g)
{
	uint64_t bytes = g->have - g->live - g->dying;

	for (unsigned s = 0; s < STREAM_COUNT; s++)
		if (g->open[s] != SEGMENT_NONE) {
			const struct segment *seg = segments_row(g, g->open[s]);
			bytes -= seg->have - seg->used;
		}
	return bytes;
}

/* ---- of an earlier run ---- */

/* Data in [from, to): what of it belongs to a segment's start is noted in the segment. */
static int note_data(struct segments *g, uint64_t from, uint64_t to)
{
	uint64_t end = (to + SEGMENT_SIZE - 1) / SEGMENT_SIZE;

	if (end > SEGMENTS_MAX)
		return -EBADMSG;
	int r = range_open(&g->table, end * sizeof(struct segment));
	if (r < 0)
		return r;
	g->top = (uint32_t)end;
	for (uint64_t i = (from + SEGMENT_SIZE - 1) / SEGMENT_SIZE; i < end; i++) {
		uint64_t rest = to - i * SEGMENT_SIZE;
		segments_row(g, (uint32_t)i)->used =
			rest < SEGMENT_SIZE ? (uint32_t)rest : SEGMENT_SIZE;
	}
	return 0;
}

static int find_data(struct segments *g)
{
	off_t from, to = 0;
	int r = 0;

	while (r == 0 && (from = lseek(g->fd, to, SEEK_DATA)) >= 0) {
		to = lseek(g->fd, from, SEEK_HOLE);
		if (to < 0)
			return -errno;
		r = note_data(g, (uint64_t)from, (uint64_t)to);
	}
	if (r == 0 && errno != ENXIO) /* no data from there to the end */
		return -errno;
	return r;
}

static bool has_data(int fd)
{
	return lseek(fd, 0, SEEK_DATA) >= 0;
}

bool segments_any(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return false;
	bool any = has_data(fd);
	close(fd);
	return any;
}

static int reopen_file(struct segments *g, int dirfd, const char *name)
{
	struct stat st;

	g->fd = openat(dirfd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (g->fd < 0)
		return errno == ELOOP || errno == ENXIO ? -EBADMSG : -errno;
	if (fstat(g->fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EBADMSG;
	int r = range_reserve(&g->table, SEGMENTS_MAX * sizeof(struct segment), -1);
	if (r == 0)
		r = find_data(g);
	if (r < 0)
		return r;
	/* Memory that was given to a segment, but never written to, isn't data. */
	if (ftruncate(g->fd, (off_t)g->top * SEGMENT_SIZE) < 0)
		return -errno;
	/* One more than there are: compaction of a full store needs it. */
	r = map_file(g, g->top + 1 > g->max ? g->top + 1 : g->max);
	return r < 0 ? r : range_open(&g->file, (size_t)g->top * SEGMENT_SIZE);
}

int segments_reinit(struct segments *g, int dirfd, const char *name, uint64_t limit)
{
	int r = init(g, dirfd, limit);

	if (r == 0)
		r = reopen_file(g, dirfd, name);
	if (r < 0)
		segments_done(g);
	return r;
}

int segments_identity(const struct segments *g, uint64_t *ret_inode, uint64_t *ret_born)
{
	struct statx x;

	if (statx(g->fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &x) < 0)
		return -errno;
	*ret_inode = x.stx_ino;
	*ret_born = (uint64_t)x.stx_btime.tv_sec * 1000000000 + x.stx_btime.tv_nsec;
	return 0;
}

/* What a kill has left behind the last blob: parts of one without a header, and memory for
 * more. */
static int tidy_end(struct segments *g, uint32_t i, uint32_t used, uint32_t have)
{
	unsigned char *start = g->file.base + (uint64_t)i * SEGMENT_SIZE;
	uint32_t page = used / STORE_PAGE * STORE_PAGE;

	if (have < SEGMENT_SIZE) {
		int r = allocate(g->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i, have,
			SEGMENT_SIZE);
		if (r < 0)
			return r;
	}
	/* It has memory, unless somebody has taken it away. */
	int r = page < have ? allocate(g->fd, 0, i, page, have) : 0;
	if (r == 0)
		memset(start + used, 0, have - used);
	return r;
}

int segments_adopt(struct segments *g, uint32_t i, uint32_t used, uint32_t live, bool damaged)
{
	struct segment *seg = segments_row(g, i);
	uint32_t have = (used + SEGMENT_STEP - 1) / SEGMENT_STEP * SEGMENT_STEP;

	must(live <= used && used <= SEGMENT_SIZE && seg->state == SEGMENT_FREE);
	seg->used = 0;
	if (live == 0)
		return allocate(
			g->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i, 0, SEGMENT_SIZE);
	int r = tidy_end(g, i, used, have);
	if (r < 0)
		return r;
	*seg = (struct segment){
		.have = have,
		.used = used,
		.live = live,
		.next = SEGMENT_NONE,
		.state = damaged ? SEGMENT_DAMAGED : SEGMENT_FULL,
	};
	g->have += have;
	g->live += live;
	g->in_use++;
	return 0;
}

/* The full segment with most room in it, if that is worth it. */
static uint32_t roomiest(const struct segments *g)
{
	uint32_t best = SEGMENT_NONE, used = SEGMENT_SIZE - WORTH_MOVING;

	for (uint32_t i = 0; i < g->top; i++) {
		const struct segment *seg = segments_row(g, i);
		if (seg->state == SEGMENT_FULL && seg->used < used) {
			best = i;
			used = seg->used;
		}
	}
	return best;
}

void segments_adopted(struct segments *g)
{
	for (uint32_t i = g->top; i-- > 0;) {
		struct segment *seg = segments_row(g, i);
		if (seg->state == SEGMENT_FREE) {
			seg->next = g->free;
			g->free = i;
		}
	}
	for (unsigned s = 0; s < STREAM_COUNT; s++) {
		uint32_t i = roomiest(g);
		g->open[s] = i;
		if (i != SEGMENT_NONE)
			segments_row(g, i)->state = SEGMENT_OPEN;
	}
	if (g->in_use >= g->max)
		g->max_move = g->in_use + 1;
}
