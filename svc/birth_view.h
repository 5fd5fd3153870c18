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
	bool matters; /* it has been asked for */
	int is;	      /* registered in the child: NO, YES, OPEN */
	int was;      /* the same in the first of its line, when the page tables were copied */
	int first;    /* the same before all steps */
	/* While it is tried which steps had happened: */
	int now;
	unsigned missing; /* steps that touch it and had not */
	bool chosen;	  /* of the group that is looked at */
	int last;	  /* the last step that touches it, or -1 */
};

struct undo {
	struct piece_of_space *piece;
	int now;
};

/* Steps that touch the same places, directly or by others, in their order. */
struct group {
	unsigned *step;
	size_t count;
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
	bool *part;	/* by step: an UNMAP that is part of the REMAP before it */
	bool *stays;	/* a REMAP without one: its source stays registered (DONTUNMAP) */
	bool *happened; /* before the copying */
	/* Pages that are out, one for each piece in which some were at first. */
	uint64_t *sample;
	size_t sample_count, sample_room;
	bool *found; /* a first solution */
	bool any;    /* there is one */
	unsigned tries;
	uint64_t visits;
	struct undo *undo;
	size_t undos, undo_room;
	int result;
};

static inline bool covers(uint64_t start, uint64_t len, uint64_t addr)
{
	return addr >= start && addr - start < len;
}

static inline bool is_remap(const struct step *s)
{
	return s->to != STEP_UNMAP && s->to != STEP_REMOVE;
}

/* Needs steps, first, before, late and midwife. -EBADMSG: more than anybody does who doesn't
 * mean it. view_close in either case. */
int view_open(struct view *v);
void view_close(struct view *v);

size_t view_piece_at(const struct view *v, uint64_t addr);
uint64_t view_piece_end(const struct view *v, uint64_t addr);

/* Once for each piece, before any of the next two. 0, or what the midwife's registered() says.
 */
int view_ask(struct view *v, uint64_t addr);
/* What is open is there until the child's own UNMAP is applied, and in children of its own that
 * it forked before. */
bool view_is_there(const struct view *v, uint64_t addr);
/* Does anybody see what is there? */
bool view_is_seen(const struct view *v, uint64_t addr);

/* Where it was before all steps, if it is at addr after `at` of them. */
uint64_t view_at_first(const struct view *v, uint64_t addr, size_t at);
/* Where it is in the child, when those steps of a group had happened; GONE. NULL: of all. */
uint64_t view_at_last(
	const struct view *v, const struct group *g, const bool *happened, uint64_t addr);

void *view_zeroed(size_t size); /* never NULL. free() */

/* Finds the steps that had happened when the page tables were copied (birth_search.c): in
 * found[]. Needs the samples. -EBADMSG: none fits what is registered, or two do that put a page
 * to different places; or what view_ask says. */
int search_happened(struct view *v);

#endif
