/* The counters of stats.h, where they outlive workers: in a file beside the state table, mapped
 * by keeper and workers. What has been counted isn't taken back when a worker dies, nor when
 * another larderd takes over; whoever scrapes them sees them fall only with the service.
 *
 * A slot for each record of the state table. Its sums only ever grow: whose it is now has what
 * was added since it got the slot, so nothing has to be moved when a client ends, and there is
 * no moment at which a kill could count something twice or not at all.
 *
 *   free -> claimed   [counters_claim: base = sums, the id last]
 *
 * Whoever has none, for want of room in the file system, counts in memory of its own, which
 * goes with the worker. */
#ifndef LARDER_COUNTERS_H
#define LARDER_COUNTERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define COUNTERS_FILE "counters"
enum { COUNTERS_VERSION = 2, COUNTERS_SLOTS = 65536 /* STATE_RECORDS */ };

/* The counters of stats.h that only grow, and are counted where things happen. */
#define CLIENT_COUNTERS(X)                                                                     \
	X(faults)                                                                              \
	X(zero_faults)                                                                         \
	X(stall_us)                                                                            \
	X(pages_evicted)                                                                       \
	X(pages_restored)                                                                      \
	X(move_refused)                                                                        \
	X(orders_revoked)                                                                      \
	X(moves_unreported)                                                                    \
	X(events_fork)                                                                         \
	X(events_remap)                                                                        \
	X(events_remove)                                                                       \
	X(events_unmap)                                                                        \
	X(blocks_recovered)

/* The same of the service, without a client's. */
#define WORKER_COUNTERS(X)                                                                     \
	X(corrupt_pages)                                                                       \
	X(scrub_pages)                                                                         \
	X(scrub_damaged)                                                                       \
	X(scrub_rounds)                                                                        \
	X(pages_recompressed)                                                                  \
	X(recompress_left)                                                                     \
	X(recompress_cpu_us)                                                                   \
	X(readers_replaced)

struct client_counts {
#define X(name) _Atomic uint64_t name;
	CLIENT_COUNTERS(X)
#undef X
};

struct worker_counts {
#define X(name) _Atomic uint64_t name;
	WORKER_COUNTERS(X)
#undef X
};

struct counter_slot {
	_Atomic uint64_t id; /* of the client that has it; 0: nobody's yet */
	struct client_counts sum, base;
	char pad[256 - 8 - 2 * sizeof(struct client_counts)];
};

struct counters {
	uint64_t magic;
	uint32_t version;
	_Atomic uint32_t top; /* slots below it were somebody's */
	uint64_t started_ms;  /* the service, CLOCK_MONOTONIC */
	struct worker_counts worker;
	struct client_counts slotless; /* of clients without a slot that are gone */
	char pad[256 - 24 - sizeof(struct worker_counts) - sizeof(struct client_counts)];
	struct counter_slot slot[COUNTERS_SLOTS];
};

/* The file in dir: that which is there, if told to keep it and it is one; else anew. NULL: it
 * can't be had, and a warning was logged. */
struct counters *counters_open(const char *dir, bool keep);
void counters_close(struct counters *c, const char *dir); /* and removes it. NULL is fine */

/* The slot of this number, for this client: as it had it, or from now on. NULL: there is no
 * room for it. One call at a time. */
struct counter_slot *counters_claim(struct counters *c, uint32_t number, uint64_t id);

/* ret += what all slots have counted, and what was counted without one. */
void counters_add_up(const struct counters *c, struct client_counts *ret);
/* to += from. */
void counters_add(struct client_counts *to, const struct client_counts *from);

#endif
