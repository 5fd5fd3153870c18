/* Calls that say something about memory, and change no content, or not by themselves. */
#include "guest.h"

#include "advice.h"

#include <errno.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { VECTOR_MAX = 4 };

/* Advice that splits a mapping for as long as it lasts. */
static bool hint(struct worker *w, enum op op, int set, int reset)
{
	struct area *a = area_pick(w, WANT_MAP);
	size_t first, count;
	bool stays = random_one_in(w, 4);

	if (!a)
		return false;
	area_settle(w, a);
	range_pick(w, a, &first, &count);
	if (madvise(a->at + first * PAGE, count * PAGE, set) < 0) {
		if (errno != EINVAL)
			fail_call(w, a, "madvise", errno);
		w->unavailable[op]++;
		return false;
	}
	note(w, a, op, first, count);
	area_check_some(w, a, 2);
	if (!stays && madvise(a->at, a->pages * PAGE, reset) < 0)
		fail_call(w, a, "madvise", errno);
	a->advised |= stays;
	if (count < a->pages && (stays || w->depth > 0 || a->advised))
		a->uniform = false; /* in a child what was split stays split */
	area_check_some(w, a, 2);
	return true;
}

bool op_advice(struct worker *w)
{
	static const int sets[] = {MADV_RANDOM, MADV_SEQUENTIAL, MADV_DONTDUMP, MADV_WILLNEED};
	static const int resets[] = {MADV_NORMAL, MADV_NORMAL, MADV_DODUMP, MADV_NORMAL};
	size_t which = random_below(w, sizeof(sets) / sizeof(sets[0]));

	return hint(w, OP_advice, sets[which], resets[which]);
}

bool op_mergeable(struct worker *w)
{
	return hint(w, OP_mergeable, MADV_MERGEABLE, MADV_UNMERGEABLE);
}

/* Pages are locked as they come, and can be thrown away nevertheless. */
bool op_lockfault(struct worker *w)
{
	struct area *a = area_pick(w, WANT_RANGE);
	size_t first, count;

	if (!a)
		return false;
	area_settle(w, a);
	range_pick(w, a, &first, &count);
	char *at = a->at + first * PAGE;
	if (mlock2(at, count * PAGE, MLOCK_ONFAULT) < 0) { /* RLIMIT_MEMLOCK */
		w->unavailable[OP_lockfault]++;
		return false;
	}
	note(w, a, OP_lockfault, first, count);
	page_check(w, a, first);
	if (random_one_in(w, 2) && madvise(at, count * PAGE, MADV_DONTNEED_LOCKED) == 0) {
		range_zeroed(a, first, count);
		area_fill(w, a, first, count);
	}
	area_check_some(w, a, 4);
	if (munlock(at, count * PAGE) < 0)
		fail_call(w, a, "munlock", errno);
	return true;
}

/* ---- process_madvise ---- */

struct vector {
	struct iovec range[VECTOR_MAX];
	struct area *area[VECTOR_MAX];
	size_t count;
};

static void vector_pick(struct worker *w, struct vector *v)
{
	size_t most = 1 + random_below(w, VECTOR_MAX);

	for (v->count = 0; v->count < most; v->count++) {
		struct area *a = area_pick(w, WANT_RANGE);
		size_t first, count;
		if (!a)
			return;
		area_settle(w, a);
		range_pick(w, a, &first, &count);
		v->area[v->count] = a;
		v->range[v->count] = (struct iovec){a->at + first * PAGE, count * PAGE};
	}
}

static void vector_done(struct worker *w, const struct vector *v, bool zeroed)
{
	for (size_t i = 0; i < v->count; i++) {
		struct area *a = v->area[i];
		size_t first = (size_t)((char *)v->range[i].iov_base - a->at) / PAGE;
		size_t count = v->range[i].iov_len / PAGE;
		note(w, a, OP_pmadvise, first, count);
		if (zeroed)
			range_zeroed(a, first, count);
		page_check(w, a, first);
		page_check(w, a, first + count - 1);
	}
}

/* The kernel may have done a part of it only: then what it says is how much. Throwing away is
 * allowed for one's own memory only since 6.13. */
bool op_pmadvise(struct worker *w)
{
	static const int advices[] = {MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_DONTNEED};
	int advice = advices[random_below(w, sizeof(advices) / sizeof(advices[0]))];
	struct vector v;
	size_t bytes = 0;

	vector_pick(w, &v);
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (v.count == 0 || self < 0)
		return false;
	for (size_t i = 0; i < v.count; i++)
		bytes += v.range[i].iov_len;
	long r = syscall(SYS_process_madvise, self, v.range, v.count, advice, 0);
	int error = errno;
	close(self);
	if (r < 0 && error != EINVAL && error != EPERM && error != ENOSYS)
		fail_call(w, v.area[0], "process_madvise", error);
	if (r >= 0 && (size_t)r != bytes)
		fail_call(w, v.area[0], "process_madvise stopped on its way", 0);
	w->unavailable[OP_pmadvise] += r < 0;
	vector_done(w, &v, r >= 0 && advice == MADV_DONTNEED);
	return r >= 0;
}
