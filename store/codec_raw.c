/* A page that doesn't pack, as it is. */
#include <errno.h>
#include <string.h>

#include "codec.h"

static int raw_pack(void *context, int level, const void *page, void *room, size_t size)
{
	(void)context;
	(void)level;
	if (size < STORE_PAGE)
		return -E2BIG;
	memcpy(room, page, STORE_PAGE);
	return STORE_PAGE;
}

static int raw_unpack(void *context, const void *bytes, size_t length, void *page)
{
	(void)context;
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
