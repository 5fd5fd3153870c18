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

/* None begins any more, and one that is under way stops at its next block; the index and the
 * store are kept in order as ever. Any thread; never blocks. */
void evictor_end_evictions(struct evictor *e);
/* The same, for a worker that leaves (upgrade.h): when all that can be written is in the rows,
 * the worker is kicked. Programs are served as ever, and rows written when they are due. */
void evictor_leave(struct evictor *e);
bool evictor_has_left(struct evictor *e);
/* False: nothing is registered or moved by it, and will not be once they have ended. */
bool evictor_is_evicting(struct evictor *e);

/* Rows are written, and the store gives back what that frees, now and not when it is due. Any
 * thread; never blocks. */
void evictor_keep_house(struct evictor *e);

/* A client has ended (worker_table_end): its rows may go, if it has some, and it with them;
 * children that have none yet get theirs first. Any thread. */
void evictor_forget(struct evictor *e, bool indexed);

#endif
