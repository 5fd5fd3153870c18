/* mmap, munmap and brk. */
#include "calls.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RW = PROT_READ | PROT_WRITE, PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS };

/* ---- munmap ---- */

/* Three mappings with holes between them. */
static void three_apart(struct test *t)
{
	map_new(t, t->base, PAGES);
	map_new(t, t->base + (PAGES + 10) * PAGE, PAGES);
	map_new(t, t->base + (2 * PAGES + 30) * PAGE, PAGES);
}

static void munmap_whole(struct test *t)
{
	do_munmap(t, t->base, PAGES * PAGE);
}

static void munmap_head(struct test *t)
{
	do_munmap(t, t->base, 100 * PAGE);
}

static void munmap_middle(struct test *t)
{
	do_munmap(t, t->base + 70 * PAGE, 101 * PAGE);
}

static void munmap_tail(struct test *t)
{
	do_munmap(t, t->base + 150 * PAGE, 106 * PAGE);
}

static void munmap_odd_length(struct test *t)
{
	do_munmap(t, t->base + 70 * PAGE, 10 * PAGE + 1);
}

static void munmap_spanning(struct test *t)
{
	do_munmap(t, t->base + 100 * PAGE, (2 * PAGES + 30) * PAGE);
}

static void munmap_unaligned(struct test *t)
{
	do_munmap(t, t->base + 1, PAGES * PAGE);
}

static void munmap_nothing(struct test *t)
{
	do_munmap(t, t->base, 0);
	do_munmap(t, arena_page(ARENA_PAGES - 1), PAGE);
	do_munmap(t, arena_page(ARENA_PAGES - 1), PAGE);
}

static void munmap_and_again(struct test *t)
{
	do_munmap(t, t->base + 50 * PAGE, 150 * PAGE);
	do_mmap(t, t->base + 50 * PAGE, 150 * PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1);
	write_page(t, t->base + 60 * PAGE, 7000);
}

/* Another thread maps there as soon as it can, which is before munmap(2) returns where the
 * kernel waits for us to hear of it. */
struct reuse {
	struct test *t;
	atomic_bool go;
};

static void *map_when_free(void *arg)
{
	struct reuse *r = arg;
	char *at = r->t->base + 50 * PAGE, *p;

	do
		p = mmap(at, 100 * PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0);
	while (p == MAP_FAILED && errno == EEXIST);
	if (p != at)
		abort();
	for (size_t i = 0; i < 100; i += 2)
		write_page(r->t, at + i * PAGE, (uint32_t)(7000 + i));
	return NULL;
}

static void munmap_raced(struct test *t)
{
	struct reuse r = {.t = t};
	pthread_t thread;

	if (pthread_create(&thread, NULL, map_when_free, &r) != 0)
		abort();
	do_munmap(t, t->base + 50 * PAGE, 100 * PAGE);
	pthread_join(thread, NULL);
}

/* ---- mmap ---- */

static void mmap_over_whole(struct test *t)
{
	do_mmap(t, t->base, PAGES * PAGE, RW, PRIVATE | MAP_FIXED, -1);
}

static void mmap_over_middle(struct test *t)
{
	do_mmap(t, t->base + 70 * PAGE, 101 * PAGE, RW, PRIVATE | MAP_FIXED, -1);
	write_page(t, t->base + 80 * PAGE, 7000);
}

static void mmap_over_spanning(struct test *t)
{
	do_mmap(t, t->base + 100 * PAGE, (2 * PAGES + 30) * PAGE, RW, PRIVATE | MAP_FIXED, -1);
	write_page(t, t->base + 300 * PAGE, 7000);
}

static void mmap_populated(struct test *t)
{
	do_mmap(t, t->base + 70 * PAGE, 101 * PAGE, RW, PRIVATE | MAP_FIXED | MAP_POPULATE, -1);
	absent(t, t->base + 70 * PAGE, 101);
}

static void mmap_locked(struct test *t)
{
	do_mmap(t, t->base + 70 * PAGE, 101 * PAGE, RW, PRIVATE | MAP_FIXED | MAP_LOCKED, -1);
	absent(t, t->base + 70 * PAGE, 101);
}

static void mmap_none_over(struct test *t)
{
	do_mmap(t, t->base + 70 * PAGE, 101 * PAGE, PROT_NONE, PRIVATE | MAP_FIXED, -1);
	do_mprotect(t, t->base + 70 * PAGE, 101 * PAGE, RW);
}

