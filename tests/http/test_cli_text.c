/* Numbers and names for people. */
#include "test_cmocka.h"

#include "cli.h"

#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void bytes_have_three_digits(void **state)
{
	(void)state;
	static const struct {
		int64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0 B"},
		{1023, "1023 B"},
		{1024, "1.00 KiB"},
		{-1, "-1 B"},
		{-4096, "-4.00 KiB"},
		{1536, "1.50 KiB"},
		{10 << 10, "10.0 KiB"},
		{(100 << 10) - 1, "100 KiB"},
		{(1 << 20) - 1, "1.00 MiB"},
		{1 << 20, "1.00 MiB"},
		{3ll << 29, "1.50 GiB"},
		{1ll << 40, "1.00 TiB"},
		{INT64_MAX, "8192 PiB"},
		{INT64_MIN, "-8192 PiB"},
	};
	for (size_t i = 0; i < COUNT(cases); i++) {
		char text[40];
		assert_string_equal(
			cli_bytes(cases[i].bytes, text, sizeof(text)), cases[i].text);
	}
}

static void times_have_a_fitting_unit(void **state)
{
	(void)state;
	char text[40];
	assert_string_equal(cli_micros(0, text, sizeof(text)), "0 us");
	assert_string_equal(cli_micros(999, text, sizeof(text)), "999 us");
	assert_string_equal(cli_micros(2100, text, sizeof(text)), "2.10 ms");
	assert_string_equal(cli_micros(999499, text, sizeof(text)), "999 ms");
	assert_string_equal(cli_micros(999500, text, sizeof(text)), "1.00 s");
	assert_string_equal(cli_seconds(59, text, sizeof(text)), "59s");
	assert_string_equal(cli_seconds(61, text, sizeof(text)), "1m 1s");
	assert_string_equal(cli_seconds(3600, text, sizeof(text)), "1h 0m");
	assert_string_equal(cli_seconds(90000, text, sizeof(text)), "1d 1h");
}

static void a_ratio_needs_two(void **state)
{
	(void)state;
	char text[40];
	assert_string_equal(cli_ratio(384, 100, text, sizeof(text)), "3.8:1");
	assert_string_equal(cli_ratio(0, 100, text, sizeof(text)), "0.0:1");
	assert_string_equal(cli_ratio(100, 0, text, sizeof(text)), "-");
}

static void names_cannot_steer_a_terminal(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
		{"", ""},
		{"plain", "plain"},
		{"\x1b[31mred", "?[31mred"},
		{"a\nb\tc\x7f", "a?b?c?"},
		{"\xc2\x9b"
		 "31m",
			"?31m"},
		{"\xc3\xa9\xc2\xa9", "\xc3\xa9\xc2\xa9"},
		{"cut\xc2", "cut?"},
	};
	for (size_t i = 0; i < COUNT(cases); i++) {
		char text[40];
		assert_string_equal(cli_clean(cases[i][0], text, sizeof(text)), cases[i][1]);
	}
	char little[4];
	assert_string_equal(cli_clean("abcdef", little, sizeof(little)), "abc");
}

static void process_ids_are_numbers(void **state)
{
	(void)state;
	static const char *const wrong[] = {"", "0", "-1", "+1", " 1", "1 ", "1x", "2147483648",
		"4294967297", "00000000001"};
	pid_t pid = 42;
	for (size_t i = 0; i < COUNT(wrong); i++)
		assert_false(cli_parse_pid(wrong[i], &pid));
	assert_int_equal(pid, 42);
	assert_true(cli_parse_pid("2147483647", &pid));
	assert_int_equal(pid, 2147483647);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_have_three_digits),
		cmocka_unit_test(times_have_a_fitting_unit),
		cmocka_unit_test(a_ratio_needs_two),
		cmocka_unit_test(names_cannot_steer_a_terminal),
		cmocka_unit_test(process_ids_are_numbers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
