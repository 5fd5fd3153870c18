/* Children without an agent, where there is a service manager that keeps descriptors
 * (NOTIFY_SOCKET, FDSTORE=1: systemd, FileDescriptorStoreMax in the unit). Nobody but the
 * service has their userfaultfds: were keeper and worker killed at once, they would be closed,
 * and the children read zeros where their memory is out. So the manager has one as well, named
 * by its client, from the FORK on until the child has an agent that has its own, or is gone; a
 * new service gets them at its start (LISTEN_FDS) and goes on with them (comeback.h). All else
 * that is needed is in the store.
 *
 * A message takes the manager some tens of microseconds, and most children soon have an agent
 * or have ended: so only the first forks of each second are told at once, others when they are
 * still there at the next sweep. What was sent is safe, whether the manager has read it or not.
 *
 * To tell it twice does no harm: it drops what is the same file as one that it has.
 *
 * FDPOLL=0: the manager doesn't watch them. A hang-up says nothing (KERNEL: a userfaultfd has
 * none), and each fault would wake it. */
#ifndef LARDER_FDSTORE_H
#define LARDER_FDSTORE_H

#include <stdbool.h>
#include <stdint.h>

struct client;
struct worker;

/* What the manager had kept, and gave to this process. */
struct fdstore {
	struct fdstore_item {
		uint64_t id; /* of the client */
		int fd;	     /* owned until a record has it */
	} * item;	     /* owned */
	unsigned count;
};

/* At the start, once. Descriptors that aren't ours are closed. */
void fdstore_take(struct fdstore *ret);
/* Those that aren't wanted, NULL: all, are closed, and the manager lets go of them. The list is
 * empty then. */
void fdstore_drop_others(
	struct fdstore *s, bool (*wanted)(void *arg, uint64_t id, int fd), void *arg);

enum { FDSTORE_NAME = 40 };
void fdstore_name(char name[FDSTORE_NAME], uint64_t id);

/* ---- fdstore_child.c ---- */

/* A child that was just made, before it is looked after. */
void fdstore_begin(struct worker *w, struct client *c);
/* Main thread, at each sweep: those that the manager should have and hasn't. */
void fdstore_sweep(struct client *c);
/* Its agent has it, or it is gone. */
void fdstore_forget(struct client *c);

#endif
