/* A store that is reopened, and what is expected to be in it. */
#ifndef TESTS_STORE_AGAIN_H
#define TESTS_STORE_AGAIN_H

#include <stdbool.h>

#include "store_world.h"

/* store_reopen, which must succeed; w->dir is set. */
void again_open(struct world *w, uint64_t limit);
/* The same, with an error; why is checked to have this in it (NULL: to be empty). */
void again_refused(const char *dir, int error, const char *why);

/* Takes a reference to each entry of each leaf, as a service would. Returns how many. */
uint64_t again_take_all(struct world *w);

/* A leaf as the index has it now; false: there is none. */
bool again_leaf(
	struct world *w, uint64_t id, uint64_t *ret_clock, blob_t ret[STORE_LEAF_PAGES]);

/* Which leaf is the client's block's; 0 = none. */
uint64_t again_block(struct world *w, uint64_t client, uint64_t block);

void flip_bit(int fd, uint64_t byte, unsigned bit);

#endif
