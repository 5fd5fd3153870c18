/* What config_read takes and what it refuses, with line and message. */
#include "test_cmocka.h"

#include "config_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TEN(s)	   s s s s s s s s s s
#define HUNDRED(s) TEN(TEN(s))

/* Wrong input: the first error's line, and what its message must say. */
static const struct wrong {
	const char *text;
	unsigned line;
	const char *message;
} wrongs[] = {
	/* sections */
	{"[serivce]\n", 1, "unknown section [serivce], did you mean [service]?"},
	{"\n[polcy x]\n", 2, "unknown section [polcy x], did you mean [policy NAME]?"},
	{"[elsewhere]\n", 1,
		"unknown section [elsewhere]: there are [service], [store] and [policy NAME]"},
	{"[service now]\n", 1, "unknown section [service now], did you mean [service]?"},
	{"[]\n", 1, "unknown section []"},
	{"[service]\n[store]\n\n[service]\n", 4, "a second [service]: the first is in line 1"},
	{"[service\n", 1, "the section's ] is missing"},
	{"[service] readers = 2\n", 1, "text after the section's ]"},
	{"[policy]\n", 1, "a policy needs a name: [policy NAME]"},
	{"[policy  ]\n", 1, "a policy needs a name: [policy NAME]"},
	{"[policy a]\n[policy b]\n[policy a]\n", 3,
		"a second [policy a]: the first is in line 1"},
	{"[policy a b]\n", 1, "a policy's name has only letters, digits, '.', '_' and '-'"},
	{"[policy " TEN("name") "x]\n", 1, "the policy's name is longer than 40 bytes"},

	/* keys */
	{"# no section yet\nreaders = 1\n", 2, "readers stands before any section"},
	{"[service]\nreader = 1\n", 2,
		"unknown key reader in [service], did you mean readers?"},
	{"[policy x]\ncold_after = 1h\n", 2,
		"unknown key cold_after in [policy], did you mean cold-after?"},
	{"[store]\ncompression = zstd\n", 2, "unknown key compression in [store]"},
	{"[store]\n= 1\n", 2, "unknown key \"\" in [store]"},
	{"[service]\ncold-after = 1h\n", 2,
		"cold-after does not belong into [service] but into [policy NAME]"},
	{"[policy x]\nreaders = 1\n", 2,
		"readers does not belong into [policy] but into [service]"},
	{"[store]\nmemory-limit = 1G\n\nmemory-limit = 1G\n", 4,
		"a second memory-limit: the first is in line 2"},
	{"[policy a]\nmin-age = 1h\nmin-age = 1h\n", 3,
		"a second min-age: the first is in line 2"},
	{"[policy default]\nmatch-exe = *\n", 2,
		"match-exe in [policy default]: that policy takes what no other matches"},
	{"[policy default]\nmatch-user = a\n", 2,
		"match-user in [policy default]: that policy takes what no other matches"},

	/* lines */
	{"[service]\nreaders\n", 2, "this is no section, no comment and no KEY = VALUE"},
	{"[service]\nreaders ; = 5\n", 2, "this is no section, no comment and no KEY = VALUE"},
	{"[service]\nreaders 1\n[nonsense]\n", 2,
		"this is no section, no comment and no KEY = VALUE"},
	{"# " HUNDRED("x") HUNDRED("y") "\n", 1, "the line is longer than 197 bytes"},
	{"\n\n[policy x]\nmatch-exe = " TEN(TEN("x")) TEN("123456") "7\n", 4,
		"match-exe: the value is longer than 160 bytes"},
	{"[service]\n# \xc3\x28\n", 2, "byte 0xc3 is not UTF-8 text"},
	{"[policy x]\nmatch-exe = a\xff\n", 2, "byte 0xff is not UTF-8 text"},
	{"[service]\nreaders = \x01\n", 2, "control character 0x01"},
	{"[service]\rreaders = 1\n", 1, "control character 0x0d"},
	{"[service]\n\x7f\n", 2, "control character 0x7f"},

	/* yes and no */
	{"[policy x]\nmanage = maybe\n", 2, "manage: \"maybe\" is not yes or no"},
	{"[policy x]\ninherit = YES\n", 2, "inherit: \"YES\" is not yes or no"},
	{"[policy x]\ninherit =\n", 2, "inherit: the value is missing: it must be yes or no"},

	/* numbers */
	{"[service]\nreaders = two\n", 2, "readers: \"two\" is not a whole number"},
	{"[service]\nreaders = -1\n", 2, "readers: \"-1\" is not a whole number"},
	{"[service]\nreaders = 1.5\n", 2, "readers: \"1.5\" is not a whole number"},
	{"[service]\nreaders = 1K\n", 2, "readers: \"1K\" is not a whole number"},
	{"[service]\nreaders = 0x10\n", 2, "readers: \"0x10\" is not a whole number"},
	{"[service]\nreaders = 1025\n", 2, "readers: 1025 is out of range: from 0 to 1024"},
	{"[service]\nreaders = 99999999999999999999\n", 2,
		"readers: 99999999999999999999 is out of range: from 0 to 1024"},
	{"[service]\nreaders =\n", 2,
		"readers: the value is missing: it must be a whole number"},

	/* sizes */
	{"[policy x]\nmemory-limit = 1P\n", 2,
		"memory-limit: \"1P\" is not a size such as 512M or 4GiB"},
	{"[policy x]\nmemory-limit = 1GB\n", 2, "memory-limit: \"1GB\" is not a size"},
	{"[policy x]\nmemory-limit = 50%\n", 2, "memory-limit: \"50%\" is not a size"},
	{"[policy x]\nmemory-limit = 1.\n", 2, "memory-limit: \"1.\" is not a size"},
	{"[policy x]\nmemory-limit = .5G\n", 2, "memory-limit: \".5G\" is not a size"},
	{"[policy x]\nmemory-limit = 0.5\n", 2, "memory-limit: \"0.5\" is not a size"},
	{"[policy x]\nmemory-limit = 1025T\n", 2,
		"memory-limit: 1025T is out of range: from 0 to 1024T"},
	{"[policy x]\nmemory-limit = 16777216T\n", 2,
		"memory-limit: 16777216T is out of range: from 0 to 1024T"},

	{"[store]\nmemory-limit = 8191K\n", 2,
		"memory-limit: 8191K is out of range: 0, or from 8M to 1024T"},

	/* durations */
	{"[policy x]\ncold-after = 10\n", 2,
		"cold-after: \"10\" lacks a unit: it must be a duration such as 500ms, 90s, "
		"10m, 1h or 2d"},
	{"[policy x]\nmin-age = 10 minutes\n", 2, "min-age: \"10 minutes\" is not a duration"},
	{"[policy x]\nmin-age = 1M\n", 2, "min-age: \"1M\" is not a duration"},
	{"[policy x]\nmin-age = 3651d\n", 2, "min-age: 3651d is out of range: from 0 to 3650d"},

	/* percentages */
	{"[policy x]\nstall-budget = 0.001\n", 2,
		"stall-budget: \"0.001\" lacks a unit: it must be a percentage such as 0.1%"},
	{"[policy x]\nstall-budget = 100.1%\n", 2,
		"stall-budget: 100.1% is out of range: from 0% to 100%"},
	{"[policy x]\nstall-budget = 0.1234567%\n", 2,
		"stall-budget: \"0.1234567%\" is not a percentage such as 0.1%"},
	{"[policy x]\nstall-budget = nan%\n", 2, "stall-budget: \"nan%\" is not a percentage"},

	/* lists */
	{"[policy x]\nmatch-exe =\n", 2,
		"match-exe: the list is empty: leave the key out, or write * for all"},
	{"[policy x]\nmatch-user = , ,\n", 2, "match-user: the list is empty"},
	{"[policy x]\nmatch-exe = \"/opt/my prog\"\n", 2,
		"match-exe: quotes have no meaning here"},
	{"[service]\nallow-user = a # and b\n", 2, "allow-user: # inside a list"},
	{"[service]\nallow-user = a,;b\n", 2, "allow-user: ; inside a list"},

	/* contradictions */
	{"[policy x]\nmemory-limit = 2G\n[store]\nmemory-limit = 1G\n", 2,
		"memory-limit of policy x is larger than that of [store], which all programs "
		"share"},
	{"[store]\nmemory-limit = 1G\n[policy default]\nmanage = no\nmemory-limit = 1025M\n", 5,
		"memory-limit of policy default is larger than that of [store]"},

	/* lines that end in another way, or not */
	{"[service]\r\nreaders = x\r\n", 2, "readers: \"x\" is not a whole number"},
	{"[service]\r\n\r\nreaders = 5\r\nreaders = 5", 4,
		"a second readers: the first is in line 3"},
	{"[service]\nreaders = x", 2, "readers: \"x\" is not a whole number"},
	{"[service]\n[store]\n[servic", 3, "the section's ] is missing"},
	{"[service]\nreaders", 2, "this is no section, no comment and no KEY = VALUE"},
	{"[policy x]\nlevel = 3\ncodec = lz4\n", 2,
		"level of policy x: lz4 has no levels; leave it out, or set codec = zstd or "
		"recompress-after"},
	{"[policy x]\nlevel = 3\n", 2, "level of policy x: lz4 has no levels"},
	{"[policy x]\ncodec = zstd\nrecompress-after = 1h\n", 3,
		"recompress-after of policy x: its pages are packed by zstd from the start"},

	/* choices and never */
	{"[policy x]\ncodec = gzip\n", 2, "codec: \"gzip\" is not lz4 or zstd"},
	{"[policy x]\ncodec =\n", 2, "codec: \"\" is not lz4 or zstd"},
	{"[policy x]\ncodec = zstd\nlevel = 20\n", 3,
		"level: 20 is out of range: from 0 to 19"},
	{"[policy x]\ncodec = zstd\nlevel = -1\n", 3, "level: \"-1\" is not a whole number"},
	{"[policy x]\nrecompress-after = 0\n", 2,
		"recompress-after: 0 is out of range: from 1s to 3650d, or never"},
	{"[policy x]\nrecompress-after = always\n", 2,
		"recompress-after: \"always\" is not a duration"},
	{"[policy x]\ncold-after = never\n", 2, "cold-after: \"never\" is not a duration"},
	{"[store]\nowner-limit = 0%\n", 2, "owner-limit: 0% is out of range: from 1% to 100%"},
	{"[store]\ncodec = zstd\n", 2,
		"codec does not belong into [store] but into [policy NAME]"},

	/* only the first error counts */
	{"[service]\nreaders = x\nreaders = y\n[z]\n", 2,
		"readers: \"x\" is not a whole number"},
};

