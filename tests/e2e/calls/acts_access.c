/* mprotect, and the calls that lock memory. */
#include "calls.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	RW = PROT_READ | PROT_WRITE,
	PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS,
	MOVE = MREMAP_MAYMOVE | MREMAP_FIXED,
	FAR = 4096,
};

/* ---- mprotect ---- */

static void none_and_back(struct test *t)
{
	do_mprotect(t, t->base + 70 * PAGE, 101 * PAGE, PROT_NONE);
	record(t, "meanwhile");
	do_mprotect(t, t->base + 70 * PAGE, 101 * PAGE, RW);
}

static void none_whole(struct test *t)
{
	do_mprotect(t, t->base, PAGES * PAGE, PROT_NONE);
	evict_again(t);
	record(t, "meanwhile");
	do_mprotect(t, t->base, PAGES * PAGE, RW);
}

static void none_stays(struct test *t)
{
	do_mprotect(t, t->base + 70 * PAGE, 101 * PAGE, PROT_NONE);
}

static void read_only(struct test *t)
{
	do_mprotect(t, t->base + 70 * PAGE, 101 * PAGE, PROT_READ);
}

static void read_only_and_back(struct test *t)
{
	do_mprotect(t, t->base, PAGES * PAGE, PROT_READ);
	record(t, "meanwhile");
	renew(t); /* can't */
	do_mprotect(t, t->base, PAGES * PAGE, RW);
}

static void read_only_and_moved(struct test *t)
{
	do_mprotect(t, t->base, PAGES * PAGE, PROT_READ);
	do_mremap(t, t->base, PAGES * PAGE, PAGES * PAGE, MOVE, arena_page(FAR + 7));
	watch(t, arena_page(FAR + 7), PAGES);
	do_mprotect(t, arena_page(FAR + 7) + 5 * PAGE, 101 * PAGE, RW);
}

static void every_other(struct test *t)
{
	for (size_t i = 0; i < PAGES; i += 32)
		do_mprotect(t, t->base + i * PAGE, 16 * PAGE, PROT_READ);
	evict_again(t);
	for (size_t i = 0; i < PAGES; i += 32)
		do_mprotect(t, t->base + i * PAGE, 16 * PAGE, i % 64 ? RW : PROT_NONE);
}

static void discarded_unseen(struct test *t)
{
	do_mprotect(t, t->base, PAGES * PAGE, PROT_NONE);
	do_madvise(t, t->base + 50 * PAGE, 100 * PAGE, MADV_DONTNEED);
	do_mprotect(t, t->base, PAGES * PAGE, RW);
	absent(t, t->base + 50 * PAGE, 100);
}

static void executable(struct test *t)
{
	do_mprotect(t, t->base + 70 * PAGE, 101 * PAGE, RW | PROT_EXEC);
	evict_again(t);
	record(t, "meanwhile");
	do_mprotect(t, t->base + 70 * PAGE, 101 * PAGE, RW);
}

static void over_a_hole(struct test *t)
{
	munmap(t->base + 100 * PAGE, 10 * PAGE);
	do_mprotect(t, t->base, PAGES * PAGE, PROT_READ);
}

static void protect_refused(struct test *t)
{
	do_mprotect(t, t->base + 1, PAGES * PAGE, PROT_READ);
	do_mprotect(t, t->base, 0, PROT_READ);
	do_mprotect(t, t->base, PAGES * PAGE, 1 << 20);
}

/* ---- locks ---- */

static void lock_whole(struct test *t)
{
	do_mlock(t, t->base, PAGES * PAGE);
	absent(t, t->base, PAGES);
}

static void lock_part(struct test *t)
{
	do_mlock(t, t->base + 70 * PAGE + 11, 100 * PAGE);
	absent(t, t->base + 70 * PAGE, 101);
	evict_again(t);
	absent(t, t->base + 70 * PAGE, 101);
}

static void lock_and_unlock(struct test *t)
{
	lock_part(t);
	do_munlock(t, t->base, PAGES * PAGE);
}

static void lock_discarded(struct test *t)
{
	do_mlock(t, t->base + 70 * PAGE, 101 * PAGE);
	do_madvise(t, t->base + 70 * PAGE, 20 * PAGE, MADV_DONTNEED);
	do_madvise(t, t->base + 100 * PAGE, 20 * PAGE, 24 /* MADV_DONTNEED_LOCKED */);
	do_madvise(t, t->base + 60 * PAGE, 20 * PAGE, MADV_FREE);
	mark_freed(t, t->base + 60 * PAGE, 10);
	do_madvise(t, t->base + 100 * PAGE, 5 * PAGE, MADV_PAGEOUT);
	absent(t, t->base + 100 * PAGE, 20);
}

static int lock2(struct test *t, char *at, size_t len, unsigned flags)
{
	return (int)say_call(t, "mlock2",
		t->via == VIA_RAW ? (int)syscall(SYS_mlock2, at, len, flags)
				  : mlock2(at, len, flags));
}

static void lock_on_fault(struct test *t)
{
	lock2(t, t->base + 70 * PAGE, 101 * PAGE, MLOCK_ONFAULT);
	evict_again(t);
}

static void lock2_whole(struct test *t)
{
	lock2(t, t->base, PAGES * PAGE, 0);
	absent(t, t->base, PAGES);
	lock2(t, t->base, PAGES * PAGE, 77);
}

