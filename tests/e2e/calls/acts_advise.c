/* madvise, and process_madvise on itself: every advice, on every kind of range. */
#include "calls.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif

enum { RW = PROT_READ | PROT_WRITE, PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS };

/* Advice whose raw call the kernel reports nothing of, and README's limits name. */
static bool watched_by_libc(int advice)
{
	return advice == MADV_GUARD_INSTALL || advice == MADV_WIPEONFORK ||
	       advice == MADV_DONTFORK || advice == MADV_COLLAPSE;
}

static const struct {
	const char *name;
	int advice;
} advices[] = {
	{"normal", MADV_NORMAL},
	{"random", MADV_RANDOM},
	{"sequential", MADV_SEQUENTIAL},
	{"willneed", MADV_WILLNEED},
	{"dontneed", MADV_DONTNEED},
	{"dontneed-locked", MADV_DONTNEED_LOCKED},
	{"free", MADV_FREE},
	{"remove", MADV_REMOVE},
	{"dontfork", MADV_DONTFORK},
	{"dofork", MADV_DOFORK},
	{"mergeable", MADV_MERGEABLE},
	{"unmergeable", MADV_UNMERGEABLE},
	{"hugepage", MADV_HUGEPAGE},
	{"nohugepage", MADV_NOHUGEPAGE},
	{"dontdump", MADV_DONTDUMP},
	{"dodump", MADV_DODUMP},
	{"wipeonfork", MADV_WIPEONFORK},
	{"keeponfork", MADV_KEEPONFORK},
	{"cold", MADV_COLD},
	{"pageout", MADV_PAGEOUT},
	{"populate-read", MADV_POPULATE_READ},
	{"populate-write", MADV_POPULATE_WRITE},
	{"collapse", MADV_COLLAPSE},
	{"guard", MADV_GUARD_INSTALL},
	{"unguard", MADV_GUARD_REMOVE},
	{"unknown", 999},
};
enum { ADVICES = sizeof(advices) / sizeof(advices[0]) };

/* ---- ranges ---- */

static void two_and_a_hole(struct test *t)
{
	map_new(t, t->base, PAGES);
	map_new(t, t->base + (PAGES + 10) * PAGE, PAGES);
	munmap(t->base + PAGES * PAGE, 10 * PAGE);
}

static void advise(struct test *t, char *at, size_t len)
{
	int advice = t->act->number;

	if (do_madvise(t, at, len, advice) < 0 && errno != ENOMEM)
		return;
	if (advice == MADV_FREE)
		mark_freed(t, at, (len + PAGE - 1) / PAGE);
	/* What all that was discarded must be. */
	if (advice == MADV_DONTNEED || advice == MADV_DONTNEED_LOCKED)
		absent(t, t->base + 80 * PAGE, 40);
}

static void whole(struct test *t)
{
	advise(t, t->base, PAGES * PAGE);
}

static void part(struct test *t)
{
	advise(t, t->base + 70 * PAGE, 101 * PAGE);
}

static void odd_length(struct test *t)
{
	advise(t, t->base + 70 * PAGE, 100 * PAGE + 5);
}

/* ENOMEM, done all the same. */
static void over_the_hole(struct test *t)
{
	advise(t, t->base + 20 * PAGE, (PAGES + 60) * PAGE);
}

static void unaligned(struct test *t)
{
	advise(t, t->base + 16, PAGES * PAGE);
}

static void empty(struct test *t)
{
	do_madvise(t, t->base, 0, t->act->number);
	do_madvise(t, t->base, ~(size_t)0, t->act->number);
	do_madvise(t, arena_page(ARENA_PAGES), PAGE, t->act->number);
}

