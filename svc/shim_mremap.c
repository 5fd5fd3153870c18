/* mremap(2) for ranges of which we have made several mappings (DESIGN rule 12).
 *
 * Where the program had one mapping, we may have made two: a piece that it mapped anew is not
 * registered when its neighbours are, and from its first fault on it has an anon_vma of its
 * own, which keeps it apart from them for good. The kernel refuses to move several mappings
 * when one is registered, and to grow several always.
 *
 * A move goes mapping by mapping here, as it does in the kernel since 6.17: there, those before
 * the registered one have moved when it fails, and what they left is open to other threads,
 * which can't be put right afterwards. Growth goes by copying. Neither needs the service, so
 * both work in a forked child as well. */
#include "kernel.h"
#include "link.h"
#include "rawcall.h"
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>

enum { /* of PROCMAP_QUERY */
	VMA_READABLE = 1,
	VMA_WRITABLE = 2,
};

static int maps_open(void)
{
	return (int)RAWCALL(
		SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0, 0, 0);
}

static void maps_close(int maps)
{
	if (maps >= 0)
		RAWCALL(SYS_close, maps, 0, 0, 0, 0, 0);
}

/* The mapping that covers an address or, when `next`, the first after it. */
static bool maps_find(int maps, uintptr_t at, bool next, struct procmap_query *ret)
{
	*ret = (struct procmap_query){.size = sizeof(*ret),
		.query_flags = next ? PROCMAP_QUERY_COVERING_OR_NEXT_VMA : 0,
		.query_addr = at};
	return maps >= 0 && RAWCALL(SYS_ioctl, maps, PROCMAP_QUERY, ret, 0, 0, 0) >= 0;
}

/* Is all of the range mapped, and every mapping in it of the kind that we manage: private,
 * anonymous, readable and writable, and so one mapping but for us? */
static bool could_be_one(uintptr_t start, size_t len)
{
	int maps = maps_open();
	struct procmap_query q;
	uintptr_t at = start;

	while (at < start + len && maps_find(maps, at, false, &q) && q.inode == 0 &&
		q.vma_flags == (VMA_READABLE | VMA_WRITABLE))
		at = (uintptr_t)q.vma_end;
	maps_close(maps);
	return at >= start + len;
}

/* Is it one, as far as can be told? */
static bool is_one(uintptr_t start, size_t len)
{
	int maps = maps_open();
	struct procmap_query q;
	bool one = maps < 0 || (maps_find(maps, start, false, &q) && q.vma_end >= start + len);

	maps_close(maps);
	return one;
}

static size_t whole_pages(size_t len)
{
	return (len + LINK_PAGE - 1) & ~(size_t)(LINK_PAGE - 1);
}

static bool failed(long r)
{
	return r < 0 && r > -4096;
}

/* How far a move has come. */
struct way {
	uintptr_t at, end, to; /* what is left, and where it goes */
	bool begun;
};

static bool same_mapping(bool a_there, const struct procmap_query *a, bool b_there,
	const struct procmap_query *b)
{
	return a_there == b_there &&
	       (!a_there || (a->vma_start == b->vma_start && a->vma_end == b->vma_end));
}

/* Moves what was one mapping when it was looked up. A part of it may have been registered by
 * itself since then: what lies before that has moved when the kernel refuses. How much that is
 * shows in the target; not where it was, for another thread may have got that place. */
static long move_one(int maps, struct way *w, uintptr_t until, int flags)
{
	struct procmap_query before, now;
	size_t len = until - w->at;
	bool was_there = maps_find(maps, w->to, false, &before);
	long r = RAWCALL(SYS_mremap, w->at, len, len, flags, w->to, 0);

	if (r == -EFAULT) {
		bool is_there = maps_find(maps, w->to, false, &now);
		if (!is_there || same_mapping(was_there, &before, is_there, &now))
			return r;
		if ((uintptr_t)now.vma_end - w->to < len)
			len = (uintptr_t)now.vma_end - w->to;
	}
	if (failed(r) && r != -EFAULT)
		return r;
	w->at += len;
	w->to += len;
	w->begun = true;
	return r;
}

/* Moves each mapping on the way to the same place in the target; gaps stay gaps. */
static long move_each(int maps, struct way *w, int flags)
{
	struct procmap_query q;
	long r = 1;

	while (w->at < w->end && maps_find(maps, w->at, true, &q) && q.vma_start < w->end) {
		uintptr_t from = q.vma_start > w->at ? (uintptr_t)q.vma_start : w->at;
		w->to += from - w->at;
		w->at = from;
		r = move_one(
			maps, w, q.vma_end < w->end ? (uintptr_t)q.vma_end : w->end, flags);
		if (failed(r))
			return r;
	}
	return r;
}

