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
		note(w, a, w->op, first, count);
		if (zeroed)
			range_zeroed(a, first, count);
		page_check(w, a, first);
		page_check(w, a, first + count - 1);
	}
}

/* By libc, so that who replaces its functions is asked too. The number of bytes that were done.
 */
static ssize_t advise_itself(const struct vector *v, int advice)
{
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (self < 0)
		return -1;
	ssize_t r = process_madvise(self, v->range, v->count, advice, 0);
	int error = errno;
	close(self);
	errno = error;
	return r;
}

static size_t vector_bytes(const struct vector *v)
{
	size_t bytes = 0;

	for (size_t i = 0; i < v->count; i++)
		bytes += v->range[i].iov_len;
	return bytes;
}

/* False: this kernel doesn't do so. Throwing away is allowed since 6.13, for one's own memory.
 */
static bool advise_all(struct worker *w, const struct vector *v, int advice)
{
	ssize_t r = advise_itself(v, advice);

	if (advice == MADV_COLLAPSE) /* it may not come about, for many reasons */
		return true;
	if (r < 0 && errno != EINVAL && errno != EPERM && errno != ENOSYS)
		fail_call(w, v->area[0], "process_madvise", errno);
	if (r >= 0 && (size_t)r != vector_bytes(v))
		fail_call(w, v->area[0], "process_madvise stopped on its way", 0);
	w->unavailable[w->op] += r < 0;
	return r >= 0;
}

bool op_pmadvise(struct worker *w)
{
	static const int advices[] = {
		MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_COLLAPSE, MADV_DONTNEED};
	int advice = advices[random_below(w, sizeof(advices) / sizeof(advices[0]))];
	struct vector v;

	vector_pick(w, &v);
	if (v.count == 0 || !advise_all(w, &v, advice))
		return false;
	vector_done(w, &v, advice == MADV_DONTNEED);
	return true;
}

bool op_pguard(struct worker *w)
{
	struct vector v;

	vector_pick(w, &v);
	if (v.count == 0 || !advise_all(w, &v, MADV_GUARD_INSTALL))
		return false;
	if (!advise_all(w, &v, MADV_GUARD_REMOVE))
		fail_call(w, v.area[0], "MADV_GUARD_REMOVE", errno);
	vector_done(w, &v, true);
	return true;
}
