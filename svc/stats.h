/* Every number that Larder shows, once: from these lists come the fields, the JSON of
 * /v1/status, the Prometheus text of /metrics and their documentation.
 *
 * X(name, type, help): type is `counter` (only grows) or `gauge`. The JSON key is the name, the
 * metric is larder_NAME (service) or larder_client_NAME (client), with _total after counters.
 * Names end in their unit: _bytes, _s, _pct; plain counts have none. All are uint64_t. */
#ifndef LARDER_STATS_H
#define LARDER_STATS_H

#include <stdint.h>
#include <sys/types.h>

#define SERVICE_STATS(X)                                                                       \
	X(uptime_s, gauge, "seconds since the service started")                                \
	X(clients, gauge, "address spaces looked after, forked children included")             \
	X(stopping, gauge, "1: it ends when every page is given back, and takes no more")      \
	X(managed_bytes, gauge, "memory of clients registered with us")                        \
	X(evicted_bytes, gauge, "page bytes that left the clients")                            \
	X(stored_bytes, gauge, "packed bytes that hold them")                                  \
	X(overhead_bytes, gauge, "headers, dead space, index, leaves, tables, resident links") \
	X(dead_bytes, gauge, "of this, memory of the store that holds no page")                \
	X(leaf_bytes, gauge, "of this, tables that say where each page is")                    \
	X(link_bytes, gauge, "of this, memory shared with agents")                             \
	X(baseline_bytes, gauge, "resident memory of the service before any client")           \
	X(store_limit_bytes, gauge, "limit of the store")                                      \
	X(owner_limit_bytes, gauge, "how much of it one user's programs may take")             \
	X(fill_pages, gauge, "pages in the store that are one word over and over")             \
	X(fill_bytes, gauge, "packed bytes that hold them")                                    \
	X(raw_pages, gauge, "pages in the store that don't pack")                              \
	X(raw_bytes, gauge, "bytes that hold them")                                            \
	X(lz4_pages, gauge, "pages in the store packed by lz4")                                \
	X(lz4_bytes, gauge, "packed bytes that hold them")                                     \
	X(zstd_pages, gauge, "pages in the store packed by zstd")                              \
	X(zstd_bytes, gauge, "packed bytes that hold them")                                    \
	X(pages_recompressed, counter, "pages packed anew by zstd, after they were out long")  \
	X(recompress_left, counter, "pages that zstd did not pack better, left as they were")  \
	X(recompress_cpu_us, counter, "processor time that this took")                         \
	X(faults, counter, "page faults answered")                                             \
	X(fault_p50_us, gauge, "median time from reading a fault to its answer")               \
	X(fault_p99_us, gauge, "99th percentile of the same")                                  \
	X(fault_max_us, gauge, "largest of the same")                                          \
	X(pages_evicted, counter, "pages moved out, stored and gone from their client")        \
	X(pages_restored, counter, "pages put back, by fault or by order")                     \
	X(moves_unreported, counter, "pages that the kernel moved without counting them")      \
	X(events, counter, "fork, remap, remove and unmap events followed")                    \
	X(oldest_fault_ms, gauge, "how long the oldest of all unanswered faults waits")        \
	X(corrupt_pages, counter, "blobs whose checksum was wrong")                            \
	X(scrub_pages, counter, "cold pages looked at, whether they can still be unpacked")    \
	X(scrub_damaged, counter, "of these, damaged ones: their programs will be stopped")    \
	X(scrub_rounds, counter, "how often all were looked at")                               \
	X(readers_replaced, counter, "fault threads stuck at a client, and replaced")          \
	X(upgrades, counter, "how often another larderd took over in place")                   \
	X(pause_ms, gauge, "for how long nobody was served, when that was so last")

#define CLIENT_STATS(X)                                                                        \
	X(managed_bytes, gauge, "memory registered with us")                                   \
	X(resident_bytes, gauge, "resident memory of the process (RSS)")                       \
	X(evicted_bytes, gauge, "page bytes that left the client")                             \
	X(stored_bytes, gauge, "packed bytes that hold them; shared ones count for each")      \
	X(waiting_faults, gauge, "faults read that can't be answered yet")                     \
	X(oldest_fault_ms, gauge, "how long the oldest of them waits")                         \
	X(waiting_events, gauge, "events read that wait for one that has to come first")       \
	X(unborn_ms, gauge, "of a forked child: since when nobody knows where its pages are")  \
	X(request_ms, gauge, "how long its shim's requests wait, since one was answered last") \
	X(charged_bytes, gauge, "with headers, shared ones by their share: for the limits")    \
	X(limit_bytes, gauge, "memory-limit of its policy for these, 0 = none")                \
	X(faults, counter, "page faults answered")                                             \
	X(zero_faults, counter, "of these, first touches and vanished pages")                  \
	X(stall_us, counter, "time that faults waited for their answer, summed over threads")  \
	X(pages_evicted, counter, "pages moved out")                                           \
	X(pages_restored, counter, "pages put back")                                           \
	X(move_refused, counter, "pages that the kernel refused to move (shared or pinned)")   \
	X(orders_revoked, counter, "orders that the agent did not answer in time")             \
	X(moves_unreported, counter, "pages that the kernel moved without counting them")      \
	X(events_fork, counter, "forks followed")                                              \
	X(events_remap, counter, "mremaps followed")                                           \
	X(events_remove, counter, "discards followed")                                         \
	X(events_unmap, counter, "unmaps followed")                                            \
	X(blocks_recovered, counter, "pages found present though recorded as out (a fault)")

/* What has run full or is stuck: while it lasts evictions stop, programs get their pages all
 * the same, and it goes away by itself when its cause does. X(id, name, what). */
#define TROUBLES(X)                                                                            \
	X(STORE, "store-full", "the store is at its memory-limit, or others filled its tmpfs") \
	X(INDEX, "index", "rows of the index can't be written")                                \
	X(MEMORY, "memory", "the service gets no memory from the kernel")                      \
	X(FILES, "descriptors", "nearly all of the service's descriptors are in use")          \
	X(READER, "reader-stuck", "a program's memory limit holds up who answers its faults")  \
	X(ROOM, "no-room", "the machine has no room for pages that are to be put back")
enum trouble {
#define X(id, name, what) TROUBLE_##id,
	TROUBLES(X)
#undef X
		TROUBLE_COUNT
};

struct service_stats {
#define X(name, type, help) uint64_t name;
	SERVICE_STATS(X)
#undef X
	uint64_t
		trouble_ms[TROUBLE_COUNT]; /* 0: there is none; else for how long, at least 1 */
};

struct client_stats {
#define X(name, type, help) uint64_t name;
	CLIENT_STATS(X)
#undef X
};

#endif
