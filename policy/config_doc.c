/* Makes what is documented of the configuration while building:
 *
 *	config-doc example OUT         the example larder.conf
 *	config-doc man TEMPLATE OUT    TEMPLATE with the line @KEYS@ replaced by all keys */
#include "policy.h"

#include <stdlib.h>
#include <string.h>

static int expand(FILE *template, FILE *out)
{
	char line[1024];
	while (fgets(line, sizeof(line), template)) {
		int r = 0;
		if (strcmp(line, "@KEYS@\n") == 0)
			r = config_man(out);
		else
			fputs(line, out);
		if (r < 0)
			return r;
	}
	return ferror(template) ? -1 : 0;
}

static int man(const char *name, FILE *out)
{
	FILE *template = fopen(name, "r");
	if (!template)
		return -1;
	int r = expand(template, out);
	fclose(template);
	return r;
}

int main(int argc, char **argv)
{
	bool example = argc == 3 && strcmp(argv[1], "example") == 0;
	if (!example && (argc != 4 || strcmp(argv[1], "man") != 0)) {
		fputs("usage: config-doc example OUT | man TEMPLATE OUT\n", stderr);
		return 2;
	}
	FILE *out = fopen(argv[argc - 1], "w");
	int r = out ? 0 : -1;
	if (r == 0)
		r = example ? config_example(out) : man(argv[2], out);
	if (out && fclose(out) != 0)
		r = -1;
	if (r < 0)
		perror(argv[argc - 1]);
	return r < 0;
}
