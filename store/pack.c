/* Packing and unpacking of single pages, and the per-thread scratch for it.
 *
 * Invariant: a store_packed that was returned without error unpacks to a page whose checksum is
 * the one it carries. */
#include "pack.h"

#include <errno.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "must.h"

struct store_scratch {
	alignas(64) unsigned char page[STORE_PAGE]; /* the page as it was when packing began */
	alignas(64) unsigned char packed[STORE_PAGE]; /* what store_pack returns */
	alignas(64) unsigned char again[STORE_PAGE];  /* `packed`, unpacked to compare */
	void *context[CODEC_COUNT];		      /* owned; NULL where a codec wants none */
};

int store_scratch_new(struct store_scratch **ret)
{
	struct store_scratch *x = aligned_alloc(alignof(struct store_scratch), sizeof(*x));

	if (!x)
		return -ENOMEM;
	memset(x, 0, sizeof(*x));
	for (unsigned id = 0; id < CODEC_COUNT; id++) {
		if (!codecs[id] || !codecs[id]->context_new)
			continue;
		int r = codecs[id]->context_new(&x->context[id]);
		if (r < 0) {
			store_scratch_free(x);
			return r;
		}
	}
	*ret = x;
	return 0;
}

void store_scratch_free(struct store_scratch *x)
{
	if (!x)
		return;
	for (unsigned id = 0; id < CODEC_COUNT; id++)
		if (x->context[id])
			codecs[id]->context_free(x->context[id]);
	free(x);
}

bool store_method_valid(const struct store_method *how)
{
	if (how->codec != CODEC_LZ4 && how->codec != CODEC_ZSTD)
		return false;
	const struct codec *c = codecs[how->codec];
	return how->level == 0 || (how->level >= c->level_min && how->level <= c->level_max);
}

int pack_with(struct store_scratch *x, const struct codec *const table[CODEC_COUNT],
	const struct store_method *how, const void *page, struct store_packed *ret)
{
	static const struct store_method usual = {.codec = CODEC_LZ4};

	if (!how)
		how = &usual;
	must(store_method_valid(how));
	const uint8_t order[] = {CODEC_FILL, (uint8_t)how->codec, CODEC_RAW};

	/* A client can write to the page all the while; the copy can't change under the codec,
	 * nor between the comparison, the checksum and store_put. */
	memcpy(x->page, page, STORE_PAGE);

	for (size_t i = 0; i < sizeof(order); i++) {
		uint8_t id = order[i];
		const struct codec *c = table[id];
		if (!c)
			continue;
		int level = how->level ? how->level : c->level_default;
		int n = c->pack(x->context[id], level, x->page, x->packed, sizeof(x->packed));
		if (n == -E2BIG)
			continue;
		if (n < 0)
			return n;
		int r = c->unpack(x->context[id], x->packed, (size_t)n, x->again);
		if (r < 0)
			return r;
		if (memcmp(x->page, x->again, STORE_PAGE) != 0)
			return -EBADMSG;
		*ret = (struct store_packed){
			.checksum = checksum_page(x->page),
			.bytes = x->packed,
			.length = (uint16_t)n,
			.codec = id,
		};
		return 0;
	}
	return -E2BIG;
}

int store_pack(struct store_scratch *x, const struct store_method *how, const void *page,
	struct store_packed *ret)
{
	return pack_with(x, codecs, how, page, ret);
}

int store_unpack(struct store_scratch *x, const struct store_packed *p, void *page)
{
	const struct codec *c = codec_by_id(p->codec);

	if (!c || p->length == 0 || p->length > STORE_PAGE)
		return -EBADMSG;
	int r = c->unpack(x->context[p->codec], p->bytes, p->length, page);
	if (r < 0)
		return r;
	return checksum_page(page) == p->checksum ? 0 : -EBADMSG;
}
