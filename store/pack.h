/* What store_pack is made of; apart so that a test can put a faulty codec in. */
#ifndef LARDER_STORE_PACK_H
#define LARDER_STORE_PACK_H

#include "codec.h"

/* store_pack with the codecs of `table`, tried in the order FILL, the method's, RAW. -E2BIG:
 * none took it. */
int pack_with(struct store_scratch *x, const struct codec *const table[CODEC_COUNT],
	const struct store_method *how, const void *page, struct store_packed *ret);

#endif