static void wrong_input_is_refused_with_line_and_reason(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		const struct wrong *w = &wrongs[i];
		struct config *c = NULL;
		struct config_error err = {.line = 12345};
		int r = config_of_bytes(w->text, strlen(w->text), &c, &err);
		if (r != -EINVAL || c || err.line != w->line ||
			!strstr(err.message, w->message))
			fail_msg("%sgave %d, line %u: %s\nwanted line %u: %s", w->text, r,
				err.line, err.message, w->line, w->message);
	}
}

static void nul_bytes_are_refused(void **state)
{
	(void)state;
	static const char text[] = "[service]\nreaders = 1\0\n";
	struct config *c = NULL;
	struct config_error err = {0};
	assert_int_equal(config_of_bytes(text, sizeof(text) - 1, &c, &err), -EINVAL);
	assert_null(c);
	assert_int_equal(err.line, 2);
	assert_string_equal(err.message, "a NUL byte: this is not a text file");
}

static void a_read_error_is_no_syntax_error(void **state)
{
	(void)state;
	FILE *f = fopen("/", "r"); /* opens, and gives EISDIR when read */
	assert_non_null(f);
	struct config *c = NULL;
	struct config_error err = {.line = 12345};
	assert_int_equal(config_read(f, &c, &err), -EISDIR);
	assert_null(c);
	assert_int_equal(err.line, 12345);
	fclose(f);
}

