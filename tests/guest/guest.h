/* A program that verifies itself. Each thread owns areas of memory and keeps, apart from them,
 * a model of what each page must contain; it works on the areas with every call that can change
 * memory, and ends with exit code 1 on one wrong byte.
 *
 *   worker ── areas ──┬─ at ──────▶ memory: 4096-byte pages
 *                     └─ page[] ──▶ model: what each of these must contain
 *
 * An area is owned by one thread, so expectations are exact: there is no byte for which two
 * answers are right, but in pages after MADV_FREE, which are the old page or zeros.
 *
 * A worker goes in steps. A step is one operation: one call of its kind (a fork with the life
 * of its child counts once, and the child's steps by themselves), or one access to a page or a
 * few in a row, which are verified. Each has a seed, from which alone all follows that it
 * decides. So a list of steps is a script, and what is left of a script when lines are taken
 * out is one too. For that the lines that stay must mean what they meant: an area is chosen by
 * comparing hashes of the step's seed with each area's number, and the number follows from the
 * step that made the area; taking away other areas leaves the choice as it was. */
#ifndef LARDER_TESTS_GUEST_H
#define LARDER_TESTS_GUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* X(name, weight, in_child, help): weight is how often, in_child: also in forked children. */
#define GUEST_OPS(X)                                                                           \
	X(read, 3200, true, "verify pages")                                                    \
	X(write, 1200, true, "fill pages anew")                                                \
	X(poke, 2000, true, "write one word of a page, verify the rest")                       \
	X(mmap, 24, true, "map a new area: reads zeros")                                       \
	X(munmap, 24, true, "unmap an area, or a part of it")                                  \
	X(reuse, 20, true, "unmap a part, map anew at the same address: reads zeros")          \
	X(mapover, 20, true, "map with MAP_FIXED over a part: reads zeros")                    \
	X(grow, 16, true, "mremap to a larger size, may move")                                 \
	X(growhere, 12, true, "mremap to a larger size, in place or not at all")               \
	X(shrink, 16, true, "mremap to a smaller size")                                        \
	X(move, 20, true, "mremap to another address")                                         \
	X(moveover, 12, true, "mremap onto another area")                                      \
	X(movepart, 16, true, "mremap a part to another address")                              \
	X(resize, 12, true, "mremap to another address and another size at once")              \
	X(dontunmap, 16, true, "mremap with MREMAP_DONTUNMAP: the source reads zeros")         \
	X(unmapmany, 8, true, "one munmap across several areas and the gaps between them")     \
	X(mapmany, 8, true, "one MAP_FIXED across several areas")                              \
	X(dontneedmany, 8, true, "one MADV_DONTNEED across several areas")                     \
	X(movemany, 8, true, "one mremap of several areas")                                    \
	X(dontneed, 40, true, "MADV_DONTNEED: reads zeros")                                    \
	X(free, 24, true, "MADV_FREE: reads zeros or the old page")                            \
	X(cold, 12, true, "MADV_COLD")                                                         \
	X(pageout, 8, true, "MADV_PAGEOUT")                                                    \
	X(hugepage, 12, true, "MADV_HUGEPAGE and back")                                        \
	X(collapse, 4, true, "MADV_COLLAPSE")                                                  \
	X(populate, 12, true, "MADV_POPULATE_READ and _WRITE")                                 \
	X(advice, 16, true, "MADV_RANDOM, SEQUENTIAL, WILLNEED, NORMAL, DONTDUMP, DODUMP")     \
	X(mergeable, 8, true, "MADV_MERGEABLE and UNMERGEABLE")                                \
	X(pmadvise, 16, true, "process_madvise on this process, several areas at once")        \
	X(pguard, 8, true, "process_madvise with MADV_GUARD_INSTALL and _REMOVE: reads zeros") \
	X(protect, 24, true, "mprotect to read-only or no access, and back later")             \
	X(guard, 12, true, "MADV_GUARD_INSTALL, and MADV_GUARD_REMOVE later: reads zeros")     \
	X(mlock, 8, true, "mlock and munlock")                                                 \
	X(lockfault, 8, true, "mlock2 on fault, and MADV_DONTNEED_LOCKED: reads zeros")        \
	X(malloc, 20, true, "malloc or calloc a big block")                                    \
	X(realloc, 24, true, "realloc a block")                                                \
	X(release, 20, true, "free a block")                                                   \
	X(brk, 20, true, "brk up and down, where no other thread could do so: reads zeros")    \
	X(fork, 3, true, "a child verifies its copy, changes it, verifies again")              \
	X(rawfork, 2, true, "the same without libc's fork")                                    \
	X(prefork, 1, true, "many children at once")                                           \
	X(daemon, 1, true, "a grandchild that outlives its parent")                            \
	X(discardfork, 2, true, "MADV_DONTNEED, then fork at once: the child reads zeros")     \
	X(forkdiscard, 2, true, "fork, then discard: the child reads the old pages")           \
	X(forkmap, 1, true, "fork, then unmap and map anew: the child reads the old pages")    \
	X(wipe, 1, true, "MADV_WIPEONFORK: the child reads zeros")                             \
	X(keep, 1, true, "MADV_WIPEONFORK, MADV_KEEPONFORK: the child reads its pages")        \
	X(dontfork, 1, true, "MADV_DONTFORK: the child doesn't have the area")                 \
	X(vfork, 2, true, "a child that shares the memory until it ends, and writes to it")    \
	X(clonevm, 1, true, "a process that shares the memory while we run on")                \
	X(exec, 1, true, "posix_spawn or fork and exec of this program, which ends at once")   \
	X(spawn, 2, false, "a short-lived thread")                                             \
	X(forkmove, 2, false, "a thread forks while another moves: the child has the pages")

