/* A program that verifies itself. Each thread owns areas of memory and keeps, apart from them,
 * a model of what each page must contain; it works on the areas with every call that can change
 * memory, and ends with exit code 1 on one wrong byte.
 *
 *   worker ── areas ──┬─ at ──────▶ memory: 4096-byte pages
 *                     └─ page[] ──▶ model: what each of these must contain
 *
 * An area is owned by one thread, so expectations are exact: there is no byte for which two
 * answers are right, but in pages after MADV_FREE, which are the old page or zeros. */
#ifndef LARDER_TESTS_GUEST_H
#define LARDER_TESTS_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* X(name, weight, in_child, help): weight is how often, in_child: also in forked children. */
#define GUEST_OPS(X)                                                                           \
	X(read, 60, true, "verify pages")                                                      \
	X(write, 40, true, "fill pages anew")                                                  \
	X(poke, 30, true, "write one word of a page")                                          \
	X(mmap, 6, true, "map a new area: reads zeros")                                        \
	X(munmap, 3, true, "unmap an area, or a part of it")                                   \
	X(reuse, 4, true, "unmap a part, map anew at the same address: reads zeros")           \
	X(mapover, 4, true, "map with MAP_FIXED over a part: reads zeros")                     \
	X(grow, 4, true, "mremap to a larger size, may move")                                  \
	X(growhere, 3, true, "mremap to a larger size, in place or not at all")                \
	X(shrink, 3, true, "mremap to a smaller size")                                         \
	X(move, 4, true, "mremap to another address")                                          \
	X(moveover, 2, true, "mremap onto another area")                                       \
	X(movepart, 3, true, "mremap a part to another address")                               \
	X(dontunmap, 3, true, "mremap with MREMAP_DONTUNMAP: the source reads zeros")          \
	X(dontneed, 8, true, "MADV_DONTNEED: reads zeros")                                     \
	X(free, 6, true, "MADV_FREE: reads zeros or the old page")                             \
	X(cold, 3, true, "MADV_COLD")                                                          \
	X(pageout, 2, true, "MADV_PAGEOUT")                                                    \
	X(hugepage, 3, true, "MADV_HUGEPAGE and back")                                         \
	X(collapse, 1, true, "MADV_COLLAPSE")                                                  \
	X(populate, 2, true, "MADV_POPULATE_READ and _WRITE")                                  \
	X(protect, 5, true, "mprotect to read-only or no access, and back later")              \
	X(guard, 2, true, "MADV_GUARD_INSTALL, and MADV_GUARD_REMOVE later: reads zeros")      \
	X(mlock, 1, true, "mlock and munlock")                                                 \
	X(malloc, 5, true, "malloc or calloc a big block")                                     \
	X(realloc, 5, true, "realloc a block")                                                 \
	X(release, 4, true, "free a block")                                                    \
	X(fork, 2, true, "a child verifies its copy, changes it, verifies again")              \
	X(discardfork, 1, true, "MADV_DONTNEED, then fork at once: the child reads zeros")     \
	X(forkdiscard, 1, true, "fork, then discard: the child reads the old pages")           \
	X(wipe, 1, true, "MADV_WIPEONFORK: the child reads zeros")                             \
	X(spawn, 2, false, "a short-lived thread")

enum op {
#define X(name, weight, in_child, help) OP_##name,
	GUEST_OPS(X)
#undef X
		OP_COUNT,
	OP_setup = OP_COUNT, /* for the history only */
	OP_settle,
	OP_wake,
	OP_NAMES
};

enum {
	PAGE = 4096,
	HISTORY = 16,	  /* operations kept for each area */
	AREAS_MAX = 96,	  /* of one thread */
	CHILDREN_MAX = 2, /* of one thread at once: more would only wait for a CPU */
	DEPTH_MAX = 2,	  /* a child, and its child */
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
	uint64_t id;   /* stays with the page wherever it is moved */
	uint64_t poke; /* value of the poked word, whose place follows from id */
	uint32_t gen;  /* how many times it was filled */
	uint8_t state, kind;
	bool poked;
};

/* ---- areas (area.c) ---- */

enum access { ACCESS_ALL, ACCESS_READ, ACCESS_NONE, ACCESS_GUARDED };

struct event {
	uint64_t serial; /* of the thread's operations */
	uint32_t first, count;
	uint8_t op;
};

