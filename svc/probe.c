#include "probe.h"
#include "cleanup.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum { PROBE_PAGES = 2 };

static void *discard(void *page)
{
	madvise(page, PAGE_SIZE, MADV_DONTNEED);
	return NULL;
}

static bool move_works(int uffd, uint8_t *from, uint8_t *to)
{
	struct uffdio_move m = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = PAGE_SIZE};

	memset(from, 0x5a, PAGE_SIZE);
	if (uffd_register(uffd, (uintptr_t)from, PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING) < 0 ||
		uffd_register(uffd, (uintptr_t)to, PAGE_SIZE, UFFDIO_REGISTER_MODE_WP) < 0)
		return false;
	return ioctl(uffd, UFFDIO_MOVE, &m) == 0 && to[0] == 0x5a && to[PAGE_SIZE - 1] == 0x5a;
}

/* While a REMOVE is unread the fence is up; afterwards it falls. */
static bool fence_works(int uffd, uint8_t *page)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};
	struct uffd_msg msg;
	pthread_t thread;

	if (uffd_fence_up(uffd) || pthread_create(&thread, NULL, discard, page) != 0)
		return false;
	bool seen = poll(&p, 1, 1000) == 1 && uffd_fence_up(uffd);
	seen = read(uffd, &msg, sizeof(msg)) == sizeof(msg) && seen &&
	       msg.event == UFFD_EVENT_REMOVE;
	pthread_join(thread, NULL);
	return seen && !uffd_fence_up(uffd);
}

const char *probe_kernel(int device)
{
	_cleanup_fd_ int uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	const char *what = NULL;

	if (uffd < 0)
		return "this kernel makes no userfaultfd from /dev/userfaultfd: 6.12 or later "
		       "is needed";
	if (uffd_api(uffd) < 0)
		return "this kernel has no UFFDIO_MOVE: 6.12 or later is needed (Debian 12: "
		       "package "
		       "linux-image-6.12-amd64)";
	uint8_t *p = mmap(NULL, PROBE_PAGES * 2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return "no memory for trying UFFDIO_MOVE";
	madvise(p, PROBE_PAGES * 2 * PAGE_SIZE, MADV_NOHUGEPAGE);
	if (!move_works(uffd, p, p + 2 * PAGE_SIZE))
		what = "UFFDIO_MOVE is there but doesn't move a page on this kernel";
	else if (!fence_works(uffd, p))
		what = "this kernel's userfaultfd events hold nothing up: evicting would lose "
		       "data";
	/* The registration ends with the descriptor, at the end of scope; without events
	 * unread. */
	uffd_unregister(uffd, (uintptr_t)p, PROBE_PAGES * 2 * PAGE_SIZE);
	munmap(p, PROBE_PAGES * 2 * PAGE_SIZE);
	return what;
}
