#include "config_key.h"
#include "config_make.h"
#include "config_value.h"

#include <errno.h>
#include <string.h>

/* A value as in the file. CONFIG_VALUE_MAX bounds what a config can hold. */
struct value_text {
	char text[CONFIG_VALUE_MAX + 1];
};

static int value_text(const struct config_key *key, const void *field, struct value_text *ret)
{
	FILE *f = fmemopen(ret->text, sizeof(ret->text), "w");
	if (!f)
		return -errno;
	value_print(key, field, f);
	fclose(f); /* puts the NUL behind it */
	return 0;
}

struct comparison {
	const struct config *from, *to;
	config_change_fn *f;
	void *arg;
};

static int compare_section(const struct comparison *c, enum config_section section,
	size_t from_policy, size_t to_policy)
{
	const char *policy = section == SECTION_POLICY ? c->to->policies[to_policy].name : NULL;
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		if (key->section != section)
			continue;
		const void *from = config_key_value(key, c->from, from_policy);
		const void *to = config_key_value(key, c->to, to_policy);
		struct value_text old, new;
		if (value_equal(key, from, to))
			continue;
		int r = value_text(key, from, &old);
		if (r == 0)
			r = value_text(key, to, &new);
		if (r < 0)
			return r;
		struct config_change change = {policy, config_section_name(section), key->name,
			old.text, new.text, !key->reload};
		c->f(&change, c->arg);
	}
	return 0;
}

static bool find_policy(const struct config *c, const char *name, size_t *ret)
{
	for (size_t i = 0; i < c->policy_count; i++)
		if (strcmp(c->policies[i].name, name) == 0) {
			*ret = i;
			return true;
		}
	return false;
}

static int compare_policies(const struct comparison *c)
{
	struct comparison fresh = *c;
	struct config *defaults;
	int r = config_default(&defaults);
	if (r < 0)
		return r;
	fresh.from = defaults;
	for (size_t i = 0; r == 0 && i < c->to->policy_count; i++) {
		size_t old;
		bool known = find_policy(c->from, c->to->policies[i].name, &old);
		r = compare_section(known ? c : &fresh, SECTION_POLICY, known ? old : 0, i);
	}
	config_free(defaults);
	return r;
}

static bool same_policies(const struct config *a, const struct config *b)
{
	if (a->policy_count != b->policy_count)
		return false;
	for (size_t i = 0; i < a->policy_count; i++)
		if (strcmp(a->policies[i].name, b->policies[i].name) != 0)
			return false;
	return true;
}

/* Cut when too long: it is for people. */
static void policy_names(const struct config *c, char *text, size_t size)
{
	size_t used = 0;
	*text = '\0';
	for (size_t i = 0; i < c->policy_count && used < size; i++)
		used += (size_t)snprintf(
			text + used, size - used, "%s%s", i ? " " : "", c->policies[i].name);
}

static void compare_names(const struct comparison *c)
{
	char old[400], new[400];
	if (same_policies(c->from, c->to))
		return;
	policy_names(c->from, old, sizeof(old));
	policy_names(c->to, new, sizeof(new));
	struct config_change change = {.section = config_section_name(SECTION_POLICY),
		.key = CONFIG_CHANGE_POLICIES,
		.from = old,
		.to = new};
	c->f(&change, c->arg);
}

int config_compare(
	const struct config *running, const struct config *next, config_change_fn *f, void *arg)
{
	const struct comparison c = {running, next, f, arg};
	int r = compare_section(&c, SECTION_SERVICE, 0, 0);
	if (r == 0)
		r = compare_section(&c, SECTION_STORE, 0, 0);
	if (r < 0)
		return r;
	compare_names(&c);
	return compare_policies(&c);
}

int config_keep(struct config *next, const struct config *running)
{
	for (size_t i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		if (key->reload || key->section == SECTION_POLICY)
			continue;
		int r = value_copy(
			key, config_key_value(key, running, 0), config_key_field(key, next, 0));
		if (r < 0)
			return r;
	}
	return 0;
}
