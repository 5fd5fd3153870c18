/* Threads that pack pages: one per CPU at low priority, so that a fault goes first. */
#ifndef LARDER_CODEC_POOL_H
#define LARDER_CODEC_POOL_H

struct codec_pool;
struct store_scratch;

/* Called for each index of a run, on any of the threads, with that thread's scratch. */
typedef void codec_fn(void *arg, unsigned index, struct store_scratch *scratch);

int codec_pool_new(struct codec_pool **ret, unsigned threads); /* 0: one per CPU, at most 8 */
void codec_pool_free(struct codec_pool *p);		       /* NULL is fine */
/* fn for 0 .. count-1; returns when all are done. One caller at a time. */
void codec_pool_run(struct codec_pool *p, unsigned count, codec_fn *fn, void *arg);

#endif
