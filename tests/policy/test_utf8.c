#include "test_cmocka.h"

#include "utf8.h"

#include <string.h>

static const struct text {
	const char *text;
	size_t span;
} texts[] = {
	{"", 0},
	{"plain", 5},
	{"\x7f", 1},
	{"\x80", 0},
	{"a\xbf", 1},
	{"\xc1\xbf", 0}, /* overlong */
	{"\xc2\x80", 2},
	{"\xdf\xbf", 2},
	{"\xc3", 0}, /* cut off */
	{"\xc3\x28", 0},
	{"\xe0\x9f\xbf", 0}, /* overlong */
	{"\xe0\xa0\x80", 3},
	{"\xe2\x82\xac!", 4},
	{"\xe2\x82", 0},
	{"\xe2\x82\x28", 0},
	{"\xed\x9f\xbf", 3},
	{"\xed\xa0\x80", 0}, /* a surrogate */
	{"\xef\xbf\xbf", 3},
	{"\xf0\x8f\xbf\xbf", 0}, /* overlong */
	{"\xf0\x90\x80\x80", 4},
	{"\xf4\x8f\xbf\xbf", 4},
	{"\xf4\x90\x80\x80", 0}, /* above U+10FFFF */
	{"\xf5\x80\x80\x80", 0},
	{"\xff", 0},
	{"ok\xe2\x82\xac\xffno", 5},
};

static void spans_end_at_the_first_bad_byte(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		size_t span = utf8_span(texts[i].text, strlen(texts[i].text));
		if (span != texts[i].span)
			fail_msg("case %zu: %zu instead of %zu", i, span, texts[i].span);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(spans_end_at_the_first_bad_byte)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
