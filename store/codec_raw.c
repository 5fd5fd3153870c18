/* A page that doesn't pack, as it is. */
#include <errno.h>
#include <string.h>

#include "codec.h"

static int raw_pack(void *state, const void *page, void *room, size_t size)
{
	(void)state;
	if (size < STORE_PAGE)
		return -E2BIG;
	memcpy(room, page, STORE_PAGE);
	return STORE_PAGE;
}

static int raw_unpack(void *state, const void *bytes, size_t length, void *page)
{
	(void)state;
	if (length != STORE_PAGE)
		return -EBADMSG;
	memcpy(page, bytes, STORE_PAGE);
	return 0;
}

const struct codec codec_raw = {
	.name = "raw",
	.pack = raw_pack,
	.unpack = raw_unpack,
};
