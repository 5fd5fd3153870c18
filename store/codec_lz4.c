/* LZ4, a page at a time: fast both ways, for what may come back soon. */
#include <errno.h>
#include <lz4.h>
#include <stdlib.h>

#include "codec.h"

static int lz4_context_new(void **ret)
{
	void *state = calloc(1, (size_t)LZ4_sizeofState());

	if (!state)
		return -ENOMEM;
	*ret = state;
	return 0;
}

static int lz4_pack(void *context, int level, const void *page, void *room, size_t size)
{
	(void)level;
	/* The room is the most that is worth keeping; lz4 stops as soon as it is full. */
	int room_size = size < STORE_RAW_ABOVE ? (int)size : STORE_RAW_ABOVE;
	int n = LZ4_compress_fast_extState(context, page, room, STORE_PAGE, room_size, 1);

	return n > 0 ? n : -E2BIG;
}

static int lz4_unpack(void *context, const void *bytes, size_t length, void *page)
{
	(void)context;
	if (length > STORE_PAGE)
		return -EBADMSG;
	int n = LZ4_decompress_safe(bytes, page, (int)length, STORE_PAGE);
	return n == STORE_PAGE ? 0 : -EBADMSG;
}

const struct codec codec_lz4 = {
	.name = "lz4",
	.context_new = lz4_context_new,
	.context_free = free,
	.pack = lz4_pack,
	.unpack = lz4_unpack,
};
