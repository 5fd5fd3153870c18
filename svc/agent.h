/* The agent: a process that shares the program's memory and nothing else, and executes the
 * service's orders there (UFFDIO_MOVE works only on the caller's own memory).
 *
 * It is an orphan, unless the program takes in orphans itself; its program isn't its parent.
 *
 * Why a process and not a thread: a thread makes unshare(CLONE_NEWUSER) fail, hangs setuid(2),
 * falls to the program's seccomp filter and loses its descriptors to closefrom(3). */
#ifndef LARDER_AGENT_H
#define LARDER_AGENT_H

#include "protocol.h"

#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

struct link;
struct shim_page;

enum { AGENT_STACK_BYTES = 16384 };

/* What the agent of a forked child says and to whom; prepared by the shim, read-only. */
struct join {
	struct sockaddr_un address;
	socklen_t address_len;
	struct message_hello hello;
};

/* Filled by the shim; lies at the foot of the agent's own stack, which nobody ever evicts. */
struct agent {
	struct link *link;
	uint64_t staging;
	uint64_t bell;
	pid_t program; /* as the shim sees it */
	pid_t pid;     /* our own, from our midwife; -1: there is none */
	/* Owned by the agent: its descriptor table is a copy. link_fd is kept for another
	 * service, should this one die (protocol.h). */
	int uffd, socket, doorbell, link_fd;
	int exec_pipe; /* read end; the program holds the only write end, close-on-exec */
	int pidfd;     /* of the program; owned */
	/* Of a forked child, whose agent connects by itself; else NULL. */
	const struct join *join;
	struct shim_page *page; /* where it is told that there is a link */
};

/* Late: connects, and gets what the shim of a program gets before its agent is born. Negative:
 * it is not to be. */
int agent_join(struct agent *a);

/* Entry for clone(2): never returns to the program. */
int agent_main(void *arg);

#endif
