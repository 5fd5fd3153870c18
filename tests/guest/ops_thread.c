/* Operations that need another thread. */
#include "guest.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { STACK_PAGES = 8 };

/* ---- short threads ---- */

/* Deep enough to use pages of the stack that were never touched, and then left. */
static uint64_t use_stack(uint64_t seed, unsigned depth)
{
	volatile uint64_t here[STACK_PAGES * PAGE / 8];
	uint64_t sum = 0;

	for (size_t i = 0; i < STACK_PAGES * PAGE / 8; i += 64)
		here[i] = seed + i;
	if (depth > 0)
		sum = use_stack(mix(seed), depth - 1);
	for (size_t i = 0; i < STACK_PAGES * PAGE / 8; i += 64)
		sum += here[i] == seed + i ? 0 : 1;
	return sum;
}

/* Its creator waits meanwhile, so that it may use what is the creator's. */
static void *short_thread(void *arg)
{
	static __thread uint64_t word;
	struct worker *w = arg;
	uint64_t seed = random_next(w);

	word = seed;
	for (size_t i = 0; i < w->area_count && i < 4; i++)
		area_check_some(w, w->areas[random_below(w, w->area_count)], 4);
	bool right = use_stack(seed, 2) == 0 && word == seed;
	if (w->options->sabotage == OP_spawn && w->area_count > 0)
		sabotage(w, w->areas[0]);
	return right ? w : NULL;
}

bool op_spawn(struct worker *w)
{
	pthread_t threads[2];
	void *result;

	/* One after the other, so that the second is given the stack of the first. */
	for (unsigned i = 0; i < 2; i++) {
		if (pthread_create(&threads[i], NULL, short_thread, w) != 0)
			return false;
		pthread_join(threads[i], &result);
		if (result != w)
			fail_step(w, "wrong content in the stack of thread", (int)i);
	}
	return true;
}

/* ---- a move beside a fork ---- */

struct mover {
	struct area *area;
	char *to, *result;
	_Atomic unsigned ready; /* of the two threads */
};

static void start_together(struct mover *m)
{
	m->ready++;
	while (m->ready < 2)
		;
}

static void *move_away(void *arg)
{
	struct mover *m = arg;

	start_together(m);
	m->result = move_to(m->area->at, m->area->pages, m->to);
	return NULL;
}

static bool is_readable(const char *at)
{
	char byte;
	struct iovec here = {&byte, 1}, there = {(void *)at, 1};

	return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == 1;
}

/* Each page is at exactly one of the two places. Where the area was ever several mappings, who
 * looks after the memory may have kept them apart, and move one after the other. */
static _Noreturn void be_child_beside_move(struct worker *w, const struct mover *m)
{
	struct area *a = m->area;
	char *source = a->at;
	bool moved = is_readable(m->to);

	sabotage_copy(w, OP_forkmove, a);
	for (size_t i = 0; i < a->pages; i++) {
		bool here = is_readable(m->to + i * PAGE);
		if (!here && !is_readable(source + i * PAGE))
			fail_call(w, a, "reading a moved area at either place, in a child",
				EFAULT);
		if (here != moved && !a->split)
			fail_call(w, a, "reading half of a moved area, in a child", 0);
		a->at = here ? m->to : source;
		page_check(w, a, i);
	}
	end_child(w);
}

bool op_forkmove(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);
	pthread_t thread;

	if (!a || !a->uniform || w->depth > 0)
		return false;
	area_settle(w, a);
	struct mover m = {.area = a, .to = reserve(a->pages)};
	if (m.to == MAP_FAILED || pthread_create(&thread, NULL, move_away, &m) != 0)
		return false;
	start_together(&m);
	pid_t child = fork_worker(w);
	if (child == 0)
		be_child_beside_move(w, &m);
	pthread_join(thread, NULL);
	if (m.result != m.to)
		fail_call(w, a, "mremap beside a fork", errno);
	a->at = m.to;
	a->moved = true;
	note(w, a, OP_forkmove, 0, a->pages);
	if (child > 0)
		wait_for(w, child);
	area_check_some(w, a, 8);
	return child > 0;
}
