/* One address space that the service looks after: a program that attached, or a child that it
 * forked.
 *
 * Locks, in the order in which they are taken:
 *   gate            one a client: its space, its faults and events. Never two gates at once.
 *   batch.lock      followers of a batch
 *   worker.lock     the table of clients
 *   graveyard.lock  dead leaves
 * Who may do what: fault threads, the evictor and the restorer take the gate for short pieces
 * of work; orders, staging and the link are the evictor's alone; descriptors live as long as
 * the client does, so whoever has a reference may use them. */
#ifndef LARDER_CLIENT_H
#define LARDER_CLIENT_H

#include "control.h"
#include "counters.h"
#include "link.h"
#include "maps.h"
#include "pagemap.h"
#include "process.h"
#include "space.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { DEFERRED_MAX = 64, GIVEN_MAX = 64 };

struct fault {
	uint64_t addr;	  /* page aligned */
	uint64_t read_ns; /* CLOCK_MONOTONIC when it was read */
	bool write;
};

struct journal;
struct replay;
struct state_record;

struct client {
	/* Set before others see it. */
	uint64_t id;
	uint64_t token;	       /* id << 24 | its place in worker.place */
	uint64_t parent;       /* id; 0 = attached by itself */
	struct worker *worker; /* borrowed */
	_Atomic pid_t pid;     /* 0 for a forked child without an agent */
	uid_t uid;
	char exe[256];
	char policy[64];
	uint64_t born_ms; /* CLOCK_MONOTONIC */
	uint64_t min_age_ms, brief_age_ms;
	uint64_t brief_key; /* 0: not counted (brief.h) */
	_Atomic uint32_t refs;

	/* Owned; -1 = none. Forked children have only the uffd. */
	int uffd, pidfd, procdir, pagemap, mem, socket, link_fd, doorbell;
	int agent_pidfd;	 /* of the process that was seen to share the memory */
	_Atomic pid_t agent_pid; /* as we see it; 0 = no agent */
	struct link *link;	 /* owned mapping; NULL = none */
	uint64_t staging, bell;	 /* addresses in the client */
	_Atomic int state;	 /* enum client_state */
	_Atomic bool
		dropped; /* ended: it has nothing, and all that it forked is in the table */
	struct state_record *record; /* owned; NULL: another worker won't find it */

	pthread_mutex_t gate;
	_Atomic bool pending; /* its uffd became readable while the gate was held */
	_Atomic bool retry;   /* it has faults or events that wait for a reader's timer */
	/* Under the gate: */
	struct journal *journal; /* owned; NULL: no descriptor was left for it */
	struct region restoring; /* was about to be put back when the worker died (recover.h) */
	struct replay *replay;	 /* while the journal is read again (recover.h), else NULL */
	struct space space;
	int alone_fork; /* the descriptor of its last FORK, if it had one thread then; else 0 */
	struct birth *birth;	  /* owned; of a forked child that isn't born yet (birth.h) */
	uint64_t unborn_since_ns; /* CLOCK_MONOTONIC, while it isn't */
	uint64_t early_faults;	  /* that were read by then */
	uint64_t early_fault_ns;  /* CLOCK_MONOTONIC, of the first; 0 = none */
	struct uffd_msg *waiting; /* owned; events that were read too early (sequence.h) */
	size_t waiting_count, waiting_room;
	uint64_t waiting_since_ns; /* CLOCK_MONOTONIC, while there are any */
	uint64_t pause_until_ns; /* CLOCK_MONOTONIC; nothing is read before, while they wait */
	struct fault deferred[DEFERRED_MAX]; /* faults that met the fence */
	unsigned deferred_count;
	uint16_t protocol;   /* that its shim speaks */
	uint64_t clock;	     /* grows with each event and each order (rule 10) */
	uint64_t next_fault; /* where a sequential reader would fault next, and how much it gets
			      */
	unsigned window;
	/* How far the kernel was asked for all that is on record, and as of which event. */
	uint64_t settled_to, settled_clock;
	bool starved;	 /* the last answer found no memory within the client's limits */
	char why[160];	 /* as of the last evict_result */
	bool read_again; /* a FORK found no room, or a signal came: the timer reads */
	int read_error;	 /* why it could not be read, as the log tells; 0: it always could */
	bool hostile;	 /* it made us wait: it is not read any more */
	bool failed;	 /* a page can't be restored: nothing is served any more (rule 8) */
	/* The latest that was given back as the shim asked; given_count % GIVEN_MAX is next. */
	struct region given[GIVEN_MAX];
	uint64_t given_count;

