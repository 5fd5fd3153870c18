/* Patterns: what a page must contain, and what is said when it doesn't. */
#include "guest.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WORDS = PAGE / 8 };

const char *const op_names[OP_NAMES] = {
#define X(name, weight, in_child, help) [OP_##name] = #name,
	GUEST_OPS(X)
#undef X
		[OP_setup] = "setup",
	[OP_settle] = "settle",
	[OP_wake] = "wake",
};

/* ---- randomness ---- */

/* splitmix64 */
uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

uint64_t random_next(struct worker *w)
{
	return mix(w->random++);
}

size_t random_below(struct worker *w, size_t limit)
{
	return (size_t)(random_next(w) % limit);
}

bool random_one_in(struct worker *w, size_t n)
{
	return random_below(w, n) == 0;
}

/* ---- patterns ---- */

struct word {
	uint8_t length;
	char text[15];
};
#define WORD(s)                                                                                \
	{                                                                                      \
		sizeof(s) - 1, s                                                               \
	}

static void make_text(uint64_t seed, char *page)
{
	static const struct word words[32] = {WORD("\"name\": "), WORD("\"value\": "),
		WORD("the "), WORD("and "), WORD("true, "), WORD("false, "), WORD("null, "),
		WORD("0.25, "), WORD("1024, "), WORD("\"id\": "), WORD("user "),
		WORD("memory "), WORD("page "), WORD("of "), WORD("to "), WORD("\n"),
		WORD("{ "), WORD("}, "), WORD("[ "), WORD("], "), WORD("\"time\": "),
		WORD("2024-01-"), WORD("error "), WORD("warning "), WORD("request "),
		WORD("GET /index"), WORD(".html "), WORD("200 "), WORD("404 "), WORD("client "),
		WORD("server "), WORD("index ")};
	char text[PAGE +
		  sizeof(words[0].text)]; /* each word is copied with what is behind it */
	size_t at = 0;

	while (at < PAGE) {
		seed = mix(seed);
		for (uint64_t bits = seed, n = 0; n < 12 && at < PAGE; n++, bits >>= 5) {
			const struct word *word = &words[bits & 31];
			memcpy(text + at, word->text, sizeof(word->text));
			at += word->length;
		}
	}
	memcpy(page, text, PAGE);
}

/* Records of a pointer, a length, flags and a hole. */
static uint64_t record_word(uint64_t seed, size_t i)
{
	switch (i % 4) {
	case 0:
		return 0x7f0000000000u + (seed & 0xfffff0u) + i * 64;
	case 1:
		return (seed >> (i % 32)) & 0xffu;
	default:
		return i % 4 == 2;
	}
}

static void make_words(enum page_kind kind, uint64_t seed, uint64_t *words)
{
	for (size_t i = 0; i < WORDS; i++) {
		if (kind == KIND_RANDOM)
			seed = mix(seed);
		words[i] = kind == KIND_RECORDS ? record_word(seed, i) : seed;
	}
}

static size_t poke_offset(const struct page *p)
{
	return (size_t)(mix(p->id) % WORDS) * 8;
}

static void make_pattern(const struct page *p, char *page)
{
	uint64_t seed = mix(p->id ^ ((uint64_t)p->gen << 40));
	uint64_t words[WORDS], head[2] = {p->id, p->gen};

	switch ((enum page_kind)p->kind) {
	case KIND_COMMON: /* the same in many pages */
		make_text(p->gen % 8, page);
		return;
	case KIND_TEXT:
		make_text(seed, page);
		memcpy(page, head, sizeof(head));
		return;
	case KIND_RANDOM:
	case KIND_RECORDS:
	case KIND_FILL:
	case KIND_COUNT:
		make_words(p->kind, seed, words);
		memcpy(page, words, PAGE);
		if (p->kind != KIND_FILL)
			memcpy(page, head, sizeof(head));
	}
}

static void make_expected(const struct page *p, bool zero, char *page)
{
	if (zero)
		memset(page, 0, PAGE);
	else
		make_pattern(p, page);
	if (p->poked)
		memcpy(page + poke_offset(p), &p->poke, sizeof(p->poke));
}

/* ---- checking and writing ---- */

static char *page_at(const struct area *a, size_t i)
{
	return a->at + i * PAGE;
}

static size_t first_difference(const char *x, const char *y)
{
	size_t i = 0;

	while (i < PAGE && x[i] == y[i])
		i++;
	return i;
}