struct area {
	char *at; /* not page-aligned when heap */
	size_t pages;
	struct page *page; /* owned */
	uint64_t number;
	bool heap; /* a block of malloc: no calls on its address */
	/* One mapping of the kernel, or a part of one: mremap must succeed then, since it would
	 * if nobody interfered. */
	bool uniform;
	bool moved;		/* by mremap: what is mapped into it can't merge with it */
	bool advised;		/* has MADV_HUGEPAGE or NOHUGEPAGE: the same */
	bool cold;		/* rests for long between uses */
	uint32_t uses;		/* until it rests */
	uint64_t resting_until; /* us; 0: in use */
	enum access access;	/* to the pages [first, first + count) */
	size_t access_first, access_count;
	struct event history[HISTORY]; /* a ring */
	unsigned events;
};

struct options {
	uint64_t seconds, threads, megabytes, seed;
	uint64_t child_steps; /* operations of a forked child */
	bool enabled[OP_COUNT];
	bool chosen; /* by --ops */
	bool quiet;
	int sabotage;	 /* enum op, or -1 */
	bool multi_move; /* this kernel moves several mappings in one mremap */
};

struct worker {
	const struct options *options; /* borrowed */
	unsigned number;
	unsigned depth; /* 0, or in a forked child how far down */
	uint64_t random, now, serial, next_id, next_area;
	struct area *areas[AREAS_MAX]; /* owned */
	size_t area_count, pages, pages_max;
	pid_t children[CHILDREN_MAX];
	size_t child_count;
	struct event last; /* what the operation did, and in which area: for sabotage */
	struct area *last_area;
	uint64_t counts[OP_COUNT], unavailable[OP_COUNT], checked;
	char expected[PAGE], found[PAGE];
};

/* ---- page.c ---- */
extern const char *const op_names[OP_NAMES];
uint64_t mix(uint64_t x);
uint64_t random_next(struct worker *w);
size_t random_below(struct worker *w, size_t limit); /* limit > 0 */
bool random_one_in(struct worker *w, size_t n);

/* These need access to the page. They end the program when a byte is wrong. */
void page_check(struct worker *w, struct area *a, size_t i);
void page_write(struct worker *w, struct area *a, size_t i);
void page_poke(struct worker *w, struct area *a, size_t i);
/* Changes the model only. */
void page_zeroed(struct page *p);
void page_freed(struct page *p); /* not of zeros with a word poked */

_Noreturn void fail_page(struct worker *w, struct area *a, size_t i, size_t offset);
/* A call did what it never may. */
_Noreturn void fail_call(struct worker *w, struct area *a, const char *call, int error);
/* Flips a byte of a page of the area, by another path than the model's. */
void sabotage(struct worker *w, struct area *a);

/* ---- area.c ---- */
uint64_t clock_us(void);
void note(struct worker *w, struct area *a, enum op op, size_t first, size_t count);
bool has_room(const struct worker *w, size_t pages); /* for two more areas and these pages */

/* The model of an area at `at` that reads zeros. Never NULL. */
struct area *area_add(struct worker *w, char *at, size_t pages);
struct area *area_map(struct worker *w, size_t pages); /* NULL: the kernel refused */
void area_fill(struct worker *w, struct area *a, size_t first, size_t count);
void area_touch_first(struct worker *w, struct area *a);
void area_drop(struct worker *w, struct area *a); /* model only */
void area_free(struct worker *w, struct area *a); /* unmaps or frees as well */
/* Removes pages from the model; what remains on either side stays as areas. `a` may be gone. */
void area_cut(struct worker *w, struct area *a, size_t first, size_t count);
void area_resize(struct worker *w, struct area *a, size_t pages); /* new pages read zeros */
void area_check(struct worker *w, struct area *a);
void area_check_some(struct worker *w, struct area *a, size_t count);
void range_farewell(struct worker *w, struct area *a, size_t first, size_t count);
void area_settle(struct worker *w, struct area *a); /* gives all access back */
bool may_read(const struct area *a, size_t i);
bool may_write(const struct area *a, size_t i);

enum want { WANT_ANY, WANT_MAP, WANT_HEAP };
struct area *area_pick(struct worker *w, enum want want); /* NULL: none is to be used now */
void range_pick(struct worker *w, const struct area *a, size_t *ret_first, size_t *ret_count);
size_t size_pick(struct worker *w);

/* ---- the operations: true when it was done ---- */
#define X(name, weight, in_child, help) bool op_##name(struct worker *w);
GUEST_OPS(X)
#undef X

/* ---- run.c ---- */
void worker_setup(struct worker *w);
void worker_run(struct worker *w);
void worker_finish(struct worker *w);
bool worker_step(struct worker *w); /* one random operation */

/* ---- ops_fork.c ---- */
void reap_children(struct worker *w, size_t leave);

/* ---- ops_map.c ---- */
bool probe_multi_move(void);

#endif
