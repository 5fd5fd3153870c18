/* Does this kernel do what eviction rests on? A real MOVE and a real fence, in this process. */
#ifndef LARDER_PROBE_H
#define LARDER_PROBE_H

/* NULL: yes. Else what is missing and what helps, for people (static text). device: an open
 * /dev/userfaultfd. Blocks for some 100 us; starts one thread for that time. */
const char *probe_kernel(int device);

#endif
