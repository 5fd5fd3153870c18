#include "process.h"
#include "kernel.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

bool process_alive(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	return poll(&p, 1, 0) == 0;
}

uint64_t descriptor_inode(int fd)
{
	struct stat st;
	return fd >= 0 && fstat(fd, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

int process_open(pid_t pid, uint64_t inode)
{
	int fd = pid <= 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd < 0)
		return pid <= 0 || errno == EINVAL ? -ESRCH : -errno;
	if (inode != 0 && descriptor_inode(fd) == inode && process_alive(fd))
		return fd;
	close(fd);
	return -ESRCH;
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
