/* Fault threads: one pinned to each CPU (so that the one on the faulting CPU answers without
 * waking another), each waiting by epoll on every client's uffd. Edge-triggered: what is
 * pending is read to the end under the gate, or by whoever holds it.
 *
 * A COPY is charged to the client, and can block in its memory limits. A reader that makes no
 * progress for some time stays with that client, and another takes its place (rule 3); when it
 * is free again, it ends.
 *
 *   lane (a CPU) ── epoll ◀── waits ── reader ── at a client, for long: replaced
 *                         ◀── waits ── reader that took its place
 *
 * All functions from any thread, but for start and stop. */
#ifndef LARDER_READERS_H
#define LARDER_READERS_H

#include "client.h"
#include "histogram.h"

struct readers;
struct worker;

/* count: lanes; 0: one per CPU. 0 or negative errno. */
int readers_start(struct readers **ret, struct worker *w, unsigned count);
void readers_stop(struct readers *r); /* NULL is fine; waits for readers that are stuck */
int readers_add(struct readers *r, struct client *c);
/* A reader may be at c still, with a reference of its own. */
void readers_remove(struct readers *r, struct client *c);
/* Some clients, with `retry` set, have deferred faults: looked at again in delay_ns at the
 * latest. */
void readers_retry(struct readers *r, uint64_t delay_ns);
void readers_latency(struct readers *r, struct histogram_sum *sum);
unsigned readers_stuck(struct readers *r); /* at clients at this moment, and replaced */
/* How often a reader was replaced. */
uint64_t readers_replaced(const struct readers *r);

#endif
