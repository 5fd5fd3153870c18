/* Cases that use userfaultfd themselves, as qemu and garbage collectors do. */
#include "kernel.h"
#include "tidy.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int uffd_new(uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (call_result("userfaultfd", fd) < 0 ||
		call_result("handshake", ioctl(fd, UFFDIO_API, &api)) < 0)
		return -1;
	return fd;
}

static int take_range(int fd, const uint8_t *at, size_t len)
{
	struct uffdio_register r = {
		.range = {(uintptr_t)at, len}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	return (int)call_result("register", ioctl(fd, UFFDIO_REGISTER, &r));
}

/* Answers one fault with a page full of fives. */
static void *answer(void *arg)
{
	static uint8_t page[TIDY_PAGE];
	struct uffd_msg m;
	int fd = *(int *)arg;

	memset(page, 5, sizeof(page));
	if (read(fd, &m, sizeof(m)) != sizeof(m) || m.event != UFFD_EVENT_PAGEFAULT)
		return NULL;
	struct uffdio_copy c = {.dst = m.arg.pagefault.address & ~(uint64_t)(TIDY_PAGE - 1),
		.src = (uintptr_t)page,
		.len = TIDY_PAGE};
	ioctl(fd, UFFDIO_COPY, &c);
	return NULL;
}

/* Takes all of the memory, has one page given by a thread, restores it and lets go. */
int tidy_uffd_own(struct tidy *t)
{
	pthread_t thread;
	uint8_t *page = t->memory + 100 * TIDY_PAGE, saved[TIDY_PAGE];
	int fd = uffd_new(0);

	if (fd < 0 || take_range(fd, t->memory, TIDY_BYTES) < 0)
		return 1;
	memcpy(saved, page, sizeof(saved));
	if (pthread_create(&thread, NULL, answer, &fd) != 0 ||
		call_result("discard", madvise(page, TIDY_PAGE, MADV_DONTNEED)) < 0)
		return 1;
	say("given: %d %d", page[0], page[TIDY_PAGE - 1]);
	pthread_join(thread, NULL);
	memcpy(page, saved, sizeof(saved));
	if (memory_check("while it is registered", t->memory))
		return 1;
	point(POINT_LEAVE); /* a program with one of its own is left alone */
	close(fd);
	return 0;
}

/* Its own MOVE, out of memory that is out. */
int tidy_uffd_move(struct tidy *t)
{
	uint8_t *to = mmap(
		NULL, TIDY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = uffd_new(UFFD_FEATURE_MOVE);

	if (fd < 0 || to == MAP_FAILED || take_range(fd, to, TIDY_BYTES) < 0)
		return 1;
	struct uffdio_move m = {
		.dst = (uintptr_t)to, .src = (uintptr_t)t->memory, .len = TIDY_BYTES};
	if (call_result("move", ioctl(fd, UFFDIO_MOVE, &m)) < 0) {
		say("moved %lld", (long long)m.move);
		return 1;
	}
	close(fd);
	t->memory = to;
	return 0;
}
