/* The service's picture of one address space: its registered regions, and the state of each
 * page.
 *
 *   space ── region[]  sorted, disjoint: what is registered with the client's uffd
 *         └─ block[]   sorted by number (address >> 21) ──▶ leaf ── entry[512]
 *         ├─ aside[]   leaves that an UNMAP, or the target of a REMAP, dropped while the
 *         │            fence was up (rule 5)
 *         └─ steps     these UNMAPs and REMAPs
 *
 * A leaf with one reference belongs to one space and is changed under that client's gate. A
 * leaf with more (fork) is immutable: whoever wants to change it copies it first.
 *
 * A page is in one state (DESIGN):
 *
 *                 seen present after registering, or zero-filled on a fault
 *      ABSENT ───────────────────────────────────────────────▶ RESIDENT
 *        ▲  ▲                                                  │    ▲
 *        │  └── REMOVE, UNMAP, REMAP of the page ── any state  │    │ fault answered,
 *        │      (REMOVE of a page that may be present: SUSPECT)│    │ or given back
 *        │                                    moved and copied ▼    │
 *        └───────────────────────────────────────────────── HELD ───┤
 *                                                              │    │
 *                               blob and index row committed   ▼    │
 *                                                           STORED ─┘
 *
 * entry: bits 31-30 state, bit 29 suspect, bits 27-0 value. value is the blob when STORED, the
 * batch tag and slot when HELD, and else a blob that nobody needs any more and that the next
 * index flush hands back to the store (so that no event and no fault has to allocate or to take
 * the store's lock).
 *
 * Locks: everything in a space is protected by its client's gate; leaf.refs is atomic; the
 * graveyard has a lock of its own, taken last. */
#ifndef LARDER_SPACE_H
#define LARDER_SPACE_H

#include "store.h"
#include "uffd.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum page_state { PAGE_ABSENT = 0, PAGE_RESIDENT = 1, PAGE_HELD = 2, PAGE_STORED = 3 };

enum {
	BLOCK_SHIFT = 21,
	BLOCK_PAGES = STORE_LEAF_PAGES,
	/* Batches whose pages a space may hold at once: its own, and those of ancestors that it
	 * was forked from while they ran. */
	HELD_TAGS = 8,
	HELD_SLOT_BITS = 9,
	/* Bounds of rule 5's memory: 128 GiB of dropped address space, and so many events,
	   between two looks at the fence. */
	ASIDE_MAX = 65536,
	STEPS_MAX = 16384,
	/* While other threads go on changing mappings, the fence may not be seen down for long.
	 * But that a thread is held up between its call's work and its event while so many
	 * others are read is not to be: what was read so long before FORK had happened, and
	 * what is read so long after it had not. */
	STEPS_OVERTAKE = 1024,
};
#define BLOCK_SIZE    (1ULL << BLOCK_SHIFT)
#define ENTRY_SUSPECT (1u << 29)
#define ENTRY_VALUE   BLOB_MAX

static inline enum page_state entry_state(uint32_t e)
{
	return (enum page_state)(e >> 30);
}
static inline uint32_t entry_value(uint32_t e)
{
	return e & ENTRY_VALUE;
}
static inline uint32_t entry_make(enum page_state s, uint32_t value)
{
	return (uint32_t)s << 30 | value;
}
/* HELD or STORED: the client doesn't have it. */
static inline bool entry_out(uint32_t e)
{
	return entry_state(e) == PAGE_HELD || entry_state(e) == PAGE_STORED;
}
/* The blob that an entry names, needed or not; BLOB_NONE when HELD. */
static inline blob_t entry_blob(uint32_t e)
{
	return entry_state(e) == PAGE_HELD ? BLOB_NONE : entry_value(e);
}

/* A leaf against its row in the index.
 *
 *   NEW ----------> WRITTEN -------> CLEAN -----> CHANGED ---> WRITTEN
 *    snapshot              committed      changed       snapshot
 *                  WRITTEN -------> CHANGED
 *                       changed, or failed
 *
 * A leaf is changed by one client and written in a transaction that need not be another's. So
 * clients share only one that stays as its row is, or as it will be: that is NEW or CLEAN, and
 * is never changed again. */
enum leaf_row {
	LEAF_NEW,     /* it has none */
	LEAF_WRITTEN, /* in the transaction that is under way */
	LEAF_CLEAN,   /* it is the row */
	LEAF_CHANGED, /* the row is an older state */
};