static void lock_unmapped(struct test *t)
{
	munmap(t->base + 100 * PAGE, 10 * PAGE);
	do_mlock(t, t->base, PAGES * PAGE);
	do_mlock(t, t->base, 0);
	do_mlock(t, t->base, ~(size_t)0);
}

static void lock_moved(struct test *t)
{
	do_mlock(t, t->base + 70 * PAGE, 101 * PAGE);
	do_mremap(t, t->base + 80 * PAGE, 60 * PAGE, 60 * PAGE, MOVE, arena_page(FAR));
	watch(t, arena_page(FAR), 60);
	absent(t, arena_page(FAR), 60);
	do_munmap(t, t->base + 75 * PAGE, 3 * PAGE);
}

static int lock_all(struct test *t, int flags)
{
	return (int)say_call(t, "mlockall",
		t->via == VIA_RAW ? (int)syscall(SYS_mlockall, flags) : mlockall(flags));
}

static void lock_current(struct test *t)
{
	lock_all(t, MCL_CURRENT);
	absent(t, t->base, PAGES);
	evict_again(t);
	absent(t, t->base, PAGES);
}

static void lock_current_and_unlock(struct test *t)
{
	lock_current(t);
	munlockall();
}

static void lock_future(struct test *t)
{
	lock_all(t, MCL_FUTURE);
	do_mmap(t, t->base + 70 * PAGE, 101 * PAGE, RW, PRIVATE | MAP_FIXED, -1);
	absent(t, t->base + 70 * PAGE, 101);
	do_mremap(t, t->base, 70 * PAGE, 70 * PAGE, MOVE, arena_page(FAR));
	watch(t, arena_page(FAR), 70);
	evict_again(t);
	absent(t, t->base + 70 * PAGE, 101);
}

static void lock_future_on_fault(struct test *t)
{
	lock_all(t, MCL_FUTURE | MCL_ONFAULT);
	do_mmap(t, t->base + 70 * PAGE, 101 * PAGE, RW, PRIVATE | MAP_FIXED, -1);
	absent(t, t->base + 70 * PAGE, 101);
	lock_all(t, MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
	evict_again(t);
}

static void lock_refused(struct test *t)
{
	lock_all(t, 0);
	lock_all(t, 64);
	lock_all(t, MCL_ONFAULT);
}

static const struct act acts[] = {
	{"mprotect-none", "no access to a part, and back", NULL, none_and_back, NULL, ACT_RAW,
		0, 0},
	{"mprotect-none-whole", "no access, evicted, and back", NULL, none_whole, NULL, ACT_RAW,
		0, 0},
	{"mprotect-none-stays", "no access to a part", NULL, none_stays, NULL, ACT_RAW, 0, 0},
	{"mprotect-read", "reading only, in a part", NULL, read_only, NULL, ACT_RAW, 0, 0},
	{"mprotect-read-back", "reading only, and back", NULL, read_only_and_back, NULL,
		ACT_RAW, 0, 0},
	{"mprotect-read-moved", "reading only, moved, a part opened", NULL, read_only_and_moved,
		NULL, ACT_RAW, 0, 0},
	{"mprotect-many", "in sixteen parts, evicted in between", NULL, every_other, NULL,
		ACT_RAW, 0, 0},
	{"mprotect-discarded", "no access, discarded meanwhile", NULL, discarded_unseen, NULL,
		ACT_RAW, 0, 0},
	{"mprotect-exec", "executable and back", NULL, executable, NULL, ACT_RAW, 0, 0},
	{"mprotect-hole", "as far as the hole", NULL, over_a_hole, NULL, ACT_RAW, 0, 0},
	{"mprotect-refused", "unaligned, empty, unknown", NULL, protect_refused, NULL,
		ACT_RAW | ACT_ONCE, 0, 0},
	{"mlock", "all of it", NULL, lock_whole, NULL, 0, 0, 0},
	{"mlock-part", "a part, not aligned", NULL, lock_part, NULL, 0, 0, 0},
	{"mlock-unlock", "a part, and unlocked", NULL, lock_and_unlock, NULL, 0, 0, 0},
	{"mlock-discard", "locked, and what may be discarded of it", NULL, lock_discarded, NULL,
		0, 0, 0},
	{"mlock2-onfault", "what is touched", NULL, lock_on_fault, NULL, 0, 0, 0},
	{"mlock2", "as mlock, and refused", NULL, lock2_whole, NULL, 0, 0, 0},
	{"mlock-hole", "with a hole, empty, too long", NULL, lock_unmapped, NULL, 0, 0, 0},
	{"mlock-moved", "locked, moved, unmapped", NULL, lock_moved, NULL, 0, 0, 0},
	{"mlockall", "what there is", NULL, lock_current, NULL, 0, 0, 0},
	{"mlockall-unlock", "and unlocked", NULL, lock_current_and_unlock, NULL, 0, 0, 0},
	{"mlockall-future", "what there will be", NULL, lock_future, NULL, 0, 0, 0},
	{"mlockall-onfault", "what will be touched", NULL, lock_future_on_fault, NULL, 0, 0, 0},
	{"mlockall-refused", "nonsense", NULL, lock_refused, NULL, ACT_RAW | ACT_ONCE, 0, 0},
};

struct acts acts_access(void)
{
	return (struct acts){acts, sizeof(acts) / sizeof(acts[0])};
}
