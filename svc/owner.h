/* The process behind a userfaultfd: of a forked child that has no agent, the service has
 * nothing else. */
#ifndef LARDER_OWNER_H
#define LARDER_OWNER_H

#include <sys/types.h>

/* Looks at all processes, or at those that run this executable (as /proc/PID/exe names it;
 * NULL: any): about 50 us for each. The child runs on. Returns a pidfd, which the caller
 * closes. -EAGAIN: it can't be told while an event of its is unread. -ENOENT: there is none, or
 * its leader has exited and other threads go on. */
int owner_find(int uffd, const char *exe, pid_t *ret_pid);

#endif
