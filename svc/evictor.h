/* Moves pages out of clients and into the store. One thread, which also owns the index. */
#ifndef LARDER_EVICTOR_H
#define LARDER_EVICTOR_H

#include "client.h"
#include "control.h"

struct evictor;

int evictor_start(struct evictor **ret, struct worker *w);
void evictor_stop(struct evictor *e); /* finishes the block it is at. NULL is fine */
/* After all was given back, so that no page is HELD for want of room. NULL is fine. */
void evictor_free(struct evictor *e);

/* Takes all that may be taken now; returns when it is stored and gone. Any thread. */
int evictor_evict(struct evictor *e, struct client *c, struct evict_result *ret);

/* The client is gone from the tables: its rows may go, and it with them; children that have
 * none yet get theirs first. Takes a reference of its own. */
void evictor_forget(struct evictor *e, struct client *c);

#endif