struct leaf {
	_Atomic uint32_t refs;
	_Atomic int row; /* enum leaf_row */
	/* Another client's row may name it, or will: nobody changes it any more, also when only
	 * one has it left. */
	_Atomic bool shared;
	uint16_t out;	   /* entries HELD or STORED */
	uint16_t held;	   /* of these, HELD */
	uint64_t id;	   /* of the index row, never used twice */
	uint64_t family;   /* of the clients that can have it, or what it names */
	struct leaf *next; /* graveyard */
	bool waited;	   /* there: one transaction has passed (indexer.c) */
	uint32_t entry[BLOCK_PAGES];
};

struct block {
	uint64_t number;   /* address >> BLOCK_SHIFT */
	struct leaf *leaf; /* owned: one reference */
	bool remapped;	   /* the index doesn't yet know that this leaf is here */
	bool listed;	   /* stands in space.dirty */
	bool huge;	   /* all of it left at once, as a huge page */
};

struct region {
	uint64_t start, end;
};

/* Events since the fence was last seen down, as far as they may have been read in another order
 * than they happened in (rules 5, 6). A thread that unmaps reports it after it has let go of
 * the address space, so another can have moved a mapping to the same place, and reported that,
 * before. Where an UNMAP and the target of a REMAP overlap, only the kernel can tell what is
 * there now, and only once the fence is down. */
enum { DOUBT_MAX = 32 };
struct doubt {
	struct region unmapped[DOUBT_MAX], target[DOUBT_MAX]; /* seen */
	unsigned unmapped_count, target_count;
	struct region open[DOUBT_MAX]; /* to be asked for */
	unsigned open_count;
	struct region kept[DOUBT_MAX]; /* unmapped, and still on record for that */
	unsigned kept_count;
	/* Discards of what wasn't on record: it may have been moved there, and its REMAP be
	 * still to be read. met: it was, by the step of that number, from 1; 0: not yet. */
	struct late {
		struct region at;
		size_t met;
	} late[DOUBT_MAX];
	unsigned late_count;
	bool late_met; /* one of them */
	bool lost;     /* more than could be noted: everything is in doubt */
	bool open_all; /* as well, by space_open_all: no step tells of it */
};

/* UNMAPs and REMAPs in the order in which they were read, from one moment when the fence was
 * seen down to the next. A fork in between may have copied the page tables before or after any
 * of them; so its child shares the list, which goes on until the parent's fence is seen down.
 */
#define STEP_UNMAP UINT64_MAX
#define STEP_REMOVE                                                                            \
	(UINT64_MAX - 1) /* not in a list of steps, but in lists of calls like it              \
			  */
struct step {
	uint64_t from, to, len; /* to: one of these, or where a REMAP brought it */
};
struct steps {
	_Atomic uint32_t refs;
	_Atomic bool closed; /* nothing is added any more */
	bool lost;	     /* more than are kept */
	size_t count, room;
	size_t events;	   /* read since it began, REMOVE and FORK too */
	struct step *step; /* owned */
};
void steps_unref(struct steps *s);
/* As it is now, closed; one reference. */
struct steps *steps_copy(const struct steps *s);

/* What was dropped by a step (its index), and where it was. */
struct aside {
	uint64_t number;
	struct leaf *leaf; /* owned: one reference */
	size_t step;
	uint64_t discarded[BLOCK_PAGES / 64]; /* since: not to be taken back */
};

struct batch;

/* Leaves that nobody refers to any more wait here until the index has forgotten them. */
struct graveyard {
	pthread_mutex_t lock;
	struct leaf *first;
	struct leaf *blobs;	  /* single blobs of one family, as many as fit */
	unsigned blob_count;	  /* in it */
	_Atomic uint64_t next_id; /* for new leaves */
	_Atomic uint64_t leaves;  /* alive, for the overhead */
	struct leaf *spare;	  /* for answers to faults, which may not wait for memory */
	unsigned spares;
	struct store *store; /* borrowed */
};
void graveyard_init(struct graveyard *g, struct store *store);
void graveyard_done(struct graveyard *g); /* its spares; the dead are the caller's */
/* Spares are made again. False: there is no memory for all of them. Not with a gate held. */
bool graveyard_fill(struct graveyard *g);
/* Takes all of it; the caller unrefs the blobs, deletes the rows and calls leaf_free. */
struct leaf *graveyard_take(struct graveyard *g);
void leaf_free(struct graveyard *g, struct leaf *leaf);

