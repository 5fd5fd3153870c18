/* The pages of one block on their way from a client to the store. Between MOVE and commit they
 * are HELD: their bytes lie in the owner's link, slot i for page i of the block.
 *
 * The owner and every child that is forked meanwhile, which gets HELD entries too, are its
 * followers: the batch isn't done before each one's entries were turned to STORED (or given
 * back), which happens under that one's own gate. */
#ifndef LARDER_BATCH_H
#define LARDER_BATCH_H

#include "client.h"

/* How pages may be stored. */
/* Are pages that a fork made shared made the program's own, so that they can leave? */
enum unshare {
	UNSHARE_AUTO, /* where nobody else maps them any more */
	UNSHARE_NEVER,
	UNSHARE_ALWAYS /* by a copy, too */
};

struct maps_threads;

struct allowance {
	struct store_method how;
	enum unshare unshare;
	uint32_t stamp;		/* the second, by the service's clock */
	_Atomic int64_t room;	/* bytes that may still be stored */
	_Atomic bool exhausted; /* a page found no room */
	/* The program's, as of its last block; NULL: none are looked for. */
	struct maps_threads *threads; /* borrowed */
};

struct batch {
	struct client *owner;	  /* owned reference */
	uint64_t number;	  /* of the block */
	blob_t blob[BLOCK_PAGES]; /* by slot; BLOB_NONE: not moved, or could not be stored */
	uint64_t moved[BLOCK_PAGES / 64]; /* bit i: page i was moved */
	unsigned count;			  /* pages moved */
	bool outlived; /* a row names a blob of it, and the page came back or was dropped since
			*/
	struct allowance *allowance; /* borrowed */
	pthread_mutex_t lock;
	struct client **follower; /* owned references */
	size_t follower_count, follower_room;
	struct batch *next; /* the evictor's list of unfinished ones */
};

/* NULL: no memory. */
struct batch *batch_new(struct client *owner, uint64_t number, struct allowance *a);
void batch_free(struct batch *b); /* no followers left */

static inline bool batch_has(const struct batch *b, unsigned slot)
{
	return b->moved[slot / 64] >> slot % 64 & 1;
}

/* The bytes of a HELD page. */
static inline const void *batch_bytes(const struct batch *b, unsigned slot)
{
	return b->owner->link->data[slot];
}

/* Under c's gate, or that of the space that it was forked from. Waits for memory. */
void batch_follow(struct batch *b, struct client *c);
/* A reference to the i-th follower; NULL: there are no more. */
struct client *batch_follower(struct batch *b, size_t i);
/* Takes the first follower out, with its reference; NULL when there is none. */
struct client *batch_take_follower(struct batch *b);

/* Under c's gate: every entry of c that is HELD by this batch becomes STORED where the batch
 * has a blob, one reference taken for each. Returns how many could not (no blob). c then
 * doesn't know the batch any more, unless some could not. */
unsigned batch_publish(struct batch *b, struct client *c);
/* Under c's gate: what its rows name of its batches, and its entries don't any more, isn't
 * counted any longer. So none of these lets go of a blob before its rows were written anew. */
void batch_outlived(struct client *c);
/* Under c's gate, when nothing on record is HELD by the batch any more: nor is what is aside.
 */
void batch_drop_aside(struct batch *b, struct client *c);

/* The batch lets go of its blobs. One that a row may name, though its page isn't STORED there,
 * as it came back or was dropped since the row was written, waits until that row is written
 * anew. */
void batch_drop_blobs(struct batch *b);

#endif
