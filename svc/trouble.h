/* What has run full or is stuck (the list is in stats.h): set where it is met, and taken back
 * by who sees that it is over. The log has both. Any thread; needs no memory. */
#ifndef LARDER_TROUBLE_H
#define LARDER_TROUBLE_H

#include "stats.h"

#include <stdatomic.h>
#include <stdbool.h>

struct worker;

struct troubles {
	_Atomic uint64_t since_ms[TROUBLE_COUNT]; /* by worker_now_ms; 0: there is none */
};

void trouble_set(struct worker *w, enum trouble t, bool on);
void trouble_ages(struct worker *w, uint64_t ret_ms[TROUBLE_COUNT]);
/* Those that nobody else sees the end of. The evictor's thread, every second. */
void trouble_look(struct worker *w);

#endif
