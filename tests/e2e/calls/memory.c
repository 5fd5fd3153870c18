/* The arena, what lies in it, and how it is read. */
#include "calls.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WORDS = PAGE / 8, RENEWED = 100000 };

static char *arena;

/* ---- pages ---- */

/* Of splitmix64 (public domain, S. Vigna). */
static uint64_t noise(uint64_t at)
{
	uint64_t z = at * 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* The first word says which page of which case it is, the others follow from it. */
static uint64_t name_of(uint32_t number, uint32_t id)
{
	return 0x5c00000000000000 | (uint64_t)number << 24 | id;
}

static uint64_t word_of(uint64_t name, size_t i)
{
	return i == 0 ? name : i % 4 == 3 ? noise(name + i) : name ^ i;
}

static void fill_page(uint64_t *page, uint64_t name)
{
	for (size_t i = 0; i < WORDS; i++)
		page[i] = word_of(name, i);
}

enum kind { PAGE_IS, ZEROS, FREED, UNMAPPED, FORBIDDEN, WRONG };
struct seen {
	enum kind kind;
	uint32_t id;
};

static struct seen identify(const struct test *t, const uint64_t *page)
{
	uint64_t name = page[0];
	size_t i;

	for (i = 0; i < WORDS && page[i] == 0; i++)
		;
	if (i == WORDS)
		return (struct seen){ZEROS, 0};
	for (i = 0; i < WORDS && page[i] == word_of(name, i); i++)
		;
	uint32_t id = (uint32_t)(name & 0xffffff);
	if (i == WORDS && name == name_of(t->number, id))
		return (struct seen){PAGE_IS, id};
	return (struct seen){WRONG, 0};
}

/* ---- access that may be refused ---- */

static sigjmp_buf refused;

static void on_refusal(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	siglongjmp(refused, info->si_code == SEGV_ACCERR ? FORBIDDEN : UNMAPPED);
}

static struct seen look_at(const struct test *t, const char *at)
{
	static uint64_t copy[WORDS];
	int why = sigsetjmp(refused, 0);

	if (why)
		return (struct seen){(enum kind)why, 0};
	memcpy(copy, at, PAGE);
	return identify(t, copy);
}

static bool try_write(const struct test *t, char *at, uint32_t id)
{
	if (sigsetjmp(refused, 0))
		return false;
	write_page(t, at, id);
	return true;
}

/* ---- the arena ---- */

static void close_arena(void)
{
	void *p = mmap(arena, (size_t)ARENA_PAGES * PAGE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	if (p != arena)
		abort();
}

void memory_start(void)
{
	const size_t huge = (size_t)HUGE_PAGES * PAGE, bytes = (size_t)ARENA_PAGES * PAGE;
	struct sigaction act = {
		.sa_sigaction = on_refusal, .sa_flags = SA_SIGINFO | SA_NODEFER};
	char *p = mmap(NULL, bytes + huge, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		abort();
	arena = (char *)(((uintptr_t)p + huge - 1) & ~(uintptr_t)(huge - 1));
	sigaction(SIGSEGV, &act, NULL);
	sigaction(SIGBUS, &act, NULL);
}

char *arena_page(size_t page)
{
	return arena + page * PAGE;
}

struct watch *watch(struct test *t, char *at, size_t pages)
{
	if (t->watches == WATCH_MAX)
		abort();
	struct watch *w = &t->watch[t->watches++];
	*w = (struct watch){.at = at, .pages = pages};
	return w;
}

void unwatch_all(struct test *t)
{
	t->watches = 0;
}

void write_page(const struct test *t, char *at, uint32_t id)
{
	fill_page((uint64_t *)(void *)at, name_of(t->number, id));
}

char *map_new(struct test *t, char *at, size_t pages)
{
	char *p = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	if (p == MAP_FAILED)
		abort();
	for (size_t i = 0; i < pages; i++)
		write_page(t, p + i * PAGE, (uint32_t)(t->watches * 1000 + i));
	watch(t, p, pages);
	return p;
}

void map_default(struct test *t)
{
	map_new(t, t->base, PAGES);
}

void forget(struct test *t)
{
	munlockall();
	for (unsigned i = 0; i < t->watches; i++)
		if (t->watch[i].at < arena ||
			t->watch[i].at >= arena + (size_t)ARENA_PAGES * PAGE)
			munmap(t->watch[i].at, t->watch[i].pages * PAGE);
	t->watches = 0;
	close_arena();
}

void mark_freed(struct test *t, char *at, size_t pages)
{
	for (unsigned k = 0; k < t->watches; k++) {
		struct watch *w = &t->watch[k];
		for (size_t i = 0; i < w->pages && i < PAGES * 2; i++)
			w->freed[i] |=
				w->at + i * PAGE >= at && w->at + i * PAGE < at + pages * PAGE;
	}
}

/* ---- what is there ---- */

static struct seen see(struct test *t, struct watch *w, unsigned number, size_t i)
{
	struct seen s = look_at(t, w->at + i * PAGE);

	if (i < PAGES * 2 && w->freed[i] &&
		(s.kind == ZEROS || (s.kind == PAGE_IS && s.id == number * 1000 + i)))
		s = (struct seen){FREED, 0};
	return s;
}

static size_t write_run(char *to, size_t room, struct seen s, size_t count)
{
	static const char *const names[] = {
		"", "zeros", "freed", "unmapped", "forbidden", "WRONG"};
	int n;

	if (s.kind == PAGE_IS && count > 1)
		n = snprintf(to, room, " %u..%u", s.id, (unsigned)(s.id + count - 1));
	else if (s.kind == PAGE_IS)
		n = snprintf(to, room, " %u", s.id);
	else
		n = snprintf(to, room, " %s*%zu", names[s.kind], count);
	return (size_t)n < room ? (size_t)n : room - 1;
}

static void record_one(struct test *t, const char *when, unsigned number)
{
	static char text[8192];
	struct watch *w = &t->watch[number];
	struct seen first = {WRONG, 0};
	size_t count = 0, used = 0;

	for (size_t i = 0; i <= w->pages; i++) {
		struct seen s = i < w->pages ? see(t, w, number, i) : (struct seen){WRONG, 1};
		if (count > 0 && s.kind == first.kind &&
			s.id == (s.kind == PAGE_IS ? first.id + count : first.id)) {
			count++;
			continue;
		}
		if (count > 0)
			used += write_run(text + used, sizeof(text) - used, first, count);
		first = s;
		count = 1;
	}
	say(t, "%s %u:%s", when, number, text);
}

void record(struct test *t, const char *when)
{
	for (unsigned k = 0; k < t->watches; k++)
		record_one(t, when, k);
}

void renew(struct test *t)
{
	for (unsigned k = 0; k < t->watches; k++)
		for (size_t i = 0; i < t->watch[k].pages; i++)
			if (i % 48 < 16 &&
				try_write(t, t->watch[k].at + i * PAGE,
					(uint32_t)(RENEWED + k * 1000 + i)) &&
				i < PAGES * 2)
				t->watch[k].freed[i] = false;
}

static bool stays_out(const struct test *t, size_t i, size_t pages)
{
	return t->out == OUT_ALL || (t->out == OUT_HALF ? i < pages / 2 : i % 2 == 0);
}

/* From the end, so that the service sees no pattern in which to bring more than was asked. */
void bring_back(struct test *t)
{
	for (unsigned k = 0; k < t->watches; k++)
		for (size_t i = t->watch[k].pages; i-- > 0;)
			if (!stays_out(t, i, t->watch[k].pages))
				look_at(t, t->watch[k].at + i * PAGE);
}

size_t wrongly_here(struct test *t)
{
	static unsigned char here[ARENA_PAGES];
	size_t wrong = 0;

	for (unsigned k = 0; k < t->watches; k++) {
		if (mincore(t->watch[k].at, t->watch[k].pages * PAGE, here) < 0)
			return t->watch[k].pages;
		for (size_t i = 0; i < t->watch[k].pages; i++)
			wrong += here[i] & stays_out(t, i, t->watch[k].pages);
	}
	return wrong;
}

void absent(struct test *t, char *at, size_t pages)
{
	static unsigned char here[ARENA_PAGES];
	size_t count = 0;

	if (mincore(at, pages * PAGE, here) < 0) {
		say_call(t, "mincore", -1);
		return;
	}
	for (size_t i = 0; i < pages; i++)
		count += !(here[i] & 1);
	say(t, "%zu pages absent", count);
}