/* Of two parts, by process_madvise. */
static void vector(struct test *t)
{
	struct iovec iov[] = {
		{t->base + 10 * PAGE, 50 * PAGE}, {t->base + 90 * PAGE, 130 * PAGE}};
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	long r = t->via == VIA_RAW
			 ? syscall(SYS_process_madvise, self, iov, 2, t->act->number, 0)
			 : process_madvise(self, iov, 2, t->act->number, 0);

	say(t, "process_madvise: %ld %s", r, r < 0 ? strerrorname_np(errno) : "bytes");
	close(self);
	if (r > 0 && t->act->number == MADV_FREE) {
		mark_freed(t, iov[0].iov_base, 50);
		mark_freed(t, iov[1].iov_base, 130);
	}
}

static void vector_refused(struct test *t)
{
	struct iovec iov[] = {{t->base, 50 * PAGE}, {t->base + 1, PAGE}};
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);

	say_call(t, "no such process", process_madvise(-1, iov, 1, t->act->number, 0));
	say_call(t, "no such flag", process_madvise(self, iov, 1, t->act->number, 1));
	say_call(t, "bad vector",
		process_madvise(self, (void *)arena_page(0), 2, t->act->number, 0));
	say_call(t, "too long", process_madvise(self, iov, 5000, t->act->number, 0));
	say_call(t, "empty", process_madvise(self, iov, 0, t->act->number, 0));
	say_call(t, "unaligned", process_madvise(self, iov + 1, 1, t->act->number, 0));
	close(self);
}

static const struct {
	const char *name, *about;
	void (*prepare)(struct test *t);
	void (*act)(struct test *t);
	unsigned flags;
} ranges[] = {
	{"whole", "on a mapping", NULL, whole, 0},
	{"part", "on a part", NULL, part, 0},
	{"odd", "with a length that isn't of pages", NULL, odd_length, ACT_ONCE},
	{"hole", "on two mappings and the hole between", two_and_a_hole, over_the_hole, 0},
	{"unaligned", "from within a page", NULL, unaligned, ACT_ONCE},
	{"empty", "on nothing, on everything, on nobody's", NULL, empty, ACT_ONCE},
	{"vector", "by process_madvise", NULL, vector, 0},
	{"vector-refused", "by process_madvise, wrongly", NULL, vector_refused, ACT_ONCE},
};
enum { RANGES = sizeof(ranges) / sizeof(ranges[0]) };

/* ---- sequences ---- */

static void discard_and_write(struct test *t)
{
	do_madvise(t, t->base, PAGES * PAGE, MADV_DONTNEED);
	for (size_t i = 0; i < PAGES; i += 5)
		write_page(t, t->base + i * PAGE, (uint32_t)(7000 + i));
	evict_again(t);
	do_madvise(t, t->base + 50 * PAGE, 100 * PAGE, MADV_DONTNEED);
	absent(t, t->base + 50 * PAGE, 100);
}

static void free_and_write(struct test *t)
{
	do_madvise(t, t->base, PAGES * PAGE, MADV_FREE);
	mark_freed(t, t->base, PAGES);
	renew(t);
	evict_again(t);
	do_madvise(t, t->base, 50 * PAGE, MADV_DONTNEED);
}

static void free_and_discard(struct test *t)
{
	do_madvise(t, t->base, PAGES * PAGE, MADV_FREE);
	do_madvise(t, t->base, PAGES * PAGE, MADV_DONTNEED);
	absent(t, t->base, PAGES);
}

static void guard_and_unguard(struct test *t)
{
	do_madvise(t, t->base + 70 * PAGE, 101 * PAGE, MADV_GUARD_INSTALL);
	absent(t, t->base + 70 * PAGE, 101);
	evict_again(t);
	record(t, "meanwhile");
	do_madvise(t, t->base + 80 * PAGE, 70 * PAGE, MADV_GUARD_REMOVE);
}

