#include "codec.h"

const struct codec *const codecs[CODEC_COUNT] = {
	[CODEC_FILL] = &codec_fill,
	[CODEC_RAW] = &codec_raw,
	[CODEC_LZ4] = &codec_lz4,
};
