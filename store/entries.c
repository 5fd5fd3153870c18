#include "entries.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { ENTRIES_HEAD = 1 + STORE_LEAF_PAGES / 8 };

/* 29 bits of zigzag: handles have 28. */
enum { DIFF_BYTES_MAX = 5, CHECK_BYTES = 4 };

static uint32_t zigzag(int32_t n)
{
	return n < 0 ? ~((uint32_t)n << 1) : (uint32_t)n << 1;
}

static int64_t unzigzag(uint32_t z)
{
	return z & 1 ? -(int64_t)(z >> 1) - 1 : (int64_t)(z >> 1);
}

static unsigned char *put_number(unsigned char *p, uint32_t n)
{
	for (; n >= 0x80; n >>= 7)
		*p++ = (unsigned char)(n | 0x80);
	*p++ = (unsigned char)n;
	return p;
}

/* NULL: cut off, too large, or with a superfluous byte. */
static const unsigned char *get_number(
	const unsigned char *p, const unsigned char *end, uint32_t *ret)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < DIFF_BYTES_MAX && p < end; i++) {
		unsigned char c = *p++;
		n |= (uint64_t)(c & 0x7f) << 7 * i;
		if (c & 0x80)
			continue;
		if ((c == 0 && i > 0) || n > UINT32_MAX)
			return NULL;
		*ret = (uint32_t)n;
		return p;
	}
	return NULL;
}

size_t index_pack(const struct index_entry entries[STORE_LEAF_PAGES], void *room)
{
	unsigned char *start = room, *p = start + ENTRIES_HEAD;
	blob_t before = 0;

	memset(start, 0, ENTRIES_HEAD);
	start[0] = ENTRIES_VERSION;
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
		const struct index_entry *e = &entries[i];
		if (e->blob == BLOB_NONE)
			continue;
		start[1 + i / 8] |= (unsigned char)(1u << i % 8);
		p = put_number(p, zigzag((int32_t)(e->blob - before)));
		for (unsigned k = 0; k < CHECK_BYTES; k++)
			*p++ = (unsigned char)(e->check >> 8 * k);
		before = e->blob;
	}
	return (size_t)(p - start);
}

int index_unpack(const void *bytes, size_t length, struct index_entry ret[STORE_LEAF_PAGES])
{
	const unsigned char *start = bytes, *end = start + length;
	struct index_entry entries[STORE_LEAF_PAGES] = {0};
	int64_t before = 0;

	if (length < ENTRIES_HEAD || start[0] != ENTRIES_VERSION)
		return -EBADMSG;
	const unsigned char *p = start + ENTRIES_HEAD;
	for (unsigned i = 0; i < STORE_LEAF_PAGES; i++) {
		uint32_t diff;
		if (!(start[1 + i / 8] & 1u << i % 8))
			continue;
		p = get_number(p, end, &diff);
		if (!p || end - p < CHECK_BYTES)
			return -EBADMSG;
		int64_t blob = before + unzigzag(diff);
		if (blob < 1 || blob > BLOB_MAX)
			return -EBADMSG;
		entries[i].blob = (blob_t)blob;
		for (unsigned k = 0; k < CHECK_BYTES; k++)
			entries[i].check |= (uint32_t)*p++ << 8 * k;
		before = blob;
	}
	if (p != end)
		return -EBADMSG;
	memcpy(ret, entries, sizeof(entries));
	return 0;
}
