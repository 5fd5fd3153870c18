/* Keeps the index in step with the spaces. The evictor thread's. */
#ifndef LARDER_INDEXER_H
#define LARDER_INDEXER_H

#include "batch.h"

struct pager;

/* One transaction: the rows of what changed in c (batch pages that are still HELD as if they
 * were STORED), and of the leaves that died. batch may be NULL. On failure nothing is written,
 * and the same is tried again by the next call. */
int indexer_flush(struct pager *p, struct client *c, const struct batch *batch);
/* The same for every client that has something to write. */
int indexer_flush_all(struct pager *p);
/* A client that is gone: its rows too. */
int indexer_forget(struct worker *w, uint64_t id);

#endif
