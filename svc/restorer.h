/* What the shim asks for is done by a thread of its own, so that a program that waits for it
 * doesn't wait for an eviction. Clients take turns. At the end of the service the same thread
 * gives everything back, while nobody rings. */
#ifndef LARDER_RESTORER_H
#define LARDER_RESTORER_H

#include "client.h"

struct restorer;

int restorer_start(struct restorer **ret, struct worker *w);
void restorer_stop(struct restorer *r); /* NULL is fine */

/* The client's shim rang: its requests are looked at soon. Any thread; never blocks. */
void restorer_ring(struct restorer *r, struct client *c);

/* From now on all is given back (release.h), or what children without an agent have, when no
 * eviction begins any more. Any thread; never blocks, and needs no memory. When it is done the
 * worker is kicked. Told again, it does it again. */
void restorer_release_all(struct restorer *r, bool children);
bool restorer_releases(struct restorer *r); /* it was told to */
bool restorer_released(const struct restorer *r);

#endif
