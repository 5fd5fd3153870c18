/* What the service asks of the kernel for itself, so that it lives and answers when everybody
 * else is short of memory. Each that can't be had is a warning in the log, and nothing else. */
#ifndef LARDER_SELF_H
#define LARDER_SELF_H

/* Before the first thread, and after the probe, which discards memory: what is locked can't be.
 */
void self_prepare(void);
/* Its part that a forked process doesn't have from its parent. */
void self_lock_memory(void);

#endif
