/* What recover.c and replay.c share. */
#ifndef LARDER_RECOVER_INTERNAL_H
#define LARDER_RECOVER_INTERNAL_H

#include "client.h"
#include "store.h"

struct batch;

struct found_leaf {
	uint64_t id;
	struct leaf *leaf; /* owned until a block has it */
	bool used;
};

struct recovery {
	struct worker *worker;
	char why[STORE_WHY];
	struct client **client; /* borrowed from the table; by id */
	bool *has_origin;	/* owned; by the same: its FORK was found */
	size_t count;
	struct found_leaf *leaf; /* owned; by id */
	size_t leaf_count, leaf_room;
	uint64_t *stranger; /* owned; clients in the index that nobody knows */
	size_t stranger_count, stranger_room;
	struct client *loading; /* whose blocks are read */
};

/* NULL: it is gone. */
struct client *recover_find(const struct recovery *r, uint64_t id);

/* The batch that a client's staging holds, made when there is none; NULL: it has no link. */
struct batch *recover_batch(struct client *owner, uint64_t number);
/* The page is in this slot of b's owner's staging, and nowhere else. */
void recover_hold(struct client *c, struct batch *b, uint64_t addr, unsigned slot);

/* What staging has: enum page_presence by slot. From here on nothing is added to it. -ESRCH:
 * nobody knows, the program's memory is gone. */
int recover_staging(struct client *c, uint8_t *ret);

/* When staging was emptied last: what was there before is done with. */
void replay_find_zap(struct client *c);
/* Parents come before their children. */
void replay_all(struct recovery *r);

#endif