/* 1: nothing is mapped there, or /proc can't be read; nothing was done. */
static long by_mapping(struct way *w, int flags)
{
	int maps = maps_open();
	struct procmap_query q;
	uintptr_t to = w->to;
	long r = 1;

	if (maps_find(maps, w->at, false, &q))
		r = move_each(maps, w, flags);
	maps_close(maps);
	return failed(r) || r == 1 ? r : (long)to;
}

/* Of a move that has begun. Called with the range given back. */
static long the_rest(struct way *w, int flags, uintptr_t to)
{
	int maps = maps_open();
	long r = maps < 0 ? RAWCALL(SYS_mremap, w->at, w->end - w->at, w->end - w->at, flags,
				    w->to, 0)
			  : move_each(maps, w, flags);

	maps_close(maps);
	return failed(r) ? r : (long)to;
}

/* The same, begun or not, as far as it gets on: a part may be registered still, or again, and
 * what has moved before the kernel refuses must not be taken for zeros (by_copy). */
static long all_the_rest(struct way *w, int flags, uintptr_t to)
{
	uintptr_t before;
	long r;

	do {
		before = w->at;
		r = w->begun ? the_rest(w, flags, to) : by_mapping(w, flags);
	} while (r == -EFAULT && w->at > before);
	return r;
}

static bool is_zero(const uint64_t *page)
{
	for (size_t i = 0; i < LINK_PAGE / sizeof(*page); i++)
		if (page[i])
			return false;
	return true;
}

/* The same by hand: a new mapping, the pages copied, the old one given up. */
static long by_copy(uintptr_t old, size_t old_len, size_t new_len, int flags, uintptr_t to)
{
	size_t both = old_len < new_len ? old_len : new_len;

	if (!(flags & MREMAP_MAYMOVE))
		return -ENOMEM; /* what the kernel says when it can't grow in place */
	long r = RAWCALL(SYS_mmap, flags & MREMAP_FIXED ? to : 0, new_len,
		PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | (flags & MREMAP_FIXED ? MAP_FIXED : 0), -1, 0);
	if (failed(r))
		return r;
	for (size_t at = 0; at < both; at += LINK_PAGE)
		if (!is_zero((const uint64_t *)(old + at)))
			rawcopy((void *)((uintptr_t)r + at), (const void *)(old + at),
				LINK_PAGE);
	if (flags & MREMAP_DONTUNMAP)
		RAWCALL(SYS_madvise, old, old_len, MADV_DONTNEED, 0, 0, 0);
	else
		RAWCALL(SYS_munmap, old, old_len, 0, 0, 0, 0);
	return r;
}

/* Of what the kernel takes: no other kind of mremap takes several mappings, and what it refuses
 * as a whole must not be done in part. */
static bool may_move_several(
	uintptr_t old, size_t old_len, size_t new_len, int flags, uintptr_t to)
{
	const int needed = MREMAP_FIXED | MREMAP_MAYMOVE;
	uintptr_t apart = old > to ? old - to : to - old;

	return (flags & needed) == needed && old_len == new_len && old_len > 0 &&
	       (old | to) % LINK_PAGE == 0 && apart >= whole_pages(old_len);
}

/* A whole way, of what was several mappings for our sake. */
static long go(struct way *w)
{
	const int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	uintptr_t to = w->to;
	long r = by_mapping(w, flags);

	if (r != -EFAULT && r != 1)
		return r;
	struct shim_call call;
	size_t len = w->end - w->at;
	shim_give_back(&call, (const void *)w->at, len);
	shim_touch_in_child(&call, (const void *)w->at, len, false);
	r = all_the_rest(w, flags, to);
	/* Without /proc it can't be told how far the kernel would come. */
	if (r == 1 && (r = RAWCALL(SYS_mremap, w->at, len, len, flags, to, 0)) == (long)to)
		*w = (struct way){w->end, w->end, w->to + len, true};
	shim_end(&call);
	return r;
}

/* In place, by its last mapping: the kernel doesn't grow several. */
static long grow_last(uintptr_t at, size_t old_len, size_t new_len)
{
	int maps = maps_open();
	struct procmap_query q;
	uintptr_t last = at;

	if (maps_find(maps, at + old_len - LINK_PAGE, false, &q) && q.vma_start > at)
		last = (uintptr_t)q.vma_start;
	maps_close(maps);
	long r = RAWCALL(SYS_mremap, last, at + old_len - last, at + new_len - last, 0, 0, 0);
	return failed(r) ? r : (long)at;
}

