/* All that is written about the keys for people, from the table: the dump, the example file,
 * the help, and the key list of larder.conf(5). */
#include "config_key.h"
#include "config_make.h"
#include "config_value.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Also far under the length that config_read takes for a line. */
enum { WIDTH = 96 };

static int written(FILE *f)
{
	return fflush(f) == 0 && !ferror(f) ? 0 : -EIO;
}

static const char *header_rest(enum config_section s)
{
	return s == SECTION_POLICY ? " NAME" : "";
}

/* A key's help as a sentence, and what values it takes. */
struct explanation {
	char sentence[400], range[200];
};

static void explain(const struct config_key *key, struct explanation *e)
{
	snprintf(e->sentence, sizeof(e->sentence), "%s.", key->help);
	e->sentence[0] = (char)toupper((unsigned char)e->sentence[0]);

	char choices[64] = "";
	const char *type = key->choices ? "one of " : value_type_name(key->type);
	if (key->choices)
		value_choices(key, choices, sizeof(choices));
	snprintf(e->range, sizeof(e->range), "%s%s%s%s%s%s%s%s%s%s%s.", type, choices,
		key->min ? (key->or_zero ? ", 0 or from " : ", from ") : "",
		key->min ? key->min : "", key->min ? " to " : "", key->min ? key->max : "",
		key->never ? ", or never" : "", *key->fallback ? "; default " : "",
		key->fallback, key->reload ? "" : "; a change waits for a restart",
		key->match ? "; not in [policy " POLICY_DEFAULT "]" : "");
	e->range[0] = (char)toupper((unsigned char)e->range[0]);
}

/* Words of text, each line after prefix. */
static void wrap(const char *prefix, const char *text, FILE *f)
{
	size_t column = 0;
	for (const char *word = text; *word; word += strspn(word, " ")) {
		size_t length = strcspn(word, " ");
		bool new = column == 0 || column + 1 + length > WIDTH;
		if (new)
			fprintf(f, "%s%s", column ? "\n" : "", prefix);
		else
			fputc(' ', f);
		fprintf(f, "%.*s", (int)length, word);
		column = new ? strlen(prefix) + length : column + 1 + length;
		word += length;
	}
	fputc('\n', f);
}

static void print_comment(const struct config_key *key, FILE *f)
{
	struct explanation e;
	explain(key, &e);
	wrap("# ", e.sentence, f);
	wrap("# ", e.range, f);
}

/* ---- the dump ---- */

/* An empty list is written only where the file may say it: an empty match-exe is one not given.
 */
static bool is_shown(const struct config_key *key, const void *field)
{
	const struct policy_list *l = field;
	return key->type != VALUE_LIST || key->may_be_empty || l->count > 0;
}

/* Each key is explained where it stands first. */
static void dump_section(const struct config *c, enum config_section section,
	size_t policy_index, bool explained[], FILE *f)
{
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		const void *field = config_key_value(key, c, policy_index);
		if (key->section != section || !is_shown(key, field))
			continue;
		if (!explained[i]) {
			fputc('\n', f);
			print_comment(key, f);
		}
		explained[i] = true;
		fprintf(f, "%s = ", key->name);
		value_print(key, field, f);
		fputc('\n', f);
	}
}

int config_dump(const struct config *c, FILE *f)
{
	bool explained[CONFIG_KEYS_MAX] = {false};
	fputs("[service]\n", f);
	dump_section(c, SECTION_SERVICE, 0, explained, f);
	fputs("\n[store]\n", f);
	dump_section(c, SECTION_STORE, 0, explained, f);
	for (size_t i = 0; i < c->policy_count; i++) {
		fprintf(f, "\n[policy %s]\n", c->policies[i].name);
		dump_section(c, SECTION_POLICY, i, explained, f);
	}
	return written(f);
}

/* ---- the example ---- */

static void example_section(enum config_section section, FILE *f)
{
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		if (key->section != section || key->match)
			continue;
		fputc('\n', f);
		print_comment(key, f);
		fprintf(f, "#%s = %s\n", key->name, key->fallback);
	}
}

static void example_policy(FILE *f)
{
	fputs("\n# A program gets the first policy of this file that matches it, or the one "
	      "that it "
	      "asked for\n# with `larder run --policy NAME`. \"default\" is for all others; a "
	      "policy without any match\n# key is taken only by name. One of your own:\n\n"
	      "#[policy batch]\n",
		f);
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		if (!key->match)
			continue;
		print_comment(key, f);
		fprintf(f, "#%s = *\n", key->name);
	}
}

int config_example(FILE *f)
{
	fputs("# /etc/larder/larder.conf: settings of larderd; see larder.conf(5).\n"
	      "#\n"
	      "# `larder check-config FILE` checks it, `larder reload` puts it in force. A "
	      "line "
	      "that begins with\n"
	      "# # and a key holds that key's default. A comment stands on a line of its own, "
	      "or "
	      "after a value,\n"
	      "# as \" ; comment\". A wrong line keeps larderd from starting, and a reload "
	      "from "
	      "changing anything.\n",
		f);
	fputs("\n[service]\n", f);
	example_section(SECTION_SERVICE, f);
	fputs("\n[store]\n", f);
	example_section(SECTION_STORE, f);
	fputs("\n[policy " POLICY_DEFAULT "]\n", f);
	example_section(SECTION_POLICY, f);
	example_policy(f);
	return written(f);
}

/* ---- the help ---- */

int config_help(FILE *f)
{
	for (int n = 0; n < SECTION_COUNT; n++) {
		enum config_section section = (enum config_section)n;
		fprintf(f, "%s[%s%s]\n", n ? "\n" : "", config_section_name(section),
			header_rest(section));
		for (size_t i = 0; i < config_key_count; i++) {
			struct explanation e;
			if (config_keys[i].section != section)
				continue;
			explain(&config_keys[i], &e);
			fprintf(f, "  %s\n", config_keys[i].name);
			wrap("      ", e.sentence, f);
			wrap("      ", e.range, f);
		}
	}
	return written(f);
}

/* ---- the manual page ---- */

/* A text line of roff: none begins with a dot or a quote, and backslashes stay what they are.
 */
static void roff(const char *text, FILE *f)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", f);
	for (; *text; text++) {
		if (*text == '\\')
			fputs("\\e", f);
		else
			fputc(*text, f);
	}
	fputc('\n', f);
}

static void man_key(const struct config_key *key, FILE *f)
{
	struct explanation e;
	explain(key, &e);
	fprintf(f, ".It Cm %s\n", key->name);
	roff(e.sentence, f);
	fputs(".br\n", f);
	roff(e.range, f);
}

int config_man(FILE *f)
{
	for (int n = 0; n < SECTION_COUNT; n++) {
		enum config_section section = (enum config_section)n;
		fprintf(f, ".Ss [%s%s]\n.Bl -tag -width Ds\n", config_section_name(section),
			header_rest(section));
		for (size_t i = 0; i < config_key_count; i++)
			if (config_keys[i].section == section)
				man_key(&config_keys[i], f);
		fputs(".El\n", f);
	}
	return written(f);
}
