/* Numbers that went to another process: what was asked by them is not believed. */
#include "process.h"

#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { STACK = 65536, TRIES = 100 };

static int wait_for_end(void *arg)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		pause();
	return arg == NULL;
}

/* A process that has our memory, or a copy of it. */
static pid_t start(bool shares, int *ret_pidfd)
{
	uint8_t *stack =
		mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid = clone(wait_for_end, stack + STACK, (shares ? CLONE_VM : 0) | SIGCHLD, NULL);

	assert_true(pid > 0);
	*ret_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	assert_true(*ret_pidfd >= 0);
	return pid;
}

static void end(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* False: somebody was quicker. */
static bool start_with_number(pid_t pid)
{
	struct clone_args args = {
		.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1};
	long r = syscall(SYS_clone3, &args, sizeof(args));

	if (r == 0)
		exit(wait_for_end(NULL));
	return r == pid;
}

static void who_shares_memory(void **state)
{
	int same_fd, other_fd, self_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	pid_t same = start(true, &same_fd), other = start(false, &other_fd);

	(void)state;
	assert_int_equal(process_share_memory(getpid(), self_fd, same, same_fd), 1);
	assert_int_equal(process_share_memory(getpid(), self_fd, other, other_fd), 0);
	assert_int_equal(process_share_memory(getpid(), -1, same, -1), 1);
	end(same);
	end(other);
	assert_int_equal(process_share_memory(getpid(), self_fd, same, same_fd), -ESRCH);
	assert_false(process_alive(same_fd));
	assert_true(process_alive(self_fd));
	close(self_fd);
	close(same_fd);
	close(other_fd);
}

/* The number is another's now, whichever of the two it was. */
static void a_number_that_went_to_another(void **state)
{
	int old_fd, self_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	pid_t number = 0;
	uint64_t inode = 0;

	(void)state;
	for (int i = 0; i < TRIES; i++) {
		number = start(true, &old_fd);
		inode = descriptor_inode(old_fd);
		/* All descriptors of it have one inode, also when there was none meanwhile. */
		close(old_fd);
		old_fd = process_open(number, inode);
		assert_true(old_fd >= 0);
		assert_int_equal(descriptor_inode(old_fd), inode);
		end(number);
		assert_int_equal(process_open(number, inode), -ESRCH);
		if (start_with_number(number))
			break;
		assert_true(errno == EEXIST);
		close(old_fd);
		number = 0;
	}
	assert_true(number > 0);
	/* Whatever was recorded of the one that had it, it isn't opened for that. */
	assert_int_equal(process_open(number, inode), -ESRCH);
	assert_int_equal(process_open(number, 0), -ESRCH);
	/* By number alone there is an answer. */
	assert_int_equal(process_share_memory(getpid(), -1, number, -1), 0);
	assert_int_equal(process_share_memory(getpid(), self_fd, number, old_fd), -ESRCH);
	assert_int_equal(process_share_memory(number, old_fd, getpid(), self_fd), -ESRCH);
	end(number);
	close(old_fd);
	close(self_fd);
}

int main(void)
{
	if (geteuid() != 0) {
		puts("skipped: not root, who alone may choose the number of a process");
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_shares_memory),
		cmocka_unit_test(a_number_that_went_to_another),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
