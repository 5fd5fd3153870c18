/* The worker: owns everything that larderd does for clients, and is where the parts meet.
 *
 *   main thread   accepts clients, notices their end, signals          (worker.c)
 *   readers       one pinned thread per CPU: faults and events          (readers.c)
 *   evictor       one thread: evictions, and the index                   (evictor.c, indexer.c)
 *   codec pool    one thread per CPU at low priority: packing            (codec_pool.c)
 *   restorer      one thread: what is given back by order                (restorer.c)
 *   HTTP          a thread a request                                     (http.c -> control.c)
 */
#ifndef LARDER_WORKER_H
#define LARDER_WORKER_H

#include "admit.h"
#include "brief.h"
#include "client.h"
#include "control.h"
#include "counters.h"
#include "histogram.h"
#include "qsbr.h"
#include "space.h"
#include "trouble.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct config;
struct evictor;
struct http;
struct readers;
struct restorer;

struct state;
struct runtime;

struct worker_options {
	const char *runtime_dir; /* borrowed */
	const char *config_path; /* borrowed; NULL: as settings_load has it */
	const char *no_eviction; /* borrowed; why this kernel can't evict, or NULL */
	/* Borrowed from the keeper, for the worker's life. */
	int device; /* /dev/userfaultfd */
	int attach_fd, stats_fd;
	int notify_fd; /* the keeper's alone; -1 = none */
	int before_fd; /* the same: the binary before this one (upgrade.h) */
	const struct runtime *runtime;
	struct state *state;
	struct counters *counters; /* NULL: they can't be kept */
	struct fdstore *kept;	   /* what the service manager had kept */
	bool again;		   /* another worker was here before, and died */
	bool keep;		   /* a signal to end is WORKER_KEEPS */
};

/* How the service ends; as numbers in state.ending. */
enum worker_end {
	WORKER_GOES_ON,
	WORKER_RESTORES, /* all is given back first */
	WORKER_KEEPS,	 /* programs keep what is out, for another service (keep.h) */
};

struct worker {
	const char *runtime_dir, *config_path, *no_eviction;
	const char *store_dir;			    /* borrowed; NULL: nothing outlives us */
	int device, attach_fd;			    /* borrowed */
	int epoll_fd, signal_fd, kick_fd, timer_fd; /* owned */
	int meminfo_fd;				    /* owned; -1: unknown */
	struct state *state;			    /* borrowed; records: under the lock */
	uint64_t started_ms;
	uint64_t kept_second; /* fdstore.h; under the lock */
	unsigned kept_count;
	uint64_t baseline_bytes;

	struct store *store; /* owned */
	struct graveyard graveyard;
	struct qsbr qsbr;
	struct readers *readers;   /* owned */
	struct evictor *evictor;   /* owned */
	struct restorer *restorer; /* owned */
	struct http *http;	   /* owned */

	pthread_mutex_t lock;	/* protects the rest up to the counters */
	struct client **client; /* owned references */
	size_t client_count, client_room;
	/* Owned references: programs that have ended, while rows name them or children could be
	 * told only by them. */
	struct client **ended;
	size_t ended_count, ended_room;
	struct client **place; /* by place, borrowed from client[]; NULL = free */
	size_t place_count;

	/* Not the table's lock, which faults need: names are looked up under this one, and that
	 * takes as long as it takes. */
	pthread_mutex_t config_lock;
	pthread_mutex_t reload_lock; /* one reload at a time; taken before config_lock */
	struct config *config;	     /* owned; replaced as a whole by reload */
	uint64_t config_generation;

	struct admit admit; /* the main thread's */
	struct brief brief; /* the main thread's */
	bool timer_armed;   /* the main thread's */
	bool keep;	    /* as in the options */
	_Atomic int end;    /* enum worker_end: as it was told to */

