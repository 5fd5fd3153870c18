/* Calls of the program's that are under way while something of it is out of management, or that
 * found no link and do without. An agent that comes late waits for the latter (agent_join.c).
 *
 * A signal handler can fork between any two instructions of such a call. The child then goes on
 * with it, without its parent's link, and its agent has to wait for it. So each thread keeps
 * where it is in places of its own, which a child inherits:
 *
 *   OVER ─ begin ─▶ UNCOUNTED ─ count ─▶ counted in generation g ─ end ─▶ OVER
 *                       ▲                        │
 *                       └───── there is a link ──┘
 *
 * Invariants:
 *  1. shim_page.calls is (generation, count): the calls of this process that found no link. The
 *     two are one word, so that what was read before a fork is never written after it.
 *  2. A child has the next generation; without our after_fork (a raw system call) it has 0.
 *  3. Only who counted in this process counts down. What is under way at a fork is counted in
 *     the child by after_fork, and its place says so. */
#include "link.h"
#include "rawcall.h"
#include "shim.h"

#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum {
	/* Signal handlers inside each other, each in a call. */
	PLACES = 4,
	OVER = 0,
	UNCOUNTED = 1,
	COUNTED = 2, /* + generation */
};

/* Atomic for the handlers' sake: no other thread looks at it. */
struct place {
	_Atomic uint32_t state;
	struct link *_Atomic link; /* that the call uses, or may use */
	volatile uint8_t *bell;
	uint8_t *staging;
};

/* Never allocated late: it lies in what each thread has from its start. */
static _Thread_local struct {
	_Atomic uint32_t depth;
	struct place place[PLACES];
} under_way __attribute__((tls_model("initial-exec")));

static uint32_t counted_now(uint64_t calls)
{
	return (uint32_t)(calls >> 32) + COUNTED;
}

static void count(struct place *p)
{
	for (;;) {
		uint64_t calls = atomic_load(&shim_page->calls);
		uint32_t now = counted_now(calls), before = UNCOUNTED;

		if (atomic_load(&p->state) == now)
			return; /* after_fork did it */
		if (!atomic_compare_exchange_strong(&shim_page->calls, &calls, calls + 1))
			continue;
		/* Unless there was a fork since, and this is the child. */
		atomic_compare_exchange_strong(&p->state, &before, now);
		return;
	}
}

static void uncount(uint32_t counted)
{
	uint64_t calls = atomic_load(&shim_page->calls);

	while (counted_now(calls) == counted && (uint32_t)calls > 0 &&
		!atomic_compare_exchange_weak(&shim_page->calls, &calls, calls - 1))
		;
}

/* The link, with the call not counted any more; NULL: there is none, and it is. */
static struct link *find_link(struct place *p)
{
	for (;;) {
		count(p);
		struct link *link = atomic_load(&shim_page->link);
		if (!link)
			return NULL;
		p->bell = shim_page->bell;
		p->staging = shim_page->staging;
		atomic_store(&p->link, link);
		uncount(atomic_exchange(&p->state, UNCOUNTED));
		/* From here on a child has a stand-in for it; before, perhaps it was counted
		 * and has not. */
		if (atomic_load(&shim_page->link) == link)
			return link;
	}
}

bool shim_call_begin(struct shim_call *call)
{
	uint32_t at = atomic_fetch_add(&under_way.depth, 1);

	struct place spare; /* a child finds none here, and does without */

	*call = (struct shim_call){.ticket = -1, .begun = true};
	struct place *p = at < PLACES ? &under_way.place[at] : &spare;
	atomic_store(&p->link, NULL);
	atomic_store(&p->state, UNCOUNTED);
	call->link = find_link(p);
	call->bell = p->bell;
	call->counted = at < PLACES ? OVER : atomic_load(&p->state);
	return call->link != NULL;
}

/* Safe to look at: as long as the call is under way, a child has a stand-in for it. */
bool shim_call_alone(const struct shim_call *call)
{
	return call->begun &&
	       (!call->link || atomic_load(&call->link->head.closed) == LINK_LEFT);
}

void shim_call_end(struct shim_call *call)
{
	uint32_t at = atomic_load(&under_way.depth) - 1, counted = call->counted;

	if (at < PLACES)
		counted = atomic_exchange(&under_way.place[at].state, OVER);
	atomic_fetch_sub(&under_way.depth, 1);
	uncount(counted);
}

/* ---- in a child ---- */

/* Zeros where a call under way expects what a child doesn't have. False: something is there. */
static bool stand_in(const volatile void *at, size_t bytes)
{
	long r = RAWCALL(SYS_mmap, at, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	return r == (long)(uintptr_t)at;
}

/* The parts of a link that something may look at, and what else is given up when the program
 * lowers its limits (shim_limit.c): no address of these may be another's meanwhile. */
static void replace_link(const struct place *p)
{
	struct link *link = p->link;

	if (!link)
		return;
	if (stand_in(link, LINK_DATA_AT))
		atomic_store(&link->head.closed, LINK_LEFT);
	stand_in(link->data, sizeof(link->data));
	stand_in(p->bell, LINK_PAGE);
	if (p->staging)
		stand_in(p->staging, sizeof(link->data));
}

void shim_calls_start(uint32_t generation)
{
	uint64_t calls = (uint64_t)generation << 32;

	for (uint32_t i = 0; i < under_way.depth && i < PLACES; i++) {
		struct place *p = &under_way.place[i];
		if (atomic_load(&p->state) == OVER)
			continue;
		atomic_store(&p->state, COUNTED + generation);
		calls++;
		replace_link(p);
	}
	atomic_store(&shim_page->calls, calls);
}
