/* Processes by number and pidfd. A number can be another process's by the time that it is used;
 * what was asked by number counts only for whoever was still there afterwards. */
#ifndef LARDER_PROCESS_H
#define LARDER_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* False: it ended, all of its threads. */
bool process_alive(int pidfd);

/* The inode of any descriptor, 0 if there is none. A pidfd's is its process's for good: no
 * other one of this boot ever has it (Linux 6.9, pidfs). */
uint64_t descriptor_inode(int fd);
/* A pidfd of the process that has this number and this inode. -ESRCH: it ended, and the number
 * may be another's. */
int process_open(pid_t pid, uint64_t inode);

/* Have both one memory? 1: yes. 0: no. -ESRCH: one has ended, and its number may be another's.
 * pidfd -1: none is at hand, and the caller answers for the number. Else what kcmp(2) said. */
int process_share_memory(pid_t a, int a_pidfd, pid_t b, int b_pidfd);

#endif
