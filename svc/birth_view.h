/* What a birth knows of the address space (space_birth.c): its pieces, where the steps of the
 * parent may have moved what, and what the kernel says of the child. */
#ifndef LARDER_BIRTH_VIEW_H
#define LARDER_BIRTH_VIEW_H

#include "space_internal.h"

enum {
	NO = 0,
	YES = 1,
	/* Not known. Mostly it doesn't matter: nothing is there any more, if it was. */
	OPEN = 2,
};
#define GONE UINT64_MAX

/* What lies between two neighbouring ends of steps, or what moves to there: of what was
 * registered at first all goes the same way. */
struct piece_of_space {
	uint64_t start;
	bool touched; /* by a step, or by one of the line, or discarded */
	bool matters; /* it has been asked for */
	int is;	      /* registered in the child: NO, YES, OPEN */
	int was;      /* the same in the first of its line, when the page tables were copied */
	int first;    /* the same before all steps */
	/* While it is found out which steps had happened (birth_search.c): */
	int owner; /* a step that touches it, or -1 */
	int last;  /* the last one that has been looked at, or -1 */
	int now;   /* registered after that */
};

enum {
	/* How much is done for one birth, in looks at a piece, a step or the like, of which
	 * each takes some nanoseconds. Nobody needs a tenth of it who doesn't mean it
	 * (tests/svc/birth_work.c). */
	BIRTH_WORK_MAX = 1 << 25,
};

struct view {
	const struct steps *steps; /* those that can have happened or not */
	size_t first;		   /* what was dropped by ones before is gone */
	size_t before;
	const struct midwife *midwife;
	struct late late[DOUBT_MAX]; /* discards of what a step brought (space_late_of) */
	unsigned late_count;
	struct piece_of_space *piece;
	size_t pieces, room;
	bool *part;  /* by step: an UNMAP that is part of the REMAP before it */
	bool *stays; /* a REMAP without one: its source stays registered (DONTUNMAP) */
	bool *found; /* it had happened before the copying */
	/* Pages that are out, one for each piece in which some were at first. */
	uint64_t *sample;
	size_t sample_count, sample_room;
	/* Where the pages of [start, end) went, which are there after `at` steps. */
	struct {
		uint64_t start, end, to;
		size_t at;
	} way;
	uint64_t work; /* so far, of all tries */
};

static inline bool view_tired(const struct view *v)
{
	return v->work > BIRTH_WORK_MAX;
}

static inline bool covers(uint64_t start, uint64_t len, uint64_t addr)
{
	return addr >= start && addr - start < len;
}

static inline bool is_remap(const struct step *s)
{
	return s->to != STEP_UNMAP && s->to != STEP_REMOVE;
}

/* Needs steps, first, before, late, midwife and work. view_close in any case.
 * -E2BIG, here and below: more than anybody does who doesn't mean it. */
int view_open(struct view *v);
void view_close(struct view *v);

size_t view_piece_at(const struct view *v, uint64_t addr);
uint64_t view_piece_end(const struct view *v, uint64_t addr);
/* Is anything in [start, end) that steps may have moved or dropped? */
bool view_is_touched(struct view *v, uint64_t start, uint64_t end);

/* Once for each piece, before any of the next two. 0, or what the midwife's registered() says.
 */
int view_ask(struct view *v, uint64_t addr);
/* What is open is there until the child's own UNMAP is applied, and in children of its own that
 * it forked before. */
bool view_is_there(const struct view *v, uint64_t addr);
/* Does anybody see what is there? */
bool view_is_seen(const struct view *v, uint64_t addr);

/* Where it was before all steps, if it is at addr after `at` of them. */
uint64_t view_at_first(struct view *v, uint64_t addr, size_t at);
/* Where a step brings it; GONE: it drops it, or it was discarded there. */
uint64_t view_through(const struct view *v, size_t step, uint64_t addr);
uint64_t view_through_line(struct view *v, uint64_t addr);
/* Was it before all steps? */
bool view_is_discarded(const struct view *v, uint64_t addr);
/* Where it is in the child, when the steps in found[] had happened; GONE. */
uint64_t view_at_last(struct view *v, uint64_t addr);

void *view_zeroed(size_t size); /* never NULL. free() */

/* Finds the steps that had happened when the page tables were copied (birth_search.c): in
 * found[]. Needs the samples. -EBADMSG: none fits what is registered, or two do that put a page
 * to different places; or what view_ask says. */
int search_happened(struct view *v);

#endif
