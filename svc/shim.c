/* The calls that liblarder.so interposes, all of them for what the kernel reports no event for
 * (DESIGN rules 7 and 12). Everything else of the program's goes straight to libc. */
#include "shim.h"
#include "kernel.h"
#include "link.h"
#include "rawcall.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A ticket of a call that found no link. */
enum { UNLINKED = -2 };

long shim_result(long r)
{
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

static int claim_request(struct link *link)
{
	for (int i = 0; i < LINK_REQUESTS; i++) {
		uint32_t want = LINK_FREE;
		if (atomic_compare_exchange_strong(
			    &link->request[i].state, &want, LINK_CLAIMED))
			return i;
	}
	return -1;
}

int shim_give_back(const void *addr, size_t len)
{
	uintptr_t from = (uintptr_t)addr & ~(uintptr_t)(LINK_PAGE - 1);
	size_t size = ((uintptr_t)addr + len - from + LINK_PAGE - 1) & ~(size_t)(LINK_PAGE - 1);
	int ticket;

	if (!shim_page || len == 0 || from + size < from)
		return -1;
	/* Counted before looking: an agent that comes meanwhile waits for the end of our call.
	 */
	atomic_fetch_add(&shim_page->unlinked_calls, 1);
	struct link *link = shim_page->link;
	if (!link) {
		RAWCALL(SYS_madvise, from, size, MADV_POPULATE_READ, 0, 0, 0);
		return UNLINKED;
	}
	atomic_fetch_sub(&shim_page->unlinked_calls, 1);
	if (atomic_load(&link->head.closed))
		return -1;
	while ((ticket = claim_request(link)) < 0)
		RAWCALL(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	struct link_request *q = &link->request[ticket];
	q->op = LINK_GIVE_BACK;
	q->addr = from;
	q->len = size;
	atomic_store(&q->state, LINK_POSTED);
	/* The page is write-protected: the store faults, the service is told, and it lets the
	 * store through when the request is done. It is open for a moment between two requests,
	 * when another one was just answered. */
	while (atomic_load(&q->state) == LINK_POSTED && !atomic_load(&link->head.closed)) {
		*shim_page->bell = 1;
		RAWCALL(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	}
	return ticket;
}

void shim_end(int ticket)
{
	if (ticket == UNLINKED)
		atomic_fetch_sub(&shim_page->unlinked_calls, 1);
	else if (ticket >= 0)
		atomic_store(&shim_page->link->request[ticket].state, LINK_FREE);
}

/* The call made while the range is out of management. */
static long call_given_back(const void *addr, size_t len, long nr, long a, long b, long c)
{
	int saved = errno;
	int ticket = shim_give_back(addr, len);
	long r = RAWCALL(nr, a, b, c, 0, 0, 0);

	shim_end(ticket);
	errno = saved;
	return shim_result(r);
}

EXPORT int madvise(void *addr, size_t len, int advice)
{
	if (advice == MADV_GUARD_INSTALL || advice == MADV_WIPEONFORK)
		return (int)call_given_back(
			addr, len, SYS_madvise, (long)addr, (long)len, advice);
	return (int)shim_result(RAWCALL(SYS_madvise, addr, len, advice, 0, 0, 0));
}

EXPORT int mlock(const void *addr, size_t len)
{
	return (int)call_given_back(addr, len, SYS_mlock, (long)addr, (long)len, 0);
}

EXPORT int mlock2(const void *addr, size_t len, unsigned flags)
{
	return (int)call_given_back(addr, len, SYS_mlock2, (long)addr, (long)len, flags);
}

EXPORT int mlockall(int flags)
{
	/* The whole lower half: every mapping that is registered. */
	return (int)call_given_back(NULL, 1UL << 47, SYS_mlockall, flags, 0, 0);
}

/* Runs before the program's own constructors when it is first in LD_PRELOAD. */
__attribute__((constructor)) static void shim_start(void)
{
	shim_attach();
}
