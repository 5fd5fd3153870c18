#include "probe.h"
#include "cleanup.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum {
	PROBE_PAGES = 2,
	AREA_BYTES = PROBE_PAGES * 2 * PAGE_SIZE,
	/* What takes microseconds, unless the machine is so busy that a thread doesn't get to
	 * run: only a kernel that never does it needs all of this. */
	WAIT_MS = 10000,
	CHILD_SECONDS = 60,
};

static bool readable(int uffd)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};
	return poll(&p, 1, WAIT_MS) == 1;
}

static uint8_t *move_target(uint8_t *area)
{
	return area + PROBE_PAGES * PAGE_SIZE;
}

static bool move_works(int uffd, uint8_t *from)
{
	uint8_t *to = move_target(from);
	struct uffdio_move m = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = PAGE_SIZE};

	memset(from, 0x5a, PAGE_SIZE);
	if (uffd_register(uffd, (uintptr_t)from, PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING) < 0 ||
		uffd_register(uffd, (uintptr_t)to, PAGE_SIZE, UFFDIO_REGISTER_MODE_WP) < 0)
		return false;
	return ioctl(uffd, UFFDIO_MOVE, &m) == 0 && to[0] == 0x5a && to[PAGE_SIZE - 1] == 0x5a;
}

static void *discard(void *page)
{
	madvise(page, PAGE_SIZE, MADV_DONTNEED);
	return NULL;
}

/* A copy of nothing: EAGAIN with the fence up, EINVAL with it down. */
static int copy_nothing(int uffd)
{
	struct uffdio_copy nothing = {.len = 0};
	return ioctl(uffd, UFFDIO_COPY, &nothing) < 0 ? -errno : 0;
}

/* While a REMOVE is unread the fence is up, and whoever discarded waits; afterwards it falls.
 */
static bool fence_works(int uffd, uint8_t *page)
{
	struct uffd_msg msg;
	pthread_t thread;

	if (copy_nothing(uffd) != -EINVAL || pthread_create(&thread, NULL, discard, page) != 0)
		return false;
	bool seen = readable(uffd) && copy_nothing(uffd) == -EAGAIN;
	bool got = read(uffd, &msg, sizeof(msg)) == sizeof(msg);
	if (!got) {
		/* A thread that comes later waits for nobody, and one that came is let go. */
		uffd_unregister(uffd, (uintptr_t)page, PAGE_SIZE);
		if (copy_nothing(uffd) == -EAGAIN && readable(uffd))
			got = read(uffd, &msg, sizeof(msg)) == sizeof(msg);
	}
	seen = seen && got && msg.event == UFFD_EVENT_REMOVE &&
	       msg.arg.remove.start == (uintptr_t)page &&
	       msg.arg.remove.end == (uintptr_t)page + PAGE_SIZE;
	pthread_join(thread, NULL);
	return seen && copy_nothing(uffd) == -EINVAL;
}

static void *touch(void *page)
{
	return (void *)(uintptr_t) * (volatile uint8_t *)page;
}

/* The page was moved away: a touch waits for us, and sees what we put there. */
static bool fault_works(int uffd, uint8_t *page)
{
	uint8_t content[PAGE_SIZE];
	struct uffd_msg msg;
	pthread_t thread;
	uint64_t done;
	void *value = NULL;

	memset(content, 0xa5, sizeof(content));
	if (pthread_create(&thread, NULL, touch, page) != 0)
		return false;
	bool served = readable(uffd) && read(uffd, &msg, sizeof(msg)) == sizeof(msg) &&
		      msg.event == UFFD_EVENT_PAGEFAULT &&
		      (msg.arg.pagefault.address & PAGE_MASK) == (uintptr_t)page &&
		      uffd_copy(uffd, (uintptr_t)page, content, PAGE_SIZE, &done) == 0;
	if (!served) /* lets the thread go on */
		uffd_unregister(uffd, (uintptr_t)page, PAGE_SIZE);
	pthread_join(thread, &value);
	return served && (uintptr_t)value == 0xa5;
}

/* In this order: each leaves the first page missing and registered for the next. */
static const struct step {
	bool (*works)(int uffd, uint8_t *area);
	const char *missing;
} steps[] = {
	{move_works, "UFFDIO_MOVE is there but doesn't move a page on this kernel"},
	{fence_works, "this kernel's userfaultfd events hold nothing up: evicting would lose "
		      "data"},
	{fault_works, "this kernel's userfaultfd doesn't report faults: an evicted page could "
		      "not come back"},
};

static const char *try_steps(int uffd)
{
	const char *missing = NULL;
	uint8_t *p = mmap(
		NULL, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return "no memory for trying UFFDIO_MOVE";
	madvise(p, AREA_BYTES, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && !missing; i++)
		if (!steps[i].works(uffd, p))
			missing = steps[i].missing;
	/* The registration ends with the descriptor, at the end of the caller's scope; without
	 * events unread. */
	uffd_unregister(uffd, (uintptr_t)p, AREA_BYTES);
	munmap(p, AREA_BYTES);
	return missing;
}

const char *probe_kernel(int device)
{
	_cleanup_fd_ int uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

	if (uffd < 0)
		return "this kernel makes no userfaultfd from /dev/userfaultfd: 6.12 or later "
		       "is needed";
	int r = uffd_api(uffd);
	if (r == -EPERM) /* of the fork event */
		return "CAP_SYS_PTRACE is missing, without which the kernel tells of no fork: "
		       "run larderd as root, with all capabilities that root has";
	if (r < 0)
		return "this kernel has no UFFDIO_MOVE: 6.12 or later is needed (Debian 12: "
		       "package "
		       "linux-image-6.12-amd64)";
	return try_steps(uffd);
}

/* ---- in a child ---- */

static _Noreturn void child(int device, int out)
{
	alarm(CHILD_SECONDS);
	const char *missing = probe_kernel(device);
	size_t length = missing ? strlen(missing) : 0;
	_exit(missing && write(out, missing, length) == (ssize_t)length ? 1 : missing ? 2 : 0);
}

static int judge(int status, const char *missing, char *what, size_t size)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 1 && *missing)
		snprintf(what, size, "%s", missing);
	else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		snprintf(what, size, "trying userfaultfd on this kernel never came to an end");
	else if (WIFSIGNALED(status))
		snprintf(what, size, "trying userfaultfd on this kernel ended with signal %d",
			WTERMSIG(status));
	else
		snprintf(what, size, "trying userfaultfd on this kernel failed");
	return 1;
}

int probe_forked(int device, char *what, size_t size)
{
	char missing[256] = "";
	int ends[2], status;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0)
		child(device, ends[1]);
	int r = pid < 0 ? -errno : 0;
	close(ends[1]);
	if (r == 0) {
		ssize_t n = read(ends[0], missing, sizeof(missing) - 1);
		missing[n > 0 ? n : 0] = '\0';
		while ((r = waitpid(pid, &status, 0) < 0 ? -errno : 0) == -EINTR)
			;
	}
	close(ends[0]);
	return r < 0 ? r : judge(status, missing, what, size);
}