/* Growth that moves, as a move and growth in place. For the kernel fills what grows of locked
 * memory before it lets the event of its move be read: where that is registered, the fault
 * waits for the event and the event for the fault, for ever. */
static long in_two_steps(uintptr_t old, size_t old_len, size_t new_len, int flags, uintptr_t to)
{
	bool fixed = flags & MREMAP_FIXED;

	if (!fixed) {
		long r = RAWCALL(SYS_mremap, old, old_len, new_len, 0, 0, 0);
		if (r != -ENOMEM || !(flags & MREMAP_MAYMOVE))
			return r;
	}
	long at = RAWCALL(SYS_mmap, fixed ? to : 0, new_len, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (fixed ? MAP_FIXED : 0), -1, 0);
	if (failed(at))
		return at;
	struct way there = {.at = old, .end = old + old_len, .to = (uintptr_t)at};
	long r = go(&there);
	RAWCALL(SYS_munmap, there.to, (uintptr_t)at + new_len - there.to, 0, 0, 0, 0);
	if (!failed(r))
		r = grow_last((uintptr_t)at, old_len, new_len);
	/* Beyond a limit. What lay in the target is gone, as when the kernel finds it late. */
	struct way back = {.at = (uintptr_t)at, .end = there.to, .to = old};
	if (failed(r) && there.begun)
		go(&back);
	return r;
}

/* Of what the kernel takes, as far as it isn't told before anything is moved. */
static bool may_grow_locked(
	uintptr_t old, size_t old_len, size_t new_len, int flags, uintptr_t to)
{
	if (!atomic_load(&shim_locked_unlinked) || old_len == 0 || new_len <= old_len ||
		old % LINK_PAGE || flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED))
		return false;
	if (flags & MREMAP_FIXED && (!(flags & MREMAP_MAYMOVE) || to % LINK_PAGE != 0 ||
					    (to < old + old_len && old < to + new_len)))
		return false;
	return is_one(old, whole_pages(old_len)) || could_be_one(old, whole_pages(old_len));
}

static long move_or_grow(uintptr_t old, size_t old_len, size_t new_len, int flags, uintptr_t to)
{
	/* What is moved and stays registered where it was can't be told from what wasn't moved,
	 * in a child that another thread forks just then: so it is unregistered before. */
	long r = shim_page && old_len > 0 && flags & MREMAP_DONTUNMAP ? -EFAULT : 1;

	struct way way = {.at = old, .end = old + whole_pages(old_len), .to = to};
	bool several = shim_page && may_move_several(old, old_len, new_len, flags, to);

	/* Without /proc it can't be told how far the kernel would come: nothing of it may be
	 * registered. */
	if (r == 1 && several && (r = by_mapping(&way, flags)) == 1)
		r = -EFAULT;
	if (r == 1 && shim_page && may_grow_locked(old, old_len, new_len, flags, to))
		r = in_two_steps(old, whole_pages(old_len), whole_pages(new_len), flags, to);
	if (r == 1)
		r = RAWCALL(SYS_mremap, old, old_len, new_len, flags, to, 0);
	/* A length of 0 is a second view of a shared mapping: none of ours. */
	if (r != -EFAULT || !shim_page || old_len == 0)
		return r;
	/* Perhaps a part of the range is registered, and nothing else keeps it apart. */
	struct shim_call call;
	shim_give_back(&call, (const void *)old, old_len);
	shim_touch_in_child(&call, (const void *)old, old_len, false);
	r = several ? all_the_rest(&way, flags, to) : 1;
	if (r == 1)
		r = RAWCALL(SYS_mremap, old, old_len, new_len, flags, to, 0);
	shim_end(&call);
	if (r == -EFAULT && !way.begun && could_be_one(old, whole_pages(old_len)))
		r = by_copy(old, whole_pages(old_len), whole_pages(new_len), flags, to);
	return r;
}

EXPORT void *mremap(void *old, size_t old_len, size_t new_len, int flags, ...)
{
	int saved = errno;
	void *to = NULL;
	va_list ap;

	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
		va_start(ap, flags);
		to = va_arg(ap, void *);
		va_end(ap);
	}
	long r = move_or_grow((uintptr_t)old, old_len, new_len, flags, (uintptr_t)to);
	errno = saved;
	return (void *)shim_result(r);
}
