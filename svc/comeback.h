/* A service whose predecessor is gone, keeper and worker both, takes over the programs that it
 * looked after.
 *
 * All that is needed outlives both: the store, the table of clients (state.h) and the journals
 * are files in the store's tmpfs; and each client's agent keeps its userfaultfd, its link and
 * its doorbell open. These are fetched from the agent by pidfd_getfd(2), and afterwards
 * everything is as if a worker had died and its keeper lived: recover.h does the rest.
 *
 *   open    the table, when one of its clients' agents lives
 *   fetch   for each client, what its agent keeps; the journal, by name
 *
 * Of a child without an agent, the service manager may have kept the userfaultfd (fdstore.h).
 *
 * Who has no agent any more, and no kept one, gets a userfaultfd without memory, which answers
 * as that of a program that has just ended: rows, journals and children then take the same way
 * as ever. So do FORKs that no worker had applied: their descriptors are gone, and the children
 * with them.
 *
 * Why the service goes to the agents, and they don't come: an agent may open and send nothing
 * (agent.c), for whoever takes a program over can write to its stack. A list of system calls
 * with socket, connect and sendmsg in it would give a program in a sandbox a way out. Nobody
 * can claim to be somebody else's agent, for nobody is asked; and programs that are stopped or
 * frozen are taken over at once, like all others.
 *
 * What is fetched is what was there before, the very same file, process or memory, or nothing
 * is: by inode numbers, of which this boot has each once. */
#ifndef LARDER_COMEBACK_H
#define LARDER_COMEBACK_H

#include <stdbool.h>

struct fdstore;
struct state;

/* The table in dir, the store's directory. *ret_left: an earlier service left it, and it has
 * clients that can be taken over, from their agents or from what was kept; else it is new, and
 * journals of earlier ones are removed. mounted: the tmpfs was mounted just now. Negative
 * errno: it said why, and left all as it was.
 */
int comeback_open(struct state **ret, const char *dir, bool mounted, const struct fdstore *kept,
	bool *ret_left);

/* The numbers of descriptors in the table are not this service's, or were not all fetched. */
void comeback_forget_numbers(struct state *s);
/* Fetches them, before any thread runs. device: /dev/userfaultfd. kept: those of children
 * without an agent; it is empty afterwards. 0, or negative errno, which it logged: nothing is
 * lost, and another worker may try again. */
int comeback_fetch(struct state *s, const char *dir, int device, struct fdstore *kept);

/* The end of a service that has given everything back: nothing of it stays. */
void comeback_close(struct state *s, const char *dir);

#endif
