/* The end of the service without giving back: programs keep what is out, and wait when they
 * touch it, until another service takes them over (comeback.h), which finds the same as after a
 * kill.
 *
 * But not children without an agent: nobody keeps their userfaultfds. They are given back
 * before; and that none is made in the last moment is seen to here. A FORK is read with its
 * parent's gate in hand: with all gates held none is, and whoever forks waits for the next
 * service. */
#ifndef LARDER_KEEP_H
#define LARDER_KEEP_H

#include <stdbool.h>

struct worker;

/* Main thread. True: all gates are held from now on, and no client has anything out that would
 * not be found again. False: one has, and none is held. */
bool keep_hold(struct worker *w);
/* The end of this process, and, for its code is 0, of the keeper. But when nobody has anything to
 * wait for it returns, and no gate is held: the end is as ever. */
void keep_leave(struct worker *w);

#endif
