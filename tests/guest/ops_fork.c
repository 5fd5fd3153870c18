/* Forked children: how they begin and end, and what they must read. */
#include "guest.h"

#include "advice.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- children ---- */

void wait_for(struct worker *w, pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			fail_step(w, "waitpid says", errno);
	if (WIFSIGNALED(status))
		fail_step(w, "a child ended by signal", WTERMSIG(status));
	if (WEXITSTATUS(status) != 0)
		fail_step(w, "a child ended with exit code", WEXITSTATUS(status));
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

void become_child(struct worker *w)
{
	size_t length = strlen(w->who);

	snprintf(w->who + length, WHO_MAX - length, w->forks > 1 ? "/%08x.%u" : "/%08x",
		w->seed, w->forks - 1);
	w->depth++;
	w->child_count = w->orphan_count = 0;
	w->orphans = NULL; /* its parent's */
	keep_splits(w);
	w->base = mix(w->base ^ w->seed ^ (uint64_t)w->forks << 32);
	w->mark = (uint32_t)w->base & 0xffff;
	w->random = w->next_id = mix(w->base);
	memset(w->counts, 0, sizeof(w->counts));
	memset(w->unavailable, 0, sizeof(w->unavailable));
	w->checked = 0;
}

pid_t fork_worker(struct worker *w)
{
	pid_t parent = getpid();

	w->forks++;
	pid_t child = fork();
	if (child == 0) {
		/* A parent that fails leaves nothing behind. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		become_child(w);
	}
	return child;
}

void sabotage_copy(struct worker *w, enum op op, struct area *a)
{
	if (w->options->sabotage == (int)op)
		sabotage(w, a);
}

_Noreturn void end_child(struct worker *w)
{
	worker_count(w);
	_exit(0);
}

/* All areas are looked at, also those that the parent leaves alone for long. */
void live_as_child(struct worker *w)
{
	enum op made_by = w->op;
	bool sabotaged = w->options->sabotage == (int)made_by;

	if (w->area_count > 0)
		sabotage_copy(w, made_by, w->areas[random_below(w, w->area_count)]);
	for (size_t i = 0; i < w->area_count; i++)
		area_check_some(w, w->areas[i], 1);
	worker_run_child(w);
	for (size_t i = 0; i < w->area_count; i++)
		if (sabotaged || random_one_in(w, 2 * w->area_count))
			area_check(w, w->areas[i]);
	reap_children(w, 0);
	reap_orphans(w);
}

_Noreturn void be_child(struct worker *w)
{
	live_as_child(w);
	end_child(w);
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
	return true;
}

/* ---- what a child must read, whatever its parent does at the time ---- */

static struct area *pick_range(struct worker *w, size_t *ret_first, size_t *ret_count)
{
	struct area *a = w->depth < DEPTH_MAX ? area_pick(w, WANT_MAP) : NULL;

	if (!a)
		return NULL;
	area_settle(w, a);
	range_pick(w, a, ret_first, ret_count);
	return a;
}

static _Noreturn void check_and_end(struct worker *w, struct area *a)
{
	sabotage_copy(w, w->op, a);
	area_check(w, a);
	end_child(w);
}

/* Nothing between the two calls: the child must not see what the parent has just thrown away.
 */
bool op_discardfork(struct worker *w)
{
	size_t first, count;
	struct area *a = pick_range(w, &first, &count);

	if (!a)
		return false;
	int r = madvise(a->at + first * PAGE, count * PAGE, MADV_DONTNEED);
	pid_t child = fork_worker(w);
	if (r < 0)
		fail_call(w, a, "madvise", errno);
	range_zeroed(a, first, count);
	if (child == 0)
		check_and_end(w, a);
	note(w, a, OP_discardfork, first, count);
	if (child > 0)
		wait_for(w, child);
	page_check(w, a, first);
	page_check(w, a, first + count - 1);
	return child > 0;
}

/* The child waits until the parent has changed its own copy, then reads the old one. */
static _Noreturn void be_late_child(struct worker *w, struct area *a, const int told[2])
{
	char byte;

	while (read(told[0], &byte, 1) < 0 && errno == EINTR)
		;
	check_and_end(w, a);
}

static void discard(struct worker *w, struct area *a, size_t first, size_t count)
{
	bool whole = random_one_in(w, 2);

	if (whole && madvise(a->at + first * PAGE, count * PAGE, MADV_DONTNEED) < 0)
		fail_call(w, a, "madvise", errno);
	if (whole)
		range_zeroed(a, first, count);
	else
		area_fill(w, a, first, count);
}

static void map_anew(struct worker *w, struct area *a, size_t first, size_t count)
{
	if (mmap(a->at + first * PAGE, count * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		fail_call(w, a, "mmap", errno);
	range_replaced(w, a, first, count);
}

/* `change` is what the parent does between the fork and the child's look. */
static bool fork_then(
	struct worker *w, void (*change)(struct worker *, struct area *, size_t, size_t))
{
	size_t first, count;
	struct area *a = pick_range(w, &first, &count);
	int told[2];

	if (!a || pipe(told) < 0)
		return false;
	pid_t child = fork_worker(w);
	if (child == 0)
		be_late_child(w, a, told);
	note(w, a, w->op, first, count);
	change(w, a, first, count);
	/* A byte, not the end of the pipe: children of other threads have its other end as
	 * well. */
	if (child > 0 && write(told[1], "", 1) == 1)
		wait_for(w, child);
	close(told[0]);
	close(told[1]);
	area_check_some(w, a, 8);
	return child > 0;
}

bool op_forkdiscard(struct worker *w)
{
	return fork_then(w, discard);
}

bool op_forkmap(struct worker *w)
{
	return fork_then(w, map_anew);
}

/* ---- what a child gets of an area ---- */

static void advise(struct worker *w, struct area *a, size_t first, size_t count, int advice)
{
	if (madvise(a->at + first * PAGE, count * PAGE, advice) < 0)
		fail_call(w, a, "advice for forks", errno);
	if (count < a->pages && w->depth > 0)
		a->uniform = false; /* in a child what was split stays split */
}

/* Mostly the whole area, and perhaps only a part. */
static struct area *pick_mostly_whole(struct worker *w, size_t *ret_first, size_t *ret_count)
{
	struct area *a = pick_range(w, ret_first, ret_count);

	if (a && !random_one_in(w, 3)) {
		*ret_first = 0;
		*ret_count = a->pages;
	}
	return a;
}

bool op_wipe(struct worker *w)
{
	size_t first, count;
	struct area *a = pick_mostly_whole(w, &first, &count);

	if (!a)
		return false;
	advise(w, a, first, count, MADV_WIPEONFORK);
	note(w, a, OP_wipe, first, count);
	pid_t child = fork_worker(w);
	if (child == 0) {
		range_zeroed(a, first, count);
		check_and_end(w, a);
	}
	if (child > 0)
		wait_for(w, child);
	advise(w, a, first, count, MADV_KEEPONFORK);
	area_check_some(w, a, 16);
	return child > 0;
}

bool op_keep(struct worker *w)
{
	size_t first, count;
	struct area *a = pick_mostly_whole(w, &first, &count);

	if (!a)
		return false;
	advise(w, a, first, count, MADV_WIPEONFORK);
	advise(w, a, first, count, MADV_KEEPONFORK);
	note(w, a, OP_keep, first, count);
	pid_t child = fork_worker(w);
	if (child == 0)
		check_and_end(w, a);
	if (child > 0)
		wait_for(w, child);
	area_check_some(w, a, 4);
	return child > 0;
}

void page_check_gone(struct worker *w, struct area *a, size_t i, char *at)
{
	struct iovec here = {w->found, PAGE}, there = {at, PAGE};

	if (a->page[i].state != PAGE_PATTERN ||
		process_vm_readv(getpid(), &here, 1, &there, 1, 0) != PAGE)
		return;
	make_pattern(&a->page[i], w->expected);
	if (memcmp(w->found + PAGE / 2, w->expected + PAGE / 2, PAGE / 4) == 0)
		fail_call(w, a, "reading a page where it isn't, in a child", 0);
}

bool op_dontfork(struct worker *w)
{
	size_t first, count;
	struct area *a = pick_range(w, &first, &count);

	if (!a)
		return false;
	advise(w, a, 0, a->pages, MADV_DONTFORK);
	note(w, a, OP_dontfork, 0, a->pages);
	pid_t child = fork_worker(w);
	if (child == 0) {
		page_check_gone(w, a, 0, a->at);
		area_drop(w, a);
		be_child(w);
	}
	if (child > 0)
		wait_for(w, child);
	advise(w, a, 0, a->pages, MADV_DOFORK);
	area_check_some(w, a, 8);
	return child > 0;
}