static bool is_zero(const char *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* The kernel may drop a freed page at any moment, so half of it may be read before that; then
 * the next look sees zeros. */
static void check_either(struct worker *w, struct area *a, size_t i)
{
	struct page *p = &a->page[i];

	make_expected(p, false, w->expected);
	for (unsigned look = 0; look < 2; look++) {
		memcpy(w->found, page_at(a, i), PAGE);
		if (is_zero(w->found)) {
			page_zeroed(p); /* for good: it can't come back */
			return;
		}
		if (memcmp(w->found, w->expected, PAGE) == 0)
			return;
	}
	fail_page(w, a, i, first_difference(w->found, w->expected));
}

void page_check(struct worker *w, struct area *a, size_t i)
{
	struct page *p = &a->page[i];

	w->checked++;
	if (p->state == PAGE_EITHER) {
		check_either(w, a, i);
		return;
	}
	memcpy(w->found, page_at(a, i), PAGE);
	make_expected(p, p->state == PAGE_ZERO, w->expected);
	if (memcmp(w->found, w->expected, PAGE) != 0)
		fail_page(w, a, i, first_difference(w->found, w->expected));
}

void page_write(struct worker *w, struct area *a, size_t i)
{
	struct page *p = &a->page[i];

	p->gen++;
	p->kind = (uint8_t)random_below(w, KIND_COUNT);
	p->state = PAGE_PATTERN;
	p->poked = false;
	make_pattern(p, page_at(a, i));
}

/* A word is written without a look at the rest, which must still be there. That also says what
 * a freed page is from now on. */
void page_poke(struct worker *w, struct area *a, size_t i)
{
	struct page *p = &a->page[i];
	bool was_either = p->state == PAGE_EITHER;

	p->poked = true;
	p->poke = random_next(w) | 1;
	memcpy(page_at(a, i) + poke_offset(p), &p->poke, sizeof(p->poke));
	if (was_either) {
		make_expected(p, true, w->expected);
		bool zero = memcmp(page_at(a, i), w->expected, PAGE) == 0;
		p->state = zero ? PAGE_ZERO : PAGE_PATTERN;
	}
	page_check(w, a, i);
}

void page_zeroed(struct page *p)
{
	p->state = PAGE_ZERO;
	p->poked = false;
}

void page_freed(struct page *p)
{
	if (p->state == PAGE_PATTERN)
		p->state = PAGE_EITHER;
}

/* ---- failing ---- */

/* The first to fail speaks. Others wait for the end that it brings. */
static void speak_alone(void)
{
	static atomic_flag taken = ATOMIC_FLAG_INIT;
	static _Atomic pid_t
		by; /* a child inherits the flag, perhaps taken by another thread */

	if (!atomic_flag_test_and_set(&taken)) {
		by = getpid();
		return;
	}
	while (by == getpid())
		pause();
}

static void print_bytes(const char *what, const char *page, size_t offset)
{
	char line[3 * 32 + 1] = "";
	size_t n = PAGE - offset < 32 ? PAGE - offset : 32;

	for (size_t i = 0; i < n; i++)
		snprintf(line + 3 * i, 4, "%02x ", (unsigned char)page[offset + i]);
	dprintf(2, "  %s: %s\n", what, line);
}

static void print_history(const struct worker *w, const struct area *a)
{
	unsigned n = a->events < HISTORY ? a->events : HISTORY;

	dprintf(2, "  seed %llu, thread %u, depth %u, operation %llu; history of the area:\n",
		(unsigned long long)w->options->seed, w->number, w->depth,
		(unsigned long long)w->serial);
	for (unsigned i = a->events - n; i != a->events; i++) {
		const struct event *e = &a->history[i % HISTORY];
		dprintf(2, "    %8llu %-11s pages %u + %u\n", (unsigned long long)e->serial,
			op_names[e->op], e->first, e->count);
	}
}

/* Is what was found what the page had before? */
static void print_guess(const struct worker *w, const struct page *p)
{
	static char old[PAGE];
	struct page before = *p;

	if (is_zero(w->found))
		dprintf(2, "  the page is all zeros\n");
	for (before.poked = false; before.gen > 0 && p->gen - before.gen < 16; before.gen--)
		for (unsigned kind = 0; kind < KIND_COUNT; kind++) {
			before.kind = (uint8_t)kind;
			make_pattern(&before, old);
			if (memcmp(old + PAGE / 2, w->found + PAGE / 2, PAGE / 4) == 0)
				dprintf(2, "  it looks like generation %u\n", before.gen);
		}
}

_Noreturn void fail_page(struct worker *w, struct area *a, size_t i, size_t offset)
{
	static const char *const states[] = {"zeros", "pattern", "pattern or zeros"};
	const struct page *p = &a->page[i];

	speak_alone();
	dprintf(2, "guest: wrong byte at %p: page %zu of %zu of area %llu%s, offset %zu\n",
		(void *)(page_at(a, i) + offset), i, a->pages, (unsigned long long)a->number,
		a->heap ? " (malloc)" : "", offset);
	dprintf(2, "  must be %s%s, id %llx, generation %u, kind %u\n", states[p->state],
		p->poked ? " with a word poked" : "", (unsigned long long)p->id, p->gen,
		p->kind);
	print_bytes("expected", w->expected, offset);
	print_bytes("found   ", w->found, offset);
	print_guess(w, p);
	print_history(w, a);
	_exit(1);
}

_Noreturn void fail_call(struct worker *w, struct area *a, const char *call, int error)
{
	speak_alone();
	dprintf(2, "guest: %s: %s; area %llu at %p, %zu pages\n", call,
		error ? strerror(error) : "should have failed", (unsigned long long)a->number,
		(void *)a->at, a->pages);
	print_history(w, a);
	_exit(1);
}

void sabotage(struct worker *w, struct area *a)
{
	size_t i = random_below(w, a->pages);
	char byte;
	struct iovec here = {&byte, 1}, there = {page_at(a, i) + random_below(w, PAGE), 1};

	/* By way of the kernel, as from outside. Without access to the page it fails: no
	 * matter. */
	if (process_vm_readv(getpid(), &here, 1, &there, 1, 0) != 1)
		return;
	byte = (char)(byte ^ 0x40);
	if (process_vm_writev(getpid(), &here, 1, &there, 1, 0) != 1 && errno == ENOSYS)
		*(volatile char *)there.iov_base = byte;
}
