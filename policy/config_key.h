/* The one table of configuration keys. The parser, the checks and their messages, reload's log,
 * --dump-config, the example file and larder.conf(5) all come from it: a new key is a line in
 * config_key.c, and the field in policy.h that it fills. Private to policy/ and its tests. */
#ifndef LARDER_CONFIG_KEY_H
#define LARDER_CONFIG_KEY_H

#include "policy.h"

enum config_section { SECTION_SERVICE, SECTION_STORE, SECTION_POLICY, SECTION_COUNT };

enum value_type {
	VALUE_BOOL,	/* bool */
	VALUE_UNSIGNED, /* unsigned */
	VALUE_SIZE,	/* uint64_t, bytes */
	VALUE_DURATION, /* uint64_t, ms */
	VALUE_PERCENT,	/* double, 0..1 */
	VALUE_LIST,	/* struct policy_list */
	VALUE_CHOICE,	/* unsigned: which of the key's choices */
};

struct config_key {
	enum config_section section;
	const char *name;
	enum value_type type;
	size_t offset;		    /* of the field, in struct config or struct policy */
	const char *fallback;	    /* default, as one would write it in the file */
	const char *min, *max;	    /* the same; NULL where a range makes no sense */
	const char *const *choices; /* choices only; NULL ends them */
	bool or_zero;		    /* 0 is right too, though below min */
	bool never;		    /* durations only: 0 is written "never", and only so */
	bool may_be_empty;	    /* lists only */
	bool match;  /* picks the programs of a policy; not allowed in "default" */
	bool reload; /* a reload takes a new value over; else it waits for a restart */
	const char *help; /* a sentence without its full stop */
};

enum { CONFIG_KEYS_MAX = 64 }; /* far above their number, so that it never needs a change */
extern const struct config_key config_keys[];
extern const size_t config_key_count;

const char *config_section_name(enum config_section s); /* "service", "store", "policy" */

/* NULL if there is none. */
const struct config_key *config_key_find(enum config_section s, const char *name);

/* The known name nearest to a misspelt one, NULL when none is near enough to be meant. */
const char *config_key_near(enum config_section s, const char *name);
const char *config_section_near(const char *name);

/* The field that a key stands for; policy_index counts only for keys of SECTION_POLICY. */
void *config_key_field(const struct config_key *key, struct config *c, size_t policy_index);
const void *config_key_value(
	const struct config_key *key, const struct config *c, size_t policy_index);

#endif
