/* Fault threads: one pinned to each CPU (so that the one on the faulting CPU answers without
 * waking another), each waiting by epoll on every client's uffd. Edge-triggered: what is
 * pending is read to the end under the gate, or by whoever holds it. */
#ifndef LARDER_READERS_H
#define LARDER_READERS_H

#include "client.h"
#include "histogram.h"

struct readers;
struct worker;

int readers_start(
	struct readers **ret, struct worker *w, unsigned count); /* count 0: one per CPU */
void readers_stop(struct readers *r);				 /* NULL is fine */
int readers_add(struct readers *r, struct client *c);
/* A reader may be at c still, with a reference of its own. */
void readers_remove(struct readers *r, struct client *c);
/* Some client has deferred faults. */
void readers_retry(struct readers *r);
void readers_latency(const struct readers *r, struct histogram_sum *sum);

#endif
