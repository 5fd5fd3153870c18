/* A worker whose predecessor died takes over what it left (DESIGN rule 10): the state table
 * with the descriptors, the index's rows, each client's journal since its rows were written,
 * staging and link, and the pages that the kernel says the program has.
 *
 *   close_strangers  what is open and nobody's (before the database is opened)
 *   rows             what was committed, as of each client's own clock
 *   replay           what was told and found out since, in the order of then
 *   staging          pages that were moved and are in no row: they go back
 *   presence         what the program has is RESIDENT, whatever the record says
 *   wake             whoever waited for an answer of the old worker faults again */
#ifndef LARDER_RECOVER_H
#define LARDER_RECOVER_H

#include "client.h"

struct birth_fork;
struct state;
struct worker;

/* Closes every descriptor that is neither in `keep` nor a client's nor of a FORK that waits in
 * a journal to be applied. */
void recover_close_strangers(const struct state *s, const int *keep, unsigned keep_count);

/* Before any other thread runs, the store just reopened: the clients, in the worker's table but
 * not read yet. 0; -EBADMSG: the index can't be what was left; other negative errno as the
 * store says. It was logged. */
int recover_clients(struct worker *w);

/* The threads run. */
void recover_resume(struct worker *w);

/* A FORK of a client whose journal is read again. */
void recover_fork(struct client *parent, int ufd, struct birth_fork *ret);

#endif
