#include "cli.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

/* Options that every command takes. */
#define COMMON (CLI_RUNTIME_DIR | CLI_HELP)

static const struct cli_option {
	unsigned bit;
	const char *name;
	const char *argument; /* its name, NULL = a switch (bool) */
	size_t offset;	      /* in struct cli */
	const char *help;
} options[] = {
	{CLI_POLICY, "--policy", "NAME", offsetof(struct cli, policy),
		"take this policy of larder.conf, not the first that matches"},
	{CLI_NO_INHERIT, "--no-inherit", NULL, offsetof(struct cli, no_inherit),
		"leave the program's children alone"},
	{CLI_ALL, "--all", NULL, offsetof(struct cli, all), "all programs; only root may"},
	{CLI_KEEP, "--keep", NULL, offsetof(struct cli, keep),
		"put nothing back: programs wait for the next larderd, which takes them over"},
	{CLI_JSON, "--json", NULL, offsetof(struct cli, json),
		"print JSON: what the service answered, or was found"},
	{CLI_CONFIG, "--config", "FILE", offsetof(struct cli, config),
		"the service's configuration (that of the one that runs, or the default)"},
	{CLI_RUNTIME_DIR, "--runtime-dir", "DIR", offsetof(struct cli, runtime_dir),
		"where the service's sockets are (LARDER_RUNTIME_DIR, /run/larder)"},
	{CLI_HELP, "--help", NULL, offsetof(struct cli, help), "this text"},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

/* The option that text ("--name" or "--name=value") names. *ret_value: behind the =, or NULL.
 */
static const struct cli_option *find(unsigned allowed, const char *text, const char **ret_value)
{
	size_t length = strcspn(text, "=");
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct cli_option *o = &options[i];
		if (!(o->bit & allowed) || strlen(o->name) != length ||
			strncmp(o->name, text, length) != 0)
			continue;
		*ret_value = text[length] ? text + length + 1 : NULL;
		return o;
	}
	return NULL;
}

/* Sets the option at **arg and moves *arg behind it. */
static int take(struct cli *cli, const struct cli_option *o, const char *value, char ***arg)
{
	void *field = (char *)cli + o->offset;
	(*arg)++;
	if (!o->argument) {
		if (value) {
			cli_error("%s takes no value", o->name);
			return -EINVAL;
		}
		*(bool *)field = true;
		return 0;
	}
	if (!value && **arg)
		value = *(*arg)++;
	if (!value || !*value) {
		cli_error("%s needs a value: %s", o->name, o->argument);
		return -EINVAL;
	}
	*(const char **)field = value;
	return 0;
}

int cli_parse_leading(struct cli *cli, char ***arg)
{
	while (**arg) {
		const char *value;
		/* --help is a command, too */
		const struct cli_option *o = find(COMMON & ~(unsigned)CLI_HELP, **arg, &value);
		if (!o)
			return 0;
		int r = take(cli, o, value, arg);
		if (r < 0)
			return r;
	}
	return 0;
}

static int unknown(const struct cli_command *command, const char *text)
{
	cli_error("%s has no option %s; see larder %s --help", command->name, text,
		command->name);
	return -EINVAL;
}

static int check_count(const struct cli *cli, const struct cli_command *command)
{
	/* --all stands in the place of what would name one. */
	int min = cli->all ? 0 : command->min_operands;
	int max = cli->all ? 0 : command->max_operands;
	bool few = cli->operand_count < min;
	bool many = max >= 0 && cli->operand_count > max;
	if (cli->help || (!few && !many))
		return 0;
	cli_error("%s: usage: larder %s %s", few ? "something is missing" : "too many words",
		command->name, command->operands);
	return -EINVAL;
}

/* Operands are gathered at the front of args itself: there are never more than were read. */
int cli_parse(struct cli *cli, const struct cli_command *command, char **args)
{
	char **arg = args;
	bool rest_is_foreign = command->max_operands < 0;
	cli->operands = args;
	while (*arg) {
		const char *value, *text = *arg;
		if (strcmp(text, "--") == 0) {
			arg++;
			break;
		}
		if (text[0] == '-' && text[1] != '\0') {
			const struct cli_option *o =
				find(command->options | COMMON, text, &value);
			if (!o)
				return unknown(command, text);
			int r = take(cli, o, value, &arg);
			if (r < 0)
				return r;
			continue;
		}
		if (rest_is_foreign)
			break;
		args[cli->operand_count++] = *arg++;
	}
	while (*arg)
		args[cli->operand_count++] = *arg++;
	args[cli->operand_count] = NULL;
	return check_count(cli, command);
}

void cli_print_options(const struct cli_command *command, FILE *f)
{
	unsigned shown = COMMON | (command ? command->options : 0);
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct cli_option *o = &options[i];
		char left[40];
		if (!(o->bit & shown))
			continue;
		snprintf(left, sizeof(left), "%s%s%s", o->name, o->argument ? " " : "",
			o->argument ? o->argument : "");
		fprintf(f, "  %-20s %s\n", left, o->help);
	}
}
