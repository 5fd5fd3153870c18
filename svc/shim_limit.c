/* Limits on address space and data (DESIGN rule 11): a program that is so near to them that our
 * few MiB would be felt is left alone. At its start it isn't attached; here it lowers them
 * itself.
 *
 * Then all of its memory comes back and stays, and what is large of ours goes: staging and the
 * link's data slots. What other threads and the agent may be looking at stays mapped (some 100
 * KiB: the link's head, the bell, the agent's stack). */
#include "kernel.h"
#include "link.h"
#include "protocol.h"
#include "rawcall.h"
#include "shim.h"

#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	/* A page in staging waits for a commit, which takes milliseconds. */
	ZAP_TRIES = 10000,
};

static bool is_near(enum __rlimit_resource kind, const struct rlimit *limit)
{
	return (kind == RLIMIT_AS || kind == RLIMIT_DATA) &&
	       limit->rlim_cur < SHIM_LIMIT_MARGIN;
}

bool shim_near_limit(void)
{
	static const enum __rlimit_resource kinds[] = {RLIMIT_AS, RLIMIT_DATA};
	struct rlimit limit;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (getrlimit(kinds[i], &limit) == 0 && is_near(kinds[i], &limit))
			return true;
	return false;
}

bool shim_staging_unused(const struct link *link)
{
	for (int i = 0; i < LINK_SLOTS; i++)
		if (link->slot[i].addr)
			return false;
	return true;
}

static void give_area_up(struct shim_call *call)
{
	struct link *link = call->link;
	uint8_t *staging = shim_page->staging;

	if (!link || (call->ticket < 0 && !atomic_load(&link->head.closed)))
		return;
	if (call->ticket >= 0) {
		if (link->request[call->ticket].result != 0)
			return;
		link->request[call->ticket].reason = LINK_FOR_LIMITS;
	}
	for (int i = 0; !shim_staging_unused(link); i++) {
		if (i == ZAP_TRIES)
			return;
		RAWCALL(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	}
	/* A child that was forked meanwhile has others. */
	if (shim_page->link != link || !staging)
		return;
	shim_page->staging = NULL;
	RAWCALL(SYS_munmap, staging, sizeof(link->data), 0, 0, 0, 0);
	RAWCALL(SYS_munmap, link->data, sizeof(link->data), 0, 0, 0, 0);
}

/* Once. The ticket is kept for good: while it is, the service registers nothing, and so moves
 * nothing. When anything fails, we stay as large as we are. */
static void leave(void)
{
	struct shim_call call;

	if (atomic_exchange(&shim_page->left, true))
		return;
	shim_give_back(&call, NULL, SHIM_WHOLE_SPACE);
	give_area_up(&call);
	shim_keep(&call);
}

static int set_limit(
	pid_t pid, enum __rlimit_resource kind, const struct rlimit *to, struct rlimit *ret_old)
{
	long r = RAWCALL(SYS_prlimit64, pid, kind, to, ret_old, 0, 0);
	bool linked = r == 0 && to && shim_page && shim_page->link;

	/* A vfork child sets its own limits while it has our memory. */
	if (linked && is_near(kind, to) && shim_page->program == getpid() &&
		(pid == 0 || pid == shim_page->program))
		leave();
	return (int)shim_result(r);
}

/* struct rlimit64 is the same where long is 64 bits, and so is each pair of functions. */
_Static_assert(sizeof(struct rlimit) == sizeof(struct rlimit64), "one kind of limits");

EXPORT int setrlimit(__rlimit_resource_t kind, const struct rlimit *to)
{
	return set_limit(0, kind, to, NULL);
}

EXPORT int setrlimit64(__rlimit_resource_t kind, const struct rlimit64 *to)
{
	return set_limit(0, kind, (const struct rlimit *)(const void *)to, NULL);
}

EXPORT int prlimit(
	pid_t pid, enum __rlimit_resource kind, const struct rlimit *to, struct rlimit *ret_old)
{
	return set_limit(pid, kind, to, ret_old);
}

EXPORT int prlimit64(pid_t pid, enum __rlimit_resource kind, const struct rlimit64 *to,
	struct rlimit64 *ret_old)
{
	return set_limit(pid, kind, (const struct rlimit *)(const void *)to,
		(struct rlimit *)(void *)ret_old);
}
