/* Configs from and to strings. */
#ifndef LARDER_TEST_CONFIG_TEXT_H
#define LARDER_TEST_CONFIG_TEXT_H

#include "policy.h"

/* config_read of size bytes of text. */
int config_of_bytes(
	const char *text, size_t size, struct config **ret, struct config_error *err);

/* A config that must be right: fails the test with the message if it isn't. */
struct config *config_of(const char *text);

/* What config_dump writes; free it. */
char *config_text(const struct config *c);

#endif
