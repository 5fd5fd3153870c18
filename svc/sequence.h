/* Puts events into the order in which things happened, where that can be told (DESIGN rule 6).
 *
 * A thread raises its event after it has let go of the address space, so another thread can
 * move a mapping to where one has just left, and have its REMAP read before the event that
 * tells of the leaving. Applied in that order, what left would be taken for what arrived. But a
 * REMAP onto a place that is on record gives itself away: nothing can arrive where something
 * is, unless UNMAP was said before. So it waits, and what was read after it too, but for the
 * event that takes away what is there. That one is in flight, so the fence is up, and nothing
 * could be answered anyhow.
 *
 * Two departures from one place can't be told apart. So that the first one's thread has the
 * time to raise its event, nothing is read for a moment: what arrived is in use only when all
 * events of that call were read.
 *
 * When the fence is seen down and it hasn't come, it never will (a process that shared the
 * memory was killed before it was read), and all is applied as it was read. */
#ifndef LARDER_SEQUENCE_H
#define LARDER_SEQUENCE_H

#include "client.h"

/* Gate held. Is nothing to be read yet? */
bool sequence_pause(const struct client *c);
/* Gate held. An event (no fault) that was just read: applied now or later. */
void sequence_add(struct client *c, const struct uffd_msg *m);
/* Gate held. Is a FORK among those that wait? */
bool sequence_has_fork(const struct client *c);
/* The fence was seen down after all that was read: nothing waits any longer. */
void sequence_flush(struct client *c);

#endif
