/* What the settings say of a client's pages: how they are packed, and how much of the store
 * they may take.
 *
 * The store's memory is the service's, whoever's pages are in it: a control group of the client
 * doesn't bound it. So each client is *charged* with what its entries name: packed bytes with
 * headers and padding. What several name (forks share leaves, copies of leaves share blobs) is
 * charged to each by its share, so that the charges of all add up to what is there, once.
 *
 * Three limits, each of which stops evictions and nothing else; a page that is out comes back
 * at any time, for that takes no room:
 *   memory-limit in [policy NAME]   one client's charge
 *   owner-limit in [store]          the sum of the charges of one uid's clients
 *   memory-limit in [store]         the segments; kept by the store itself */
#ifndef LARDER_QUOTA_H
#define LARDER_QUOTA_H

#include "batch.h"

struct pager;

struct terms {
	struct store_method how;      /* for pages that leave */
	struct store_method later;    /* for those that have been out for: */
	uint64_t recompress_after_ms; /* 0 = never */
	enum unshare unshare;
	bool keep_huge;	       /* what left as a huge page becomes one again (huge.h) */
	uint64_t client_limit; /* bytes; 0 = none */
	uint64_t owner_limit;  /* bytes */
};

/* As of the settings now: a reload counts from the next eviction on. */
void quota_terms(struct worker *w, const struct client *c, struct terms *ret);

/* A leaf at a time, so that no fault waits for long. */
uint64_t quota_charge(struct pager *p, struct client *c);

/* Bytes that may still be stored for c. Where they are few, why says which limit it is and what
 * to do. -ENOMEM. */
int quota_room(struct pager *p, struct client *c, const struct terms *t, uint64_t *ret_room,
	char *why, size_t why_size);

/* What to say of a store that is full. */
void quota_store_full(struct worker *w, char *why, size_t why_size);

#endif