struct space {
	/* These two never change. */
	struct graveyard *graveyard; /* borrowed */
	uint64_t family; /* id of the client that attached, which it descends from */
	struct region *region;
	size_t region_count, region_room;
	struct block *block;
	size_t block_count, block_room;
	uint64_t *dirty; /* numbers of blocks whose index row is wrong; may stand here twice */
	size_t dirty_count, dirty_room;
	struct aside *aside;
	size_t aside_count, aside_room;
	struct steps *steps; /* one reference; NULL: none so far */
	struct steps *older; /* full, and still to be told of a few; or NULL */
	bool overtaken;	     /* events were read too early, and wait (sequence.h) */
	bool unborn; /* a forked child that doesn't know yet where it has what (birth.h) */
	struct doubt doubt;
	struct batch *held[HELD_TAGS]; /* borrowed; by tag */
	uint64_t out_pages;	       /* HELD or STORED */
	uint64_t held_pages;	       /* of these, HELD */
	_Atomic size_t huge_blocks;    /* that left as a huge page; a hint without the gate */
	uint64_t remove_seq;	       /* REMOVE events so far: dates suspicion */
	bool wary;   /* taken over from a worker that died: what it had read of REMOVEs that
			are under way isn't on record */
	bool strays; /* some of them, of threads that may be at it still, of what isn't on
			record */
};

void space_init(struct space *s, struct graveyard *g, uint64_t family);
void space_done(struct space *s); /* as space_init has left it */

/* Memory: none of these fails. What an event says can't be refused or forgotten, so when the
 * machine has no memory the caller waits (with its client's gate, nobody else's) until it has.
 * A fault can be answered later: for that there is space_ready, after which space_set_state of
 * this page needs no memory. It takes what was kept for it, by graveyard_fill and
 * space_keep_room. */
bool space_ready(struct space *s, uint64_t addr); /* false: there is none now */
void space_keep_room(struct space *s);

/* ---- regions ---- */
void space_region_add(
	struct space *s, uint64_t start, uint64_t end); /* merges with what touches */
void space_region_drop(struct space *s, uint64_t start, uint64_t end);
/* The region that holds the address, or NULL. */
const struct region *space_region_at(const struct space *s, uint64_t addr);
bool space_region_overlaps(const struct space *s, uint64_t start, uint64_t end);

/* ---- pages ---- */
/* ABSENT when there is no leaf. */
uint32_t space_entry(const struct space *s, uint64_t addr);
/* Index of the first block with number >= number (block_count: none). */
size_t space_block_index(const struct space *s, uint64_t number);
/* The leaf of a block for changing: made when missing, copied when shared. */
struct leaf *space_leaf(struct space *s, uint64_t number);
/* Sets an entry of a leaf got from space_leaf, keeping the counts. A blob that the entry named
 * and the new one doesn't is the caller's: keep it in the value or hand it back. */
void space_set(
	struct space *s, uint64_t number, struct leaf *leaf, unsigned page, uint32_t entry);
/* Sets the state of one page, keeping the blob that it may name. Not for HELD. */
void space_set_state(struct space *s, uint64_t addr, enum page_state state);

/* What a block's row says of its pages is out of date, though it names the right ones. */
void space_row_outdated(struct space *s, uint64_t number);

/* The block is on record, and left as a huge page. */
void space_note_huge(struct space *s, uint64_t number);
/* The next such block from *number on of which nothing is out any more, and which all of is
 * there; what has a hole by then doesn't count any more. -ENOENT: none. -EAGAIN: none among so
 * many blocks, *number is the next. */
int space_next_huge(struct space *s, uint64_t *number, size_t most);
void space_forget_huge(struct space *s, uint64_t number);

/* ---- events ---- */
/* REMOVE: pages become ABSENT, and SUSPECT where they may be present. So does what a REMAP
 * brings to what isn't on record, if nothing tells until the fence is down that something else
 * had been there. */
void space_remove(struct space *s, uint64_t start, uint64_t end);
/* UNMAP: entries and regions go, and what was out is kept aside; unless it is in doubt, when
 * all stays until the kernel was asked. */
void space_unmap(struct space *s, uint64_t start, uint64_t end);
/* The same without any doubt, by the kernel's word: nothing is kept. */
void space_drop_range(struct space *s, uint64_t start, uint64_t end);
/* REMAP: entries move and the region with them, the source keeps its region (DONTUNMAP; else
 * UNMAP follows). */
