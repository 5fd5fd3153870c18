#include "utf8.h"

#include <stdint.h>

/* Per lead byte: how many bytes follow, and the range of the first of these. Only that one is
 * special; the others are always 80..BF. (Unicode standard, table 3-7.) */
static const struct lead {
	uint8_t from, to, follow, second_from, second_to;
} leads[] = {
	{0x00, 0x7f, 0, 0, 0},
	{0xc2, 0xdf, 1, 0x80, 0xbf},
	{0xe0, 0xe0, 2, 0xa0, 0xbf},
	{0xe1, 0xec, 2, 0x80, 0xbf},
	{0xed, 0xed, 2, 0x80, 0x9f},
	{0xee, 0xef, 2, 0x80, 0xbf},
	{0xf0, 0xf0, 3, 0x90, 0xbf},
	{0xf1, 0xf3, 3, 0x80, 0xbf},
	{0xf4, 0xf4, 3, 0x80, 0x8f},
};

static const struct lead *lead_of(uint8_t byte)
{
	for (size_t i = 0; i < sizeof(leads) / sizeof(leads[0]); i++)
		if (byte >= leads[i].from && byte <= leads[i].to)
			return &leads[i];
	return NULL;
}

/* Length of the character at s, 0 if there is no whole one. */
static size_t character(const uint8_t *s, size_t size)
{
	const struct lead *lead = lead_of(s[0]);
	if (!lead || lead->follow >= size)
		return 0;
	if (lead->follow > 0 && (s[1] < lead->second_from || s[1] > lead->second_to))
		return 0;
	for (size_t i = 2; i <= lead->follow; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return lead->follow + 1u;
}

size_t utf8_span(const char *text, size_t size)
{
	size_t at = 0;
	while (at < size) {
		size_t n = character((const uint8_t *)text + at, size - at);
		if (n == 0)
			break;
		at += n;
	}
	return at;
}
