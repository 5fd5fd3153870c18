/* What a client's row in the index says of it besides its blocks: its regions, and pages that
 * are in staging and in no blob yet. In the byte order of the machine, since it never leaves
 * it:
 *
 *   0   u32  ROW_VERSION
 *   4   u32  flags: ROW_FAILED
 *   8   u32  regions
 *   12  u32  pages
 *   16  u64  the client's clock when its staging was emptied last
 *   24       regions * (u64 start, u64 end)
 *   then     pages * (u64 address, u64 the client in whose staging it is, u64 that one's clock,
 *            u64 slot) */
#ifndef LARDER_ROW_H
#define LARDER_ROW_H

#include "client.h"

enum {
	ROW_VERSION = 1,
	ROW_FAILED = 1, /* nothing of it is served any more */
};

struct batch;

/* Gate held. Bytes in *ret, which is the caller's to free; batch: as indexer_flush has it. */
uint32_t row_pack(const struct client *c, const struct batch *batch, void **ret);

struct row_page {
	uint64_t addr, owner;
	uint64_t clock; /* the owner's, once it was there */
	uint64_t slot;
};

/* Adds the regions to a space that has none, and sets `failed`. *ret_pages
 * lies in `bytes`. -EBADMSG: no such row. */
int row_unpack(struct client *c, const void *bytes, uint32_t length,
	const struct row_page **ret_pages, uint32_t *ret_count);

#endif
