#include "checksum.h"

#include <xxhash.h>

#include "store.h"

uint64_t checksum_page(const void *page)
{
	return XXH3_64bits(page, STORE_PAGE);
}

uint64_t checksum_more(uint64_t before, const void *bytes, size_t length)
{
	return XXH3_64bits_withSeed(bytes, length, before);
}
