#include "cli.h"

#include <string.h>

static int print_help(const struct cli *cli);
static int print_version(const struct cli *cli);

static const struct cli_command commands[] = {
	{"run", "[--] CMD...", 1, -1, CLI_POLICY | CLI_NO_INHERIT, cli_run,
		"run a program whose cold memory the service may take over"},
	{"status", "[PID]", 0, 1, CLI_JSON, cli_status, "what was saved, and what it cost"},
	{"evict", "PID", 1, 1, CLI_JSON, cli_evict, "take all that may be taken now"},
	{"release", "PID | --all", 1, 1, CLI_JSON | CLI_ALL, cli_release,
		"put everything back"},
	{"reload", "", 0, 0, 0, cli_reload, "have the service read its configuration again"},
	{"stop", "", 0, 0, CLI_KEEP, cli_stop, "end the service, when all is put back"},
	{"doctor", "[PID]", 0, 1, CLI_JSON | CLI_CONFIG, cli_doctor,
		"say what prevents eviction, here or of one process, and what helps"},
	{"check-config", "FILE", 1, 1, 0, cli_check_config,
		"say whether a configuration is right"},
	{"--dump-config", "[FILE]", 0, 1, 0, cli_dump_config,
		"print every key with its value in force"},
	{"--help-config", "", 0, 0, 0, cli_help_config, "explain every key"},
	{"--version", "", 0, 0, 0, print_version, "print the version"},
	{"--help", "", 0, 0, 0, print_help, "this text"},
};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void print_usage(FILE *f)
{
	fputs("usage: larder [OPTION...] COMMAND [OPTION...] [ARGUMENT...]\n\ncommands:\n", f);
	for (size_t i = 0; i < COMMANDS; i++) {
		const struct cli_command *c = &commands[i];
		char left[64];
		snprintf(left, sizeof(left), "%s%s%s", c->name, *c->operands ? " " : "",
			c->operands);
		fprintf(f, "  %-22s %s\n", left, c->help);
	}
	fputs("\noptions of every command:\n", f);
	cli_print_options(NULL, f);
	fputs("\n\"larder COMMAND --help\" tells the others.\n", f);
}

static void print_command_help(const struct cli_command *command)
{
	printf("usage: larder %s [OPTION...] %s\n\n%s.\n\noptions:\n", command->name,
		command->operands, command->help);
	cli_print_options(command, stdout);
}

static int print_help(const struct cli *cli)
{
	(void)cli;
	print_usage(stdout);
	return CLI_OK;
}

static int print_version(const struct cli *cli)
{
	(void)cli;
	puts("larder " LARDER_VERSION);
	return CLI_OK;
}

static const struct cli_command *find_command(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static int run_command(const struct cli *cli, const struct cli_command *command)
{
	int code = CLI_OK;
	if (cli->help)
		print_command_help(command);
	else
		code = command->run(cli);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		cli_error("cannot write: %m");
		return CLI_FAILED;
	}
	return code;
}

int main(int argc, char **argv)
{
	struct cli cli = {0};
	char **arg = argv + (argc > 0);
	if (cli_parse_leading(&cli, &arg) < 0)
		return CLI_USAGE;
	if (!*arg) {
		print_usage(stderr);
		return CLI_USAGE;
	}
	const struct cli_command *command = find_command(*arg);
	if (!command) {
		cli_error("there is no command %s; see larder --help", *arg);
		return CLI_USAGE;
	}
	if (cli_parse(&cli, command, arg + 1) < 0)
		return CLI_USAGE;
	return run_command(&cli, command);
}
