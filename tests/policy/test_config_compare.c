/* What a reload says of the difference between two configs, and what it leaves as it was. */
#include "test_cmocka.h"

#include "config_text.h"

#include <stdlib.h>
#include <string.h>

static void write_change(const struct config_change *c, void *arg)
{
	fprintf(arg, "[%s%s%s] %s: %s -> %s%s\n", c->section, c->policy ? " " : "",
		c->policy ? c->policy : "", c->key, c->from, c->to,
		c->restart ? " (restart)" : "");
}

static char *changes(const struct config *a, const struct config *b)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	assert_non_null(f);
	assert_int_equal(config_compare(a, b, write_change, f), 0);
	fclose(f);
	return text;
}

static const struct difference {
	const char *from, *to, *changes;
} differences[] = {
	{"", "", ""},
	{"[service]\nreaders = 2\n[policy x]\n", "[policy x]\n[service]\nreaders = 2\n", ""},
	/* the same value, written in another way */
	{"[policy x]\nmin-age = 60s\n", "[policy x]\nmin-age = 1m\n", ""},
	{"[service]\nallow-user = a,b\n", "[service]\nallow-user = a b\n", ""},

	{"[service]\nreaders = 2\n", "[service]\nreaders = 3\n",
		"[service] readers: 2 -> 3 (restart)\n"},
	{"", "[store]\nmemory-limit = 1G\n", "[store] memory-limit: 0 -> 1G (restart)\n"},
	{"[service]\nallow-user = a b\n", "[service]\nallow-user = b\n",
		"[service] allow-user: a b -> b\n"},
	{"[service]\nallow-group = \n", "", "[service] allow-group:  -> larder\n"},
	{"", "[policy default]\nstall-budget = 1%\n",
		"[policy default] stall-budget: 0.1% -> 1%\n"},

	/* the table's order, not the file's */
	{"", "[policy default]\ncold-after = 1h\nmanage = no\n[service]\nallow-user = *\n",
		"[service] allow-user: root -> *\n"
		"[policy default] manage: yes -> no\n"
		"[policy default] cold-after: 0 -> 1h\n"},

	/* policies are known by name, wherever they stand */
	{"[policy a]\nmin-age = 1h\n[policy b]\n", "[policy b]\n[policy a]\nmin-age = 2h\n",
		"[policy] policies: a b default -> b a default\n"
		"[policy a] min-age: 1h -> 2h\n"},
	{"", "[policy new]\nmatch-exe = x\ninherit = no\n",
		"[policy] policies: default -> new default\n"
		"[policy new] match-exe:  -> x\n"
		"[policy new] inherit: yes -> no\n"},
	{"[policy old]\nmatch-exe = x\n", "", "[policy] policies: old default -> default\n"},
};

static void every_difference_is_told(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(differences) / sizeof(differences[0]); i++) {
		const struct difference *d = &differences[i];
		struct config *a = config_of(d->from), *b = config_of(d->to);
		char *text = changes(a, b);
		if (strcmp(text, d->changes) != 0)
			fail_msg("case %zu: got\n%swanted\n%s", i, text, d->changes);
		free(text);
		config_free(a);
		config_free(b);
	}
}

/* Names without end: the line is cut, and nothing else happens. */
static void many_policies_are_cut(void **state)
{
	(void)state;
	char text[8000];
	size_t size = 0;
	for (int i = 0; i < 100; i++)
		size += (size_t)snprintf(text + size, sizeof(text) - size,
			"[policy a-rather-long-name-of-a-policy-%d]\n", i);
	struct config *a = config_of(""), *b = config_of(text);
	char *told = changes(a, b);
	assert_in_range(strlen(told), 300, 1000);
	free(told);
	config_free(a);
	config_free(b);
}

static void what_needs_a_restart_stays(void **state)
{
	(void)state;
	struct config *running =
		config_of("[service]\nreaders = 2\nallow-user = a\n[store]\nmemory-limit = 1G\n"
			  "[policy default]\nmanage = no\n");
	struct config *next = config_of("[service]\nreaders = 3\nallow-user = b\n");
	assert_int_equal(config_keep(next, running), 0);
	char *text = changes(running, next);
	assert_string_equal(text, "[service] allow-user: a -> b\n"
				  "[policy default] manage: no -> yes\n");
	assert_int_equal(next->readers, 2);
	assert_int_equal(next->store_limit, 1 << 30);
	free(text);
	config_free(running);
	config_free(next);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_difference_is_told),
		cmocka_unit_test(many_policies_are_cut),
		cmocka_unit_test(what_needs_a_restart_stays),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
