/* Building a config, for config.c and config_read.c. Private to policy/. */
#ifndef LARDER_CONFIG_MAKE_H
#define LARDER_CONFIG_MAKE_H

#include "policy.h"

/* The policy of programs that no other policy matched. There always is one: the built-in, or a
 * section of this name, which then may change its settings but not what it matches. */
#define POLICY_DEFAULT "default"

/* All keys at their defaults, no policy yet: not a complete config. */
int config_new(struct config **ret);

/* Appends a policy with all keys at their defaults. Pointers into c->policies become invalid.
 */
int config_add_policy(struct config *c, const char *name);

#endif
