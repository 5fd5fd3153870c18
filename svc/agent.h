/* The agent: a process that shares the program's memory and nothing else, and executes the
 * service's orders there (UFFDIO_MOVE works only on the caller's own memory).
 *
 * It is an orphan, unless the program takes in orphans itself; its program isn't its parent.
 *
 * Why a process and not a thread: a thread makes unshare(CLONE_NEWUSER) fail, hangs setuid(2),
 * falls to the program's seccomp filter and loses its descriptors to closefrom(3). */
#ifndef LARDER_AGENT_H
#define LARDER_AGENT_H

#include <stdint.h>
#include <sys/types.h>

struct link;

enum { AGENT_STACK_BYTES = 16384 };

/* Filled by the shim; lies at the foot of the agent's own stack, which nobody ever evicts. */
struct agent {
	struct link *link;
	uint64_t staging;
	uint64_t bell;
	pid_t program;		    /* as the shim sees it */
	pid_t pid;		    /* our own, from our midwife; -1: there is none */
	int uffd, socket, doorbell; /* owned by the agent: its descriptor table is a copy */
	int exec_pipe; /* read end; the program holds the only write end, close-on-exec */
};

/* Entry for clone(2): never returns to the program. */
int agent_main(void *arg);

#endif
