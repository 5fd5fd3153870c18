/* Everything that is written about the configuration agrees with the table of keys: the dump,
 * the help, the manual page and the example file. */
#include "test_cmocka.h"

#include "config_key.h"
#include "config_text.h"
#include "config_value.h"

#include <stdlib.h>
#include <string.h>

/* What a function of the table writes; free it. */
static char *written_by(int (*write)(FILE *f))
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	assert_non_null(f);
	assert_int_equal(write(f), 0);
	fclose(f);
	return text;
}

static void assert_same(const struct config *a, const struct config *b)
{
	assert_int_equal(a->policy_count, b->policy_count);
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		size_t places = key->section == SECTION_POLICY ? a->policy_count : 1;
		for (size_t p = 0; p < places; p++)
			if (!value_equal(key, config_key_value(key, a, p),
				    config_key_value(key, b, p)))
				fail_msg("%s of policy %zu differs", key->name, p);
	}
	for (size_t p = 0; p < a->policy_count; p++)
		assert_string_equal(a->policies[p].name, b->policies[p].name);
}

static void the_table_is_sound(void **state)
{
	(void)state;
	struct config *c;
	assert_int_equal(config_default(&c), 0);
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		assert_ptr_equal(config_key_find(key->section, key->name), key);
		assert_true(strlen(key->help) > 0);
		char why[200];
		void *field = config_key_field(key, c, 0);
		if (key->min) {
			assert_int_equal(
				value_parse(key, key->min, field, why, sizeof(why)), 0);
			assert_int_equal(
				value_parse(key, key->max, field, why, sizeof(why)), 0);
		}
	}
	config_free(c);
}

static void a_dump_reads_back_as_the_same(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"",
		"[service]\nallow-user = a,b c\nallow-group =\nreaders = 17\n",
		"[store]\nmemory-limit = 12345678\n[policy x]\nmemory-limit = 1234566\n",
		("[policy x]\nmatch-exe = a/*/b [x-z]* ?\nmatch-user = 0 * me\nmanage = no\n"
		 "inherit = no\nmin-age = 61s\ncold-after = 1ms\nstall-budget = 33.333333%\n"),
		"[store]\nowner-limit = 33.3%\n[policy x]\nlevel = 3\nrecompress-after = 90s\n",
		"[policy x]\ncodec = zstd\nlevel = 19\n",
		"[policy z]\n[policy default]\nstall-budget = 99.999999%\n[policy a]\n",
	};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct config *c = config_of(texts[i]);
		char *text = config_text(c);
		struct config *again = config_of(text);
		assert_same(c, again);
		free(text);
		config_free(c);
		config_free(again);
	}
}

static void every_percentage_reads_back_exactly(void **state)
{
	(void)state;
	for (unsigned millionths = 0; millionths < 100000000; millionths += 9973) {
		char text[100];
		snprintf(text, sizeof(text), "[policy default]\nstall-budget = %u.%06u%%\n",
			millionths / 1000000, millionths % 1000000);
		struct config *c = config_of(text);
		char *dumped = config_text(c);
		struct config *again = config_of(dumped);
		assert_true(c->policies[0].stall_budget == again->policies[0].stall_budget);
		assert_true(c->policies[0].stall_budget == millionths / 1e8);
		free(dumped);
		config_free(c);
		config_free(again);
	}
}

static void a_dump_shows_every_key(void **state)
{
	(void)state;
	struct config *c = config_of("[policy x]\nmatch-exe = a\nmatch-user = b\n");
	char *text = config_text(c);
	for (size_t i = 0; i < config_key_count; i++) {
		char line[64];
		snprintf(line, sizeof(line), "\n%s = ", config_keys[i].name);
		if (!strstr(text, line))
			fail_msg("no %s in\n%s", config_keys[i].name, text);
	}
	free(text);
	config_free(c);
}

/* Words apart by any space and prefix, as after wrapping. */
static void unwrap(char *text)
{
	char *to = text;
	for (char *from = text; *from; from++) {
		bool space = *from == ' ' || *from == '\n' || *from == '#';
		if (!space)
			*to++ = *from;
		else if (to > text && to[-1] != ' ')
			*to++ = ' ';
	}
	*to = '\0';
}

