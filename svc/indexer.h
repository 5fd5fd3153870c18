/* Keeps the index in step with the spaces. The evictor thread's. */
#ifndef LARDER_INDEXER_H
#define LARDER_INDEXER_H

#include "batch.h"

struct pager;

/* One transaction: the rows of what changed in c, with those of batch that are still HELD as if
 * they were STORED, of the batch's followers, and of all that descend from these and have no
 * rows yet. batch may be NULL. On failure nothing is written, and the next call tries all
 * again. -EAGAIN: one of them isn't born yet, or changes its mappings without a pause. */
int indexer_flush(struct pager *p, struct client *c, struct batch *batch);
/* One transaction: the same for every client that has something to write, but a forked child
 * that is younger than the index may get old. The rows of clients that have ended go, and with
 * them the clients, but for those that wait for descendants; and those of leaves that died: no
 * sooner than the rows that name them. */
int indexer_flush_all(struct pager *p);
/* Before owner's staging is emptied: rows of others that say that a page lies there, because it
 * lay there when they were written, are written anew. -EAGAIN: not all can be now. */
int indexer_forget_staging(struct pager *p, struct client *owner);
/* Frees what nobody needs any more. It was let go of after the transaction whose rows don't
 * name it any more, so it takes one more, in which nothing need be written. */
int indexer_recycle(struct worker *w);

#endif
