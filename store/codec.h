/* Codecs: a const table of operations each, found by the id that blob headers carry. To add
 * one, give it a number in enum store_codec, a codec_NAME.c, and a line in codec.c.
 *
 * A codec is immutable; what it needs per thread lies in a context that the scratch owns. */
#ifndef LARDER_STORE_CODEC_H
#define LARDER_STORE_CODEC_H

#include <stddef.h>

#include "store.h"

struct codec {
	const char *name;

	/* How hard pack may try; all 0 = it knows no levels. */
	int level_min, level_max, level_default;

	/* What one thread needs, made before its first page, so that unpack never allocates:
	 * it runs while a program waits. -ENOMEM. NULL = nothing. */
	int (*context_new)(void **ret);
	void (*context_free)(void *context);

	/* Packs STORE_PAGE bytes into room[0..size-1]; level is one of the codec's. Returns the
	 * packed length, at least 1, or -E2BIG when the page doesn't fit or isn't of the
	 * codec's kind, or -ENOMEM; room is then undefined. */
	int (*pack)(void *context, int level, const void *page, void *room, size_t size);

	/* Fills page[0..STORE_PAGE-1] from any bytes whatever without reading or writing out of
	 * bounds. -EBADMSG: they don't unpack to exactly a page; page is then undefined. */
	int (*unpack)(void *context, const void *bytes, size_t length, void *page);
};

extern const struct codec codec_fill, codec_raw, codec_lz4, codec_zstd;

enum { CODEC_COUNT = STORE_CODECS };

/* By id; NULL where there is none. */
extern const struct codec *const codecs[CODEC_COUNT];

static inline const struct codec *codec_by_id(unsigned id)
{
	return id < CODEC_COUNT ? codecs[id] : NULL;
}

#endif