	struct troubles troubles;
	struct counters *counters; /* borrowed from the keeper; NULL: all is in the next two */
	struct worker_counts counts;
	struct client_counts slotless; /* of clients that are gone */
};

/* Where it is counted. */
static inline struct worker_counts *worker_counts(struct worker *w)
{
	return w->counters ? &w->counters->worker : &w->counts;
}

uint64_t worker_now_ns(void); /* CLOCK_MONOTONIC */
uint64_t worker_now_ms(void);

/* Serves until SIGTERM or SIGINT; then goes on until every page is given back. After an error
 * everything is left as it is: the process ends, and clients wait for another. */
int worker_run(const struct worker_options *o);

/* The main thread looks for clients that are gone. Any thread. */
void worker_kick(struct worker *w);
/* The next sweep comes within a second. The main thread's. */
void worker_arm_timer(struct worker *w);
/* A client has deferred faults: a reader tries again, at the latest in delay_ns. Any thread. */
void worker_retry_later(struct worker *w, struct client *c, uint64_t delay_ns);

/* What an epoll event is about, and whose: the main thread's. Ids aren't reused, so an event
 * that is late finds nothing. */
enum worker_source {
	SOURCE_ATTACH,
	SOURCE_SIGNAL,
	SOURCE_KICK,
	SOURCE_TIMER,
	SOURCE_HANDSHAKE,
	SOURCE_AGENT,
	SOURCE_PROGRAM
};
/* epoll's data: kind in the low byte, id above it. */
uint64_t worker_source(enum worker_source kind, uint64_t id);
/* For reading; 0 or a negative errno. */
int worker_watch(struct worker *w, int fd, enum worker_source kind, uint64_t id);

/* Makes a client that nobody sees yet; never NULL. publish: the table and the readers get it.
 */
struct client *worker_new_client(struct worker *w, int uffd);
void worker_publish_client(struct worker *w, struct client *c);
/* It is found by another worker, should this one die, with what it has by now. Again when an
 * agent has brought more. */
void worker_record_client(struct worker *w, struct client *c);
/* What happens to a client that has a record is counted where that outlives this worker. Nobody
 * else sees it yet. */
void worker_count_client(struct worker *w, struct client *c);
/* Its agent and its process, as far as it has them. */
void worker_watch_client(struct worker *w, struct client *c);
/* References to all clients; *ret is the caller's: client_unref each, free. */
int worker_clients(struct worker *w, struct client ***ret, size_t *ret_count);
/* The same with those that have ended, as of one moment. For the index. */
int worker_clients_and_ended(struct worker *w, struct client ***ret, size_t *ret_count);
/* The same of those that descend from a client (or its siblings after it), have no rows and
 * aren't dropped: mostly none. */
int worker_descendants(
	struct worker *w, const struct client *parent, struct client ***ret, size_t *ret_count);
/* Is it one of these? */
bool worker_needs_rows(const struct client *c, const struct client *parent);
size_t worker_count_user(struct worker *w, uid_t uid); /* its clients */
/* For a walk over all from *at = 0 on: a reference, or NULL at the end. Needs no memory. Who
 * comes meanwhile may be missed. */
struct client *worker_walk(struct worker *w, size_t *at);
/* Of the lowest id that is at least this: a reference, or NULL. Needs no memory. */
struct client *worker_next(struct worker *w, uint64_t id);
struct client *worker_by_id(struct worker *w, uint64_t id);	  /* a reference, or NULL */
struct client *worker_by_token(struct worker *w, uint64_t token); /* a reference, or NULL */
struct client *worker_find(struct worker *w, pid_t pid);	  /* a reference, or NULL */

/* For publish, drop and the index: a client is added with the caller's reference, goes over to
 * those that have ended, and is let go of. There is no moment when it is in neither. */
void worker_table_add(struct worker *w, struct client *c);
void worker_table_end(struct worker *w, struct client *c);
void worker_table_forget(struct worker *w, struct client *c);

#endif
