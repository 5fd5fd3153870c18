/* What the shim asks for is done by a thread of its own, so that a program that waits for it
 * doesn't wait for an eviction. Clients take turns. */
#ifndef LARDER_RESTORER_H
#define LARDER_RESTORER_H

#include "client.h"

struct restorer;

int restorer_start(struct restorer **ret, struct worker *w);
void restorer_stop(struct restorer *r); /* NULL is fine */

/* The client's shim rang: its requests are looked at soon. Any thread; never blocks. */
void restorer_ring(struct restorer *r, struct client *c);

#endif
