/* Codecs: a const table of operations each, found by the id that blob headers carry. To add
 * one, give it a number in enum store_codec, a codec_NAME.c, and a line in codec.c.
 *
 * A codec is immutable; what it needs per thread lies in a state that the scratch owns. */
#ifndef LARDER_STORE_CODEC_H
#define LARDER_STORE_CODEC_H

#include <stddef.h>

#include "store.h"

struct codec {
	const char *name;

	/* Bytes of state that pack wants per thread; NULL = none. */
	size_t (*state_size)(void);

	/* Packs STORE_PAGE bytes into room[0..size-1]. Returns the packed length, at least 1,
	 * or -E2BIG when the page doesn't fit or isn't of the codec's kind; room is then
	 * undefined. */
	int (*pack)(void *state, const void *page, void *room, size_t size);

	/* Fills page[0..STORE_PAGE-1] from any bytes whatever without reading or writing out of
	 * bounds. -EBADMSG: they don't unpack to exactly a page; page is then undefined. */
	int (*unpack)(void *state, const void *bytes, size_t length, void *page);
};

extern const struct codec codec_fill, codec_raw, codec_lz4;

enum { CODEC_COUNT = CODEC_LZ4 + 1 };

/* By id; NULL where there is none. */
extern const struct codec *const codecs[CODEC_COUNT];

static inline const struct codec *codec_by_id(unsigned id)
{
	return id < CODEC_COUNT ? codecs[id] : NULL;
}

#endif
