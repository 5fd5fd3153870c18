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
 * that is younger than the index may get old; the rows of leaves that died; and those of
 * clients that are gone, of which the first *ret_forgotten of forget are done with afterwards:
 * the others wait for descendants. dead: taken from the graveyard before forget was listed, and
 * theirs from now on: a leaf's row goes no sooner than those that name it. */
int indexer_flush_all(struct pager *p, struct leaf *dead, struct client **forget,
	size_t forget_count, size_t *ret_forgotten);
/* Frees what nobody needs any more. It was let go of after the transaction whose rows don't
 * name it any more, so it takes one more, in which nothing need be written. */
int indexer_recycle(struct worker *w);

#endif