static void guard_and_discard(struct test *t)
{
	do_madvise(t, t->base + 70 * PAGE, 101 * PAGE, MADV_GUARD_INSTALL);
	do_madvise(t, t->base, PAGES * PAGE, MADV_DONTNEED);
	evict_again(t);
	record(t, "meanwhile");
	do_mremap(t, t->base, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		arena_page(4096));
	watch(t, arena_page(4096), PAGES);
}

static void wipe_and_keep(struct test *t)
{
	do_madvise(t, t->base, PAGES * PAGE, MADV_WIPEONFORK);
	evict_again(t);
	do_madvise(t, t->base + 100 * PAGE, 100 * PAGE, MADV_KEEPONFORK);
}

static void keep_evicted(struct test *t)
{
	wipe_and_keep(t);
	do_madvise(t, t->base, PAGES * PAGE, MADV_KEEPONFORK);
	evict_again(t);
}

/* A child that has nothing there maps there: it reads zeros. */
static void dontfork_and_map(struct test *t)
{
	do_mmap(t, t->base, PAGES * PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1);
	write_page(t, t->base + 9 * PAGE, 7000);
}

static void dontfork_prepare(struct test *t)
{
	map_default(t);
	madvise(t->base, PAGES * PAGE, MADV_DONTFORK);
}

static void dontfork_late(struct test *t)
{
	do_madvise(t, t->base + 70 * PAGE, 101 * PAGE, MADV_DONTFORK);
	evict_again(t);
	bring_back(t);
	do_madvise(t, t->base + 100 * PAGE, 30 * PAGE, MADV_DOFORK);
}

static void populated(struct test *t)
{
	do_madvise(t, t->base, PAGES * PAGE, MADV_DONTNEED);
	do_madvise(t, t->base + 20 * PAGE, 100 * PAGE, MADV_POPULATE_READ);
	absent(t, t->base + 20 * PAGE, 100);
	do_madvise(t, t->base + 70 * PAGE, 100 * PAGE, MADV_POPULATE_WRITE);
	absent(t, t->base + 70 * PAGE, 100);
}

static void populate_evicted(struct test *t)
{
	do_madvise(t, t->base, 100 * PAGE, MADV_POPULATE_READ);
	absent(t, t->base, 100);
	do_madvise(t, t->base + 100 * PAGE, 100 * PAGE, MADV_POPULATE_WRITE);
	absent(t, t->base + 100 * PAGE, 100);
}

/* Pages that are the same, which KSM may merge at any moment. */
static void merged(struct test *t)
{
	do_madvise(t, t->base, PAGES * PAGE, MADV_MERGEABLE);
	evict_again(t);
	do_madvise(t, t->base + 10 * PAGE, 100 * PAGE, MADV_UNMERGEABLE);
}

static void posix_advice(struct test *t)
{
	say(t, "posix_madvise: %d", posix_madvise(t->base, PAGES * PAGE, POSIX_MADV_DONTNEED));
	say(t, "posix_madvise: %d",
		posix_madvise(t->base, PAGES * PAGE, POSIX_MADV_SEQUENTIAL));
}

/* While an eviction is under way: one that read the mappings before the call, and takes pages
 * after it, must not (LARDER_POINTS has it wait in between). */
static void *evict_meanwhile(void *arg)
{
	evict_again(arg);
	return NULL;
}

static void with_eviction(struct test *t, void (*fn)(struct test *t))
{
	pthread_t thread;

	do_munmap(t, t->base, PAGES * PAGE);
	do_mmap(t, t->base, PAGES * PAGE, RW, PRIVATE | MAP_FIXED, -1);
	for (size_t i = 0; i < PAGES; i++)
		write_page(t, t->base + i * PAGE, (uint32_t)(8000 + i));
	if (pthread_create(&thread, NULL, evict_meanwhile, t) != 0)
		abort();
	nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
	fn(t);
	pthread_join(thread, NULL);
}

static void wipe(struct test *t)
{
	do_madvise(t, t->base, PAGES * PAGE, MADV_WIPEONFORK);
}

