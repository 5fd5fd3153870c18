/* The kernel's userfaultfd as uffd.h and pagemap.h present it, on memory of this process. */
#include "pagemap.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGES = 16 };

struct area {
	int uffd, pagemap;
	uint8_t *memory;
};

static int setup(void **state)
{
	struct area *a = calloc(1, sizeof(*a));
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	a->uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	a->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	a->memory = mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(a->memory, PAGES * PAGE_SIZE, MADV_NOHUGEPAGE);
	if (a->uffd < 0 || uffd_api(a->uffd) < 0 || a->pagemap < 0)
		return -1;
	*state = a;
	return uffd_register(
		a->uffd, (uintptr_t)a->memory, PAGES * PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING);
}

static int teardown(void **state)
{
	struct area *a = *state;

	/* Before munmap, whose event nobody would read. */
	uffd_unregister(a->uffd, (uintptr_t)a->memory, PAGES * PAGE_SIZE);
	munmap(a->memory, PAGES * PAGE_SIZE);
	close(a->uffd);
	close(a->pagemap);
	free(a);
	return 0;
}

/* mprotect makes two mappings of one; the kernel refuses a copy that reaches into the second.
 */
static void copy_goes_over_a_mapping_boundary(void **state)
{
	struct area *a = *state;
	uint8_t *from = aligned_alloc(PAGE_SIZE, PAGES * PAGE_SIZE);
	uint64_t done;

	memset(from, 0x77, PAGES * PAGE_SIZE);
	mprotect(a->memory + 5 * PAGE_SIZE, 3 * PAGE_SIZE, PROT_READ);
	assert_int_equal(
		uffd_copy(a->uffd, (uintptr_t)a->memory, from, PAGES * PAGE_SIZE, &done), 0);
	assert_int_equal(done, PAGES * PAGE_SIZE);
	assert_memory_equal(a->memory, from, PAGES * PAGE_SIZE);
	free(from);
}

static void zero_goes_over_a_mapping_boundary(void **state)
{
	struct area *a = *state;
	uint64_t done;

	mprotect(a->memory + 5 * PAGE_SIZE, 3 * PAGE_SIZE, PROT_READ);
	assert_int_equal(uffd_zero(a->uffd, (uintptr_t)a->memory, PAGES * PAGE_SIZE, &done), 0);
	assert_int_equal(done, PAGES * PAGE_SIZE);
	assert_int_equal(a->memory[6 * PAGE_SIZE], 0);
}

static void copy_stops_where_a_page_exists(void **state)
{
	struct area *a = *state;
	static uint8_t from[4 * PAGE_SIZE] __attribute__((aligned(4096)));
	uint64_t done;

	assert_int_equal(uffd_copy(a->uffd, (uintptr_t)a->memory + 2 * PAGE_SIZE, from,
				 PAGE_SIZE, &done),
		0);
	memset(from, 1, sizeof(from));
	assert_int_equal(
		uffd_copy(a->uffd, (uintptr_t)a->memory, from, sizeof(from), &done), -EEXIST);
	assert_int_equal(done, 2 * PAGE_SIZE);
	assert_int_equal(a->memory[2 * PAGE_SIZE], 0); /* what was there stays */
}

static void copy_to_nowhere_is_enoent(void **state)
{
	struct area *a = *state;
	static uint8_t from[PAGE_SIZE] __attribute__((aligned(4096)));
	uint64_t done;

	uffd_unregister(a->uffd, (uintptr_t)a->memory, PAGES * PAGE_SIZE);
	assert_int_equal(
		uffd_copy(a->uffd, (uintptr_t)a->memory, from, PAGE_SIZE, &done), -ENOENT);
	assert_int_equal(done, 0);
}

