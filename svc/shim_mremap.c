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

static size_t whole_pages(size_t len)
{
	return (len + LINK_PAGE - 1) & ~(size_t)(LINK_PAGE - 1);
}

static bool failed(long r)
{
	return r < 0 && r > -4096;
}

/* Moves each mapping from `at` on to the same place in the target; gaps stay gaps. */
static long move_each(int maps, uintptr_t at, uintptr_t end, int flags, uintptr_t to)
{
	struct procmap_query q;
	long r = (long)to;

	while (at < end && maps_find(maps, at, true, &q) && q.vma_start < end) {
		uintptr_t from = q.vma_start > at ? (uintptr_t)q.vma_start : at;
		uintptr_t until = q.vma_end < end ? (uintptr_t)q.vma_end : end;
		r = RAWCALL(SYS_mremap, from, until - from, until - from, flags,
			to + (from - at), 0);
		if (failed(r))
			return r;
		to += until - at;
		at = until;
	}
	return r;
}

/* 1: there is only one, or /proc can't be read; nothing was done. *ret_there: something is
 * mapped where the range begins. */
static long by_mapping(uintptr_t old, size_t len, int flags, uintptr_t to, bool *ret_there)
{
	int maps = maps_open();
	struct procmap_query q;
	long r = 1;

	*ret_there = maps_find(maps, old, false, &q);
	if (*ret_there && q.vma_end < old + len) {
		r = move_each(maps, old, old + len, flags, to);
		r = failed(r) ? r : (long)to;
	}
	maps_close(maps);
	return r;
}

/* A part was registered just then, by itself: what lay before it has moved when the kernel
 * refuses, so the rest goes after it. Called with the range given back. 1: nothing has moved.
 */
static long the_rest(uintptr_t old, size_t len, int flags, uintptr_t to)
{
	int maps = maps_open();
	struct procmap_query q;
	long r = 1;

	if (maps >= 0 && !maps_find(maps, old, false, &q) && maps_find(maps, to, false, &q)) {
		r = move_each(maps, old, old + len, flags, to);
		r = failed(r) ? r : (long)to;
	}
	maps_close(maps);
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
	long r = RAWCALL(
		SYS_mremap, old, old_len, old_len, MREMAP_MAYMOVE | MREMAP_FIXED, at, 0);
	if (failed(r)) {
		RAWCALL(SYS_munmap, at, new_len, 0, 0, 0, 0);
		return r;
	}
	RAWCALL(SYS_munmap, (uintptr_t)at + old_len, new_len - old_len, 0, 0, 0, 0);
	r = RAWCALL(SYS_mremap, at, old_len, new_len, 0, 0, 0);
	/* Beyond a limit. What lay in the target is gone, as when the kernel finds it late. */
	if (failed(r))
		RAWCALL(SYS_mremap, at, old_len, old_len, MREMAP_MAYMOVE | MREMAP_FIXED, old,
			0);
	return r;
}

/* Of what the kernel takes, as far as it isn't told before anything is moved. */
static bool may_grow_locked(
	uintptr_t old, size_t old_len, size_t new_len, int flags, uintptr_t to)
{
	if (!atomic_load(&shim_locked_unlinked) || old_len == 0 || new_len <= old_len ||
		old % LINK_PAGE || flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED))
		return false;
	return !(flags & MREMAP_FIXED) || (flags & MREMAP_MAYMOVE && to % LINK_PAGE == 0 &&
						  (to >= old + old_len || old >= to + new_len));
}

static long move_or_grow(uintptr_t old, size_t old_len, size_t new_len, int flags, uintptr_t to)
{
	/* What is moved and stays registered where it was can't be told from what wasn't moved,
	 * in a child that another thread forks just then: so it is unregistered before. */
	long r = shim_page && old_len > 0 && flags & MREMAP_DONTUNMAP ? -EFAULT : 1;

	bool several =
		r == 1 && shim_page && may_move_several(old, old_len, new_len, flags, to);

	if (several)
		r = by_mapping(old, whole_pages(old_len), flags, to, &several);
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
	shim_touch_in_child((const void *)old, old_len, false);
	r = several ? the_rest(old, whole_pages(old_len), flags, to) : 1;
	if (r == 1)
		r = RAWCALL(SYS_mremap, old, old_len, new_len, flags, to, 0);
	shim_end(&call);
	if (r == -EFAULT && could_be_one(old, whole_pages(old_len)))
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
