/* The calls that liblarder.so interposes: for what the kernel reports no event for (DESIGN
 * rules 7 and 12), and for a program that begins to use userfaultfd itself (rule 11). Two more
 * have files of their own. Everything else of the program's goes straight to libc. */
#include "shim.h"
#include "kernel.h"
#include "link.h"
#include "rawcall.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

/* Of pages one by one: 16 GiB with a hole in it. */
enum { TOUCH_MAX = 4 << 20 };

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

void shim_give_back(struct shim_call *call, const void *addr, size_t len)
{
	uintptr_t from = (uintptr_t)addr & ~(uintptr_t)(LINK_PAGE - 1);
	size_t size = ((uintptr_t)addr + len - from + LINK_PAGE - 1) & ~(size_t)(LINK_PAGE - 1);

	*call = (struct shim_call){.begun = false};
	if (!shim_page || len == 0 || from + size < from || !shim_call_begin(call))
		return;
	struct link *link = call->link;
	if (atomic_load(&link->head.closed))
		return;
	/* No system call on this way, for the program's seccomp filter may forbid any: whoever
	 * waits for a place rings, and sleeps in the fault. */
	while ((call->ticket = claim_request(link)) < 0 && !atomic_load(&link->head.closed))
		*call->bell = 1;
	if (call->ticket < 0)
		return;
	struct link_request *q = &link->request[call->ticket];
	q->op = LINK_GIVE_BACK;
	q->addr = from;
	q->len = size;
	q->reason = LINK_FOR_A_CALL;
	atomic_store(&q->state, LINK_POSTED);
	/* The page is write-protected: the store faults, the service is told, and it lets the
	 * store through when the request is done. It is open for a moment between two requests,
	 * when another one was just answered. */
	while (atomic_load(&q->state) == LINK_POSTED && !atomic_load(&link->head.closed)) {
		*call->bell = 1;
		rawpause();
	}
}

void shim_end(struct shim_call *call)
{
	if (!call->begun)
		return;
	if (call->ticket >= 0)
		atomic_store(&call->link->request[call->ticket].state, LINK_FREE);
	shim_call_end(call);
}

void shim_keep(struct shim_call *call)
{
	if (call->begun)
		shim_call_end(call);
}

_Atomic bool shim_locked_unlinked;

/* For memory that is locked without the service's knowing it stays registered. */
static void note_lock(const struct shim_call *call)
{
	if (shim_call_alone(call))
		atomic_store(&shim_locked_unlinked, true);
}

/* The call made while the range is out of management, and stays so for it is locked. */
static int call_lock(const void *addr, size_t len, long nr, unsigned flags)
{
	int saved = errno;
	struct shim_call call;

	shim_give_back(&call, addr, len);
	note_lock(&call);
	long r = RAWCALL(nr, addr, len, flags, 0, 0, 0);
	shim_end(&call);
	errno = saved;
	return (int)shim_result(r);
}

/* Not before mlock: that brings the pages back itself, and may be allowed where madvise isn't.
 */
void shim_touch_in_child(const struct shim_call *call, const void *addr, size_t len, bool fill)
{
	uintptr_t from = (uintptr_t)addr & ~(uintptr_t)(LINK_PAGE - 1);

	uintptr_t to = (uintptr_t)addr + len;
	int how = fill ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;

	if (!shim_call_alone(call))
		return;
	if (RAWCALL(SYS_madvise, from, to - from, how, 0, 0, 0) != -ENOMEM)
		return;
	/* It stops at a hole, and the program's own call won't. */
	for (size_t i = 0; i < TOUCH_MAX && from < to; i++, from += LINK_PAGE)
		RAWCALL(SYS_madvise, from, LINK_PAGE, how, 0, 0, 0);
}

/* Of the first three the kernel tells nobody, and a forked child has no mapping where the third
 * was given: what lies or grows there later isn't what is on record. The fourth makes a huge page
 * of all that is there and of holes, but of none where a userfaultfd waits for somebody to touch
 * it. */
static bool is_watched(int advice)
{
	return advice == MADV_GUARD_INSTALL || advice == MADV_WIPEONFORK ||
	       advice == MADV_DONTFORK || advice == MADV_COLLAPSE;
}

/* In a child that is alone, before its call is over. Guards discard pages of which the service
 * may believe that they are out: it is told by a discard of the same. The guards stay. */
static void discard_in_child(const struct shim_call *call, const void *addr, size_t len)
{
	uintptr_t from = (uintptr_t)addr & ~(uintptr_t)(LINK_PAGE - 1);

	if (shim_call_alone(call))
		RAWCALL(SYS_madvise, from, (uintptr_t)addr + len - from, MADV_DONTNEED, 0, 0,
			0);
}

EXPORT int madvise(void *addr, size_t len, int advice)
{
	if (!is_watched(advice))
		return (int)shim_result(RAWCALL(SYS_madvise, addr, len, advice, 0, 0, 0));
	int saved = errno;
	struct shim_call call;
	shim_give_back(&call, addr, len);
	shim_touch_in_child(&call, addr, len, advice == MADV_COLLAPSE);
	long r = RAWCALL(SYS_madvise, addr, len, advice, 0, 0, 0);
	if (r == 0 && advice == MADV_GUARD_INSTALL)
		discard_in_child(&call, addr, len);
	shim_end(&call);
	errno = saved;
	return (int)shim_result(r);
}

/* The same for several ranges, perhaps of another process, for which we do nothing: to ask
 * whose the descriptor is takes calls that a filter may forbid, and what is given back for
 * nothing can be taken again. All that lies between the ranges is given back with them. */
