/* Operations that make processes and threads. */
#include "guest.h"

#include "advice.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STACK_PAGES = 8 };

/* ---- children ---- */

static void wait_for(const struct worker *w, pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR) {
			dprintf(2, "guest: waitpid: %s\n", strerror(errno));
			_exit(1);
		}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	dprintf(2, "guest: child %d of thread %u ended with %s %d\n", (int)child, w->number,
		WIFSIGNALED(status) ? "signal" : "exit code",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	_exit(1);
}

/* Waits for the oldest children until only `leave` are left. */
void reap_children(struct worker *w, size_t leave)
{
	while (w->child_count > leave) {
		wait_for(w, w->children[0]);
		memmove(w->children, w->children + 1,
			--w->child_count * sizeof(w->children[0]));
	}
}

/* In a child each mapping has an anon_vma of its own, so what mprotect had split stays split.
 */
static void keep_splits(struct worker *w)
{
	for (size_t i = 0; i < w->area_count; i++)
		if (w->areas[i]->access != ACCESS_ALL)
			w->areas[i]->uniform = false;
}

/* 0 in the child, which then has a history and randomness of its own. -1: the system is full.
 */
static pid_t fork_worker(struct worker *w)
{
	pid_t parent = getpid(), child = fork();

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG,
			SIGKILL); /* a parent that fails leaves nothing behind */
		if (getppid() != parent)
			_exit(1);
		w->depth++;
		w->child_count = 0;
		keep_splits(w);
		w->random = mix(w->random ^ (uint64_t)getpid());
		w->next_id += (uint64_t)getpid() << 24; /* its new pages are nobody else's */
	}
	return child;
}

/* In the child: corrupts what it is about to verify, when asked to. */
static void sabotage_copy(struct worker *w, enum op op, struct area *a)
{
	if (w->options->sabotage == (int)op)
		sabotage(w, a);
}

/* All areas are looked at, also those that the parent leaves alone for long. */
static _Noreturn void be_child(struct worker *w)
{
	if (w->area_count > 0)
		sabotage_copy(w, OP_fork, w->areas[random_below(w, w->area_count)]);
	for (size_t i = 0; i < w->area_count; i++) {
		struct area *a = w->areas[i];
		if (a->resting_until > w->now && a->pages < 1024)
			area_check(w, a);
		else
			area_check_some(w, a, 16);
	}
	for (uint64_t i = 0; i < w->options->child_steps; i++)
		worker_step(w);
	for (size_t i = 0; i < w->area_count; i++)
		if (w->options->sabotage == OP_fork || random_one_in(w, 3))
			area_check(w, w->areas[i]);
	reap_children(w, 0);
	_exit(0);
}

bool op_fork(struct worker *w)
{
	if (w->depth >= DEPTH_MAX)
		return false;
	reap_children(w, CHILDREN_MAX - 1);
	pid_t child = fork_worker(w);
	if (child == 0)
		be_child(w);
	if (child < 0)
		return false;
	w->children[w->child_count++] = child;
	if (w->area_count > 0)
		note(w, w->areas[0], OP_fork, 0, 0);
	return true;
}

/* Nothing between the two calls: the child must not see what the parent has just thrown away.
 */
bool op_discardfork(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);
	size_t first, count;

	if (!a || w->depth >= DEPTH_MAX)
		return false;
	area_settle(w, a);
	range_pick(w, a, &first, &count);
	int r = madvise(a->at + first * PAGE, count * PAGE, MADV_DONTNEED);
	pid_t child = fork_worker(w);
	if (r < 0)
		fail_call(w, a, "madvise", errno);
	for (size_t i = first; i < first + count; i++)
		page_zeroed(&a->page[i]);
	note(w, a, OP_discardfork, first, count);
	if (child == 0) {
		sabotage_copy(w, OP_discardfork, a);
		area_check(w, a);
		_exit(0);
	}
	if (child > 0)
		wait_for(w, child);
	for (size_t i = first; i < first + count; i++)
		page_check(w, a, i);
	return child > 0;
}

/* The child waits until the parent has changed its own copy, then reads the old one. */
static _Noreturn void be_late_child(struct worker *w, struct area *a, const int told[2])
{
	char byte;

	while (read(told[0], &byte, 1) < 0 && errno == EINTR)
		;
	sabotage_copy(w, OP_forkdiscard, a);
	area_check(w, a);
	_exit(0);
}

static void change_range(struct worker *w, struct area *a, size_t first, size_t count)
{
	char *at = a->at + first * PAGE;
	bool discard = random_one_in(w, 2);

	if (discard && madvise(at, count * PAGE, MADV_DONTNEED) < 0)
		fail_call(w, a, "madvise", errno);
	for (size_t i = first; i < first + count; i++)
		if (discard)
			page_zeroed(&a->page[i]);
		else
			page_write(w, a, i);
}

bool op_forkdiscard(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);
	size_t first, count;
	int told[2];

	if (!a || w->depth >= DEPTH_MAX || pipe(told) < 0)
		return false;
	area_settle(w, a);
	range_pick(w, a, &first, &count);
	pid_t child = fork_worker(w);
	if (child == 0)
		be_late_child(w, a, told);
	note(w, a, OP_forkdiscard, first, count);
	change_range(w, a, first, count);
	/* A byte, not the end of the pipe: children of other threads have its other end as
	 * well. */
	if (child > 0 && write(told[1], "", 1) == 1)
		wait_for(w, child);
	close(told[0]);
	close(told[1]);
	area_check(w, a);
	return child > 0;
}

bool op_wipe(struct worker *w)
{
	struct area *a = area_pick(w, WANT_MAP);

	if (!a || w->depth >= DEPTH_MAX)
		return false;
	area_settle(w, a);
	if (madvise(a->at, a->pages * PAGE, MADV_WIPEONFORK) < 0)
		fail_call(w, a, "MADV_WIPEONFORK", errno);
	note(w, a, OP_wipe, 0, a->pages);
	pid_t child = fork_worker(w);
	if (child == 0) {
		for (size_t i = 0; i < a->pages; i++)
			page_zeroed(&a->page[i]);
		sabotage_copy(w, OP_wipe, a);
		area_check(w, a);
		_exit(0);
	}
	if (child > 0)
		wait_for(w, child);
	if (madvise(a->at, a->pages * PAGE, MADV_KEEPONFORK) < 0)
		fail_call(w, a, "MADV_KEEPONFORK", errno);
	area_check_some(w, a, 16);
	return child > 0;
}

/* ---- threads ---- */

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
		if (result != w) {
			dprintf(2, "guest: the stack of a thread has wrong content\n");
			_exit(1);
		}
	}
	return true;
}
