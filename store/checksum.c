#include "checksum.h"

#include <xxhash.h>

#include "store.h"

uint64_t checksum_page(const void *page)
{
	return XXH3_64bits(page, STORE_PAGE);
}
