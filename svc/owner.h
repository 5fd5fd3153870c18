/* The process behind a userfaultfd: of a forked child that has no agent, the service has nothing
 * else. */
#ifndef LARDER_OWNER_H
#define LARDER_OWNER_H

#include <sys/types.h>

/* Looks at all processes, which takes some ms; the child runs on. Returns a pidfd, which the
 * caller closes. -EAGAIN: it can't be told while an event of its is unread. -ENOENT: there is
 * none, or its leader has exited and other threads go on. */
int owner_find(int uffd, pid_t *ret_pid);

#endif
