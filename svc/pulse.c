#include "pulse.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Which thread it is that runs, everything knows without being told: so this is of the thread,
 * and no argument of all that lies between. */
static struct pulses *pulses;
static _Thread_local struct {
	int32_t id;
	unsigned depth;
	unsigned place;	    /* where it had a slot last */
	struct pulse *slot; /* NULL: not at a piece, or all are taken */
} thread;

struct pulses *pulse_new(void)
{
	void *p = mmap(NULL, sizeof(struct pulses), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void pulse_clear(struct pulses *p)
{
	atomic_store(&p->starving, 0);
	for (unsigned i = 0; i < PULSES; i++) {
		atomic_store(&p->slot[i].thread, 0);
		atomic_store(&p->slot[i].calls, 0);
	}
}

void pulse_use(struct pulses *p)
{
	pulses = p;
}

void pulse_limit(uint64_t ms)
{
	if (pulses)
		atomic_store(&pulses->limit_ms, ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX);
}

static struct pulse *take_slot(void)
{
	if (thread.id == 0) {
		thread.id = gettid();
		thread.place = (unsigned)thread.id % PULSES;
	}
	for (unsigned i = 0; i < PULSES; i++) {
		struct pulse *slot = &pulses->slot[(thread.place + i) % PULSES];
		int32_t none = 0;
		if (!atomic_compare_exchange_strong(&slot->thread, &none, thread.id))
			continue;
		thread.place = (thread.place + i) % PULSES;
		return slot;
	}
	return NULL;
}

static void get_on(void)
{
	if (thread.slot)
		atomic_fetch_add(&thread.slot->piece, 1);
}

void pulse_begin(void)
{
	if (!pulses)
		return;
	if (thread.depth++ == 0)
		thread.slot = take_slot();
	get_on();
}

void pulse_end(void)
{
	if (!pulses)
		return;
	get_on();
	if (--thread.depth > 0 || !thread.slot)
		return;
	atomic_store(&thread.slot->thread, 0);
	thread.slot = NULL;
}

static void count_call(void)
{
	if (thread.slot)
		atomic_fetch_add(&thread.slot->calls, 1);
}

void pulse_call_begin(void)
{
	count_call();
}

void pulse_call_end(void)
{
	count_call();
}

void pulse_wait_for_memory(void)
{
	struct timespec pause = {.tv_nsec = 1000000};

	if (pulses)
		atomic_fetch_add(&pulses->starving, 1);
	nanosleep(&pause, NULL);
	if (pulses)
		atomic_fetch_sub(&pulses->starving, 1);
}