/* The longest line, and one byte more, each with and without an end. */
static void a_line_ends_at_its_limit(void **state)
{
	(void)state;
	char text[300];
	for (int length = 197; length <= 198; length++) {
		for (int ends = 0; ends <= 1; ends++) {
			struct config *c = NULL;
			struct config_error err = {0};
			int size = snprintf(text, sizeof(text), "[service]\n#%*s%s", length - 1,
				"", ends ? "\n" : "");
			int r = config_of_bytes(text, (size_t)size, &c, &err);
			assert_int_equal(r, length == 197 ? 0 : -EINVAL);
			assert_int_equal(err.line, length == 197 ? 0 : 2);
			config_free(c);
		}
	}
}

/* Right input: what config_dump shows of it must have this line. */
static const struct right {
	const char *text, *dumped;
} rights[] = {
	{"[policy x]\nmanage = no\n", "\nmanage = no\n"},
	{"[policy x]\nmanage = off\n", "\nmanage = no\n"},
	{"[policy x]\nmanage = 1\n", "\nmanage = yes\n"},
	{"[service]\nreaders = 1024\n", "\nreaders = 1024\n"},
	{"[service]\nreaders: 7\n", "\nreaders = 7\n"},
	{"[policy x]\nmemory-limit = 4096\n", "\nmemory-limit = 4K\n"},
	{"[policy x]\nmemory-limit = 4097\n", "\nmemory-limit = 4097\n"},
	{"[policy x]\nmemory-limit = 100B\n", "\nmemory-limit = 100\n"},
	{"[policy x]\nmemory-limit = 512k\n", "\nmemory-limit = 512K\n"},
	{"[policy x]\nmemory-limit = 1024 MiB\n", "\nmemory-limit = 1G\n"},
	{"[policy x]\nmemory-limit = 1.5GiB\n", "\nmemory-limit = 1536M\n"},
	{"[policy x]\nmemory-limit = 1024T\n", "\nmemory-limit = 1024T\n"},
	{"[policy x]\nmin-age = 0\n", "\nmin-age = 0\n"},
	{"[policy x]\nmin-age = 90s\n", "\nmin-age = 90s\n"},
	{"[policy x]\nmin-age = 120 s\n", "\nmin-age = 2m\n"},
	{"[policy x]\nmin-age = 1.5h\n", "\nmin-age = 90m\n"},
	{"[policy x]\nmin-age = 1500ms\n", "\nmin-age = 1500ms\n"},
	{"[policy x]\ncold-after = 3650d\n", "\ncold-after = 3650d\n"},
	{"[policy x]\nstall-budget = 2.50%\n", "\nstall-budget = 2.5%\n"},
	{"[policy x]\nstall-budget = 0.000001%\n", "\nstall-budget = 0.000001%\n"},
	{"[policy x]\nstall-budget = 100 %\n", "\nstall-budget = 100%\n"},
	{"[policy x]\nmatch-exe = redis*,/opt/*, b\n", "\nmatch-exe = redis* /opt/* b\n"},
	{"[service]\nallow-group =\n", "\nallow-group = \n"},
	{"[service]\nallow-user = a ; and no more\n", "\nallow-user = a\n"},
	{"[service]\n  ; indented\n\treaders = 3\n", "\nreaders = 3\n"},
	/* not the rest of the value above */
	{"[service]\nallow-user = a\n  readers = 3\n", "\nreaders = 3\n"},
	{"  [service]\n  readers = 3\n", "\nreaders = 3\n"},
	{"[service]\r\nreaders = 3\r\n", "\nreaders = 3\n"},
	{"\r\n; nothing\r\n[service]\r\nallow-user = a b\r\n", "\nallow-user = a b\n"},
	{"\n\n", "\nreaders = 0\n"},
	{"\xef\xbb\xbf", "\nreaders = 0\n"},
	{"[service] ; comment\nreaders = 3", "\nreaders = 3\n"},
	{"\xef\xbb\xbf[service]\nreaders = 3\n", "\nreaders = 3\n"},
	{"[policy x]\nmatch-exe = \xc3\xa9t\xc3\xa9\n", "\nmatch-exe = \xc3\xa9t\xc3\xa9\n"},
	{"[policy x]\nmemory-limit = 1G\n[store]\nmemory-limit = 1G\n",
		"\nmemory-limit = 1G\n"},
	{"[policy x]\ncodec = zstd\nlevel = 19\n", "\nlevel = 19\n"},
	{"[policy x]\ncodec = zstd\nrecompress-after = never\n", "\ncodec = zstd\n"},
	{"[policy x]\nrecompress-after = never\n", "\nrecompress-after = never\n"},
	{"[policy x]\nlevel = 6\nrecompress-after = 36h\n", "\nrecompress-after = 36h\n"},
	{"[store]\nowner-limit = 12.5%\n", "\nowner-limit = 12.5%\n"},
	{"[policy  x ]\n", "\n[policy x]\n"},
	{"[policy " TEN("name") "]\n", "\n[policy " TEN("name") "]\n"},
};

