/* Pid namespaces: one process has a number in each of its own and those above. "Our" is the
 * service's. Numbers are a moment's: whoever uses one holds a pidfd besides. */
#ifndef LARDER_PIDNS_H
#define LARDER_PIDNS_H

#include <stdbool.h>
#include <sys/types.h>

/* A descriptor of the process's namespace, which the caller closes. */
int pidns_open(int pidfd);
/* Is it our own? False as well when that can't be told. */
bool pidns_is_ours(int pidns);
/* Our number -> the one in there. -ESRCH: has none there, or is gone. */
int pidns_number(int pidns, pid_t pid, pid_t *ret);
/* The one in there -> our number. -ESRCH: there is no such process. */
int pidns_our_number(int pidns, pid_t number, pid_t *ret);
/* The number in the process's own namespace. */
int pidns_own_number(int pidfd, pid_t pid, pid_t *ret);

#endif
