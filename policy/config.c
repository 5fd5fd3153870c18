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
	for (size_t i = 0; i < config_key_count; i++) {
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
	for (size_t i = 0; i < config_key_count; i++) {
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
