/* What is said when something is wrong, and how to make it so on purpose. */
#include "guest.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

const char *const op_names[OP_NAMES] = {
#define X(name, weight, in_child, help) [OP_##name] = #name,
	GUEST_OPS(X)
#undef X
		[OP_settle] = "settle",
	[OP_wake] = "wake",
};

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

static void print_step(const struct worker *w)
{
	dprintf(2, "  seed %llu, thread %u, operation %llu: %s %s %08x\n",
		(unsigned long long)w->options->seed, w->number, (unsigned long long)w->serial,
		w->who, op_names[w->op], w->seed);
}

static void print_history(const struct worker *w, const struct area *a)
{
	unsigned n = a->events < HISTORY ? a->events : HISTORY;

	print_step(w);
	dprintf(2, "  history of the area:\n");
	for (unsigned i = a->events - n; i != a->events; i++) {
		const struct event *e = &a->history[i % HISTORY];
		dprintf(2, "    %8llu %-11s pages %u + %u\n", (unsigned long long)e->serial,
			op_names[e->op], e->first, e->count);
	}
}

static bool looks_like(const char *found, const struct page *p)
{
	static char page[PAGE];

	make_pattern(p, page);
	return memcmp(page + PAGE / 2, found + PAGE / 2, PAGE / 4) == 0;
}

/* Is what was found what the page had before? */
static void print_guess(const struct worker *w, const struct page *p)
{
	struct page old = *p;

	if (is_zero(w->found))
		dprintf(2, "  the page is all zeros\n");
	for (unsigned ago = 0; ago < 16 && ago < (p->gen & 0xffff); ago++) {
		old.gen = p->gen - ago;
		for (unsigned kind = 0; kind < KIND_COUNT; kind++) {
			old.kind = (uint8_t)kind;
			if (looks_like(w->found, &old))
				dprintf(2, "  it looks like generation %x\n", old.gen);
		}
	}
	old.gen = p->before;
	old.kind = p->kind_before;
	if (looks_like(w->found, &old))
		dprintf(2, "  it looks like generation %x, the one before\n", old.gen);
}

_Noreturn void fail_page(struct worker *w, struct area *a, size_t i, size_t offset)
{
	static const char *const states[] = {"zeros", "pattern", "pattern or zeros"};
	static const char *const kinds[] = {"", " (malloc)", " (brk)"};
	const struct page *p = &a->page[i];

	speak_alone();
	dprintf(2, "guest: wrong byte at %p: page %zu of %zu of area %08x%s, offset %zu\n",
		(void *)(page_at(a, i) + offset), i, a->pages, a->number, kinds[a->kind],
		offset);
	dprintf(2, "  must be %s%s, id %llx, generation %x, kind %u\n", states[p->state],
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
	dprintf(2, "guest: %s: %s; area %08x at %p, %zu pages\n", call,
		error ? strerror(error) : "should have failed", a->number, (void *)a->at,
		a->pages);
	print_history(w, a);
	_exit(1);
}

_Noreturn void fail_step(struct worker *w, const char *what, int number)
{
	speak_alone();
	dprintf(2, "guest: %s %d\n", what, number);
	print_step(w);
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
