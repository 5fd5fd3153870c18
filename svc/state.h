/* What of each client outlives a worker: who it is, and the numbers of its descriptors, which
 * the keeper has too (keeper.h). A table in memory that keeper and workers share; an
 * administrator never sees it.
 *
 *   free -> filled -> used   [state_add: the id is stored last]
 *   used -> free             [state_remove: before its descriptors are closed]
 *
 * So whatever is closed, or may be closed by now and another file, isn't in it. A record
 * belongs to its client: the calls that change one are made where the client's fields are
 * changed. */
#ifndef LARDER_STATE_H
#define LARDER_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	STATE_RECORDS = 65536, /* clients at once */
	STATE_VERSION = 1,
};

/* Descriptors of a client; -1 = none. The names are struct client's. */
#define STATE_FDS(X)                                                                           \
	X(uffd)                                                                                \
	X(pidfd)                                                                               \
	X(procdir)                                                                             \
	X(pagemap)                                                                             \
	X(mem)                                                                                 \
	X(socket)                                                                              \
	X(link_fd)                                                                             \
	X(doorbell)                                                                            \
	X(agent_pidfd)

struct state_record {
	_Atomic uint64_t id;	 /* of the client; 0 = free */
	_Atomic uint32_t joined; /* it has all of the below; a forked child has only uffd and
				    journal before */
	_Atomic uint32_t released;
	_Atomic uint32_t told; /* its agent knows that it is the client's */
	uint32_t reserved;
	uint64_t parent, family;
	int32_t pid, agent_pid;
	uint32_t uid;
	int32_t journal;
#define X(name) int32_t name;
	STATE_FDS(X)
#undef X
	int32_t spare;
	uint64_t staging, bell;
	uint64_t born_ms, min_age_ms;
	char exe[256], policy[64];
	char pad[64];
};
_Static_assert(sizeof(struct state_record) == 512, "a page has eight");

struct state {
	uint64_t magic;
	uint32_t version;
	_Atomic uint32_t ending;	  /* 1: everything is being given back */
	_Atomic uint64_t serves_since_ms; /* CLOCK_MONOTONIC, of this worker; 0: not yet */
	_Atomic uint32_t top;		  /* records below it were used at some time */
	/* Ids up to here were given out. Journals name children by them that are gone. */
	_Atomic uint64_t last_id;
	char pad[512 - 40];
	struct state_record record[STATE_RECORDS];
};

/* Shared with what is forked from now on; NULL: no memory. */
struct state *state_new(void);

/* A copy of r in the table, counted once it is whole. NULL: STATE_RECORDS clients are there.
 * One call at a time. */
struct state_record *state_add(struct state *s, const struct state_record *r);
/* What an agent brought: counted when it is whole. */
void state_join(struct state_record *to, const struct state_record *r);
void state_remove(struct state_record *r); /* NULL is fine */

/* Is this descriptor one of a client's? */
bool state_has_fd(const struct state *s, int fd);

#endif
