/* What the outside may ask of the service: the only way from the HTTP server into the worker.
 * Every function may be called from any thread and blocks at most as its comment says.
 * 0 or negative errno; outputs untouched on failure. */
#ifndef LARDER_CONTROL_H
#define LARDER_CONTROL_H

#include "maps.h"
#include "stats.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct worker;

enum client_state {
	CLIENT_ATTACHING,
	CLIENT_MANAGED,
	CLIENT_RELEASED,
	CLIENT_FORKED,
	CLIENT_GONE
};
const char *client_state_name(enum client_state s); /* "attaching", "managed", ... */

struct client_info {
	uint64_t id;
	pid_t pid;	 /* in the view; 0: a forked child that wasn't seen yet */
	pid_t ns_pid;	 /* in its own pid namespace; 0: not known */
	pid_t agent_pid; /* in the view; 0: has none */
	uint64_t parent; /* id of the client it was forked from, 0 = none */
	uid_t uid;	 /* owner */
	enum client_state state;
	char exe[256]; /* cut at the front with "..." when longer */
	char policy[64];
	char why[160];	    /* "" or why the last eviction left something */
	uint64_t uptime_ms; /* since it attached */
	struct client_stats stats;
};

void control_service_stats(struct worker *w, struct service_stats *ret);
/* A view is the pid namespace (a descriptor) in whose numbers the asker speaks, or
 * CONTROL_OURS. Through it, only programs that have a number there are seen. */
enum { CONTROL_OURS = -1 };
/* *ret is owned by the caller (free). Reads /proc of each client. */
int control_clients(struct worker *w, int view, struct client_info **ret, size_t *ret_count);
/* -ESRCH: pid isn't a client. */
int control_client(struct worker *w, int view, pid_t pid, struct client_info *ret);

struct evict_result {
	uint64_t moved_pages;	/* gone from the client, stored and committed */
	uint64_t seen_pages;	/* present in managed mappings when looked at */
	uint64_t shared_pages;	/* refused by the kernel: shared or pinned (EBUSY) */
	uint64_t suspect_pages; /* left alone: the program discarded them and may not be done */
	uint64_t huge_pages;	/* left alone: in a huge page that could not be moved whole */
	uint64_t failed_pages;	/* moved out and given back (store full, packing failed) */
	uint64_t busy_pages;	/* left: the program changed its address space meanwhile, or the
				   agent did not answer */
	uint64_t refused_bytes[MAP_REFUSAL_COUNT]; /* resident bytes of mappings not managed, by
						      reason */
	char why[160]; /* "" or why nothing or not everything was taken, for people */
};
/* Orders name a client by its id, which is never another's: between a look at its owner and an
 * order its pid may have become one.
 *
 * Takes all that may be taken now; returns when it is stored and gone from the client.
 * -ESRCH; -EOPNOTSUPP: the client has no agent (forked child); -EAGAIN: the client is leaving.
 */
int control_evict(struct worker *w, uint64_t id, struct evict_result *ret);

struct release_result {
	uint64_t restored_pages;
};
/* Puts every page back and unregisters every mapping; the client stays attached, and the next
 * evict takes it over again. What was put back stays so: -ENOSPC: the machine has no room for
 * more; -ETIMEDOUT: nothing got on for ten seconds. -EBADMSG, -EIO: a page can't be restored.
 */
int control_release(struct worker *w, uint64_t id, struct release_result *ret);

struct release_all_result {
	uint64_t clients; /* whose memory is all their own again */
	uint64_t restored_pages;
	uint64_t left_clients, left_pages; /* not yet */
	char why[160];			   /* "" or why, for people */
};
/* The same for all clients, as far as the machine has room. Returns when all is done, or
 * nothing got on for ten seconds. */
int control_release_all(struct worker *w, struct release_all_result *ret);

/* worker.c. The service ends: as on SIGTERM, or, keep, without giving anything back: programs wait for
 * another one (keep.h). Returns at once. */
void control_stop(struct worker *w, bool keep);

/* reload.c. Reads the config file again and takes all of it over or, on failure, nothing.
 * message says for people what changed, or the file, line and reason; the log has both, with a
 * line for each setting that changed. */
int control_reload(struct worker *w, char *message, size_t size);

#endif
