/* What space.c, space_event.c and space_birth.c share. */
#ifndef LARDER_SPACE_INTERNAL_H
#define LARDER_SPACE_INTERNAL_H

#include "space.h"

#include <stdlib.h>

void *space_alloc(size_t size); /* never NULL: waits. free() */
void space_make_room(void **array, size_t count, size_t *room, size_t element);

/* Index of the first region that ends after addr. */
size_t space_region_index(const struct space *s, uint64_t addr);

struct leaf *leaf_new(struct graveyard *g, uint64_t family);
/* May it be changed where it is? */
static inline bool leaf_is_own(const struct leaf *leaf)
{
	return atomic_load(&leaf->refs) == 1 && !atomic_load(&leaf->shared);
}
/* Its row isn't what it is any more. */
static inline void leaf_changed(struct leaf *leaf)
{
	if (atomic_load(&leaf->row) != LEAF_NEW)
		atomic_store(&leaf->row, LEAF_CHANGED);
}
/* Takes the reference. */
void graveyard_add_blob(struct graveyard *g, uint64_t family, blob_t blob);
void leaf_unref(struct graveyard *g, struct leaf *leaf);
/* Own copy: one more reference for each stored blob; unneeded blobs stay with the original. */
struct leaf *leaf_clone(struct graveyard *g, const struct leaf *from);

void space_block_insert(
	struct space *s, uint64_t number, struct leaf *leaf); /* takes the reference */
struct leaf *space_block_detach(struct space *s, size_t at);  /* hands the reference over */

/* Part of a block. */
struct piece {
	uint64_t number;
	unsigned from, to; /* pages [from, to) */
};
/* What is out in a part of a leaf goes to `to`, with a reference of its own to each blob. */
void space_place_piece(struct space *s, const struct leaf *leaf, struct piece p, uint64_t to);
void space_drop_aside(struct space *s);
/* What its parent had discarded, before FORK was read, of what the steps until `end` bring:
 * ret[], and how many. `before` of them had been read with FORK. */
unsigned space_late_of(const struct space *child, const struct steps *steps, size_t before,
	size_t end, struct late ret[DOUBT_MAX]);

#endif