static void right_input_is_taken(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rights) / sizeof(rights[0]); i++) {
		struct config *c = config_of(rights[i].text);
		char *text = config_text(c);
		if (!strstr(text, rights[i].dumped))
			fail_msg(
				"%sgave\n%swithout %s", rights[i].text, text, rights[i].dumped);
		free(text);
		config_free(c);
	}
}

static void values_arrive_in_their_fields(void **state)
{
	(void)state;
	struct config *c =
		config_of("[service]\nallow-user = a b\nallow-group = g\nreaders = 3\n"
			  "[store]\nmemory-limit = 16M\n"
			  "[policy p]\nmatch-exe = e\nmatch-user = u\nmanage = no\n"
			  "inherit = no\nmin-age = 1s\ncold-after = 2s\n"
			  "stall-budget = 25%\nmemory-limit = 1M\n"
			  "level = 7\nrecompress-after = 3s\n"
			  "[policy q]\ncodec = zstd\n");
	assert_int_equal(c->allow_user.count, 2);
	assert_string_equal(c->allow_user.item[1], "b");
	assert_int_equal(c->allow_group.count, 1);
	assert_string_equal(c->allow_group.item[0], "g");
	assert_int_equal(c->readers, 3);
	assert_int_equal(c->store_limit, 16 << 20);
	assert_int_equal(c->policy_count, 3);
	assert_int_equal(c->policies[1].codec, POLICY_ZSTD);
	const struct policy *p = &c->policies[0];
	assert_string_equal(p->name, "p");
	assert_string_equal(p->match_exe.item[0], "e");
	assert_string_equal(p->match_user.item[0], "u");
	assert_false(p->manage);
	assert_false(p->inherit);
	assert_int_equal(p->min_age_ms, 1000);
	assert_int_equal(p->cold_after_ms, 2000);
	assert_true(p->stall_budget == 0.25);
	assert_int_equal(p->memory_limit, 1 << 20);
	assert_int_equal(p->codec, POLICY_LZ4);
	assert_int_equal(p->level, 7);
	assert_int_equal(p->recompress_after_ms, 3000);
	config_free(c);
}

