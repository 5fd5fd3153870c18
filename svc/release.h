/* The end of the service: everybody gets their memory back and goes on without it. */
#ifndef LARDER_RELEASE_H
#define LARDER_RELEASE_H

struct worker;

/* Main thread, when nothing is evicted any more and readers still answer. Returns when nothing
 * is out and nothing registered; clients take turns, so one that resists holds up itself alone.
 */
void release_all(struct worker *w);

#endif
