/* LZ4, a page at a time: fast both ways, for what may come back soon. */
#include <errno.h>
#include <lz4.h>

#include "codec.h"

static size_t lz4_state_size(void)
{
	return (size_t)LZ4_sizeofState();
}

static int lz4_pack(void *state, const void *page, void *room, size_t size)
{
	/* The room is the most that is worth keeping; lz4 stops as soon as it is full. */
	int room_size = size < STORE_RAW_ABOVE ? (int)size : STORE_RAW_ABOVE;
	int n = LZ4_compress_fast_extState(state, page, room, STORE_PAGE, room_size, 1);

	return n > 0 ? n : -E2BIG;
}

static int lz4_unpack(void *state, const void *bytes, size_t length, void *page)
{
	(void)state;
	if (length > STORE_PAGE)
		return -EBADMSG;
	int n = LZ4_decompress_safe(bytes, page, (int)length, STORE_PAGE);
	return n == STORE_PAGE ? 0 : -EBADMSG;
}

const struct codec codec_lz4 = {
	.name = "lz4",
	.state_size = lz4_state_size,
	.pack = lz4_pack,
	.unpack = lz4_unpack,
};
