/* What /proc says of a client's address space and threads, and which mappings may be managed
 * (DESIGN rule 11). Reads only; paths come in as a /proc/PID directory descriptor, so tests can
 * pass a directory of their own. 0 or negative errno; outputs untouched on failure. */
#ifndef LARDER_MAPS_H
#define LARDER_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Why a mapping isn't managed; the texts are for people (evict, status, doctor). MAPS_ because
 * <sys/mman.h> has macros MAP_FILE, MAP_SHARED, MAP_LOCKED, MAP_HUGETLB and MAP_STACK. */
#define MAP_REFUSALS(X)                                                                        \
	X(OK, "may be managed")                                                                \
	X(FILE, "file-backed")                                                                 \
	X(SHARED, "shared")                                                                    \
	X(PROT, "not readable and writable")                                                   \
	X(EXEC, "executable")                                                                  \
	X(LOCKED, "locked in memory")                                                          \
	X(HUGETLB, "hugetlb")                                                                  \
	X(SPECIAL, "device, PFN or special mapping")                                           \
	X(STACK, "stack")                                                                      \
	X(THREAD, "holds a thread's stack or control block")                                   \
	X(WIPEONFORK, "wiped on fork")                                                         \
	X(FOREIGN_UFFD, "registered with another userfaultfd")                                 \
	X(SMALL, "too small")
enum map_refusal {
#define X(id, text) MAPS_##id,
	MAP_REFUSALS(X)
#undef X
		MAP_REFUSAL_COUNT
};
const char *map_refusal_text(enum map_refusal r);

struct map {
	uint64_t start, end;	  /* bytes, page aligned */
	uint64_t rss, anon, swap; /* bytes, from smaps */
	uint64_t anon_huge;	  /* bytes of PMD-mapped huge pages */
	bool uffd;		  /* registered with some userfaultfd (VmFlags um, uw, ui) */
	enum map_refusal refusal; /* MAPS_OK: may be managed (thread check apart) */
};

/* Reads procdir/smaps. Calls fn for each mapping in order; fn's non-zero return stops and is
 * returned. `uffd` mappings are reported as MAPS_FOREIGN_UFFD only by the caller's own choice:
 * here uffd is set and refusal says what else is wrong. Mappings smaller than min_bytes are
 * MAPS_SMALL. */
typedef int maps_fn(void *arg, const struct map *m);
int maps_read(int procdir, uint64_t min_bytes, maps_fn *fn, void *arg);

/* What the service looks at: below this size a mapping isn't worth its place in the client's
 * list of mappings (most such are the libraries' data), and no program has more threads. */
enum { MAPS_MIN_BYTES = 256 << 10, MAPS_THREADS_MAX = 8192 };

/* Addresses that thread stacks and control blocks occupy: for each thread of procdir/task the
 * robust-list head (get_robust_list(2)), and the stack pointer from task/TID/syscall when it is
 * blocked. Sets *ret_count; returns -E2BIG if there are more than max, -EAGAIN if threads end
 * so fast that one may have been missed. On failure what ret[] holds is undefined. */
int maps_thread_addresses(int procdir, uint64_t *ret, size_t max, size_t *ret_count);

/* Where the control blocks are, for one who asks again and again: costs little where no thread
 * began. Starts as zeros. One thread's. */
struct maps_threads {
	struct maps_thread {
		pid_t tid;
		uint64_t block; /* 0: it hasn't said yet */
	} * thread;		/* owned */
	size_t count, room;
	bool unclear; /* a thread began just now, and hasn't said where its block is */
};
/* -EAGAIN: threads begin or end so fast that one may have been missed. -ESRCH: there is none
 * left. -ENOMEM. What was known stays then. */
int maps_threads_look(int procdir, struct maps_threads *t);
void maps_threads_done(struct maps_threads *t);

/* Is one of these addresses in the mapping? */
bool maps_holds_thread(const struct map *m, const uint64_t *addresses, size_t count);

/* The threads that may be inside a call since a moment: that of the first look, or the first
 * after maps_quiet_again. A thread isn't when it was seen blocked or stopped outside madvise,
 * process_madvise, munmap, mmap, mremap and brk; nor is one that began later. Starts as zeros.
 * One thread's. */
struct maps_quiet {
	pid_t *tid; /* owned */
	size_t count, room;
	bool begun; /* all threads were met */
};
/* *ret: there is none any more. Each look asks only for those that are left. -ESRCH: the
 * process has no threads. */
int maps_quiet_look(int procdir, struct maps_quiet *q, bool *ret);
void maps_quiet_again(struct maps_quiet *q);
void maps_quiet_done(struct maps_quiet *q);

/* A thread of the process that has the agent's memory: the leader, unless that has exited
 * (pthread_exit in main). Then /proc/PID/smaps and fd are empty, and /proc/PID/task/TID has
 * them. -ENOENT: none has, for the process runs another image by now. */
int maps_memory_task(int procdir, pid_t agent_pid, pid_t *ret);

/* Reasons to leave a whole process alone: NULL-terminated text in *ret, or *ret = NULL when
 * there is none. Real-time threads, a userfaultfd of its own, another non-thread process
 * sharing its memory (kcmp over its children; agent_pid is ours). `pid` is that of a thread
 * which has the memory. */
int maps_process_refusal(int procdir, pid_t pid, pid_t agent_pid, const char **ret);

#endif