static void mmap_file_over(struct test *t, int flags)
{
	static uint64_t page[PAGE / 8];
	int fd = memfd_create("calls", MFD_CLOEXEC);

	write_page(t, (char *)page, 7000);
	for (int i = 0; i < 101; i++)
		if (write(fd, page, PAGE) != PAGE)
			abort();
	do_mmap(t, t->base + 70 * PAGE, 101 * PAGE, RW, flags | MAP_FIXED, fd);
	close(fd);
}

static void mmap_private_file_over(struct test *t)
{
	mmap_file_over(t, MAP_PRIVATE);
}

static void mmap_shared_file_over(struct test *t)
{
	mmap_file_over(t, MAP_SHARED);
}

static void mmap_shared_over(struct test *t)
{
	do_mmap(t, t->base + 70 * PAGE, 101 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED,
		-1);
}

static void mmap_not_over(struct test *t)
{
	do_mmap(t, t->base, PAGES * PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1);
	do_mmap(t, t->base + 1, PAGES * PAGE, RW, PRIVATE | MAP_FIXED, -1);
	do_mmap(t, t->base, 0, RW, PRIVATE | MAP_FIXED, -1);
}

static void mmap_beside(struct test *t)
{
	do_mmap(t, t->base + PAGES * PAGE, PAGES * PAGE, RW, PRIVATE | MAP_FIXED, -1);
	watch(t, t->base + PAGES * PAGE, PAGES);
	write_page(t, t->base + (PAGES + 5) * PAGE, 7000);
}

static void mmap_over_and_over(struct test *t)
{
	for (int i = 0; i < 5; i++) {
		char *at = t->base + (40 + i * 30) * PAGE;
		do_mmap(t, at, 60 * PAGE, RW, PRIVATE | MAP_FIXED, -1);
		write_page(t, at + PAGE, (uint32_t)(7000 + i));
		do_munmap(t, at + 10 * PAGE, 5 * PAGE);
		evict_again(t);
	}
}

/* ---- brk ---- */

static char *heap_end, *heap; /* as it was, and the page at which ours begins */

static long do_brk(struct test *t, char *to)
{
	long r = t->via == VIA_RAW
			 ? (syscall(SYS_brk, to) == (long)to ? 0 : (errno = ENOMEM, -1))
			 : brk(to);
	return say_call(t, "brk", r);
}

