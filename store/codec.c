#include "codec.h"

const char *store_codec_name(enum store_codec c)
{
	return codecs[c]->name;
}

const struct codec *const codecs[CODEC_COUNT] = {
	[CODEC_FILL] = &codec_fill,
	[CODEC_RAW] = &codec_raw,
	[CODEC_LZ4] = &codec_lz4,
	[CODEC_ZSTD] = &codec_zstd,
};
