/* Another larderd takes over in place: same process id, same descriptors, nothing given back.
 *
 *   SIGUSR2   the keeper has the binary at the path that it was started from look, in a child
 *             (--check-takeover), whether it can read what is here; a worker serves meanwhile
 *   leave     the worker ends its evictions, writes its rows, and ends at a moment when nobody
 *             is being taken over (worker.c); one that doesn't in time is killed, for to the
 *             next one that is the same
 *   exec      of the file that was looked at, with all descriptors
 *   go on     a worker takes over, as after one that died (recover.h)
 *
 * Until the exec, whatever is wrong leaves the service as it was, and the log says what. After
 * it, a binary that can't take over, or whose workers fail BACK_AFTER times before one has come
 * to serve, goes back to the one before it in the same way, if that can still read what is
 * here.
 *
 * What the two agree on is in the store's directory, and each has a version:
 *
 *   what           where                     reads                      refuses
 *   state table    STATE_VERSION (state.h)   its own                    any other
 *   journals       MAGIC (journal.c)         its own                    any other
 *   rows' state    ROW_VERSION (row.c)       its own; grows with the index's
 *   index          INDEX_SQL_VERSION         1 up to its own: older ones are migrated in the
 *                  (store/index_sql.h)       transaction in which they are opened   newer ones
 *   segments       BLOB_VERSION              its own                    by the index, which
 *                                                                      grows with it
 *   handover       HANDOVER_VERSION (here)   its own                    any other
 *   counters       COUNTERS_VERSION          its own; else they begin at 0
 *   handshake      PROTOCOL_VERSION          PROTOCOL_OLDEST up to its own, and answers in the
 *                  (protocol.h)              version that it was asked in
 *   link           LINK_VERSION (link.h)     as the handshake
 *
 * A version grows with the first change after a release that the released service would
 * misread, and from then on the service reads the one before it as well: state table and
 * journals by reading both forms, the index by a step of INDEX_SQL_STEPS. Fields that were
 * reserved, and zero, are used without that. A program keeps its shim for months, so the oldest
 * handshake and link are never given up.
 *
 * In the keeper alone, which has one thread. As long as there is a worker, whose table of
 * descriptors it shares and who may be closing what it doesn't know, it opens nothing. */
#ifndef LARDER_UPGRADE_H
#define LARDER_UPGRADE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct state;
struct worker_options;

enum {
	HANDOVER_VERSION = 1,
	/* Exit code of a check that says yes. Not 0: other programs end with that, whatever
	 * they are told. Another handover, another code. */
	UPGRADE_CAN = 75 + HANDOVER_VERSION,
	/* Exit code of a worker that has left for another binary. */
	WORKER_LEAVES = 75,
	BACK_AFTER = 3,
};

/* What the binary before this one has left open, by number. */
struct handover {
	int device, lock, attach, stats, notify;
	int before;	     /* that binary; -1: this one was started */
	char path[PATH_MAX]; /* by which the service was started */
};

/* At the start, before anything is opened. 1: this process has taken the place of another
 * larderd. 0: it was started; only the path is filled. -EINVAL: somebody else's environment. */
int handover_take(struct handover *ret);

struct upgrade {
	const struct worker_options *options; /* borrowed */
	char **argv;			      /* borrowed */
	const char *path;		      /* borrowed */
	int before; /* owned by the process; -1: nothing to go back to */
	enum upgrade_phase { UPGRADE_NONE, UPGRADE_CHECKS, UPGRADE_LEAVES } phase;
	bool back; /* to `before` */
	pid_t check;
	struct stat binary; /* as it was when the check began */
	uint64_t until_ms;  /* of this phase */
	unsigned failures;  /* of workers, since the handover, while none has served */
};

void upgrade_init(struct upgrade *u, const struct worker_options *o, const struct handover *h,
	char **argv);
/* SIGUSR2. */
void upgrade_ask(struct upgrade *u, uint64_t now_ms);
/* Between two signals: how far it is. worker: the one that is there, or 0. */
void upgrade_look(struct upgrade *u, pid_t worker, uint64_t now_ms);
/* The service ends: nothing comes of it. */
void upgrade_cancel(struct upgrade *u);
/* A worker ended that had, or had not, come to serve. May begin to go back. */
void upgrade_worker_ended(struct upgrade *u, bool served, uint64_t now_ms);
/* Execs, when no worker is left and that is what it is about; else, and when it can't, returns.
 */
void upgrade_exec(struct upgrade *u);
/* Execs what was there before, of a binary that can't even begin. Returns when it can't. */
void upgrade_exec_before(const struct handover *h, char **argv);

/* What a binary that is to take over is asked (--check-takeover): its exit code. */
int upgrade_check(const struct worker_options *o);

#endif