	/* The restorer's, under its lock (restorer.h). */
	struct client *next_ring; /* owned reference */
	bool rang;
	/* CLOCK_MONOTONIC, when a request was answered last, or came, while there are any. */
	_Atomic uint64_t asked_since_ns;

	/* The main loop's: when the program was found to have ended or execed; 0 = it wasn't.
	 */
	uint64_t ended_ms;
	enum { KEPT_NOT, KEPT_HELD, KEPT_STUCK } kept; /* at the end (keep.h): the gate */
	/* The service manager has its userfaultfd (fdstore.h); or may have, from an earlier
	 * worker. */
	bool stored, may_be_stored;
	unsigned long_waits; /* of which the log tells (waits.h) */
	bool named; /* of one without a pidfd that failed: its process was looked for */

	/* The evictor's. */
	uint32_t order_seq;
	bool staging_used;    /* slots hold pages that wait for their zap */
	struct batch *batch;  /* owned: the one whose pages are HELD, or NULL */
	_Atomic bool indexed; /* the index has rows of it */
	uint64_t *rows_gone;  /* owned; blocks whose row goes with the transaction under way */
	size_t rows_gone_count, rows_gone_room;
	blob_t *unneeded; /* owned; what no entry needs any more, while its rows are written */
	size_t unneeded_count, unneeded_room;
	uint64_t zapped_clock; /* when staging was emptied last; written with the gate */
	uint64_t held_named; /* HELD pages that its rows name as STORED, and that aren't yet */
	bool rows_name_staging; /* somebody's rows say of a page that it lies in its staging */
	bool left_out;		/* of the transaction that is under way */
	/* Calls that were under way when remove_seq was read, or this worker took over. */
	struct maps_quiet quiet, quiet_since_takeover;
	uint64_t quiet_seq;
	uint64_t row_clock; /* as of which its rows were written */

	struct counter_slot *counted; /* borrowed; NULL: in the next */
	struct client_counts counts;
};

/* Where what happens to it is counted. */
static inline struct client_counts *client_counts(struct client *c)
{
	return c->counted ? &c->counted->sum : &c->counts;
}
/* What was, since there is this client. */
static inline void client_counted(const struct client *c, struct client_counts *ret)
{
	const struct client_counts *sum = c->counted ? &c->counted->sum : &c->counts;

#define X(name)                                                                                \
	ret->name = atomic_load(&sum->name) -                                                  \
		    (c->counted ? atomic_load(&c->counted->base.name) : 0);
	CLIENT_COUNTERS(X)
#undef X
}

/* Never NULL: waits for memory, as a fork can't be refused. One reference, and no journal. */
struct client *client_new(struct worker *w, uint64_t id, int uffd);
void client_ref(struct client *c);
void client_unref(struct client *c); /* the last one frees; not with the gate held */

static inline enum client_state client_state(const struct client *c)
{
	return (enum client_state)atomic_load(&c->state);
}

/* False when it has none, or its agent has ended. Stopped or frozen is alive. */
static inline bool client_agent_alive(const struct client *c)
{
	return c->agent_pidfd >= 0 && process_alive(c->agent_pidfd);
}

/* What tells of the agent's end. One that was another service's has no socket to this one. */
static inline int client_agent_end(const struct client *c)
{
	return c->socket >= 0 ? c->socket : c->agent_pidfd;
}

/* Gate held: nothing is under way that its rows in the index could not say. */
bool client_is_calm(const struct client *c);

/* How far it has come (rule 10). Exact with the gate held. */
uint64_t client_clock(const struct client *c);

/* The kernel's word that nobody uses its address space any more (rule 3). That a call found no
 * memory isn't that: the machine may have none. */
static inline bool client_memory_gone(const struct client *c)
{
	return c->pagemap >= 0 ? !pagemap_alive(c->pagemap) : !uffd_alive(c->uffd);
}

/* Stops being served for good; idempotent. The worker's loop then takes it off the tables. */
void client_mark_gone(struct client *c);

#endif