static void an_empty_file_gives_the_defaults(void **state)
{
	(void)state;
	struct config *c = config_of("");
	assert_string_equal(c->allow_user.item[0], "root");
	assert_string_equal(c->allow_group.item[0], "larder");
	assert_int_equal(c->readers, 0);
	assert_int_equal(c->store_limit, 0);
	assert_true(c->owner_limit == 0.5);
	assert_int_equal(c->policy_count, 1);
	const struct policy *p = &c->policies[0];
	assert_string_equal(p->name, "default");
	assert_true(p->manage);
	assert_true(p->inherit);
	assert_int_equal(p->min_age_ms, 0);
	assert_int_equal(p->cold_after_ms, 0);
	assert_true(p->stall_budget == 0.001);
	assert_int_equal(p->memory_limit, 0);
	assert_int_equal(p->codec, POLICY_LZ4);
	assert_int_equal(p->level, 0);
	assert_int_equal(p->recompress_after_ms, 0);

	struct config *built_in;
	assert_int_equal(config_default(&built_in), 0);
	char *a = config_text(c), *b = config_text(built_in);
	assert_string_equal(a, b);
	free(a);
	free(b);
	config_free(c);
	config_free(built_in);
}

static void the_default_policy_keeps_its_place_when_written(void **state)
{
	(void)state;
	struct config *c = config_of("[policy default]\nmin-age = 1m\n[policy x]\n");
	assert_int_equal(c->policy_count, 2);
	assert_string_equal(c->policies[0].name, "default");
	assert_int_equal(c->policies[0].min_age_ms, 60000);
	config_free(c);
}

static void free_takes_null(void **state)
{
	(void)state;
	config_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_input_is_refused_with_line_and_reason),
		cmocka_unit_test(nul_bytes_are_refused),
		cmocka_unit_test(a_read_error_is_no_syntax_error),
		cmocka_unit_test(a_line_ends_at_its_limit),
		cmocka_unit_test(right_input_is_taken),
		cmocka_unit_test(values_arrive_in_their_fields),
		cmocka_unit_test(an_empty_file_gives_the_defaults),
		cmocka_unit_test(the_default_policy_keeps_its_place_when_written),
		cmocka_unit_test(free_takes_null),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