/* All that the table says of each key, in the table's order. */
static void assert_tells_all(char *text)
{
	unwrap(text);
	const char *at = text;
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		const char *needles[] = {key->name, key->help + 1,
			key->choices ? "ne of " : value_type_name(key->type) + 1,
			key->min ? key->min : "", key->max ? key->max : "", key->fallback,
			key->reload ? "" : "a change waits for a restart"};
		for (size_t n = 0; n < sizeof(needles) / sizeof(needles[0]); n++) {
			at = strstr(at, needles[n]);
			if (!at)
				fail_msg("%s: no \"%s\" in its place in\n%s", key->name,
					needles[n], text);
		}
	}
	free(text);
}

static void the_help_tells_all_of_the_table(void **state)
{
	(void)state;
	assert_tells_all(written_by(config_help));
	assert_tells_all(written_by(config_man));
}

static void a_dump_explains_each_key_once(void **state)
{
	(void)state;
	struct config *c = config_of("[policy x]\nmatch-exe = a\nmatch-user = b\n[policy y]\n");
	char *text = config_text(c);
	unwrap(text);
	for (size_t i = 0; i < config_key_count; i++) {
		const char *help = strstr(text, config_keys[i].help + 1);
		if (!help || strstr(help + 1, config_keys[i].help + 1))
			fail_msg("%s is explained never or twice in\n%s", config_keys[i].name,
				text);
	}
	free(text);
	config_free(c);
}

static void no_roff_request_comes_of_the_text(void **state)
{
	(void)state;
	char *text = written_by(config_man), *rest = text, *line;
	while ((line = strsep(&rest, "\n")))
		if ((*line == '.' && strncmp(line, ".It Cm ", 7) && strncmp(line, ".Ss [", 5) &&
			    strncmp(line, ".Bl ", 4) && strcmp(line, ".El") &&
			    strcmp(line, ".br")) ||
			*line == '\'')
			fail_msg("%s", line);
	free(text);
}

static void the_example_changes_nothing(void **state)
{
	(void)state;
	char *text = written_by(config_example);
	struct config *c = config_of(text), *defaults;
	assert_int_equal(config_default(&defaults), 0);
	assert_same(c, defaults);
	free(text);
	config_free(c);
	config_free(defaults);
}

/* "#key = value" and "#[section]" lose their #; prose has a space behind it. */
static void uncomment(char *text)
{
	char *to = text;
	for (char *from = text; *from; from++) {
		bool line_start = from == text || from[-1] == '\n';
		if (line_start && *from == '#' && from[1] != ' ' && from[1] != '\n')
			continue;
		*to++ = *from;
	}
	*to = '\0';
}

static void the_example_shows_every_key_and_its_default(void **state)
{
	(void)state;
	char *text = written_by(config_example);
	uncomment(text);
	struct config *c = config_of(text), *defaults;
	assert_int_equal(config_default(&defaults), 0);
	assert_int_equal(c->policy_count, 2);
	assert_string_equal(c->policies[0].name, "default");
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		char line[100];
		/* Match keys have no place in "default": there is no default to show. */
		snprintf(line, sizeof(line), "\n%s = %s%s", key->name, key->fallback,
			key->match ? "" : "\n");
		if (!strstr(text, line))
			fail_msg("the example lacks: %s", line + 1);
		if (!value_equal(key, config_key_value(key, c, 0),
			    config_key_value(key, defaults, 0)))
			fail_msg("the example shows another default of %s", key->name);
	}
	free(text);
	config_free(c);
	config_free(defaults);
}

static void a_full_disk_is_noticed(void **state)
{
	(void)state;
	struct config *c = config_of("");
	FILE *f = fopen("/dev/full", "w");
	assert_non_null(f);
	assert_true(config_dump(c, f) < 0);
	assert_true(config_help(f) < 0);
	assert_true(config_example(f) < 0);
	assert_true(config_man(f) < 0);
	fclose(f);
	config_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_is_sound),
		cmocka_unit_test(a_dump_reads_back_as_the_same),
		cmocka_unit_test(every_percentage_reads_back_exactly),
		cmocka_unit_test(a_dump_shows_every_key),
		cmocka_unit_test(the_help_tells_all_of_the_table),
		cmocka_unit_test(the_example_changes_nothing),
		cmocka_unit_test(the_example_shows_every_key_and_its_default),
		cmocka_unit_test(a_dump_explains_each_key_once),
		cmocka_unit_test(no_roff_request_comes_of_the_text),
		cmocka_unit_test(a_full_disk_is_noticed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
