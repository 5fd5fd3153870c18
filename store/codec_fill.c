/* A page that is one 8-byte word over and over: packed, it is that word. */
#include <errno.h>
#include <string.h>

#include "codec.h"

enum { FILL_WORD = 8 };

static int fill_pack(void *context, int level, const void *page, void *room, size_t size)
{
	const unsigned char *p = page;

	(void)context;
	(void)level;
	/* Equal to itself one word further on: so all words are the first one. */
	if (size < FILL_WORD || memcmp(p, p + FILL_WORD, STORE_PAGE - FILL_WORD) != 0)
		return -E2BIG;
	memcpy(room, p, FILL_WORD);
	return FILL_WORD;
}

static int fill_unpack(void *context, const void *bytes, size_t length, void *page)
{
	unsigned char *p = page;

	(void)context;
	if (length != FILL_WORD)
		return -EBADMSG;
	for (size_t i = 0; i < STORE_PAGE; i += FILL_WORD)
		memcpy(p + i, bytes, FILL_WORD);
	return 0;
}

const struct codec codec_fill = {
	.name = "fill",
	.pack = fill_pack,
	.unpack = fill_unpack,
};
