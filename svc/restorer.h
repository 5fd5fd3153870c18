/* Gives pages back by order: `larder release`, what the shim asks for, and shutdown. A thread
 * of its own, so that a program that waits for it doesn't wait for an eviction. */
#ifndef LARDER_RESTORER_H
#define LARDER_RESTORER_H

#include "client.h"

struct pager;
struct restorer;

int restorer_start(struct restorer **ret, struct worker *w);
void restorer_stop(struct restorer *r); /* NULL is fine */

/* The client's shim rang: its requests are looked at soon. Any thread; never blocks. */
void restorer_ring(struct restorer *r, struct client *c);

/* Puts every page of the regions that touch [start, end) back and unregisters them. Gate not
 * held; returns when done. -ESRCH: the client is gone. */
int restorer_give_back(struct pager *p, struct client *c, uint64_t start, uint64_t end);

#endif