/* Not done unless asked for by name: what isn't promised yet. */
#define GUEST_OFF(X)                                                                           \
	X(pguard)                                                                              \
	X(forkmove)

enum op {
#define X(name, weight, in_child, help) OP_##name,
	GUEST_OPS(X)
#undef X
		OP_COUNT,
	OP_settle = OP_COUNT, /* for the history only */
	OP_wake,
	OP_NAMES
};

enum {
	PAGE = 4096,
	HISTORY = 16,	  /* operations kept for each area */
	AREAS_MAX = 96,	  /* of one thread */
	CHILDREN_MAX = 2, /* of one thread at once: more would only wait for a CPU */
	ORPHANS_MAX = 4,
	DEPTH_MAX = 3, /* a child, its child, and its */
	WHO_MAX = 64,
	THREADS_MAX = 256,
};

/* ---- pages (page.c) ---- */

enum page_state {
	PAGE_ZERO,    /* zeros, and the poked word */
	PAGE_PATTERN, /* the pattern of (id, gen, kind), and the poked word */
	PAGE_EITHER,  /* as PAGE_PATTERN, or zeros all over */
};

/* What is written: how well it packs differs. */
enum page_kind { KIND_TEXT, KIND_RANDOM, KIND_FILL, KIND_RECORDS, KIND_COMMON, KIND_COUNT };

struct page {
	uint64_t id;	 /* stays with the page wherever it is moved */
	uint64_t poke;	 /* value of the poked word, whose place follows from id */
	uint32_t gen;	 /* how many times it was filled, and the writer's mark */
	uint32_t before; /* gen before the last write: to say what a wrong page is */
	uint8_t state, kind, kind_before;
	bool poked;
};

/* ---- areas (area.c) ---- */

enum access { ACCESS_ALL, ACCESS_READ, ACCESS_NONE, ACCESS_GUARDED };

enum area_kind {
	AREA_MAP,
	AREA_HEAP, /* a block of malloc: no calls on its address */
	AREA_BRK,  /* no calls that unmap or move */
};

struct event {
	uint64_t serial; /* of the thread's operations */
	uint32_t first, count;
	uint8_t op;
};

struct area {
	char *at; /* not page-aligned when AREA_HEAP */
	size_t pages;
	struct page *page; /* owned */
	uint32_t number;   /* from the step that made it */
	enum area_kind kind;
	/* One mapping of the kernel, or a part of one: mremap must succeed then, since it would
	 * if nobody interfered. */
	bool uniform;
	bool split;	    /* was perhaps several mappings for a while */
	bool moved;	    /* by mremap: what is mapped into it can't merge with it */
	bool advised;	    /* has advice that a new mapping wouldn't have: the same */
	unsigned cold;	    /* only one step in 2^cold may use it */
	enum access access; /* to the pages [access_first, access_first + access_count) */
	size_t access_first, access_count;
	struct event history[HISTORY]; /* a ring */
	unsigned events;
};

