#include "test_cmocka.h"

#include "config_text.h"

#include <stdlib.h>
#include <string.h>

int config_of_bytes(
	const char *text, size_t size, struct config **ret, struct config_error *err)
{
	/* fmemopen refuses a size of 0 in some C libraries */
	FILE *f = size ? fmemopen((void *)(uintptr_t)text, size, "r") : fopen("/dev/null", "r");
	assert_non_null(f);
	int r = config_read(f, ret, err);
	fclose(f);
	return r;
}

struct config *config_of(const char *text)
{
	struct config_error err = {0};
	struct config *c = NULL;
	int r = config_of_bytes(text, strlen(text), &c, &err);
	if (r != 0)
		fail_msg("line %u: %s (%d) in:\n%s", err.line, err.message, r, text);
	return c;
}

char *config_text(const struct config *c)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	assert_non_null(f);
	assert_int_equal(config_dump(c, f), 0);
	fclose(f);
	return text;
}
