/* The keeper's eye on its worker: one that has been at the same piece of work (pulse.h) for
 * longer than the setting says is ended, and the next one takes over.
 *
 * Time counts only while the keeper runs itself, as it sees it: not while the machine was
 * suspended or a virtual one paused. It doesn't count while the worker is stopped or traced
 * (who does that knows why), while the piece is in one call that a program holds up, and while
 * the machine has no memory, for then another worker would have none either. */
#ifndef LARDER_WATCHDOG_H
#define LARDER_WATCHDOG_H

#include "pulse.h"

#include <stdbool.h>
#include <sys/types.h>

enum { WATCHDOG_LOOK_MS = 1000 };

struct watchdog {
	uint64_t looked_ms; /* CLOCK_MONOTONIC; 0: not yet */
	struct watched {
		int32_t thread;
		uint32_t piece, calls;
		uint64_t stuck_ms;
	} slot[PULSES];
};

/* How long to wait between two looks. */
unsigned watchdog_period_ms(const struct pulses *p);

/* One look. The thread that hangs, and in *ret_ms for how long; 0: none does. May open files
 * for a moment. */
pid_t watchdog_look(struct watchdog *d, const struct pulses *p, pid_t worker, uint64_t now_ms,
	uint64_t *ret_ms);

/* The part of it that needs no process: ms have passed. */
pid_t watchdog_count(struct watchdog *d, const struct pulses *p, uint64_t ms, uint64_t *ret_ms);

#endif
