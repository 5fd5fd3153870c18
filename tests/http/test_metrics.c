/* /metrics by the rules of the Prometheus text format, checked line by line. */
#include "test_cmocka.h"

#include "fake_control.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *metrics(void)
{
	struct worker w;
	fake_init(&w);
	char *text = report_metrics(&w.service, w.clients, w.client_count);
	assert_non_null(text);
	return text;
}

static size_t name_length(const char *p)
{
	static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:";
	if (!*p || !strchr(first, *p))
		return 0;
	return strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:0123456789");
}

/* {name="value",...}: the end of it, NULL if it is malformed. */
static const char *skip_labels(const char *p)
{
	do {
		p++; /* { or , */
		size_t n = name_length(p);
		if (n == 0 || p[n] != '=' || p[n + 1] != '"')
			return NULL;
		for (p += n + 2; *p && *p != '"'; p++)
			if (*p == '\\' && !strchr("\\\"n", *++p))
				return NULL;
		if (*p++ != '"')
			return NULL;
	} while (*p == ',');
	return *p == '}' ? p + 1 : NULL;
}

/* A sample's series (name and labels) ends where the returned space begins. */
static const char *check_sample(const char *line, const char *family)
{
	size_t n = name_length(line);
	if (n != strlen(family) || strncmp(line, family, n) != 0)
		fail_msg("not under its own HELP and TYPE (%s): %s", family, line);
	const char *p = line + n;
	if (*p == '{')
		p = skip_labels(p);
	if (!p || *p != ' ')
		fail_msg("malformed: %s", line);
	char *end;
	strtod(p + 1, &end);
	if (end == p + 1 || *end)
		fail_msg("no number: %s", line);
	return p;
}

static void the_text_is_well_formed(void **state)
{
	(void)state;
	char *text = metrics(), *save = NULL, family[100] = "", helped[100] = "", type[20];
	const char *series[2000];
	size_t series_length[2000], count = 0;
	assert_int_equal(text[strlen(text) - 1], '\n');
	for (char *line = strtok_r(text, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save)) {
		if (sscanf(line, "# HELP %99s", helped) == 1) {
			assert_non_null(strchr(line + strlen("# HELP "), ' '));
		} else if (sscanf(line, "# TYPE %99s %19s", family, type) == 2) {
			assert_string_equal(family, helped);
			bool counter = strcmp(type, "counter") == 0;
			assert_true(counter || strcmp(type, "gauge") == 0);
			size_t n = strlen(family);
			bool total = n > 6 && strcmp(family + n - 6, "_total") == 0;
			assert_int_equal(counter, total);
		} else {
			const char *end = check_sample(line, family);
			size_t length = (size_t)(end - line);
			for (size_t i = 0; i < count; i++)
				if (series_length[i] == length &&
					strncmp(series[i], line, length) == 0)
					fail_msg("twice: %s", line);
			assert_true(count < 2000);
			series[count] = line;
			series_length[count++] = length;
		}
	}
	/* Each list once, clients' three times, and the two that are derived. */
	assert_int_equal(count,
		sizeof(struct service_stats) / 8 + 3 * (sizeof(struct client_stats) / 8) + 2);
	free(text);
}

static void assert_line(const char *text, const char *line)
{
	if (!strstr(text, line))
		fail_msg("no %s in\n%s", line, text);
}

static const char *total(const char *type)
{
	return strcmp(type, "counter") == 0 ? "_total" : "";
}

static void every_statistic_is_there_with_its_value(void **state)
{
	(void)state;
	struct worker w;
	fake_init(&w);
	char *text = metrics(), line[300];
#define X(name, type, help)                                                                    \
	snprintf(line, sizeof(line),                                                           \
		"# HELP larder_%1$s%2$s %3$s\n# TYPE larder_%1$s%2$s %4$s\nlarder_%1$s%2$s "   \
		"%5$" PRIu64 "\n",                                                             \
		#name, total(#type), help, #type, w.service.name);                             \
	assert_line(text, line);
	SERVICE_STATS(X)
#undef X
#define X(name, type, help)                                                                    \
	snprintf(line, sizeof(line),                                                           \
		"\nlarder_client_%s%s{pid=\"101\",id=\"1\",exe=\"/usr/bin/one\"} %" PRIu64     \
		"\n",                                                                          \
		#name, total(#type), w.clients[0].stats.name);                                 \
	assert_line(text, line);
	CLIENT_STATS(X)
#undef X
	free(text);
}

static void odd_names_are_escaped(void **state)
{
	(void)state;
	char *text = metrics();
	assert_line(text, "{pid=\"102\",id=\"2\",exe=\"/odd/"
			  "\\\"quoted\\\"\\\\path\\nline\xef\xbf\xbd\"} ");
	free(text);
}

static void bad_bytes_are_replaced_one_by_one(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
		{"", ""},
		{"plain", "plain"},
		{"\xc3\xa9", "\xc3\xa9"},
		{"a\xffz", "a\xef\xbf\xbdz"},
		{"\xc3", "\xef\xbf\xbd"},
		{"\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *clean = report_utf8(cases[i][0]);
		assert_string_equal(clean, cases[i][1]);
		free(clean);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_text_is_well_formed),
		cmocka_unit_test(every_statistic_is_there_with_its_value),
		cmocka_unit_test(odd_names_are_escaped),
		cmocka_unit_test(bad_bytes_are_replaced_one_by_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