/* ---- scripts (script.c) ---- */

/* Whose step it is: "2" is a thread, "2/0badcafe" the child of that thread's step with this
 * seed, "2/0badcafe.1" the second child of the same step, and so on. */
struct line {
	char who[WHO_MAX];
	enum op op;
	uint32_t seed;
};

struct options {
	uint64_t seconds; /* 0: no limit */
	uint64_t steps;	  /* of each thread; 0: no limit */
	uint64_t threads, megabytes, seed;
	uint64_t child_steps; /* operations of a forked child */
	bool enabled[OP_COUNT];
	size_t weight[OP_COUNT], weights; /* of the enabled ones, and their sum */
	bool chosen;			  /* by --ops */
	bool swarm; /* some operations often and others never, by the seed */
	bool quiet;
	bool pause;	    /* wait now and then, so that others get at the memory */
	int trace;	    /* descriptor, or -1 */
	struct line *lines; /* owned: the script to replay, or NULL */
	size_t line_count;
	int sabotage;	 /* enum op, or -1 */
	bool multi_move; /* this kernel moves several mappings in one mremap */
};

/* Shared by all processes: children add what they did, too. */
struct totals {
	_Atomic uint64_t counts[OP_COUNT], unavailable[OP_COUNT], checked;
};

/* A process that nobody can wait for. Shared by all processes. */
struct orphan {
	_Atomic pid_t pid; /* 0 until it is known */
	_Atomic bool done; /* all was right */
};

struct worker {
	const struct options *options; /* borrowed */
	struct totals *totals;	       /* borrowed */
	struct orphan *orphans;	       /* owned, shared with children: ORPHANS_MAX */
	char who[WHO_MAX];
	unsigned number;
	unsigned depth;	 /* 0, or in a forked child how far down */
	uint64_t base;	 /* where the seeds of its steps come from */
	uint32_t mark;	 /* in gen: tells the pages of one process from another's */
	uint64_t serial; /* steps so far */
	uint32_t seed;	 /* of this step, from which these follow: */
	uint64_t random, next_id;
	unsigned picks, areas_made, forks;
	struct area *areas[AREAS_MAX]; /* owned */
	size_t area_count, pages, pages_max;
	pid_t children[CHILDREN_MAX];
	size_t child_count, orphan_count;
	enum op op;
	struct event last; /* what the operation did, and in which area: for sabotage */
	struct area *last_area;
	uint64_t counts[OP_COUNT], unavailable[OP_COUNT], checked;
	char expected[PAGE], found[PAGE];
};

/* ---- random.c ---- */
uint64_t mix(uint64_t x);
uint64_t random_next(struct worker *w);
size_t random_below(struct worker *w, size_t limit); /* limit > 0 */
bool random_one_in(struct worker *w, size_t n);

/* ---- page.c ---- */

/* These need access to the page. They end the program when a byte is wrong. */
void page_check(struct worker *w, struct area *a, size_t i);
void page_write(struct worker *w, struct area *a, size_t i);
void page_poke(struct worker *w, struct area *a, size_t i);
/* Changes the model only. */
void page_zeroed(struct page *p);
void page_freed(struct page *p); /* not of zeros with a word poked */
char *page_at(const struct area *a, size_t i);
bool is_zero(const char *page);
void make_pattern(const struct page *p, char *page);

/* ---- fail.c ---- */
extern const char *const op_names[OP_NAMES];
_Noreturn void fail_page(struct worker *w, struct area *a, size_t i, size_t offset);
/* A call did what it never may. */
_Noreturn void fail_call(struct worker *w, struct area *a, const char *call, int error);
/* Anything else: the text ends the line that names the step. */
_Noreturn void fail_step(struct worker *w, const char *what, int number);
/* Flips a byte of a page of the area, by another path than the model's. */
void sabotage(struct worker *w, struct area *a);