static void wipe_raced(struct test *t)
{
	with_eviction(t, wipe);
}

static void guard(struct test *t)
{
	do_madvise(t, t->base + 50 * PAGE, 100 * PAGE, MADV_GUARD_INSTALL);
}

static void guard_raced(struct test *t)
{
	with_eviction(t, guard);
	record(t, "meanwhile");
	do_madvise(t, t->base + 50 * PAGE, 100 * PAGE, MADV_GUARD_REMOVE);
}

static void lock(struct test *t)
{
	do_mlock(t, t->base, PAGES * PAGE);
}

static void lock_raced(struct test *t)
{
	with_eviction(t, lock);
	do_mremap(t, t->base, PAGES * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		arena_page(4096));
	watch(t, arena_page(4096), 2 * PAGES);
	munlockall();
}

static const struct act sequences[] = {
	{"wipe-raced", "wiped on fork, while an eviction is under way", NULL, wipe_raced, NULL,
		ACT_NO_CHILD, 0, 0},
	{"guard-raced", "guarded, while an eviction is under way", NULL, guard_raced, NULL,
		ACT_NO_CHILD, 0, 0},
	{"lock-raced", "locked and grown, while an eviction is under way", NULL, lock_raced,
		NULL, ACT_NO_CHILD, 0, 0},
	{"then-write", "discarded, written, evicted, discarded", NULL, discard_and_write, NULL,
		ACT_RAW, 0, 0},
	{"free-write", "freed, written, evicted", NULL, free_and_write, NULL, ACT_RAW, 0, 0},
	{"free-discard", "freed, and discarded", NULL, free_and_discard, NULL, ACT_RAW, 0, 0},
	{"guards", "guards over a part, some removed", NULL, guard_and_unguard, NULL, 0, 0, 0},
	{"guards-discard", "guards survive that, and a move", NULL, guard_and_discard, NULL, 0,
		0, 0},
	{"wipe-keep", "wiped on fork, and a part not any more", NULL, wipe_and_keep, NULL, 0, 0,
		0},
	{"wipe-keep-evict", "wiped on fork, and not any more", NULL, keep_evicted, NULL, 0, 0,
		0},
	{"dontfork-map", "not in the child, which maps there", dontfork_prepare,
		dontfork_and_map, NULL, ACT_PARTLY, 0, 0},
	{"dontfork-late", "a part isn't in the child", NULL, dontfork_late, NULL, ACT_RAW, 0,
		0},
	{"populate", "filled after it was discarded", NULL, populated, NULL, ACT_RAW, 0, 0},
	{"populate-evicted", "filled again", NULL, populate_evicted, NULL, ACT_RAW, 0, 0},
	{"merge", "mergeable, and a part not any more", NULL, merged, NULL, ACT_RAW, 0, 0},
	{"posix", "posix_madvise, which does nothing", NULL, posix_advice, NULL, 0, 0, 0},
};
enum { SEQUENCES = sizeof(sequences) / sizeof(sequences[0]) };

static unsigned flags_of(int advice, size_t range)
{
	return ranges[range].flags | (watched_by_libc(advice) ? 0 : ACT_RAW);
}

struct acts acts_advise(void)
{
	static struct act acts[ADVICES * RANGES + SEQUENCES];
	static char names[ADVICES * RANGES][40];
	size_t n = 0;

	for (size_t a = 0; a < ADVICES; a++)
		for (size_t r = 0; r < RANGES; r++, n++) {
			snprintf(names[n], sizeof(names[n]), "advise-%s-%s", advices[a].name,
				ranges[r].name);
			acts[n] = (struct act){names[n], ranges[r].about, ranges[r].prepare,
				ranges[r].act, NULL, flags_of(advices[a].advice, r),
				advices[a].advice, (int)r};
		}
	memcpy(acts + n, sequences, sizeof(sequences));
	return (struct acts){acts, n + SEQUENCES};
}
