/* Makes what is documented of the configuration while building:
 *
 *	config-doc example         the example larder.conf
 *	config-doc man TEMPLATE    TEMPLATE with the line @KEYS@ replaced by all keys */
#include "policy.h"

#include <stdlib.h>
#include <string.h>

static int expand(FILE *template, FILE *f)
{
	char line[1024];
	while (fgets(line, sizeof(line), template)) {
		int r = 0;
		if (strcmp(line, "@KEYS@\n") == 0)
			r = config_man(f);
		else
			fputs(line, f);
		if (r < 0)
			return r;
	}
	return ferror(template) || fflush(f) != 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "example") == 0)
		return config_example(stdout) < 0;
	FILE *template = argc == 3 && strcmp(argv[1], "man") == 0 ? fopen(argv[2], "r") : NULL;
	if (!template) {
		fputs("usage: config-doc example | man TEMPLATE\n", stderr);
		return 2;
	}
	int r = expand(template, stdout);
	fclose(template);
	return r < 0;
}