/* ---- area.c ---- */
void note(struct worker *w, struct area *a, enum op op, size_t first, size_t count);
bool has_room(const struct worker *w, size_t pages); /* for two more areas and these pages */

/* The model of an area at `at` that reads zeros. Never NULL. */
struct area *area_add(struct worker *w, char *at, size_t pages);
struct area *area_map(struct worker *w, size_t pages); /* NULL: the kernel refused */
void area_fill(struct worker *w, struct area *a, size_t first, size_t count); /* in part */
void area_touch_first(struct worker *w, struct area *a);
void area_drop(struct worker *w, struct area *a); /* model only */
void area_free(struct worker *w, struct area *a); /* unmaps or frees as well */
void make_room(struct worker *w);		  /* so that few steps are without it */
/* Removes pages from the model; what remains on either side stays as areas. `a` may be gone. */
void area_cut(struct worker *w, struct area *a, size_t first, size_t count);
/* The pages become an area of their own, whose memory is at `at`. */
struct area *area_part(struct worker *w, struct area *a, size_t first, size_t count, char *at);
void area_resize(struct worker *w, struct area *a, size_t pages); /* new pages read zeros */
void area_check(struct worker *w, struct area *a);
void area_check_some(struct worker *w, struct area *a, size_t count);
void range_zeroed(struct area *a, size_t first, size_t count);
/* The pages of the range are of a new mapping. */
void range_replaced(struct worker *w, struct area *a, size_t first, size_t count);
void range_farewell(struct worker *w, struct area *a, size_t first, size_t count);
void area_settle(struct worker *w, struct area *a); /* gives all access back */
bool may_read(const struct area *a, size_t i);
bool may_write(const struct area *a, size_t i);

enum want {
	WANT_ANY,
	WANT_MAP,
	WANT_HEAP,
	WANT_BRK,
	WANT_RANGE, /* for calls that leave it where it is: WANT_MAP or WANT_BRK */
};
struct area *area_pick(struct worker *w, enum want want); /* NULL: none is to be used now */
void range_pick(struct worker *w, const struct area *a, size_t *ret_first, size_t *ret_count);
size_t size_pick(struct worker *w);

/* ---- the operations: true when it was done ---- */
#define X(name, weight, in_child, help) bool op_##name(struct worker *w);
GUEST_OPS(X)
#undef X

/* ---- script.c ---- */

/* Both end the program with 2 when the file can't be used. script_read also takes the options
 * that the script was made with. */
void script_read(struct options *o, const char *path);
void trace_open(struct options *o, const char *path);
void trace_step(const struct worker *w, enum op op);
void trace_area(const struct worker *w, const struct area *a, size_t first, size_t count);

/* ---- run.c ---- */
void weights_choose(struct options *o);
struct worker *worker_new(const struct options *o, struct totals *totals, unsigned number);
void worker_run(struct worker *w);
/* The steps of a forked child: from the script, or as many as a child takes. */
void worker_run_child(struct worker *w);
void worker_count(struct worker *w); /* adds to the totals; before a process ends */

/* ---- ops_fork.c ---- */
/* 0 in the child, whose steps and pages are its own. -1: the system is full. */
pid_t fork_worker(struct worker *w);
void become_child(struct worker *w); /* after another call than fork */
void live_as_child(struct worker *w);
_Noreturn void be_child(struct worker *w); /* the same, then its end */
_Noreturn void end_child(struct worker *w);
void wait_for(struct worker *w, pid_t child);
void reap_children(struct worker *w, size_t leave);
/* In the child: corrupts what it is about to verify, when asked to. */
void sabotage_copy(struct worker *w, enum op op, struct area *a);

/* The page isn't at `at` (any more), which was left free, so that something else may be. */
void page_check_gone(struct worker *w, struct area *a, size_t i, char *at);

/* ---- ops_process.c ---- */
void reap_orphans(struct worker *w);

/* ---- ops_map.c ---- */
bool probe_multi_move(void);
char *reserve(size_t pages); /* an address that nobody else can get meanwhile */
char *move_to(char *from, size_t pages, char *to);

#endif
