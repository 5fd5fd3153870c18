/* Zstandard, a page at a time: packs a third denser than LZ4 and unpacks some microseconds
 * slower, for what stays out.
 *
 * The packed bytes are one frame of RFC 8878, with the page's size in its header and without a
 * checksum (the blob has one). A frame that was packed with a dictionary names it in its header
 * (Dictionary_ID, 0 bytes when there is none); we make no such frames, and refuse them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "codec.h"

/* Above 19 zstd only widens its window, which a page doesn't fill. */
_Static_assert(STORE_ZSTD_LEVEL_MAX == 19, "the highest level with a meaning for a page");

struct zstd_context {
	ZSTD_CCtx *pack;   /* owned; what a level needs is allocated when it is first used */
	ZSTD_DCtx *unpack; /* owned; whole from the start */
};

static void zstd_context_free(void *context)
{
	struct zstd_context *x = context;

	ZSTD_freeCCtx(x->pack);
	ZSTD_freeDCtx(x->unpack);
	free(x);
}

/* The first fault of a program shouldn't wait for memory that malloc has only promised. Where
 * it can't be had now, it comes with that first fault. */
static void fill_memory(const void *start, size_t size)
{
	uintptr_t mask = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
	uintptr_t from = (uintptr_t)start & ~mask,
		  to = ((uintptr_t)start + size + mask) & ~mask;

	(void)madvise((void *)from, to - from, MADV_POPULATE_WRITE);
}

static int zstd_context_new(void **ret)
{
	struct zstd_context *x = calloc(1, sizeof(*x));

	if (!x)
		return -ENOMEM;
	x->pack = ZSTD_createCCtx();
	x->unpack = ZSTD_createDCtx();
	if (!x->pack || !x->unpack) {
		zstd_context_free(x);
		return -ENOMEM;
	}
	fill_memory(x->unpack, ZSTD_sizeof_DCtx(x->unpack));
	*ret = x;
	return 0;
}

static int zstd_pack(void *context, int level, const void *page, void *room, size_t size)
{
	struct zstd_context *x = context;
	size_t room_size = size < STORE_RAW_ABOVE ? size : STORE_RAW_ABOVE;
	size_t n = ZSTD_compressCCtx(x->pack, room, room_size, page, STORE_PAGE, level);

	if (!ZSTD_isError(n))
		return (int)n;
	return ZSTD_getErrorCode(n) == ZSTD_error_memory_allocation ? -ENOMEM : -E2BIG;
}

static int zstd_unpack(void *context, const void *bytes, size_t length, void *page)
{
	struct zstd_context *x = context;
	uint32_t magic;

	/* Frames of zstd's older formats would be unpacked too, by code that allocates. */
	if (length < sizeof(magic) || length > STORE_PAGE)
		return -EBADMSG;
	memcpy(&magic, bytes, sizeof(magic));
	if (magic != ZSTD_MAGICNUMBER)
		return -EBADMSG;
	size_t n = ZSTD_decompressDCtx(x->unpack, page, STORE_PAGE, bytes, length);
	return n == STORE_PAGE ? 0 : -EBADMSG;
}

const struct codec codec_zstd = {
	.name = "zstd",
	.level_min = 1,
	.level_max = STORE_ZSTD_LEVEL_MAX,
	.level_default = 3,
	.context_new = zstd_context_new,
	.context_free = zstd_context_free,
	.pack = zstd_pack,
	.unpack = zstd_unpack,
};
