#include "process.h"
#include "kernel.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

bool process_alive(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	return poll(&p, 1, 0) == 0;
}

int process_share_memory(pid_t a, int a_pidfd, pid_t b, int b_pidfd)
{
	long r = syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0);

	if (r < 0)
		return -errno;
	/* Alive after the answer: the numbers were theirs. */
	if ((a_pidfd >= 0 && !process_alive(a_pidfd)) ||
		(b_pidfd >= 0 && !process_alive(b_pidfd)))
		return -ESRCH;
	return r == 0;
}
