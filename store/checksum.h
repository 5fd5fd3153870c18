/* The checksum of a page, as kept in its blob's header. It finds damage, not forgery. */
#ifndef LARDER_STORE_CHECKSUM_H
#define LARDER_STORE_CHECKSUM_H

#include <stdint.h>

uint64_t checksum_page(const void *page);

#endif
