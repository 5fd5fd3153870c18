/* Huge pages: moved whole or not at all. */
#include "calls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum {
	RW = PROT_READ | PROT_WRITE,
	PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS,
	MOVE = MREMAP_MAYMOVE | MREMAP_FIXED,
	HUGES = 2,
	AT = 3 * HUGE_PAGES, /* arena page */
	FAR = 4096 + HUGE_PAGES,
	BYTES = HUGES * HUGE_PAGES * PAGE,
};

/* Memory in huge pages in [at, at + len), by smaps. */
static size_t huge_bytes(const char *at, size_t len)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long start, end, kb;
	size_t sum = 0;
	bool inside = false;
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start >= (uintptr_t)at && end <= (uintptr_t)at + len;
		else if (inside && sscanf(line, "AnonHugePages: %lu", &kb) == 1)
			sum += kb << 10;
	}
	if (f)
		fclose(f);
	return sum;
}

static void prepare(struct test *t)
{
	char *p = mmap(arena_page(AT), BYTES, RW, PRIVATE | MAP_FIXED, -1, 0);

	if (p == MAP_FAILED)
		abort();
	if (madvise(p, BYTES, MADV_HUGEPAGE) < 0) {
		skip(t, "no transparent huge pages in this kernel");
		return;
	}
	for (size_t i = 0; i < HUGES * HUGE_PAGES; i++)
		write_page(t, p + i * PAGE, (uint32_t)i);
	/* Memory may be too broken up for a fault to get some: the kernel tries harder here. */
	madvise(p, BYTES, MADV_COLLAPSE);
	watch(t, p, HUGES * HUGE_PAGES);
	if (huge_bytes(p, BYTES) != BYTES)
		skip(t, "no transparent huge pages to be had");
}

static void as_it_is(struct test *t)
{
	absent(t, arena_page(0), 1);
}

/* What the kernel has split since it began, on the whole machine. */
static unsigned long splits(void)
{
	FILE *f = fopen("/proc/vmstat", "re");
	unsigned long count = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "thp_split_page %lu", &count) == 1)
			break;
	if (f)
		fclose(f);
	return count;
}

/* Others on the machine have theirs split too, but not each time that ours are taken. */
static void never_split(struct test *t)
{
	char *at = arena_page(AT);
	bool ever_whole = !managed();

	for (int i = 0; i < 10 && !ever_whole; i++) {
		if (madvise(at, BYTES, MADV_COLLAPSE) < 0 || huge_bytes(at, BYTES) != BYTES)
			continue;
		unsigned long before = splits();
		evict_again(t);
		ever_whole = wrongly_here(t) == 0 && splits() == before;
	}
	say(t, ever_whole ? "taken whole" : "WRONG: taken in pieces");
}

static void discard_part(struct test *t)
{
	do_madvise(t, arena_page(AT + 100), 700 * PAGE, MADV_DONTNEED);
	absent(t, arena_page(AT + 100), 700);
}

static void collapse(struct test *t)
{
	do_madvise(t, arena_page(AT), BYTES, MADV_COLLAPSE);
	say(t, "%zu bytes are huge", huge_bytes(arena_page(AT), BYTES));
}

static void collapse_discarded(struct test *t)
{
	do_madvise(t, arena_page(AT + 100), 100 * PAGE, MADV_DONTNEED);
	collapse(t);
}

static void move_whole(struct test *t)
{
	do_mremap(t, arena_page(AT), BYTES, BYTES, MOVE, arena_page(FAR));
	watch(t, arena_page(FAR), HUGES * HUGE_PAGES);
}

static void move_askew(struct test *t)
{
	do_mremap(t, arena_page(AT), BYTES, BYTES, MOVE, arena_page(FAR + 5));
	watch(t, arena_page(FAR + 5), HUGES * HUGE_PAGES);
}

static void unmap_part(struct test *t)
{
	do_munmap(t, arena_page(AT + 300), 400 * PAGE);
}

static void no_huge(struct test *t)
{
	do_madvise(t, arena_page(AT), BYTES, MADV_NOHUGEPAGE);
	evict_again(t);
	do_madvise(t, arena_page(AT), BYTES, MADV_HUGEPAGE);
	do_madvise(t, arena_page(AT), HUGE_PAGES * PAGE, MADV_DONTNEED);
	absent(t, arena_page(AT), HUGE_PAGES);
}

static void protect_part(struct test *t)
{
	do_mprotect(t, arena_page(AT + 200), 500 * PAGE, PROT_READ);
	evict_again(t);
	do_mprotect(t, arena_page(AT + 200), 500 * PAGE, RW);
}

static const struct act acts[] = {
	{"huge", "out and back", prepare, as_it_is, NULL, 0, 0, 0},
	{"huge-whole", "none is split", prepare, never_split, NULL, ACT_NO_CHILD | ACT_ONCE, 0,
		0},
	{"huge-discard", "parts of two", prepare, discard_part, NULL, ACT_RAW, 0, 0},
	{"huge-collapse", "made huge again", prepare, collapse, NULL, 0, 0, 0},
	{"huge-collapse-discard", "made huge again, holes and all", prepare, collapse_discarded,
		NULL, 0, 0, 0},
	{"huge-move", "to an aligned place", prepare, move_whole, NULL, ACT_RAW, 0, 0},
	{"huge-move-askew", "to another", prepare, move_askew, NULL, ACT_RAW, 0, 0},
	{"huge-unmap", "parts of two", prepare, unmap_part, NULL, ACT_RAW, 0, 0},
	{"huge-none", "no huge pages any more, then again", prepare, no_huge, NULL, ACT_RAW, 0,
		0},
	{"huge-protect", "parts of two", prepare, protect_part, NULL, ACT_RAW, 0, 0},
};

struct acts acts_huge(void)
{
	return (struct acts){acts, sizeof(acts) / sizeof(acts[0])};
}
