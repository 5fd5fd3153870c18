/* The kernel's swap on zram: this program pages itself out. */
#include "bench.h"

#include <errno.h>
#include <sys/mman.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static int zram_evict(const struct bench *b)
{
	return madvise(b->memory, b->pages * BENCH_PAGE, MADV_PAGEOUT) < 0 ? -errno : 0;
}

/* The third number of mm_stat: all memory that the device uses (admin-guide/blockdev/zram.rst).
 */
static int64_t zram_stored(const struct bench *b)
{
	char path[128];
	long long used;

	snprintf(path, sizeof(path), "/sys/block/%s/mm_stat", b->zram);
	FILE *f = fopen(path, "re");
	if (!f)
		return -1;
	int n = fscanf(f, "%*d %*d %lld", &used);
	fclose(f);
	return n == 1 ? used : -1;
}

const struct peer peer_zram = {"zram", zram_evict, zram_stored};
