/* Which of several processes that look the same has the address space of a userfaultfd. */
#include "owner.h"
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { CHILDREN = 3, PAGES = 16, HANGS_S = 60 };

static int uffd = -1;
static uint8_t *memory;
static pid_t pid[CHILDREN];
static int of_child[CHILDREN];
static char exe[PATH_MAX];

static void *fork_one(void *ret)
{
	pid_t child = fork();

	if (child == 0)
		for (;;)
			pause();
	*(pid_t *)ret = child;
	return NULL;
}

/* fork(2) returns when its event was read. */
static void fork_and_read(unsigned i)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};
	struct uffd_msg m;
	pthread_t thread;

	pthread_create(&thread, NULL, fork_one, &pid[i]);
	assert_int_equal(poll(&p, 1, HANGS_S * 1000), 1);
	assert_int_equal(read(uffd, &m, sizeof(m)), sizeof(m));
	assert_int_equal(m.event, UFFD_EVENT_FORK);
	of_child[i] = (int)m.arg.fork.ufd;
	pthread_join(thread, NULL);
}

static int setup(void **state)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	(void)state;
	alarm(HANGS_S);
	exe[readlink("/proc/self/exe", exe, sizeof(exe) - 1)] = 0;
	uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	memory = mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (uffd_api(uffd) < 0 || uffd_register(uffd, (uintptr_t)memory, PAGES * PAGE_SIZE,
					  UFFDIO_REGISTER_MODE_MISSING) < 0)
		return -1;
	for (unsigned i = 0; i < CHILDREN; i++)
		fork_and_read(i);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (unsigned i = 0; i < CHILDREN; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
		close(of_child[i]);
	}
	uffd_unregister(uffd, (uintptr_t)memory, PAGES * PAGE_SIZE);
	close(uffd);
	munmap(memory, PAGES * PAGE_SIZE);
	return 0;
}

/* In any order, and again and again: what looking leaves behind misleads nobody. */
static void it_is_found_among_its_like(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4 * CHILDREN; i++) {
		unsigned which = i * 2 % CHILDREN;
		pid_t found = 0;
		int pidfd = owner_find(of_child[which], i % 2 ? exe : NULL, &found);
		assert_true(pidfd >= 0);
		close(pidfd);
		assert_int_equal(found, pid[which]);
	}
}

static void it_is_not_another_executable(void **state)
{
	pid_t found = 0;

	(void)state;
	exe[strlen(exe) - 1]++;
	assert_int_equal(owner_find(of_child[0], exe, &found), -ENOENT);
	exe[strlen(exe) - 1]--;
}

/* What was registered before is registered as before, in all of them. */
static void nothing_else_changes(void **state)
{
	pid_t found;
	int pidfd = owner_find(of_child[1], NULL, &found);

	(void)state;
	assert_true(pidfd >= 0);
	close(pidfd);
	for (unsigned i = 0; i < CHILDREN; i++)
		for (unsigned k = 0; k < PAGES; k++)
			assert_int_equal(
				uffd_registered(of_child[i], (uintptr_t)memory + k * PAGE_SIZE),
				1);
}

static void one_that_has_ended_is_not_found(void **state)
{
	pid_t found = 0;

	(void)state;
	kill(pid[1], SIGKILL);
	waitpid(pid[1], NULL, 0);
	while (uffd_alive(of_child[1]))
		usleep(1000);
	assert_true(owner_find(of_child[1], NULL, &found) < 0);
	assert_int_equal(found, 0);
}

int main(void)
{
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		puts("skipped: /dev/userfaultfd can't be opened: not root, or no such device");
		return 77;
	}
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(it_is_found_among_its_like),
		T(it_is_not_another_executable),
		T(nothing_else_changes),
		T(one_that_has_ended_is_not_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