static void registered_is_told_without_a_trace(void **state)
{
	struct area *a = *state;
	uint8_t seen[2];

	assert_int_equal(uffd_registered(a->uffd, (uintptr_t)a->memory), 1);
	uffd_unregister(a->uffd, (uintptr_t)a->memory + PAGE_SIZE, PAGE_SIZE);
	assert_int_equal(uffd_registered(a->uffd, (uintptr_t)a->memory + PAGE_SIZE), 0);
	assert_int_equal(pagemap_read(a->pagemap, (uintptr_t)a->memory, 2, seen), 0);
	assert_int_equal(seen[0], PAGE_NONE);
	assert_int_equal(seen[1], PAGE_NONE);
}

/* A huge page is refused before the source is looked at. */
static void registered_is_told_of_a_huge_page(void **state)
{
	struct area *a = *state;
	const size_t huge = 2 << 20;
	uint8_t *all = mmap(
		NULL, 2 * huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *m = (uint8_t *)(((uintptr_t)all + huge - 1) & ~(uintptr_t)(huge - 1));

	madvise(m, huge, MADV_HUGEPAGE);
	memset(m, 1, huge);
	if (!pagemap_is_huge(a->pagemap, (uintptr_t)m)) {
		munmap(all, 2 * huge);
		skip();
	}
	assert_int_equal(uffd_registered(a->uffd, (uintptr_t)m), 0);
	assert_int_equal(
		uffd_register(a->uffd, (uintptr_t)m, huge, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(uffd_registered(a->uffd, (uintptr_t)m), 1);
	assert_true(pagemap_is_huge(a->pagemap, (uintptr_t)m));
	assert_int_equal(m[0], 1);
	uffd_unregister(a->uffd, (uintptr_t)m, huge);
	munmap(all, 2 * huge);
}

/* ---- asked while mappings move ---- */

enum {
	MOVES = 3000,
	MOVED_BYTES = 4 << 20, /* takes long enough to be met */
};

struct mover {
	uint8_t *place[2];
	atomic_bool done;
};

static void *move_to_and_fro(void *arg)
{
	struct mover *m = arg;

	for (unsigned i = 0; i < MOVES; i++)
		if (mremap(m->place[i % 2], MOVED_BYTES, MOVED_BYTES,
			    MREMAP_MAYMOVE | MREMAP_FIXED, m->place[!(i % 2)]) == MAP_FAILED)
			abort();
	atomic_store(&m->done, true);
	return NULL;
}

/* To the first or the last CPU that we may run on: the two threads are to meet. */
static void pin(pthread_t thread, bool last)
{
	cpu_set_t allowed, one;
	size_t at = CPU_SETSIZE;

	sched_getaffinity(0, sizeof(allowed), &allowed);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && (at == CPU_SETSIZE || last))
			at = cpu;
	CPU_ZERO(&one);
	CPU_SET(at, &one);
	pthread_setaffinity_np(thread, sizeof(one), &one);
}

/* Where the events that were read say that the mapping is, it either is, or its move can't have
 * been told of yet: never a plain no. */
static void registered_is_never_denied_to_what_moves(void **state)
{
	struct area *a = *state;
	uint8_t *room =
		mmap(NULL, 3 * MOVED_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/* A page more: so the page tables can't be moved whole. */
	struct mover m = {.place = {room, room + MOVED_BYTES + PAGE_SIZE}};
	uint64_t done, at = (uintptr_t)room;
	struct uffd_msg msg;
	pthread_t thread;
	unsigned denied = 0;

	munmap(room + MOVED_BYTES, 2 * MOVED_BYTES);
	mprotect(room, MOVED_BYTES, PROT_READ | PROT_WRITE);
	assert_int_equal(
		uffd_register(a->uffd, at, MOVED_BYTES, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(uffd_zero(a->uffd, at, MOVED_BYTES, &done), 0);
	pthread_create(&thread, NULL, move_to_and_fro, &m);
	cpu_set_t before;
	pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
	pin(thread, true);
	pin(pthread_self(), false);
	while (!atomic_load(&m.done)) {
		denied += uffd_registered(a->uffd, at) == 0;
		if (read(a->uffd, &msg, sizeof(msg)) == sizeof(msg) &&
			msg.event == UFFD_EVENT_REMAP)
			at = msg.arg.remap.to;
	}
	pthread_join(thread, NULL);
	pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	uffd_unregister(a->uffd, at, MOVED_BYTES);
	munmap((void *)(uintptr_t)at, MOVED_BYTES);
	assert_int_equal(denied, 0);
}

static void *discard(void *memory)
{
	madvise(memory, PAGE_SIZE, MADV_DONTNEED);
	return NULL;
}

static void fence_is_up_while_an_event_is_unread(void **state)
{
	struct area *a = *state;
	struct pollfd p = {.fd = a->uffd, .events = POLLIN};
	struct uffd_msg msg;
	pthread_t thread;

	assert_false(uffd_fence_up(a->uffd));
	pthread_create(&thread, NULL, discard, a->memory);
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_true(uffd_fence_up(a->uffd));
	assert_int_equal(read(a->uffd, &msg, sizeof(msg)), sizeof(msg));
	pthread_join(thread, NULL);
	assert_false(uffd_fence_up(a->uffd));
}

/* What a child's page table file says once its address space is gone. */
static void pagemap_knows_when_its_memory_is_gone(void **state)
{
	int hold[2];
	char path[64], byte;

	(void)state;
	assert_int_equal(pipe(hold), 0);
	pid_t child = fork();
	if (child == 0) {
		close(hold[1]);
		_exit(read(hold[0], &byte, 1) < 0);
	}
	close(hold[0]);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", child);
	int theirs = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(pagemap_alive(theirs));
	close(hold[1]);
	waitpid(child, NULL, 0);
	assert_false(pagemap_alive(theirs));
	close(theirs);
}

/* The same by a userfaultfd alone: the child makes one of its own memory, and we keep it. */
static void uffd_knows_when_its_memory_is_gone(void **state)
{
	int pair[2];
	char byte = 0;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	pid_t child = fork();
	if (child == 0) {
		int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		int uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		send(pair[1], &uffd, sizeof(uffd), 0);
		_exit(recv(pair[1], &byte, 1, 0) < 0);
	}
	int number;
	assert_int_equal(recv(pair[0], &number, sizeof(number), 0), sizeof(number));
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	int theirs = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	assert_int_equal(uffd_api(theirs), 0);
	assert_true(uffd_alive(theirs));
	send(pair[0], &byte, 1, 0);
	waitpid(child, NULL, 0);
	assert_false(uffd_alive(theirs));
	close(theirs);
	close(pidfd);
	close(pair[0]);
	close(pair[1]);
}

static void presence_tells_pages_holes_and_guards_apart(void **state)
{
	struct area *a = *state;
	uint8_t *m = mmap(NULL, 3 * PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t seen[3];

	m[0] = 1;
	assert_int_equal(madvise(m + 2 * PAGE_SIZE, PAGE_SIZE, MADV_GUARD_INSTALL), 0);
	assert_int_equal(pagemap_read(a->pagemap, (uintptr_t)m, 3, seen), 0);
	assert_int_equal(seen[0], PAGE_HERE);
	assert_int_equal(seen[1], PAGE_NONE);
	assert_int_equal(seen[2], PAGE_GUARDED);
	munmap(m, 3 * PAGE_SIZE);
}

static void only_a_userfaultfd_is_one(void **state)
{
	struct area *a = *state;

	assert_true(uffd_is_one(a->uffd));
	assert_false(uffd_is_one(a->pagemap));
	assert_false(uffd_is_one(-1));
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(copy_goes_over_a_mapping_boundary),
		T(zero_goes_over_a_mapping_boundary),
		T(copy_stops_where_a_page_exists),
		T(copy_to_nowhere_is_enoent),
		T(registered_is_told_without_a_trace),
		T(registered_is_told_of_a_huge_page),
		T(registered_is_never_denied_to_what_moves),
		T(fence_is_up_while_an_event_is_unread),
		T(presence_tells_pages_holes_and_guards_apart),
		T(only_a_userfaultfd_is_one),
		cmocka_unit_test(pagemap_knows_when_its_memory_is_gone),
		cmocka_unit_test(uffd_knows_when_its_memory_is_gone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
