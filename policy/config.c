#include "config_key.h"
#include "config_make.h"
#include "config_value.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The table's defaults come from the table's own text: one way to read a value. */
static int fill_defaults(struct config *c, bool policy, size_t policy_index)
{
	char why[256];
	for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
		const struct config_key *key = &config_keys[i];
		if ((key->section == SECTION_POLICY) != policy || *key->fallback == '\0')
			continue;
		void *field = config_key_field(key, c, policy_index);
		int r = value_parse(key, key->fallback, field, why, sizeof(why));
		if (r < 0)
			return r;
	}
	return 0;
}

int config_new(struct config **ret)
{
	struct config *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	int r = fill_defaults(c, false, 0);
	if (r < 0) {
		config_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

int config_add_policy(struct config *c, const char *name)
{
	struct policy *policies =
		reallocarray(c->policies, c->policy_count + 1, sizeof(*policies));
	if (!policies)
		return -ENOMEM;
	c->policies = policies;
	policies[c->policy_count] = (struct policy){.name = strdup(name)};
	if (!policies[c->policy_count].name)
		return -ENOMEM;
	c->policy_count++;
	return fill_defaults(c, true, c->policy_count - 1);
}

int config_default(struct config **ret)
{
	struct config *c;
	int r = config_new(&c);
	if (r < 0)
		return r;
	r = config_add_policy(c, POLICY_DEFAULT);
	if (r < 0) {
		config_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

static void section_done(struct config *c, bool policy, size_t policy_index)
{
	for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
		const struct config_key *key = &config_keys[i];
		if ((key->section == SECTION_POLICY) == policy)
			value_done(key, config_key_field(key, c, policy_index));
	}
}

void config_free(struct config *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->policy_count; i++) {
		section_done(c, true, i);
		free(c->policies[i].name);
	}
	section_done(c, false, 0);
	free(c->policies);
	free(c);
}

const char *config_needs_restart(const struct config *running, const struct config *next)
{
	for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
		const struct config_key *key = &config_keys[i];
		if (key->reload || key->section == SECTION_POLICY)
			continue;
		if (!value_equal(key, config_key_value(key, running, 0),
			    config_key_value(key, next, 0)))
			return key->name;
	}
	return NULL;
}

/* An empty list is written only where the file may say it: an empty match-exe is one not given.
 */
static bool is_shown(const struct config_key *key, const void *field)
{
	const struct policy_list *l = field;
	return key->type != VALUE_LIST || key->may_be_empty || l->count > 0;
}

static void dump_section(
	const struct config *c, enum config_section section, size_t policy_index, FILE *f)
{
	for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
		const struct config_key *key = &config_keys[i];
		const void *field = config_key_value(key, c, policy_index);
		if (key->section != section || !is_shown(key, field))
			continue;
		fprintf(f, "%s = ", key->name);
		value_print(key, field, f);
		fputc('\n', f);
	}
}

static int written(FILE *f)
{
	return fflush(f) == 0 && !ferror(f) ? 0 : -EIO;
}

int config_dump(const struct config *c, FILE *f)
{
	fputs("[service]\n", f);
	dump_section(c, SECTION_SERVICE, 0, f);
	fputs("\n[store]\n", f);
	dump_section(c, SECTION_STORE, 0, f);
	for (size_t i = 0; i < c->policy_count; i++) {
		fprintf(f, "\n[policy %s]\n", c->policies[i].name);
		dump_section(c, SECTION_POLICY, i, f);
	}
	return written(f);
}

static void help_key(const struct config_key *key, FILE *f)
{
	fprintf(f, "  %s\n      %s.\n      %s", key->name, key->help,
		value_type_name(key->type));
	if (key->min)
		fprintf(f, ", from %s to %s", key->min, key->max);
	if (key->choices) {
		char choices[64];
		value_choices(key, choices, sizeof(choices));
		fprintf(f, ": %s", choices);
	}
	if (*key->fallback)
		fprintf(f, "; default %s", key->fallback);
	if (!key->reload)
		fputs("; a change waits for a restart", f);
	fputc('\n', f);
}

int config_help(FILE *f)
{
	for (int section = 0; section < SECTION_COUNT; section++) {
		fprintf(f, "%s[%s%s]\n", section ? "\n" : "",
			config_section_name((enum config_section)section),
			section == SECTION_POLICY ? " NAME" : "");
		for (size_t i = 0; i < CONFIG_KEY_COUNT; i++)
			if ((int)config_keys[i].section == section)
				help_key(&config_keys[i], f);
	}
	return written(f);
}
