/* Patterns: what a page must contain. */
#include "guest.h"

#include <string.h>

enum { WORDS = PAGE / 8 };

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

void make_pattern(const struct page *p, char *page)
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

char *page_at(const struct area *a, size_t i)
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

bool is_zero(const char *page)
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

	p->before = p->gen;
	p->kind_before = p->kind;
	p->gen = w->mark << 16 | ((p->gen + 1) & 0xffff);
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