EXPORT ssize_t process_madvise(
	int pidfd, const struct iovec *range, size_t count, int advice, unsigned flags)
{
	uintptr_t from = UINTPTR_MAX, to = 0;

	if (!shim_page || !is_watched(advice))
		return shim_result(
			RAWCALL(SYS_process_madvise, pidfd, range, count, advice, flags, 0));
	/* Is the list itself readable, and as the kernel wants it? That is checked first. */
	long r = RAWCALL(SYS_process_madvise, -1, range, count, advice, flags, 0);
	if (r != -EBADF)
		return shim_result(r);
	for (size_t i = 0; i < count; i++) {
		uintptr_t start = (uintptr_t)range[i].iov_base;
		from = start < from ? start : from;
		to = start + range[i].iov_len > to ? start + range[i].iov_len : to;
	}
	int saved = errno;
	struct shim_call call;
	shim_give_back(&call, (const void *)from, from < to ? to - from : 0);
	for (size_t i = 0; i < count; i++)
		shim_touch_in_child(
			&call, range[i].iov_base, range[i].iov_len, advice == MADV_COLLAPSE);
	r = RAWCALL(SYS_process_madvise, pidfd, range, count, advice, flags, 0);
	/* Of our own memory: of another's the kernel allows none that is_watched but to
	 * collapse. */
	for (ssize_t i = 0, left = r; left > 0 && advice == MADV_GUARD_INSTALL; i++) {
		size_t done = (size_t)left < range[i].iov_len ? (size_t)left : range[i].iov_len;
		discard_in_child(&call, range[i].iov_base, done);
		left -= (ssize_t)done;
	}
	shim_end(&call);
	errno = saved;
	return shim_result(r);
}

EXPORT int mlock(const void *addr, size_t len)
{
	return call_lock(addr, len, SYS_mlock, 0);
}

EXPORT int mlock2(const void *addr, size_t len, unsigned flags)
{
	return call_lock(addr, len, SYS_mlock2, flags);
}

void shim_unlock_own(void)
{
	struct link *link = shim_page ? shim_page->link : NULL;

	if (!link)
		return;
	RAWCALL(SYS_munlock, shim_page->area, shim_page->area_bytes, 0, 0, 0, 0);
	RAWCALL(SYS_munlock, link, sizeof(*link), 0, 0, 0, 0);
	RAWCALL(SYS_munlock, shim_page, LINK_PAGE, 0, 0, 0, 0);
	/* Pages that wait for their zap: the service may need them still (rule 9). Else nothing
	 * is moved while all is given back, and what locking filled can go. */
	if (!shim_page->staging || !shim_staging_unused(link))
		return;
	RAWCALL(SYS_madvise, shim_page->staging, sizeof(link->data), MADV_DONTNEED, 0, 0, 0);
	RAWCALL(SYS_madvise, link->data, sizeof(link->data), MADV_REMOVE, 0, 0, 0);
}

EXPORT int mlockall(int flags)
{
	int saved = errno;
	struct shim_call call;

	shim_give_back(&call, NULL, SHIM_WHOLE_SPACE);
	note_lock(&call);
	long r = RAWCALL(SYS_mlockall, flags, 0, 0, 0, 0, 0);

	if (r == 0 && (flags & MCL_CURRENT))
		shim_unlock_own();
	shim_end(&call);
	errno = saved;
	return (int)shim_result(r);
}

/* Other preloaded libraries replace ioctl too (v4l2convert, umockdev): through them. */
static int (*next_ioctl)(int fd, unsigned long request, void *arg);

static int call_next_ioctl(int fd, unsigned long request, void *arg)
{
	if (next_ioctl)
		return next_ioctl(fd, request, arg);
	return (int)shim_result(RAWCALL(SYS_ioctl, fd, request, arg, 0, 0, 0));
}

/* A program with a userfaultfd of its own is left alone (rule 11), but what was registered or
 * out by then would make its calls fail: REGISTER with EBUSY, MOVE with ENOENT. So all of it
 * comes back at the handshake, without which no userfaultfd does anything. An eviction under
 * way may not have seen the new descriptor and register once more; hence the second try. */
EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;

	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	struct shim_call call = {.begun = false};
	if (request == UFFDIO_API)
		shim_give_back(&call, NULL, SHIM_WHOLE_SPACE);
	int r = call_next_ioctl(fd, request, arg);
	shim_end(&call);
	if (r < 0 && errno == EBUSY && request == UFFDIO_REGISTER) {
		const struct uffdio_range *range = arg;
		shim_give_back(&call, (const void *)(uintptr_t)range->start, range->len);
		r = call_next_ioctl(fd, request, arg);
		shim_end(&call);
	}
	return r;
}

/* Of signal handlers: nothing that pthread_atfork was told of runs, so its child has no agent.
 */
static pid_t (*next_Fork)(void);

EXPORT pid_t _Fork(void);
EXPORT pid_t _Fork(void)
{
	if (!next_Fork)
		return (pid_t)shim_result(-ENOSYS);
	pid_t pid = next_Fork();
	if (pid == 0 && shim_page)
		shim_calls_start(0);
	return pid;
}

/* Runs before the program's own constructors when it is first in LD_PRELOAD. */
__attribute__((constructor)) static void shim_start(void)
{
	next_ioctl = (int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl");
	next_Fork = (pid_t(*)(void))dlsym(RTLD_NEXT, "_Fork");
	shim_attach();
}
