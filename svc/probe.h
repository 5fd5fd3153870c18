/* Does this kernel do what eviction rests on? A real MOVE, a real fence, a real event, a real
 * fault. */
#ifndef LARDER_PROBE_H
#define LARDER_PROBE_H

#include <stddef.h>

/* In this process. NULL: yes. Else what is missing and what helps, for people (static text).
 * device: an open /dev/userfaultfd. Blocks for some 100 us; starts a thread or two for that
 * time. Locked memory makes it fail: it discards some. */
const char *probe_kernel(int device);

/* The same in a forked child, which a kernel that hangs or crashes it can't take its parent
 * along with. 0: fit. 1: `what` says what is missing. Negative errno: it could not be tried.
 * The caller has one thread only. */
int probe_forked(int device, char *what, size_t size);

#endif
