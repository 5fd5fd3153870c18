#include "cleanup.h"
#include "cli.h"
#include "policy.h"
#include "settings.h"

#include <errno.h>
#include <string.h>

/* Says what is wrong in the form that editors and compilers share. */
static int read_config(FILE *f, const char *name, struct config **ret)
{
	struct config_error err;
	int r = config_read(f, ret, &err);
	if (r == -EINVAL && err.line > 0)
		fprintf(stderr, "%s:%u: %s\n", name, err.line, err.message);
	else if (r == -EINVAL)
		fprintf(stderr, "%s: %s\n", name, err.message);
	else if (r < 0)
		cli_error("%s: %s", name, strerror(-r));
	return r;
}

int cli_check_config(const struct cli *cli)
{
	const char *name = cli->operands[0];
	_cleanup_file_ FILE *f = fopen(name, "re");
	struct config *c;
	if (!f) {
		cli_error("%s: %m", name);
		return CLI_FAILED;
	}
	if (read_config(f, name, &c) < 0)
		return CLI_FAILED;
	config_free(c);
	printf("%s: ok\n", name);
	return CLI_OK;
}

int cli_dump_config(const struct cli *cli)
{
	bool given = cli->operand_count > 0;
	const char *name = given ? cli->operands[0] : SETTINGS_PATH;
	_cleanup_file_ FILE *f = fopen(name, "re");
	struct config *c;
	int r;
	if (f) {
		r = read_config(f, name, &c);
	} else if (!given && errno == ENOENT) {
		r = config_default(&c);
	} else {
		r = -errno;
		cli_error("%s: %m", name);
	}
	if (r < 0)
		return CLI_FAILED;
	config_dump(c, stdout); /* main looks whether stdout took it */
	config_free(c);
	return CLI_OK;
}

int cli_help_config(const struct cli *cli)
{
	(void)cli;
	config_help(stdout);
	return CLI_OK;
}
