/* The entries of an index row: which of a leaf's pages are stored, as which blobs; packed into
 * about 5 bytes per page. By byte offset:
 *
 *    0  u8       version, ENTRIES_VERSION
 *    1  64 bytes a bit per page, page i in byte 1 + i / 8, bit i % 8: the page is stored
 *   65  for each stored page, in order:
 *         the handle, less the one before it (the first: less 0), in zigzag (0, -1, 1, -2, ...)
 *         as little-endian base 128 with bit 7 = more follows, without superfluous bytes
 *         u32, little-endian: the low half of the page's checksum
 *
 * A leaf's pages are mostly put one after the other, so the difference is mostly one byte. The
 * check tells a recovery that finds a blob of that handle whether it is the one meant. */
#ifndef LARDER_STORE_ENTRIES_H
#define LARDER_STORE_ENTRIES_H

#include <stddef.h>
#include <stdint.h>

#include "store.h"

enum {
	ENTRIES_VERSION = 1,
	ENTRIES_MAX = 1 + STORE_LEAF_PAGES / 8 + STORE_LEAF_PAGES * (5 + 4), /* packed bytes */
};

struct index_entry {
	blob_t blob; /* BLOB_NONE = not stored */
	uint32_t check;
};

/* Returns the packed length. room has ENTRIES_MAX bytes; each blob is at most BLOB_MAX. */
size_t index_pack(const struct index_entry entries[STORE_LEAF_PAGES], void *room);

/* Any bytes whatever: -EBADMSG unless index_pack gives just these for what is returned. */
int index_unpack(const void *bytes, size_t length, struct index_entry ret[STORE_LEAF_PAGES]);

#endif
