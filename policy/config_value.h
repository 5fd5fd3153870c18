/* The types of configuration values: from text to field and back. Private to policy/. */
#ifndef LARDER_CONFIG_VALUE_H
#define LARDER_CONFIG_VALUE_H

#include "config_key.h"

/* Values longer than this are refused, so that what config_dump writes ("name = value", lists
 * with one separator) always fits the line that config_read accepts. */
#define CONFIG_VALUE_MAX 160

/* Reads text into the key's field and frees a list that was there. -EINVAL: why says what is
 * wrong and what would be right, without the key's name. The field is untouched on failure. */
int value_parse(const struct config_key *key, const char *text, void *field, char *why,
	size_t why_size);

/* Writes the value so that value_parse gives the same field again. */
void value_print(const struct config_key *key, const void *field, FILE *f);

bool value_equal(const struct config_key *key, const void *a, const void *b);
int value_copy(const struct config_key *key, const void *from, void *to); /* frees to's list */
void value_done(const struct config_key *key, void *field);

/* The key's choices, as "lz4 or zstd". */
void value_choices(const struct config_key *key, char *text, size_t size);

const char *value_type_name(enum value_type type); /* "size (bytes, K, M, G, T)", ... */

#endif
