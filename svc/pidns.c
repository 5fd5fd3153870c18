#include "pidns.h"
#include "cleanup.h"
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int pidns_open(int pidfd)
{
	/* By the pidfd and not by /proc/PID, whose number may be another's by now. */
	int fd = ioctl(pidfd, PIDFD_GET_PID_NAMESPACE, 0);
	return fd < 0 ? -errno : fd;
}

bool pidns_is_ours(int pidns)
{
	struct stat ours, that;
	return stat("/proc/self/ns/pid", &ours) == 0 && fstat(pidns, &that) == 0 &&
	       ours.st_dev == that.st_dev && ours.st_ino == that.st_ino;
}

static int translate(int pidns, unsigned long how, pid_t from, pid_t *ret)
{
	int r = ioctl(pidns, how, (unsigned long)from);
	if (r < 0)
		return -errno;
	*ret = r;
	return 0;
}

int pidns_number(int pidns, pid_t pid, pid_t *ret)
{
	return translate(pidns, NS_GET_TGID_IN_PIDNS, pid, ret);
}

int pidns_our_number(int pidns, pid_t number, pid_t *ret)
{
	return translate(pidns, NS_GET_TGID_FROM_PIDNS, number, ret);
}

int pidns_own_number(int pidfd, pid_t pid, pid_t *ret)
{
	_cleanup_fd_ int pidns = pidns_open(pidfd);
	return pidns < 0 ? pidns : pidns_number(pidns, pid, ret);
}