static void heap_prepare(struct test *t)
{
	heap_end = sbrk(0);
	heap = (char *)(((uintptr_t)heap_end + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
	if (brk(heap + PAGES * PAGE) < 0)
		abort();
	for (size_t i = 0; i < PAGES; i++)
		write_page(t, heap + i * PAGE, (uint32_t)i);
	watch(t, heap, PAGES);
}

static void heap_tidy(struct test *t)
{
	unwatch_all(t);
	if (brk(heap_end) < 0)
		abort();
}

static void brk_down(struct test *t)
{
	do_brk(t, heap + 100 * PAGE);
}

static void brk_down_unaligned(struct test *t)
{
	do_brk(t, heap + 100 * PAGE + 17);
}

static void brk_up(struct test *t)
{
	do_brk(t, heap + 2 * PAGES * PAGE);
	watch(t, heap + PAGES * PAGE, PAGES);
	write_page(t, heap + (PAGES + 7) * PAGE, 7000);
}

static void brk_down_and_up(struct test *t)
{
	do_brk(t, heap + 100 * PAGE);
	do_brk(t, heap + PAGES * PAGE);
	write_page(t, heap + 120 * PAGE, 7000);
}

static void brk_to_and_fro(struct test *t)
{
	for (int i = 0; i < 6; i++) {
		do_brk(t, heap + (size_t)(PAGES - 20 - i * 30) * PAGE);
		do_brk(t, heap + (size_t)(PAGES - i * 10) * PAGE);
		evict_again(t);
	}
}

static void brk_whole(struct test *t)
{
	do_brk(t, heap);
	do_brk(t, heap + PAGES * PAGE);
}

static void heap_unmapped(struct test *t)
{
	do_munmap(t, heap + 100 * PAGE, 20 * PAGE);
	do_mmap(t, heap + 100 * PAGE, 20 * PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1);
	do_brk(t, heap + 150 * PAGE);
}

static void heap_moved(struct test *t)
{
	char *to = arena_page(4096);

	do_mremap(
		t, heap + 20 * PAGE, 100 * PAGE, 100 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	watch(t, to, 100);
	do_brk(t, heap + (PAGES - 20) * PAGE);
}

static void heap_grown(struct test *t)
{
	do_brk(t, heap + (PAGES + 64) * PAGE);
	write_page(t, heap + (PAGES + 2) * PAGE, 7000);
	char *p = do_mremap(t, heap + 10 * PAGE, (PAGES + 54) * PAGE, 500 * PAGE,
		MREMAP_MAYMOVE | MREMAP_FIXED, arena_page(4096));
	if (p != MAP_FAILED)
		watch(t, p, 500);
}

static const struct act acts[] = {
	{"munmap-whole", "a mapping", NULL, munmap_whole, NULL, ACT_RAW, 0, 0},
	{"munmap-head", "the first part", NULL, munmap_head, NULL, ACT_RAW, 0, 0},
	{"munmap-middle", "a hole", NULL, munmap_middle, NULL, ACT_RAW, 0, 0},
	{"munmap-tail", "the last part", NULL, munmap_tail, NULL, ACT_RAW, 0, 0},
	{"munmap-odd", "a length that isn't of pages", NULL, munmap_odd_length, NULL, ACT_RAW,
		0, 0},
	{"munmap-spanning", "parts of three mappings and the holes between", three_apart,
		munmap_spanning, NULL, ACT_RAW, 0, 0},
	{"munmap-unaligned", "EINVAL", NULL, munmap_unaligned, NULL, ACT_RAW | ACT_ONCE, 0, 0},
	{"munmap-nothing", "no length, and nothing there", NULL, munmap_nothing, NULL,
		ACT_RAW | ACT_ONCE, 0, 0},
	{"munmap-reuse", "and mapped again", NULL, munmap_and_again, NULL, ACT_RAW, 0, 0},
	{"munmap-raced", "and mapped again by another thread, at once", NULL, munmap_raced,
		NULL, ACT_RAW, 0, 0},
	{"mmap-over", "over a whole mapping", NULL, mmap_over_whole, NULL, ACT_RAW, 0, 0},
	{"mmap-over-part", "over a part", NULL, mmap_over_middle, NULL, ACT_RAW, 0, 0},
	{"mmap-over-spanning", "over parts of three", three_apart, mmap_over_spanning, NULL,
		ACT_RAW, 0, 0},
	{"mmap-populated", "over a part, filled", NULL, mmap_populated, NULL, ACT_RAW, 0, 0},
	{"mmap-locked", "over a part, locked", NULL, mmap_locked, NULL, ACT_RAW, 0, 0},
	{"mmap-none", "over a part, opened later", NULL, mmap_none_over, NULL, ACT_RAW, 0, 0},
	{"mmap-file", "a private file over a part", NULL, mmap_private_file_over, NULL, ACT_RAW,
		0, 0},
	{"mmap-shared-file", "a shared file over a part", NULL, mmap_shared_file_over, NULL,
		ACT_RAW, 0, 0},
	{"mmap-shared", "shared memory over a part", NULL, mmap_shared_over, NULL, ACT_RAW, 0,
		0},
	{"mmap-refused", "not over what is there, unaligned, empty", NULL, mmap_not_over, NULL,
		ACT_RAW | ACT_ONCE, 0, 0},
	{"mmap-beside", "next to it, so that they merge", NULL, mmap_beside, NULL, ACT_RAW, 0,
		0},
	{"mmap-many", "over parts and holes, evicted in between", NULL, mmap_over_and_over,
		NULL, ACT_RAW, 0, 0},
	{"brk-down", "the heap shrinks", heap_prepare, brk_down, heap_tidy, ACT_RAW, 0, 0},
	{"brk-down-odd", "into a page", heap_prepare, brk_down_unaligned, heap_tidy, ACT_RAW, 0,
		0},
	{"brk-up", "it grows", heap_prepare, brk_up, heap_tidy, ACT_RAW, 0, 0},
	{"brk-down-up", "what comes again is zeros", heap_prepare, brk_down_and_up, heap_tidy,
		ACT_RAW, 0, 0},
	{"brk-many", "down and up, evicted in between", heap_prepare, brk_to_and_fro, heap_tidy,
		ACT_RAW, 0, 0},
	{"brk-whole", "all of it, and again", heap_prepare, brk_whole, heap_tidy, ACT_RAW, 0,
		0},
	{"brk-hole", "a hole in it, mapped again, and down into that", heap_prepare,
		heap_unmapped, heap_tidy, ACT_RAW, 0, 0},
	{"brk-moved", "a part moved away", heap_prepare, heap_moved, heap_tidy, ACT_RAW, 0, 0},
	{"brk-grown", "grown, then moved over what it was and what it grew", heap_prepare,
		heap_grown, heap_tidy, 0, 0, 0},
};

struct acts acts_map(void)
{
	return (struct acts){acts, sizeof(acts) / sizeof(acts[0])};
}
