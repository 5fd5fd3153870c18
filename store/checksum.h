/* Checksums. They find damage, not forgery. */
#ifndef LARDER_STORE_CHECKSUM_H
#define LARDER_STORE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t checksum_page(const void *page); /* as kept in its blob's header */

/* Of what `before` is the checksum of (0: nothing), and of these bytes. */
uint64_t checksum_more(uint64_t before, const void *bytes, size_t length);

#endif
