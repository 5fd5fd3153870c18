/* What of each client outlives a worker, and the service: who it is, and the numbers of its
 * descriptors, which the keeper has too (keeper.h). A table in a file beside the store, mapped
 * by keeper and workers; root's alone, as the store is.
 *
 *   free -> filled -> used   [state_add: the id is stored last]
 *   used -> free             [state_remove: before its descriptors are closed]
 *
 * So whatever is closed, or may be closed by now and another file, isn't in it. A record
 * belongs to its client: the calls that change one are made where the client's fields are
 * changed.
 *
 * When keeper and worker are gone, the numbers of descriptors mean nothing any more; all else
 * holds, and says where another service finds such descriptors again (comeback.h). */
#ifndef LARDER_STATE_H
#define LARDER_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define STATE_FILE "state"
enum {
	STATE_RECORDS = 65536, /* clients at once */
	STATE_VERSION = 2,
	STATE_WHY = 256,
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
	int32_t journal;
#define X(name) int32_t name;
	STATE_FDS(X)
#undef X
	uint32_t reserved0;
	uint64_t parent, family; /* 0: its own, as older versions wrote it */
	uint64_t birth_check; /* of id, parent, family */
	/* From here on what an agent brought. */
	int32_t pid, agent_pid;
	uint32_t uid;
	uint32_t protocol; /* that its shim speaks; 0: 1 */
	/* Inode numbers, which no other file or process of this boot has: of both processes (by
	 * their pidfds), and of what the agent keeps open. */
	uint64_t pid_inode, agent_inode, uffd_inode, link_inode, doorbell_inode;
	uint64_t staging, bell;
	uint64_t born_ms, min_age_ms;
	char exe[256], policy[64];
	uint64_t join_check; /* of id and all from pid on */
	char pad[8];
};
_Static_assert(sizeof(struct state_record) == 512, "a page has eight");

struct state {
	uint64_t magic;
	uint32_t version;
	_Atomic uint32_t ending;	  /* enum worker_end: at it */
	_Atomic uint64_t serves_since_ms; /* CLOCK_MONOTONIC, of this worker; 0: not yet */
	_Atomic uint32_t top;		  /* records below it were used at some time */
	_Atomic uint32_t numbers_gone;	  /* 1: descriptors' numbers are an earlier service's */
	_Atomic uint32_t kept;		  /* 1: the service ended, and nothing was given back */
	uint32_t mounted;		  /* 1: the tmpfs is the service's to unmount */
	uint32_t end_by_signal;		  /* enum worker_end: what SIGTERM asks for */
	uint32_t spare;
	/* Ids up to here were given out. Journals name children by them that are gone. */
	_Atomic uint64_t last_id;
	/* CLOCK_MONOTONIC: since when nobody serves; 0: never so. For how long that was. */
	_Atomic uint64_t idle_since_ms, idle_ms;
	_Atomic uint64_t upgrades; /* how often another larderd took over in place */
	char pad[512 - 80];
	struct state_record record[STATE_RECORDS];
};

/* Makes dir/state, in place of any that is there. Shared with what is forked from now on. 0, or
 * negative errno. */
int state_new(struct state **ret, const char *dir);
/* The one that an earlier service left. -ENOENT: there is none. -EBADMSG: it isn't one, or is
 * damaged; -EPROTONOSUPPORT: another version's: `why` tells in words, and it stays as it is. */
int state_load(struct state **ret, const char *dir, char why[STATE_WHY]);
void state_unmap(struct state *s);
/* Could state_load? Of a table that a service uses meanwhile. As state_load, and leaves
 * nothing. */
int state_check(const char *dir, char why[STATE_WHY]);

/* A copy of r in the table, counted once it is whole. NULL: STATE_RECORDS clients are there, or
 * the file system has no room for one more. One call at a time. */
struct state_record *state_add(struct state *s, const struct state_record *r);
/* What an agent brought: counted when it is whole. */
void state_join(struct state_record *to, const struct state_record *r);
void state_remove(struct state_record *r); /* NULL is fine */
bool state_any(const struct state *s);	   /* is there a client in it? */

/* Is this descriptor one of a client's? */
bool state_has_fd(const struct state *s, int fd);

#endif
