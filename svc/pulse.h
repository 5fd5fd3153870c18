/* What the worker's threads are at: in memory that the keeper has too, so that it notices a
 * worker that doesn't get on any more (watchdog.h).
 *
 * A piece of work is what somebody waits for while it lasts, and is short: a gate held
 * (pager.h), an event of the main loop. Pieces that are begun within one are parts of it, and
 * show that it gets on.
 *
 *   pulse_begin  ──▶ a slot: thread, piece  ──▶ pulse_end
 *                     calls: odd while in one that a program can hold up
 *
 * Any thread. Where no memory was set up, as in tests, all this is nothing. */
#ifndef LARDER_PULSE_H
#define LARDER_PULSE_H

#include <stdatomic.h>
#include <stdint.h>

enum { PULSES = 256 }; /* pieces at once; what is more isn't watched */

struct pulse {
	_Atomic int32_t thread; /* 0: free */
	_Atomic uint32_t piece; /* grows with each, and with each part */
	_Atomic uint32_t calls; /* grows at the begin and the end of each call */
	char pad[52];		/* a cache line of its own */
};

struct pulses {
	_Atomic uint32_t limit_ms; /* the setting; 0: nothing is watched */
	_Atomic uint32_t starving; /* threads that wait for the machine to have memory */
	char pad[56];
	struct pulse slot[PULSES];
};
_Static_assert(sizeof(struct pulse) == 64, "as said above");

/* Shared with what is forked from now on; NULL: no memory. */
struct pulses *pulse_new(void);
/* Nothing is under way: a worker is about to start. */
void pulse_clear(struct pulses *p);
/* Of this process, before it has threads. */
void pulse_use(struct pulses *p);
void pulse_limit(uint64_t ms);

void pulse_begin(void);
void pulse_end(void);

/* Around a call that a program can hold up for as long as it likes: by the limits of its
 * memory, or the lock of its address space. */
void pulse_call_begin(void);
void pulse_call_end(void);

/* A moment's wait for memory that the machine hasn't got just now. */
void pulse_wait_for_memory(void);

#endif
