/* Keeps the index in step with the spaces. The evictor thread's. */
#ifndef LARDER_INDEXER_H
#define LARDER_INDEXER_H

#include "batch.h"

struct pager;

/* One transaction: the rows of what changed in c, batch pages that are still HELD as if they
 * were STORED. batch may be NULL. On failure nothing is written, and the next call tries all
 * again. */
int indexer_flush(struct pager *p, struct client *c, const struct batch *batch);
/* One transaction: the same for every client that has something to write, the rows of leaves
 * that died, and those of clients that are gone, whose ids forget has. A forked child that is
 * younger than the index may get old is left out. */
int indexer_flush_all(struct pager *p, const uint64_t *forget, size_t forget_count);
/* Frees what nobody needs any more. It was let go of after the transaction whose rows don't
 * name it any more, so it takes one more, in which nothing need be written. */
int indexer_recycle(struct worker *w);

#endif
