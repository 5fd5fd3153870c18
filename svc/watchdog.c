#include "watchdog.h"
#include "cleanup.h"

#include <stdio.h>
#include <string.h>

/* Looks that come later than this were kept from it, and the worker may have been too. */
enum { LATE = 2 };

unsigned watchdog_period_ms(const struct pulses *p)
{
	uint32_t limit = atomic_load(&p->limit_ms);

	/* So that what is noticed late is late by an eighth at most. */
	return limit > 0 && limit / 8 < WATCHDOG_LOOK_MS ? limit / 8 + 1 : WATCHDOG_LOOK_MS;
}

/* Is it where it was, and is that its own doing? */
static bool is_stuck(const struct watched *seen, const struct watched *now)
{
	bool in_call = now->calls % 2 == 1;

	return seen->thread == now->thread && seen->piece == now->piece &&
	       !(in_call && seen->calls == now->calls);
}

pid_t watchdog_count(struct watchdog *d, const struct pulses *p, uint64_t ms, uint64_t *ret_ms)
{
	uint32_t limit = atomic_load(&p->limit_ms);
	bool starving = atomic_load(&p->starving) > 0;
	pid_t longest = 0;

	for (unsigned i = 0; i < PULSES; i++) {
		const struct pulse *slot = &p->slot[i];
		struct watched *seen = &d->slot[i];
		/* The thread last: who has the slot now isn't taken for who had it before. */
		struct watched now = {
			.piece = atomic_load(&slot->piece), .calls = atomic_load(&slot->calls)};
		now.thread = atomic_load(&slot->thread);
		if (now.thread != 0 && is_stuck(seen, &now))
			now.stuck_ms = limit == 0 ? 0 : seen->stuck_ms + (starving ? 0 : ms);
		*seen = now;
		if (limit == 0 || now.stuck_ms < limit)
			continue;
		if (longest == 0 || now.stuck_ms > *ret_ms) {
			longest = now.thread;
			*ret_ms = now.stuck_ms;
		}
	}
	return longest;
}

/* By a signal, or by a debugger; where that can't be told it isn't. */
static bool is_stopped(pid_t pid)
{
	char path[32], line[128], state = 0;
	int tracer = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	_cleanup_file_ FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "State: %c", &state) != 1 &&
			sscanf(line, "TracerPid: %d", &tracer) == 1)
			break;
	return state == 'T' || state == 't' || tracer != 0;
}

static bool any_stuck(const struct watchdog *d)
{
	for (unsigned i = 0; i < PULSES; i++)
		if (d->slot[i].stuck_ms > 0)
			return true;
	return false;
}

pid_t watchdog_look(struct watchdog *d, const struct pulses *p, pid_t worker, uint64_t now_ms,
	uint64_t *ret_ms)
{
	uint64_t ms = d->looked_ms == 0 ? 0 : now_ms - d->looked_ms;

	d->looked_ms = now_ms;
	if (ms > LATE * watchdog_period_ms(p))
		ms = LATE * watchdog_period_ms(p);
	/* Asked only where it matters: mostly nothing is stuck. */
	if (any_stuck(d) && is_stopped(worker))
		ms = 0;
	return watchdog_count(d, p, ms, ret_ms);
}