void space_remap(struct space *s, uint64_t from, uint64_t to, uint64_t len);
/* A page that was out when an UNMAP took it, and what is kept aside with it. */
struct unmapped {
	size_t at;	     /* the next is looked for from here on (0 at first), */
	uint64_t from;	     /* and of the same UNMAP from this address on: the caller's */
	struct region range; /* of the leaf's pages that the UNMAP took */
	uint64_t page;	     /* isn't on record */
	uint64_t start;	     /* of the UNMAP */
	size_t step;
};
bool space_next_unmapped(const struct space *s, struct unmapped *u);
/* Is the page one of them? */
bool space_was_unmapped(const struct space *s, uint64_t addr);
/* Did a REMAP after that step bring something into the range? */
bool space_brought_since(const struct space *s, size_t step, uint64_t start, uint64_t end);
/* It did not take place: what was out is out again. What else was known is not. */
void space_take_back(struct space *s, uint64_t start, uint64_t end);
/* Something that was read is in doubt: nothing may be answered or evicted before it is settled.
 */
bool space_in_doubt(const struct space *s);
/* Nobody knows what is registered in the range, and it has to be asked for: a part of all. */
void space_open_all(struct space *s, uint64_t start, uint64_t end);
/* Something that was read waits for the fence to be seen down: what a fork may need, or a
 * discard of what may be still to come. */
static inline bool space_unsettled(const struct space *s)
{
	return s->steps || s->doubt.late_count > 0;
}
/* The fence was seen down, and nothing else is to be asked: no fork can be older than what is
 * kept aside, and children that were forked before have been told of all steps. */
void space_forget_aside(struct space *s);
/* Pages that aren't out become SUSPECT: one of them may be about to be zapped. */
void space_suspect(struct space *s, uint64_t start, uint64_t end);
/* FORK: fills an initialised, empty child, as the parent is by the events read so far. Leaves
 * are shared, but for those with HELD pages. The child is unborn. Returns the parent's steps,
 * to which more may come, with a reference for the caller. */
struct steps *space_fork(struct space *parent, struct space *child);
/* A child of one that is unborn itself: the steps are those of its parent's parent. */
void space_fork_unborn(struct space *parent, struct space *child);

/* What an unborn child asks of the kernel, and knows otherwise. */
struct midwife {
	/* Is the address registered in the child? 1, 0; or -EAGAIN: an event of the child's is
	 * in flight, and has to be read before anything can be asked. Other errors end it. */
	int (*registered)(void *arg, uint64_t addr);
	void *arg;
	/* Where mappings of the parent's had grown in place when FORK was read: what is
	 * registered there may be such a one. */
	const struct region *grown;
	unsigned grown_count;
	/* Calls of parents that were never born, made after all steps, in their order. */
	const struct step *line;
	size_t line_count;
	/* The child's own UNMAPs and REMAPs that were read so far, in their order: what they
	 * did shows in the answers. */
	const struct step *early;
	size_t early_count;
	bool forked;	/* it forked, too: that child may have what it unmapped afterwards */
	uint64_t *work; /* what all tries have cost so far */
};
/* Has all been read that can have happened before the copying? With the parent's gate held. */
static inline bool steps_suffice(const struct steps *s, size_t events_before)
{
	return atomic_load(&s->closed) || s->events >= events_before + STEPS_OVERTAKE;
}
/* Brings the child's record in line with what its page tables were when they were copied:
 * somewhere among the steps, `before` of which had been applied to the record that it got.
 * Nothing is added to them meanwhile. 0: born, then `early` is to be applied; -EAGAIN;
 * -EBADMSG: it can't be told where some pages are, and nothing may be answered (rule 8);
 * -E2BIG: nor can it, with so much work (BIRTH_WORK_MAX); what registered() says. Except for 0,
 * nothing was changed. */
int space_bear(
	struct space *child, const struct steps *steps, size_t before, const struct midwife *m);
/* Its parent has one thread. What the parent would ask the kernel, the child asks for itself.
 */
void space_inherit_doubt(const struct space *parent, struct space *child);
/* It is as its record says, or nobody can tell: no more questions. */
void space_bear_none(struct space *child);

/* Clears all suspicion in a block: no thread can be inside a discard any more. */
void space_clear_suspects(struct space *s, uint64_t number);

/* ---- batches ---- */
/* A free tag for a batch, or -EBUSY. */
int space_hold(struct space *s, struct batch *b);
void space_unhold(struct space *s, const struct batch *b);
/* Tag of a batch in this space, or -ENOENT. */
int space_held_tag(const struct space *s, const struct batch *b);

/* Asserts the invariants; slow, for tests and debug builds:
 *  1. regions are sorted, disjoint, not empty and page aligned;
 *  2. blocks are sorted, each with a leaf of at least one reference;
 *  3. leaf.out and leaf.held count its entries, space.out_pages and held_pages their sums;
 *  4. a STORED entry names a blob; a HELD entry's tag names a batch of this space;
 *  5. SUSPECT goes with ABSENT only. */
void space_check(const struct space *s);

#endif
